"""The command line ``vecdb`` and its readers of files of vectors.

command_line   the commands and their options
commands       what each of them does
demo           vecdb demo
vector_files   files of vectors; vector_lines: their lines
sidecars       ids and metadata beside a file
"""

from __future__ import annotations

__all__ = ["command_line", "sidecars"]
