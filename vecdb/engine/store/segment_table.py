"""Reading the table of segments in a store."""

from __future__ import annotations

from typing import Any

from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.store.store import Store

__all__ = ["in_place", "reserved_intervals"]

_IN_PLACE = ("published", "lost")


def in_place(entries: dict[int, dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """The segments that partition [0, sealed_to), by first row."""
    chosen = [item for item in entries.items() if item[1]["state"] in _IN_PLACE]
    return sorted(chosen, key=lambda item: item[1]["first_row"])


def reserved_intervals(store: Store, transaction: Transaction) -> list[tuple[int, int, int]]:
    """First row, end row and seq of the claims: somebody makes a segment of what was live then, so
    that deaths since are needed."""
    return [
        (entry["first_row"], entry["end_row"], entry["seq"])
        for entry in store.read_segments(transaction).values()
        if entry["state"] == "claimed"
    ]
