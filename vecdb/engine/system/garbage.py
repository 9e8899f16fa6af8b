"""Settings of Python's garbage collector for the processes of vecdb: a server, an indexer."""

from __future__ import annotations

import gc
from typing import Final

__all__ = ["freeze_loaded_objects"]

_THRESHOLD: Final = 20_000
"""Containers allocated before Python searches the new ones for cycles. The answer to a batch
allocates some hundreds of containers, none of them in a cycle."""


def freeze_loaded_objects() -> None:
    """Exclude all existing objects from garbage collection. Call it once all modules are loaded.

    A collection over them takes 60 ms of CPU, and ten times as long in an indexer that runs at a
    lower priority. It often happens within a transaction, which keeps LMDB from reusing pages.
    """
    gc.freeze()
    gc.set_threshold(_THRESHOLD)
