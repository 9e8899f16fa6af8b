"""What does a user type? The command line ``vecdb``, and its readers of vector files.

command_line   the commands and their options
commands       what each command does
demo           vecdb demo: load, search and measure word vectors
vector_files   readers of vector files; vector_lines: parser of their lines
sidecars       readers of the ids and metadata of a vector file
testing        access for tests to internals
"""

from __future__ import annotations

__all__ = ["command_line", "sidecars"]
