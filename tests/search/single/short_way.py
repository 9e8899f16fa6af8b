"""Single queries by the short way and by the general path, and their comparison."""

from __future__ import annotations

from typing import Any

import numpy as np

from vecdb.engine.search.search import SearchRequest
from vecdb.engine.system.deadline import Deadline
from vecdb.engine.testing import opened_of
from vecdb.types import Hits


def drawn(count: int, seed: int = 5, dim: int = 64) -> np.ndarray:
    rng = np.random.default_rng(seed)
    spread = np.linspace(3, 0.1, dim, dtype=np.float32)
    return np.asarray(rng.standard_normal((count, dim), dtype=np.float32) * spread)


def short(
    docs: Any,
    query: np.ndarray,
    k: int = 10,
    with_metadata: bool = True,
    *,
    ef: int | None = None,
    target: float | None = None,
) -> Hits | None:
    """Return what the short way answers by itself."""
    single = opened_of(docs).searcher.single
    answer = single.answer(query, k, ef, target, with_metadata, None)
    assert answer is None or isinstance(answer, Hits)
    return answer


def general(
    docs: Any,
    query: np.ndarray,
    k: int = 10,
    with_metadata: bool = True,
    *,
    ef: int | None = None,
    target: float | None = None,
    explain: bool = False,
) -> Hits:
    flags = {"include_metadata": with_metadata, "explain": explain}
    request = SearchRequest(query, k, ef, target_recall=target, **flags)
    (hits,) = opened_of(docs).searcher.run_general(request, Deadline()).hits()
    return hits


def assert_same(found: Hits | None, expected: Hits) -> None:
    assert found is not None
    assert found.ids == expected.ids
    assert found.distances.dtype == np.float32
    assert found.distances.tobytes() == expected.distances.tobytes()
    assert found.metadata == expected.metadata
    assert (found.raw_metadata is None) == (expected.raw_metadata is None)
    assert found.info == expected.info
    assert found.vectors is None
