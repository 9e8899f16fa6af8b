"""upsert_many over gRPC: batches, progress, failures and retries."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.client.rows import DIM, rows
from tests.serving import (
    running_server,
)
from vecdb import limits
from vecdb.engine.runtime.runtime import Runtime
from vecdb.types import IngestProgress
from vecdb_client import Client


def test_upsert_many_reports_each_batch(docs: Any) -> None:
    told: list[IngestProgress] = []
    done = docs.upsert_many(range(95), rows(95), batch_rows=10, progress=told.append)
    assert [p.rows for p in told] == [*range(10, 100, 10), 95]
    # Two under way may overtake each other, so that the greatest seq so far is reported.
    seqs = [p.seq for p in told]
    assert seqs == sorted(seqs)
    assert all(seq >= number for number, seq in enumerate(seqs, 1))
    assert seqs[-1] == 10
    assert {p.total for p in told} == {95}
    assert done == told[-1]
    assert docs.count() == 95


def test_upsert_many_takes_iterables(docs: Any) -> None:
    done = docs.upsert_many(
        (f"r{i}" for i in range(25)), iter(rows(25)), ({"n": i} for i in range(25)), batch_rows=10
    )
    assert (done.rows, done.total, done.seq) == (25, None, 3)
    assert docs.get(["r24"]).metadata == [{"n": 24}]
    assert docs.upsert_many([], rows(0)).rows == 0


def test_the_later_of_two_rows_with_an_id_wins(docs: Any) -> None:
    """Neighbouring batches share ids, and two are under way at a time."""
    ids = [str(i % 7) for i in range(350)]
    vectors = rows(350)
    for _ in range(3):
        docs.upsert_many(ids, vectors, batch_rows=7)
        assert np.array_equal(docs.get([str(i) for i in range(7)]).vectors, vectors[-7:])


def test_batches_are_cut_to_the_servers_limit(tmp_path: Path) -> None:
    least = limits.MESSAGE_BYTES.minimum
    with (
        running_server(tmp_path / "data", indexer=False, message_bytes=least) as address,
        Client(address) as client,
    ):
        docs = client.create_collection("wide", 1_000)
        vectors = np.random.default_rng(1).normal(size=(100, 1_000)).astype(np.float32)
        metadata = [{"text": "x" * (40_000 if i == 50 else 10)} for i in range(100)]
        done = docs.upsert_many(range(100), vectors, metadata, batch_rows=100)
        assert done.rows == 100
        assert done.seq >= 100 * 4_000 / least
        assert docs.count() == 100
        assert np.array_equal(docs.get([50, 99]).vectors, vectors[[50, 99]])


@pytest.mark.parametrize("bad_row", [0, 15, 34])
def test_failure_reports_the_acknowledged_prefix(docs: Any, bad_row: int) -> None:
    vectors = rows(50)
    vectors[bad_row, 3] = np.nan
    with pytest.raises(vecdb.InvalidArgumentError) as caught:
        docs.upsert_many(range(50), vectors, batch_rows=10)
    progress = caught.value.progress
    # Those before it were under way, and are waited for.
    assert progress.rows == docs.count() == bad_row // 10 * 10
    assert progress.total == 50
    assert progress.seq == docs.stats().seq


def test_refused_batch_ends_upsert_many_with_the_prefix_before_it(
    docs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Runtime.write

    def third_fails(self: Any, opened: Any, batch: Any) -> Any:
        if b"20" in batch.ids:
            time.sleep(0.05)
            raise vecdb.ResourceExhaustedError("the disk is full", "DISK_FULL")
        return real(self, opened, batch)

    monkeypatch.setattr(Runtime, "write", third_fails)
    told: list[int] = []
    with pytest.raises(vecdb.ResourceExhaustedError, match="disk is full") as caught:
        docs.upsert_many(range(60), rows(60), batch_rows=10, progress=lambda p: told.append(p.rows))
    assert caught.value.reason == "DISK_FULL"
    assert caught.value.progress.rows == 20
    assert told == [10, 20]
    # The batch behind it was under way and may be there; nothing comes after that.
    count = docs.count()
    assert count in (20, 30)
    time.sleep(0.1)
    assert docs.count() == count


def test_error_of_the_input_has_the_acknowledged_prefix(docs: Any) -> None:
    def vectors() -> Iterator[np.ndarray]:
        yield from rows(25)
        raise OSError("the file ends here")

    with pytest.raises(OSError, match="the file ends here") as caught:
        docs.upsert_many(range(100), vectors(), batch_rows=10)
    assert caught.value.progress.rows == 20  # type: ignore[attr-defined]
    assert "20 of 100 rows were acknowledged" in caught.value.__notes__[0]
    assert docs.count() == 20


def test_rejected_writes_are_retried(tmp_path: Path) -> None:
    """Sixteen writers and a server that lets one write at a time."""
    with (
        running_server(tmp_path / "data", indexer=False, threads=4) as address,
        Client(address) as client,
    ):
        docs = client.create_collection("docs", DIM)

        def write(number: int) -> None:
            docs.upsert([f"one-{number}"], rows(1))
            docs.upsert_many([f"many-{number}-{i}" for i in range(20)], rows(20), batch_rows=5)

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(write, range(16)))
        assert docs.count() == 16 * 21
