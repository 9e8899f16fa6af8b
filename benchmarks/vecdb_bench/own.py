"""``vecdb bench own``: recall and latency of a collection in production, on its own data.

Both are measured at targets of recall, where the answer says what to expect, and at several ef.

Queries come from a file, or are stored vectors sampled while scrolling through the collection. The
row that a sampled query was read from is excluded from its hits, since finding it is trivial. The
ground truth is a search with ``exact=True``.

The benchmark only reads, one call at a time, and sleeps after each call for as long as the call
took, so that other users of the collection keep at least half of their throughput.
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

__all__ = ["EFFORTS", "TARGETS", "Row", "measure", "sample"]

EFFORTS = (16, 32, 64, 128, 256, 512)
TARGETS = (0.9, 0.95, 0.98, 0.99)
_PAGE = 1_000
_ROWS_SEEN_MAX = 200_000
_SEED = 7801


@dataclass(frozen=True)
class Row:
    """Figures at one target of recall, or at one ef.

    Attributes:
        target, ef: what was asked for; the other is None.
        expected: recall to expect as the answers say; None if it is unknown.
        recall: mean recall of all queries. worst: the least of them.
        p50_ms, p95_ms, p99_ms: latency of single queries.
        visited: mean number of vectors compared with a query.
    """

    target: float | None
    ef: int | None
    expected: float | None
    recall: float
    worst: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    visited: float

    def as_dict(self) -> dict[str, float | None]:
        """Return the figures by name, for JSON."""
        return asdict(self)


def sample(
    collection: Any, count: int, seed: int = _SEED
) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Return stored vectors, sampled uniformly from the first 200,000 rows, with their ids.

    Returns:
        float32, shape (min(count, rows), dim), and as many ids.

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
        raise FailedPreconditionError("the collection is empty: no queries to sample", "EMPTY")
    return np.stack([vector for _, vector in kept]), [name for name, _ in kept]


def measure(
    collection: Any,
    queries: npt.NDArray[np.float32],
    own_ids: list[str] | None,
    *,
    k: int = 10,
    efforts: tuple[int, ...] = EFFORTS,
    targets: tuple[float, ...] = TARGETS,
    step: Callable[[int, int], None] = lambda done, total: None,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Row]:
    """Measure recall and latency at each target and at each ef; return a row for each.

    Args:
        queries: float32, shape (q, dim).
        own_ids: ids of the rows that the queries were read from, or None.
        step: called with the number of searches done and their total.
        sleep: called with the seconds to wait after each search.

    Raises:
        InvalidArgumentError: the queries do not have the collection's dimension.
    """
    if queries.ndim != 2 or queries.shape[1] != collection.dim:
        raise InvalidArgumentError(
            f"expected queries of {collection.dim} dimensions, got shape {queries.shape}",
            "DIM_MISMATCH",
        )
    asked: list[tuple[float | None, int | None]] = [(target, None) for target in targets]
    asked += [(None, ef) for ef in efforts]
    total = len(queries) * (1 + len(asked))
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
    for number, (target, ef) in enumerate(asked, 1):
        how: dict[str, Any] = {"target_recall": target} if ef is None else {"ef": max(ef, wanted)}
        took, shares, visited = np.empty(len(queries)), np.empty(len(queries)), 0
        for at, query in enumerate(queries):
            began = time.perf_counter()
            hits = collection.search(query, wanted, **how, include_metadata=False)
            took[at] = time.perf_counter() - began
            sleep(took[at])
            visited += hits.info.visited
            shares[at] = _share(_without(hits, names[at])[:k], limits[at])
            step(number * len(queries) + at + 1, total)
        rows.append(
            Row(
                target,
                ef,
                None if hits.info.recall is None else hits.info.recall.expected,
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
    """Return the distances of the hits, without that of the query's own row."""
    others = [hit != name for hit in hits.ids]
    return np.asarray(hits.distances, np.float64)[others]


def _share(found: npt.NDArray[np.float64], true: npt.NDArray[np.float64]) -> float:
    if not len(true):
        return 1.0
    limit = true[-1] + TIE * max(abs(float(true[-1])), 1.0)
    return min(int((found <= limit).sum()), len(true)) / len(true)
