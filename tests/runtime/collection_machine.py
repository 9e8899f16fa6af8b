"""Random operations by two processes that have the folder open, compared with a model.

Each rule is run by this process or by the second one: batches with conditions and request ids,
searches, also with random filters, scrolls that stay open during all other operations, flushes,
graph builds, purging, compaction, reopening, renaming, dropping and creating again. Results must
agree with the model, whichever process wrote the rows; checks during and after the run must find
nothing.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

import vecdb
from tests.filter_model import SCALARS, random_filter, random_metadata
from tests.runtime.operations import (
    CONDITIONS,
    DIM,
    FILTERS,
    HERE,
    MATCHING,
    METADATA,
    NAMES,
    PATCHES,
    SEEDS,
    SIDES,
    THERE,
    refusal,
    vectors_of,
)
from tests.second_process import Hand, SecondProcess
from tests.state_model import Batch, OpenScroll, StateModel

SCROLLS_MAX = 4
CHECKED_EVERY = 40
"""Examples of a metric of which one ends with a check in a process of its own, as users make it."""


def has_scrolls(machine: CollectionMachine) -> bool:
    return bool(machine.scrolls)


class CollectionMachine(RuleBasedStateMachine):
    """One collection, small numbers, every operation."""

    metric = "cosine"
    second: SecondProcess
    examples: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        # Thousands of commits: in memory if possible, as durability is not tested here.
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="vecdb-machine-", dir=memory))
        self.data = self.folder / "data"
        self.hands: dict[bool, Any] = {HERE: Hand(), THERE: self.second}
        self.opened: list[bool] = []
        self.name = "docs"
        self.scrolls: list[OpenScroll] = []
        self._create(HERE)

    def _create(self, side: bool) -> None:
        self.model = StateModel(DIM, self.metric)
        self._open(side)
        self.hands[side].create(self.name, DIM, self.metric, M=4, ef_construction=32)

    def _open(self, side: bool) -> None:
        if side not in self.opened:
            self.hands[side].open(self.data)
            self.opened.append(side)

    def hand(self, side: bool) -> Any:
        """Return the handle of one process, which opens the folder on first use."""
        if side not in self.opened:
            self._open(side)
            self.hands[side].take(self.name)
        return self.hands[side]

    def _close(self, *sides: bool) -> None:
        for side in sides:
            if side in self.opened:
                self.opened.remove(side)
                self.hands[side].close()

    def _write(self, side: bool, batch: Batch) -> None:
        expected = self.model.write(batch)
        if isinstance(expected, str):
            assert refusal(batch.send, self.hand(side)) == expected
        else:
            assert batch.send(self.hand(side)) == expected

    def _terms(self, condition: Any) -> dict[str, Any]:
        if condition is None:
            return {}
        if condition == "insert_only":
            return {"insert_only": True}
        return {"if_seq": 0 if condition == "absent" else max(0, self.model.seq - condition)}

    def _fitting(self, names: list[str], terms: dict[str, Any]) -> list[str]:
        """Return the names for which the condition holds, or all if it holds for none."""
        fitting = []
        for name in names:
            version, if_seq = self.model.version.get(name), terms.get("if_seq", 0)
            if (version is None) if if_seq == 0 else (version is not None and version <= if_seq):
                fitting.append(name)
        return fitting if terms and fitting else names

    # Batches.

    @initialize(seed=SEEDS, count=st.integers(0, 40), side=SIDES)
    def fill(self, seed: int, count: int, side: bool) -> None:
        if count:
            names = [f"id-{i}" for i in range(count)]
            self._write(side, Batch(names, vectors_of(seed, count, False)))

    @rule(
        names=st.lists(NAMES, min_size=1, max_size=30, unique=True),
        seed=SEEDS,
        few=st.booleans(),
        metadata=st.data(),
        side=SIDES,
    )
    def upsert(self, names: list[str], seed: int, few: bool, metadata: Any, side: bool) -> None:
        given = metadata.draw(
            st.none() | st.lists(METADATA, min_size=len(names), max_size=len(names))
        )
        self._write(side, Batch(names, vectors_of(seed, len(names), few), given))

    @rule(seed=SEEDS)
    def churn(self, seed: int) -> None:
        """Write batches in turns, with pages of open scrolls and repeated requests in between."""
        rng = np.random.default_rng(seed)
        for i in range(rng.integers(2, 7)):
            names = [f"id-{n}" for n in rng.permutation(41)[: rng.integers(1, 41)]]
            vectors = None if i % 3 == 2 else vectors_of(seed + i, len(names), bool(seed % 2))
            request_id = f"churn-{self.model.seq}" if rng.random() < 0.3 else None
            self._write(bool(i % 2), Batch(names, vectors, request_id=request_id))
            if self.scrolls and rng.random() < 0.5:
                self.continue_scroll(int(rng.integers(SCROLLS_MAX)), False, bool(i % 2))
            if self.model.requests and rng.random() < 0.3:
                self.repeat_a_request(int(rng.integers(100)), not i % 2)

    @rule(names=st.lists(NAMES, min_size=1, max_size=10), other=st.booleans(), side=SIDES)
    def repeat_vectors(self, names: list[str], other: bool, side: bool) -> None:
        """Write the same vectors again, with the same or other metadata: no row is added."""
        known = sorted({n for n in names if n in self.model.rows})
        if not known:
            return
        rows = self.hand(side).call("stats").next_row
        vectors = np.stack([self.model.rows[n][0] for n in known])
        given = [{"again": self.model.seq} if other else self.model.rows[n][1] for n in known]
        self._write(side, Batch(known, vectors, given))
        assert self.hand(side).call("stats").next_row == rows

    @rule(
        names=st.lists(NAMES, min_size=1, max_size=20, unique=True),
        seed=SEEDS,
        number=st.none() | st.integers(5, 7),
        side=SIDES,
    )
    def upsert_new_ids(self, names: list[str], seed: int, number: int | None, side: bool) -> None:
        """Ids that exist are left as they are."""
        request_id = None if number is None else f"request-{number}"
        vectors = vectors_of(seed, len(names), False)
        given = [{"n": seed % 5}] * len(names)
        batch = Batch(names, vectors, given, request_id=request_id, skips=True)
        self._write(side, batch)

    @rule(
        names=st.none() | st.lists(NAMES, min_size=1, max_size=20, unique=True),
        filter=MATCHING,
        patch=PATCHES,
        number=st.none() | st.integers(5, 7),
        condition=st.none() | CONDITIONS,
        side=SIDES,
    )
    def set_metadata(
        self,
        names: list[str] | None,
        filter: dict[str, Any],
        patch: tuple[str, Any],
        number: int | None,
        condition: Any,
        side: bool,
    ) -> None:
        """By ids, or without ids by filter: no row is added."""
        rows = self.hand(side).call("stats").next_row
        request_id = None if number is None else f"request-{number}"
        terms = {} if names is None else self._terms(condition)
        terms.pop("insert_only", None)
        mode, given = patch
        by_filter = filter if names is None else None
        batch = Batch(
            names, patch=given, mode=mode, filter=by_filter, request_id=request_id, **terms
        )
        self._write(side, batch)
        assert self.hand(side).call("stats").next_row == rows

    @rule(filter=MATCHING, number=st.none() | st.integers(5, 7), side=SIDES)
    def delete_by_filter(self, filter: dict[str, Any], number: int | None, side: bool) -> None:
        request_id = None if number is None else f"request-{number}"
        self._write(side, Batch(None, filter=filter, request_id=request_id))

    @rule(filter=MATCHING, side=SIDES)
    def list_by_filter(self, filter: dict[str, Any], side: bool) -> None:
        """Every way of listing sees the same rows, those that match now."""
        matching, call = sorted(self.model.ids_matching(filter)), self.hand(side).call
        assert call("count", filter) == len(matching)
        assert call("list_ids", filter=filter) == matching
        assert call("facet", "n", filter).rows == len(matching)
        assert call("delete", filter=filter, dry_run=True).count == len(matching)

    @rule(names=st.lists(NAMES, min_size=1, max_size=20), side=SIDES)
    def delete(self, names: list[str], side: bool) -> None:
        self._write(side, Batch(names))

    @rule(
        names=st.lists(NAMES, min_size=1, max_size=8, unique=True),
        seed=st.none() | SEEDS,
        condition=CONDITIONS,
        fits=st.booleans(),
        side=SIDES,
    )
    def write_under_a_condition(
        self, names: list[str], seed: int | None, condition: Any, fits: bool, side: bool
    ) -> None:
        """Upsert, or delete without a seed. Conditions on random names rarely hold, so some are
        chosen to.
        """
        terms = self._terms(condition)
        if fits:
            names = self._fitting(names, terms)
        if seed is None:
            terms.pop("insert_only", None)
            self._write(side, Batch(names, **terms))
        else:
            self._write(side, Batch(names, vectors_of(seed, len(names), True), **terms))

    @rule(
        names=st.lists(NAMES, min_size=1, max_size=8, unique=True),
        seed=st.none() | SEEDS,
        number=st.integers(0, 4),
        condition=st.none() | CONDITIONS,
        side=SIDES,
    )
    def write_under_a_request_id(
        self, names: list[str], seed: int | None, number: int, condition: Any, side: bool
    ) -> None:
        """A used id is refused, as it belongs to another batch; a refused batch does not use up its
        id.
        """
        terms = {**self._terms(condition), "request_id": f"request-{number}"}
        if seed is None:
            terms.pop("insert_only", None)
            self._write(side, Batch(names, **terms))
        else:
            self._write(side, Batch(names, vectors_of(seed, len(names), False), **terms))

    @precondition(lambda self: self.model.requests)
    @rule(which=st.integers(0, 99), side=SIDES)
    def repeat_a_request(self, which: int, side: bool) -> None:
        """Send a batch again that was applied under a request id, whatever has happened since."""
        known = list(self.model.requests.values())
        batch, receipt = known[which % len(known)]
        repeated = replace(receipt, repeated=True)
        assert self.model.write(batch) == repeated
        assert batch.send(self.hand(side)) == repeated

    # Reading.

    @rule(names=st.lists(NAMES, min_size=1, max_size=20), side=SIDES)
    def get(self, names: list[str], side: bool) -> None:
        records = self.hand(side).call("get", names)
        self.model.check_records(records, names)
        assert records.seq == self.model.seq

    @rule(seed=SEEDS, k=st.integers(1, 60), exact=st.booleans(), side=SIDES)
    def search(self, seed: int, k: int, exact: bool, side: bool) -> None:
        queries = np.random.default_rng(seed).normal(size=(3, DIM)).astype(np.float32)
        found = self.hand(side).call("search", queries, k=k, exact=exact)
        for hits, query in zip(found, queries, strict=True):
            self.model.check_hits(hits, query, k, exact=exact or hits.info.exact)
            assert hits.info.seq == self.model.seq
            assert hits.info.matches == len(self.model.rows)

    @rule(
        which=st.integers(0, len(FILTERS) - 1),
        seed=SEEDS,
        k=st.sampled_from([1, 5, 60]),
        side=SIDES,
    )
    def search_with_filters(self, which: int, seed: int, k: int, side: bool) -> None:
        """A filter for each query, from a few, so that the same is asked again after changes."""
        draw, exact = random.Random(which), seed % 2 == 0
        filters = [random_filter(draw, SCALARS[:12], depth=1) for _ in range(2)]
        filters.append(FILTERS[which])
        queries = np.random.default_rng(seed).normal(size=(3, DIM)).astype(np.float32)
        found = self.hand(side).call("search", queries, k=k, exact=exact, filter=filters)
        for hits, query, condition in zip(found, queries, filters, strict=True):
            matching = self.model.matching(condition)
            matching.check_hits(hits, query, k, exact=exact or hits.info.exact)
            assert hits.info.seq == self.model.seq
            assert hits.info.matches == len(matching.rows)

    @rule(names=st.lists(NAMES, min_size=5, max_size=20), seed=SEEDS, writes=SIDES, side=SIDES)
    def change_metadata_between_searches(
        self, names: list[str], seed: int, writes: bool, side: bool
    ) -> None:
        """What was found for a filter holds no longer, nor what a segment says of metadata,
        whichever process changed them.
        """
        draw = random.Random(seed)
        known = sorted({n for n in names if n in self.model.rows})
        if known:
            if seed % 3:
                self.hand(side).flush()
            self.search_with_filters(seed % len(FILTERS), seed, 60, side)
            vectors = np.stack([self.model.rows[n][0] for n in known])
            given = [random_metadata(draw, SCALARS[:12]) for _ in known]
            self._write(writes, Batch(known, vectors, given))
            for which in range(len(FILTERS)):  # The one that was asked, and others.
                self.search_with_filters(which, seed, 60, side)

    @rule(seed=SEEDS, deletes=st.booleans(), dry_run=st.booleans(), side=SIDES)
    def change_by_filter(self, seed: int, deletes: bool, dry_run: bool, side: bool) -> None:
        """Change or delete what a filter matches, in one batch."""
        draw = random.Random(seed)
        condition = random_filter(draw, SCALARS[:12], depth=1)
        hand, metadata = self.hand(side), None
        if deletes:
            receipt = hand.call("delete", filter=condition, dry_run=dry_run)
        else:
            metadata = random_metadata(draw, SCALARS[:12])
            terms = {"mode": "replace", "filter": condition, "dry_run": dry_run}
            receipt = hand.call("set_metadata", patch=metadata, **terms)
        assert receipt == self.model.change(condition, metadata, dry_run)
        assert hand.call("count", filter=condition) == len(self.model.matching(condition).rows)

    @rule(name=NAMES, side=SIDES)
    def find_itself(self, name: str, side: bool) -> None:
        """A row is found by its own vector, whatever has happened to the graph."""
        if name in self.model.rows and self.metric != "dot":
            hits = self.hand(side).call("search", self.model.rows[name][0], k=50)
            assert name in hits.ids

    # Scrolls, which either process may continue.

    @precondition(lambda self: len(self.scrolls) < SCROLLS_MAX)
    @rule(batch=st.integers(1, 5), side=SIDES)
    def begin_scroll(self, batch: int, side: bool) -> None:
        scroll = OpenScroll(self.model.seq, self.model.content(), batch)
        if not scroll.add(self.hand(side).call("scroll_page", None, batch)):
            self.scrolls.append(scroll)

    @precondition(has_scrolls)
    @rule(which=st.integers(0, SCROLLS_MAX - 1), to_the_end=st.booleans(), side=SIDES)
    def continue_scroll(self, which: int, to_the_end: bool, side: bool) -> None:
        scroll = self.scrolls[which % len(self.scrolls)]
        last = False
        while not last:
            last = scroll.add(self.hand(side).call("scroll_page", scroll.token, scroll.batch))
            if not to_the_end:
                break
        if last:
            self.scrolls.remove(scroll)

    @precondition(has_scrolls)
    @rule(which=st.integers(0, SCROLLS_MAX - 1), side=SIDES)
    def end_scroll(self, which: int, side: bool) -> None:
        scroll = self.scrolls.pop(which % len(self.scrolls))
        self.hand(side).call("end_scroll", scroll.token)
        assert self._page_refusal(not side, scroll) == "PIN_EXPIRED"

    def _page_refusal(self, side: bool, scroll: OpenScroll) -> str:
        return refusal(self.hand(side).call, "scroll_page", scroll.token, scroll.batch)

    # Maintenance.

    @rule(side=SIDES)
    def flush(self, side: bool) -> None:
        self.hand(side).flush()

    @rule(rows_max=st.sampled_from([1 << 40, 25]), side=SIDES)
    def optimize(self, rows_max: int, side: bool) -> None:
        self.hand(side).flush()
        self.hand(side).index(rows_max)
        stats = self.hand(side).call("stats")
        assert stats.unindexed_rows == 0
        if rows_max > 25:
            assert len(stats.segments) <= 1

    @rule(steps=st.none() | st.integers(0, 2), side=SIDES)
    def purge(self, steps: int | None, side: bool) -> None:
        """Purge everything that no scroll holds, or interrupt a pass."""
        self.hand(side).purge(steps)
        if steps is None and not self.scrolls:
            assert self.hand(not side).garbage() == 0

    @rule(side=SIDES, beside=st.sampled_from(["nothing", "check", "compact"]))
    def reopen(self, side: bool, beside: str) -> None:
        """A check runs beside the other process; a compaction needs the folder exclusively."""
        self._close(side)
        if beside == "check":
            assert self.hands[side].checked(self.data) == []
        elif beside == "compact":
            self._close(not side)
            self._compact(side)

    def _compact(self, side: bool) -> None:
        """A compaction ends all scrolls and leaves no garbage; rows, versions and requests stay."""
        vecdb.compact(self.data)
        for scroll in self.scrolls:
            assert self._page_refusal(side, scroll) == "PIN_EXPIRED"
        self.scrolls.clear()
        assert self.hand(side).garbage() == 0

    # Names.

    @rule(side=SIDES)
    def rename(self, side: bool) -> None:
        """Handles are bound to the collection; both processes see the new name at once."""
        hand, other = self.hand(side), self.hand(not side)
        old, self.name = self.name, "texts" if self.name == "docs" else "docs"
        hand.rename(old, self.name)
        assert refusal(other.take, old) == "NO_COLLECTION"
        assert other.call("count") == len(self.model.rows)
        other.take(self.name)

    @precondition(lambda self: self.model.seq > 3)
    @rule(drops=SIDES, creates=SIDES)
    def drop_and_create(self, drops: bool, creates: bool) -> None:
        """Old handles fail in both processes; the new collection is empty."""
        for side in (HERE, THERE):
            self.hand(side).call("count")
        self.hand(drops).drop(self.name)
        self._check_dropped()
        self._create(creates)
        self._check_dropped(not creates)
        self.hand(not creates).take(self.name)
        for scroll in self.scrolls:
            assert self._page_refusal(creates, scroll) == "BAD_TOKEN"
        self.scrolls.clear()

    def _check_dropped(self, *sides: bool) -> None:
        for side in sides or (HERE, THERE):
            call = self.hand(side).call
            for method, argument in (
                ("get", ["id-0"]),
                ("delete", ["id-0"]),
                ("search", np.ones(DIM, np.float32)),
                ("scroll_page", None),
            ):
                assert refusal(call, method, argument) == "DROPPED"

    @invariant()
    def counts_agree(self) -> None:
        for side in self.opened:
            stats = self.hands[side].call("stats")
            assert self.hands[side].call("count") == stats.live_count == len(self.model.rows)
            assert stats.seq == self.model.seq
            assert stats.oldest_pin_seq == min((s.seq for s in self.scrolls), default=None)
            edge = 0
            for segment in stats.segments:
                assert segment.first_row == edge
                edge = segment.end_row
            assert edge == stats.sealed_to <= stats.next_row

    def teardown(self) -> None:
        try:
            self._close(HERE, THERE)
            type(self).examples += 1
            assert Hand().checked(self.data) == []
            if self.examples % CHECKED_EVERY == 0:
                report = vecdb.check(self.data)
                assert report.content and report.complete, report.problems
        finally:
            shutil.rmtree(self.folder)
