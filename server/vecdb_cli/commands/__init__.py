"""What the commands of ``vecdb_cli.command_line`` do, each imported when its command runs.

serving       vecdb serve
tokens        vecdb tokens: the access tokens of a server
managing      vecdb create, drop, get and optimize
changing      vecdb list, set and metadata: ids, and changes of metadata
loading       vecdb load: a file into a collection
selecting     vecdb count, delete, facet and fields: rows by what their metadata say
answers       vecdb search and stats: tables for people, JSON for programs; plans: how it searched
export        vecdb export; plain_files: Parquet and .npy
importing     vecdb import: index files of FAISS and hnswlib
backups       vecdb backup, restore and compact: reports
checking      vecdb check: the problems found
bench         vecdb bench: options, progress and tables

options       arguments and options that several commands share
filters       the filter of a command, as JSON text
target        opens a server or a folder; all commands treat both alike
console       the console for results
progress      the line of progress of long commands
optimizing    waits for graphs and shows the progress
child         a server as a child process, for the demo
apart         work in a thread, while the main thread receives signals
"""

from __future__ import annotations

__all__: list[str] = []
