"""Random operations against the model, with reopening, sealing and graph building in between."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

import vecdb
from tests.model import Model, index_now, seal_now

DIM = 5
NAMES = st.integers(0, 40).map(lambda i: f"id-{i}")
METADATA = st.none() | st.fixed_dictionaries({"n": st.integers(-(2**63), 2**63)})


class CollectionMachine(RuleBasedStateMachine):
    """One collection, small numbers, every operation."""

    metric = "cosine"

    def __init__(self) -> None:
        super().__init__()
        # Thousands of commits: in memory if there is such a place, as durability is not the point.
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="vecdb-machine-", dir=memory))
        self.model = Model(DIM, self.metric)
        self.seq = 0
        self._open()

    def _open(self) -> None:
        self.database = vecdb.open(self.folder / "data", indexer=False)

    @initialize()
    def create(self) -> None:
        self.collection = self.database.create_collection(
            "docs", DIM, self.metric, M=4, ef_construction=32
        )

    @rule(
        names=st.lists(NAMES, min_size=1, max_size=30, unique=True),
        seed=st.integers(0, 2**32 - 1),
        few=st.booleans(),
        metadata=st.data(),
    )
    def upsert(self, names: list[str], seed: int, few: bool, metadata: Any) -> None:
        rng = np.random.default_rng(seed)
        # Few different vectors: ties, and updates that change nothing but metadata.
        vectors = (
            rng.integers(-2, 3, (len(names), DIM)) if few else rng.normal(size=(len(names), DIM))
        )
        vectors = vectors.astype(np.float32)
        vectors[(vectors == 0).all(axis=1), 0] = 1
        given = metadata.draw(
            st.none() | st.lists(METADATA, min_size=len(names), max_size=len(names))
        )
        receipt = self.collection.upsert(names, vectors, given)
        self.seq += 1
        assert (receipt.seq, receipt.count) == (self.seq, len(names))
        self.model.upsert(names, vectors, given)

    @rule(names=st.lists(NAMES, min_size=1, max_size=10))
    def repeat_with_other_metadata(self, names: list[str]) -> None:
        """The same vectors again: no row is added."""
        known = sorted({n for n in names if n in self.model.rows})
        if not known:
            return
        rows = self.collection.stats().next_row
        vectors = np.stack([self.model.rows[n][0] for n in known])
        given = [{"again": self.seq}] * len(known)
        self.collection.upsert(known, vectors, given)
        self.seq += 1
        self.model.upsert(known, vectors, given)
        assert self.collection.stats().next_row == rows

    @rule(names=st.lists(NAMES, min_size=1, max_size=20))
    def delete(self, names: list[str]) -> None:
        receipt = self.collection.delete(names)
        self.seq += 1
        assert (receipt.seq, receipt.count) == (self.seq, self.model.delete(names))

    @rule(names=st.lists(NAMES, min_size=1, max_size=20))
    def get(self, names: list[str]) -> None:
        self.model.check_records(self.collection.get(names), names)

    @rule(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 60), exact=st.booleans())
    def search(self, seed: int, k: int, exact: bool) -> None:
        queries = np.random.default_rng(seed).normal(size=(3, DIM)).astype(np.float32)
        for hits, query in zip(
            self.collection.search(queries, k=k, exact=exact), queries, strict=True
        ):
            self.model.check_hits(hits, query, k, exact=exact or hits.info.exact)
            assert hits.info.seq == self.seq
            assert hits.info.matches == len(self.model.rows)

    @rule(name=NAMES)
    def find_itself(self, name: str) -> None:
        """A row searched by its own vector is there, whatever has happened to the graph."""
        if name in self.model.rows and self.metric != "dot":
            hits = self.collection.search(self.model.rows[name][0], k=50)
            assert name in hits.ids

    @rule()
    def seal(self) -> None:
        seal_now(self.collection)

    @rule(rows_max=st.sampled_from([1 << 40, 25]))
    def optimize(self, rows_max: int) -> None:
        seal_now(self.collection)
        index_now(self.collection, rows_max)
        stats = self.collection.stats()
        assert stats.unindexed_rows == 0
        if rows_max > 25:
            assert len(stats.segments) <= 1

    @rule()
    def reopen(self) -> None:
        self.database.close()
        self._open()
        self.collection = self.database.collection("docs")

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "collection"):
            return
        stats = self.collection.stats()
        assert self.collection.count() == stats.live_count == len(self.model.rows)
        edge = 0
        for segment in stats.segments:
            assert segment.first_row == edge
            edge = segment.end_row
        assert edge == stats.sealed_to <= stats.next_row

    def teardown(self) -> None:
        self.database.close()
        shutil.rmtree(self.folder)


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot"])
def test_random_operations(metric: str) -> None:
    machine = type(f"Machine_{metric}", (CollectionMachine,), {"metric": metric})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )
