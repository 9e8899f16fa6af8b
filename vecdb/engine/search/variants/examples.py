"""Queries by example: the query that the vectors of stored rows give, read at the state searched.

As in Qdrant's recommendations by average vector, the query is the mean of the rows to be near; and
if there are rows to be away from, mean(near) + (mean(near) - mean(away)). Under cosine, where
lengths have no meaning, rows count at unit length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from vecdb.engine.search.snapshots.snapshot import Snapshot
from vecdb.engine.search.snapshots.streaming import SnapshotTooOldError
from vecdb.engine.store.store import Store
from vecdb.errors import InvalidArgumentError, NotFoundError
from vecdb.reasons import Reason
from vecdb.row_names import shown
from vecdb.types import Metric

__all__ = ["ExampleQuery", "query_by_examples"]

_ATTEMPTS: Final = 10
"""Snapshots that are tried while other writers replace the examples."""

_MISSING_SHOWN: Final = 5

_CANCELLED: Final = 1e-7
"""Length of a mean of unit vectors in float32 below which its direction is that of rounding."""

Floats = npt.NDArray[np.float32]


class ExampleQuery(NamedTuple):
    """The query of some examples.

    Attributes:
        snapshot: the state in which the examples have these vectors.
        query: float32 (1, dim), not validated.
        rows: int64 (n,), ascending, the examples' rows.
    """

    snapshot: Snapshot
    query: Floats
    rows: npt.NDArray[np.int64]


def query_by_examples(
    store: Store,
    snapshot: Snapshot,
    newest: Callable[[], Snapshot],
    near: Sequence[str],
    away: Sequence[str],
) -> ExampleQuery:
    """Return the query of examples, in a snapshot or, if they were written since, in a newer one.

    Args:
        newest: returns the newest snapshot.
        near, away: validated ids, one at least in near.

    Raises:
        NotFoundError: NO_SUCH_ID: an example does not exist. Or the collection was dropped.
        InvalidArgumentError: ZERO_VECTOR: under cosine, the examples cancel out.
        DataLossError: a vector is damaged.
        SnapshotTooOldError: the examples are replaced all the time.
    """
    encoded = {text: text.encode() for text in (*near, *away)}
    for _ in range(_ATTEMPTS):
        with store.environment.read() as transaction:
            store.check_not_dropped(transaction)
            row_of = store.rows.find(transaction, sorted(encoded.values()))
            missing = [text for text, key in encoded.items() if key not in row_of]
            if missing:
                raise _unknown(missing)
            rows = np.array(sorted(row_of.values()), np.int64)
            # A live row that the snapshot knows was live in it, too, under the same id.
            if rows[-1] < snapshot.counters.next_row:
                vectors = store.rows.read_vectors(transaction, rows.tolist())
                places = {text: int(rows.searchsorted(row_of[encoded[text]])) for text in encoded}
                break
        snapshot = newest()
    else:
        raise SnapshotTooOldError(
            f"the examples {_listed(list(encoded))} were replaced during the search; retry",
            Reason.OVERTAKEN,
        )
    near_rows, away_rows = ([places[text] for text in side] for side in (near, away))
    query = _derived(vectors, near_rows, away_rows, store.config.metric)
    return ExampleQuery(snapshot, query, rows)


def _derived(vectors: Floats, near: list[int], away: list[int], metric: Metric) -> Floats:
    """Return the query, float32 (1, dim).

    near, away: positions in ``vectors``.
    """
    if metric is not Metric.COSINE and len(near) == 1 and not away:
        single: Floats = vectors[near]
        return single
    given = vectors.astype(np.float64)
    if metric is Metric.COSINE:
        given /= np.linalg.norm(given, axis=1, keepdims=True)
    query = given[near].mean(axis=0, keepdims=True)
    if away:
        query += query - given[away].mean(axis=0, keepdims=True)
    if metric is Metric.COSINE and not np.linalg.norm(query) > _CANCELLED:
        raise InvalidArgumentError(
            "the vectors in near and away cancel out, so the query has no direction",
            Reason.ZERO_VECTOR,
        )
    derived: Floats = query.astype(np.float32)
    return derived


def _unknown(missing: list[str]) -> NotFoundError:
    return NotFoundError(
        f"near and away must be ids of stored rows; there is no {_listed(missing)}",
        Reason.NO_SUCH_ID,
    )


def _listed(ids: list[str]) -> str:
    names = ", ".join(shown(text) for text in ids[:_MISSING_SHOWN])
    more = len(ids) - _MISSING_SHOWN
    return f"{names} and {more} more" if more > 0 else names
