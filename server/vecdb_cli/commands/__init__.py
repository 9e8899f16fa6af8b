"""What the commands of ``vecdb_cli.command_line`` do, each imported when its command runs.

target     a server's collections or a folder's, the same to all commands
loading    vecdb load: a file into a collection
answers    vecdb search and vecdb stats: tables for people, JSON for programs
backups    vecdb backup and vecdb restore: what was put where
checking   vecdb check: what was found
progress   bars on a terminal, lines elsewhere
child      a server as a child process, for the demo
"""

from __future__ import annotations

__all__: list[str] = []
