"""Read the segment table of a store: which segments are live, which intervals are reserved."""

from __future__ import annotations

from typing import Any

from vecdb.engine.store.store import Store

__all__ = ["in_place", "reserved_intervals"]

_IN_PLACE = ("published", "lost")


def in_place(entries: dict[int, dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """Return the live segments, by first row: their intervals partition [0, sealed_to)."""
    chosen = [item for item in entries.items() if item[1]["state"] in _IN_PLACE]
    return sorted(chosen, key=lambda item: item[1]["first_row"])


def reserved_intervals(store: Store, transaction: Any) -> list[tuple[int, int, int]]:
    """Return first row, end row and seq of each reservation.

    A process is building a segment of the rows live at that seq, and needs all later tombstones of
    the interval.
    """
    return [
        (entry["first_row"], entry["end_row"], entry["seq"])
        for entry in store.read_segments(transaction).values()
        if entry["state"] == "claimed"
    ]
