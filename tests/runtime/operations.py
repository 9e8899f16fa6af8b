"""Random arguments of the operations of ``collection_machine.py``, and why one is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

import vecdb
from tests.filter_model import SCALARS, random_metadata

DIM = 5
HERE, THERE = False, True
SIDES = st.booleans()
NAMES = st.integers(0, 40).map(lambda i: f"id-{i}")
SEEDS = st.integers(0, 2**32 - 1)
METADATA = (
    st.none()
    | st.fixed_dictionaries({"n": st.integers(-(2**63), 2**63)})
    | SEEDS.map(lambda seed: random_metadata(random.Random(seed), SCALARS[:12]))
)
MATCHING = st.sampled_from(
    [{"n": {"$lt": 0}}, {"n": {"$gte": 2}}, {"again": {"$exists": True}}, {"n": {"$in": [1, 2, 3]}}]
) | st.integers(0, 4).map(lambda i: {"$id": {"$prefix": f"id-{i}"}, "n": {"$exists": False}})
PATCHES = st.tuples(st.sampled_from(["merge", "replace"]), METADATA.map(lambda m: m or {})) | (
    st.just(("delete_keys", ["n"])) | st.just(("merge", {"again": 1}))
)
CONDITIONS = st.sampled_from(["insert_only", "absent"]) | st.integers(-1, 9)
"""A number says how many seqs ago the ids were read; -1 is a read that has not been."""

FILTERS: list[dict[str, Any]] = [
    {"a": {"$exists": True}},
    {"b": {"$exists": False}, "c": {"$exists": False}},
    {"n": {"$gte": 0}},
    {"$or": [{"b": {"$not": {"$lte": 1}}}, {"a.b": {"$exists": True}}]},
]
"""Most rows begin or cease to match one of these when they get other metadata."""


def vectors_of(seed: int, count: int, few: bool) -> np.ndarray:
    """Return random vectors. few: of few distinct values, for ties and for updates that change only
    metadata.
    """
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, (count, DIM)) if few else rng.normal(size=(count, DIM))
    vectors = vectors.astype(np.float32)
    vectors[(vectors == 0).all(axis=1), 0] = 1
    return vectors


def refusal(call: Callable[..., Any], *arguments: Any) -> str:
    """Return the reason for which a call is refused."""
    with pytest.raises(vecdb.VecdbError) as caught:
        call(*arguments)
    return caught.value.reason
