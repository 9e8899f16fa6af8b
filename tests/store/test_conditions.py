"""insert_only and if_seq: a batch is applied only if its preconditions hold for all of its ids."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import flush_now, index_now
from tests.waiting import HANG_S, eventually
from vecdb.engine.store.batch import make_batch, make_write_options
from vecdb.engine.testing import opened_of, queued_batches, submit

DIM = 4


def rows(count: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def refusal(call: Any) -> tuple[str, str]:
    with pytest.raises(vecdb.ConditionFailedError) as caught:
        call()
    assert caught.value.code == "ABORTED"
    return caught.value.reason, caught.value.message


def test_insert_only_with_live_ids_is_refused_as_a_whole(surface: Any) -> None:
    docs = surface.create_collection("docs", DIM)
    assert docs.upsert(["a", "b"], rows(2), insert_only=True).seq == 1
    docs.upsert(["c"], rows(1))
    call = lambda: docs.upsert(["new", "b", "c"], rows(3, 6), insert_only=True)  # noqa: E731
    reason, message = refusal(call)
    assert reason == "CONDITION_EXISTS"
    assert "'b'" in message and "seq 1" in message and "at seq 2" in message
    assert docs.get(["new", "b"]).missing == ["new"]
    assert (docs.count(), docs.stats().seq) == (3, 2)
    docs.delete(["b", "c"])
    assert docs.upsert(["new", "b", "c"], rows(3, 6), insert_only=True).seq == 4
    with pytest.raises(vecdb.InvalidArgumentError) as caught:
        docs.upsert(["d"], rows(1), insert_only=True, if_seq=1)
    assert caught.value.reason == "BAD_CONDITION"
    assert docs.upsert(["d"], rows(1), insert_only=True, if_seq=0).seq == 5


def test_if_seq_follows_its_truth_table(surface: Any) -> None:
    docs = surface.create_collection("docs", DIM)
    docs.upsert(["old", "changed", "metadata", "same", "gone", "back"], rows(6))
    seq = docs.get(["old"]).seq
    assert seq == 1
    docs.upsert(["changed"], rows(1, 6))
    docs.upsert(["metadata"], rows(6)[2:3], [{"n": 1}])
    docs.upsert(["same"], rows(6)[3:4])  # Identical to the stored row.
    docs.delete(["gone", "back"])
    docs.upsert(["back"], rows(6)[5:6])  # The same vector, but deleted in between.
    last = docs.stats().seq
    assert last == 6
    holds = {"old", "same"}
    for name in ("old", "changed", "metadata", "same", "gone", "back", "never"):
        for write in (
            lambda n: docs.upsert([n], rows(1, 7), if_seq=seq),
            lambda n: docs.delete([n], if_seq=seq),
        ):
            if name in holds:
                continue
            reason, message = refusal(lambda: write(name))  # noqa: B023
            assert reason == "CONDITION_CHANGED"
            assert f"'{name}'" in message and "if_seq 1" in message
    # One failing id refuses the whole batch.
    refusal(lambda: docs.upsert(["old", "gone"], rows(2), if_seq=seq))
    refusal(lambda: docs.delete(["old", "same", "never"], if_seq=seq))
    assert docs.stats().seq == last
    # After another read, the live ids are unchanged since its seq.
    live = ["old", "changed", "metadata", "same", "back"]
    assert docs.upsert(live, rows(5, 7), if_seq=docs.get(live).seq).seq == 7
    assert docs.delete(live[:2], if_seq=7).count == 2
    # 0 requires that none of the ids is live.
    assert refusal(lambda: docs.upsert(["new", "same"], rows(2), if_seq=0))[0] == (
        "CONDITION_CHANGED"
    )
    assert docs.upsert(["new", "old", "never"], rows(3), if_seq=0).seq == 9
    assert "at seq 9" in refusal(lambda: docs.upsert(["new"], rows(1), if_seq=10))[1]
    for bad in (-1, 2**63, 1.5, True):
        with pytest.raises(vecdb.InvalidArgumentError):
            docs.upsert(["new"], rows(1), if_seq=bad)  # type: ignore[arg-type,unused-ignore]
    assert docs.stats().seq == 9


def test_versions_after_flush_and_indexing_are_unchanged(database: Any) -> None:
    docs = database.create_collection("docs", DIM)
    docs.upsert([str(i) for i in range(300)], rows(300))
    docs.upsert(["7"], rows(300)[7:8], [{"n": 1}])
    flush_now(docs)
    index_now(docs)
    refusal(lambda: docs.upsert(["7"], rows(1), if_seq=1))
    refusal(lambda: docs.upsert(["8"], rows(1), insert_only=True))
    docs.upsert(["7", "8", "299"], rows(3), if_seq=2)


def test_random_conditional_writes_match_a_model(database: Any) -> None:
    seed = int(np.random.SeedSequence().entropy) % 2**32  # type: ignore[arg-type]
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    docs = database.create_collection("docs", DIM)
    version: dict[str, int] = {}  # Of live ids.
    seq = applied = 0
    vectors = rows(1000, seed)
    for step in range(400):
        ids = [str(i) for i in rng.choice(8, size=rng.integers(1, 4), replace=False)]
        insert_only = bool(rng.random() < 0.3)
        if_seq = None if rng.random() < 0.3 else int(rng.integers(0, seq + 2))
        is_delete = bool(rng.random() < 0.4)
        if is_delete or (insert_only and if_seq):
            insert_only = False
        fine = True
        if insert_only:
            fine = not any(i in version for i in ids)
        if if_seq is not None:
            fine = fine and if_seq <= seq
            for i in ids:
                fine = fine and (
                    i in version and version[i] <= if_seq if if_seq else i not in version
                )
        try:
            if is_delete:
                docs.delete(ids, if_seq=if_seq)
            else:
                chosen = vectors[step : step + len(ids)]
                docs.upsert(ids, chosen, insert_only=insert_only, if_seq=if_seq)
        except vecdb.ConditionFailedError:
            assert not fine, (step, ids, insert_only, if_seq, version)
            continue
        assert fine, (step, ids, insert_only, if_seq, version)
        seq += 1
        applied += 1
        for i in ids:
            version.pop(i, None) if is_delete else version.update({i: seq})
        assert docs.count() == len(version)
    assert 50 < applied < 350  # Both outcomes occurred often enough.
    assert docs.stats().seq == seq


def test_concurrent_read_modify_write_loses_no_increment(surface: Any) -> None:
    """Threads increment one number with if_seq; conflicting writes are refused and repeated."""
    docs = surface.create_collection("docs", DIM)
    docs.upsert(["counter"], rows(1), [{"n": 0}])
    in_the_way = []

    def increment(_: int) -> None:
        for _ in range(10):
            while True:
                read = docs.get(["counter"])
                n = read.metadata[0]["n"]
                try:
                    docs.upsert(["counter"], rows(1, n), [{"n": n + 1}], if_seq=read.seq)
                    break
                except vecdb.ConditionFailedError as error:
                    in_the_way.append(error.reason)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(increment, range(4)))
    assert docs.get(["counter"]).metadata == [{"n": 40}]
    assert set(in_the_way) <= {"CONDITION_CHANGED"}
    assert docs.stats().seq == 41


def test_refused_batch_does_not_fail_its_commit_group(database: Any) -> None:
    """The rest of the group is still committed together, with one sync."""
    docs = database.create_collection("docs", DIM)
    docs.upsert(["taken"], rows(1))
    store = opened_of(docs).store
    held, release = threading.Event(), threading.Event()

    def hold(transaction: Any) -> None:
        held.set()
        assert release.wait(HANG_S)

    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(store.environment.transact, hold)
        assert held.wait(HANG_S)
        # The writer thread takes the first batch and blocks; the others form the next group.
        first = submit(docs, make_batch(["first"], rows(1), None))
        eventually(lambda: not queued_batches(database))
        futures = []
        for i in range(6):
            terms = make_write_options(True, None, None) if i % 2 else None
            name = "taken" if i % 2 else f"free-{i}"
            futures.append(submit(docs, make_batch([name], rows(1), None, terms)))
        before = store.environment.last_commit()
        release.set()
        holding.result(HANG_S)
        first.result(HANG_S)
        errors = [future.exception(HANG_S) for future in futures]
    assert [type(e) for e in errors] == [type(None), vecdb.ConditionFailedError] * 3
    assert docs.count() == 5
    assert store.environment.last_commit() - before <= 2
