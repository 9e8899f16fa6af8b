"""Whether searches wait for the disk, since what they read does not fit in memory.

Then a walk asks for the pages of all rows that it scores again before it scores the first, so that
they are read at the same time. That takes a call of the system for each row, which would be a loss
where all pages are in memory. So the bytes that this process reads are looked at now and then.
"""

from __future__ import annotations

import resource
from typing import Final

__all__ = ["DiskReads"]

QUERIES: Final = 32
"""Queries between two looks."""

_BLOCKS_MIN: Final = 8
"""Blocks of 512 bytes read for each query, from which searches wait for the disk."""


class DiskReads:
    """Looks at what this process reads. Thread-safe; a look that is lost does no harm."""

    def __init__(self) -> None:
        self._queries, self._blocks, self._wait = 0, _blocks_read(), False

    def wait_for(self, queries: int) -> bool:
        """Count queries; return whether the latest ones waited for the disk."""
        self._queries += queries
        if self._queries >= QUERIES:
            blocks = _blocks_read()
            self._wait = blocks - self._blocks >= _BLOCKS_MIN * self._queries
            self._queries, self._blocks = 0, blocks
        return self._wait


def _blocks_read() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_inblock
