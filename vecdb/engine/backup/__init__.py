"""Backups of a data folder, and folders made of them.

process          starts the process that makes a backup and hears it out
backup           makes it
manifest         what a backup says of itself
restore          makes a data folder of it
partial_folder   a folder appears whole or not at all
"""

from __future__ import annotations

__all__: list[str] = []
