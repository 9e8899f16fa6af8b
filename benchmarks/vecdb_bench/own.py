"""``vecdb bench own``: recall and latency by ef of a collection that is in use, on its own data.

Queries come from a file, or are stored vectors drawn at random while the collection is scrolled
through; such a query's own row is left out of its answers, since finding it is no feat. The truth
is ``exact=True``. It only reads, one call at a time, and rests between calls as long as they took,
so that whoever uses the collection meanwhile keeps at least half of what they had.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vecdb.errors import FailedPreconditionError, InvalidArgumentError
from vecdb_bench.data.truth import TIE
from vecdb_bench.figures import percentile

__all__ = ["EFFORTS", "Row", "measure", "sample"]

EFFORTS = (16, 32, 64, 128, 256, 512)
_PAGE = 1_000
_ROWS_SEEN_MAX = 200_000
_SEED = 7801


@dataclass(frozen=True)
class Row:
    """One ef: recall mean and least of all queries, latency of single queries in ms."""

    ef: int
    recall: float
    worst: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    visited: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def sample(
    collection: Any, count: int, seed: int = _SEED
) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Stored vectors drawn evenly from the first 200,000 rows, with their ids.

    Raises:
        FailedPreconditionError: the collection is empty.
    """
    generator = np.random.default_rng(seed)
    kept: list[tuple[str, npt.NDArray[np.float32]]] = []
    seen = 0
    with collection.scroll(batch=_PAGE, include_metadata=False, include_vectors=True) as pages:
        for page in pages:
            for name, vector in zip(page.ids, page.vectors, strict=True):
                seen += 1
                # Reservoir sampling (Vitter 1985, algorithm R): one pass, any length.
                if len(kept) < count:
                    kept.append((name, np.array(vector)))
                elif (place := int(generator.integers(seen))) < count:
                    kept[place] = (name, np.array(vector))
            if seen >= _ROWS_SEEN_MAX:
                break
    if not kept:
        raise FailedPreconditionError("the collection is empty: nothing to ask for", "EMPTY")
    return np.stack([vector for _, vector in kept]), [name for name, _ in kept]


def measure(
    collection: Any,
    queries: npt.NDArray[np.float32],
    own_ids: list[str] | None,
    *,
    k: int = 10,
    efforts: tuple[int, ...] = EFFORTS,
    step: Callable[[int, int], None] = lambda done, total: None,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Row]:
    """A row an ef.

    Args:
        queries: float32, shape (q, dim). own_ids: of the rows that they are, or None.
        step: told how many of the queries are done, of all.

    Raises:
        InvalidArgumentError: the queries have not the collection's dimension.
    """
    if queries.ndim != 2 or queries.shape[1] != collection.dim:
        raise InvalidArgumentError(
            f"expected queries of {collection.dim} dimensions, got shape {queries.shape}",
            "DIM_MISMATCH",
        )
    total = len(queries) * (1 + len(efforts))
    wanted = k + (own_ids is not None)
    names: list[str | None] = list(own_ids) if own_ids is not None else [None] * len(queries)
    limits = []
    for at, query in enumerate(queries):
        began = time.perf_counter()
        hits = collection.search(query, wanted, exact=True, include_metadata=False)
        sleep(time.perf_counter() - began)
        limits.append(_without(hits, names[at])[:k])
        step(at + 1, total)
    rows = []
    for number, ef in enumerate(efforts, 1):
        took, shares, visited = np.empty(len(queries)), np.empty(len(queries)), 0
        for at, query in enumerate(queries):
            began = time.perf_counter()
            hits = collection.search(query, wanted, ef=max(ef, wanted), include_metadata=False)
            took[at] = time.perf_counter() - began
            sleep(took[at])
            visited += hits.info.visited
            shares[at] = _share(_without(hits, names[at])[:k], limits[at])
            step(number * len(queries) + at + 1, total)
        rows.append(
            Row(
                ef,
                float(shares.mean()),
                float(shares.min()),
                1000 * percentile(took, 50),
                1000 * percentile(took, 95),
                1000 * percentile(took, 99),
                visited / len(queries),
            )
        )
    return rows


def _without(hits: Any, name: str | None) -> npt.NDArray[np.float64]:
    """Distances of the hits but that of the query's own row."""
    others = [hit != name for hit in hits.ids]
    return np.asarray(hits.distances, np.float64)[others]


def _share(found: npt.NDArray[np.float64], true: npt.NDArray[np.float64]) -> float:
    if not len(true):
        return 1.0
    limit = true[-1] + TIE * max(abs(float(true[-1])), 1.0)
    return min(int((found <= limit).sum()), len(true)) / len(true)
