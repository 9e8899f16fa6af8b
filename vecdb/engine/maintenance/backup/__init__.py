"""Backups of a data folder, and folders made of them.

process    starts the process that makes a backup and reads its report
backup     makes it
manifest   what a backup says of itself
restore    makes a data folder of it
"""

from __future__ import annotations

__all__ = ["backup", "process", "restore"]
