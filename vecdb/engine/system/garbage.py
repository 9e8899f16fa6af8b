"""Python's garbage collector in a process of our own: a server, an indexer."""

from __future__ import annotations

import gc
from typing import Final

__all__ = ["keep_what_is_loaded"]

_THRESHOLD: Final = 20_000
"""Containers made before Python looks for cycles among the new ones; a batch's answer makes some
hundreds, and none of them is in a cycle."""


def keep_what_is_loaded() -> None:
    """To be called once all is loaded: the collector need not look at it again and again.

    To go through it takes 60 ms of a core, ten times as long by the clock for an indexer that gives
    way to searches, and often in a transaction, which keeps the store from using its free pages.
    """
    gc.freeze()
    gc.set_threshold(_THRESHOLD)
