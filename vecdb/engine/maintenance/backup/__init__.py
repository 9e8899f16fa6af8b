"""Backups of a data folder, and restoring them.

process    starts the child process of a backup and reads its report
backup     writes a backup
manifest   backup.json, the list of a backup's files and collections
restore    creates a data folder from a backup
"""

from __future__ import annotations

__all__ = ["backup", "process", "restore"]
