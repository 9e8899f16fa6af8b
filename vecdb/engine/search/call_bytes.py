"""The memory that a search reserves before it allocates; see ``system/call_memory.py``."""

from __future__ import annotations

from typing import Final

from vecdb.engine.search.hits import Wanted
from vecdb.engine.search.snapshots.snapshot import Snapshot
from vecdb.engine.system.call_memory import CallMemory

__all__ = [
    "GROUPED_BYTES",
    "GROUP_VALUE_BYTES",
    "candidates_bytes",
    "take_answer_memory",
    "take_hits_memory",
    "take_search_memory",
]

_HIT_BYTES_MIN = 7
"""A hit in an answer has at least a distance, and an id of one byte with its length."""

_FOUND_BYTES, _MERGED_BYTES, _NAMED_BYTES, _RECORD_BYTES = 12, 56, 260, 500
"""Bytes of memory for: a hit of one unit; merging it with those of other units; the Python objects
of a returned hit with its id; and those of one with its record (without the metadata's bytes)."""


GROUPED_BYTES: Final = 250
"""Bytes of memory for a row in a group: its place and distance in a dict."""

GROUP_VALUE_BYTES: Final = 150
"""Bytes of memory for the values of a row by which it is put into groups, and for each that its
record has, without the bytes of texts."""


def take_search_memory(snapshot: Snapshot, queries: int, wanted: Wanted, dim: int) -> None:
    """Reserve memory for a search for the k nearest rows, and check the minimum size of its answer.

    Raises:
        ResourceExhaustedError: the answer would be too large, or memory is short.
    """
    take_answer_memory(snapshot, queries * min(wanted.k, snapshot.live_count), wanted, dim)
    wanted.memory.take(candidates_bytes(snapshot, queries, wanted.k))


def take_answer_memory(snapshot: Snapshot, hits: int, wanted: Wanted, dim: int) -> None:
    """Reserve memory for this many hits of an answer, without the bytes of their metadata. Raises
    as ``take_search_memory``."""
    wanted.memory.answer(hits * (_HIT_BYTES_MIN + (4 * dim if wanted.vectors else 0)))
    with_records = wanted.metadata and snapshot.counters.metadata_count > 0
    wanted.memory.take(hits * (_RECORD_BYTES if with_records else _NAMED_BYTES))


def take_hits_memory(memory: CallMemory, hits: int, metadata_bytes: int) -> None:
    """Reserve memory for the hits of one query, and their metadata. Raises as
    ``take_search_memory``."""
    memory.answer(hits * _HIT_BYTES_MIN + metadata_bytes)
    memory.take(hits * (_FOUND_BYTES + _RECORD_BYTES))


def candidates_bytes(snapshot: Snapshot, queries: int, k: int) -> int:
    """Return the memory that the k nearest rows of all parts need until they are merged."""
    counts = [unit.count for unit in snapshot.units]
    if not snapshot.holds_all:
        counts.append(snapshot.counters.next_row)
    found = queries * sum(min(k, count) for count in counts)
    return found * (_FOUND_BYTES + (_MERGED_BYTES if len(counts) > 1 else 0))
