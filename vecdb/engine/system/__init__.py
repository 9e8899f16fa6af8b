"""What do we ask of the machine?

atomic_folder   a folder that appears whole or not at all
call_memory     the memory that calls under way may take together
child_process   starting a module of ours in a process of its own
deadline        seconds left, and whether a caller has gone
failpoints      places where tests kill the process or make a call fail
files           fsync, renames, file locks, errors of the file system
folder_use      the lock that says who has a folder open
garbage         keeping the garbage collector out of the way
modes           permissions of files and folders
place           whether a folder is still the one that was opened
turns           one thread at a time for each key
"""

from __future__ import annotations

__all__ = [
    "atomic_folder",
    "call_memory",
    "child_process",
    "deadline",
    "failpoints",
    "files",
    "folder_use",
    "garbage",
    "modes",
    "place",
    "turns",
]
