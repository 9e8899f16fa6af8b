"""What real queries have shown of the recall of each graph, for all processes and later starts.

    meta   b"recall"   JSON: efforts (lists of numbers, one for each band of k), graphs (segment
                       number → queries, measured_at (seconds since 1970), and for each band and
                       effort the sums of the recalls and of their squares)

It is a cache of what can be measured again. If it is missing, damaged, or of other efforts than
this version walks at, a process does without.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.store import layout
from vecdb.engine.store.segment_table import in_place
from vecdb.engine.store.store import Store
from vecdb.errors import DataLossError

__all__ = ["RecallSums", "graph_numbers", "read_recall_sums", "write_recall_sums"]

Floats = npt.NDArray[np.float64]

_KEY: Final = b"recall"
_DIGITS: Final = 4


class RecallSums(NamedTuple):
    """Sums over the real queries that were measured on one graph.

    Attributes:
        queries: their number, or weight.
        measured_at: seconds since 1970 of the last one.
        sums, squares: float64 (bands, efforts), of their recalls and of the squares of these.
    """

    queries: float
    measured_at: float
    sums: Floats
    squares: Floats


def read_recall_sums(
    store: Store, transaction: Transaction, efforts: Floats
) -> dict[int, RecallSums]:
    """Return the sums by segment number; empty if there are none that can be used.

    Args:
        efforts: float64 (bands, efforts), at which this version walks.
    """
    raw = transaction.get(_KEY, db=store.environment.handles.meta)
    if raw is None:
        return {}
    try:
        stored = layout.unpack_json(_KEY, raw, "meta")
        if stored["efforts"] != efforts.tolist():
            return {}
        return {
            int(number): _sums_of(entry, efforts.shape)
            for number, entry in stored["graphs"].items()
        }
    except (DataLossError, LookupError, TypeError, ValueError):
        return {}


def _sums_of(entry: Mapping[str, object], shape: tuple[int, ...]) -> RecallSums:
    sums, squares = (np.array(entry[name], np.float64) for name in ("sums", "squares"))
    queries, measured_at = float(str(entry["queries"])), float(str(entry["measured_at"]))
    whole = np.concatenate([sums.ravel(), squares.ravel(), [queries, measured_at]])
    if sums.shape != shape or squares.shape != shape or not (whole >= 0).all():
        raise ValueError("not the sums of recalls")
    return RecallSums(queries, measured_at, sums, squares)


def write_recall_sums(
    store: Store, transaction: Transaction, efforts: Floats, sums: Mapping[int, RecallSums]
) -> None:
    """Replace all sums, by segment number. The caller has checked the collection's state."""
    graphs = {
        str(number): {
            "queries": round(each.queries, _DIGITS),
            "measured_at": int(each.measured_at),
            "sums": each.sums.round(_DIGITS).tolist(),
            "squares": each.squares.round(_DIGITS).tolist(),
        }
        for number, each in sums.items()
    }
    value = layout.pack_json(_KEY, {"efforts": efforts.tolist(), "graphs": graphs})
    transaction.put(_KEY, value, db=store.environment.handles.meta)


def graph_numbers(store: Store, transaction: Transaction) -> set[int]:
    """Return the numbers of the graph segments that are in use.

    Raises:
        DataLossError: an entry of the table of segments is damaged.
    """
    entries = in_place(store.read_segments(transaction))
    return {number for number, entry in entries if entry.has_graph}
