"""What the commands of ``vecdb_cli.command_line`` do, each imported when its command runs.

target     opens a server or a folder; all commands treat both alike
loading    vecdb load: a file into a collection
answers    vecdb search and vecdb stats: tables for people, JSON for programs
backups    vecdb backup, restore and compact: reports
checking   vecdb check: the problems found
progress   the line of progress of long commands
optimizing waits for graphs and shows the progress
child      a server as a child process, for the demo
apart      work in a thread, while the main thread receives signals
"""

from __future__ import annotations

__all__: list[str] = []
