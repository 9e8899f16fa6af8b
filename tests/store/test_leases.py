"""Snapshot leases are visible to every process, expire unless renewed, and stay expired."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.waiting import HANG_S, eventually
from vecdb import limits
from vecdb.engine.store import layout, leases
from vecdb.engine.testing import opened_of
from vecdb_cli import command_line

RNG = np.random.default_rng(31)


def filled(database: Any, count: int = 10) -> Any:
    docs = database.create_collection("docs", 8)
    docs.upsert([f"row-{i}" for i in range(count)], RNG.normal(size=(count, 8)))
    return docs


def run(docs: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of ``leases`` in a write transaction of its own."""
    store = opened_of(docs).store
    return store.environment.transact(lambda t: function(store, t, *arguments))


def oldest(docs: Any) -> int | None:
    store = opened_of(docs).store
    with store.environment.read() as transaction:
        return leases.oldest_leased_seq(store, transaction)


def entries(docs: Any) -> int:
    store = opened_of(docs).store
    with store.environment.read() as transaction:
        count: int = transaction.stat(store.environment.database(b"pins"))["entries"]
        return count


def test_lease_holds_the_latest_commit(database: Any) -> None:
    docs = filled(database)
    before = opened_of(docs).store.current_state()
    lease = run(docs, leases.take_lease)
    assert (lease.seq, lease.next_row, len(lease.id)) == (1, 10, 16)
    left_s = lease.expiry_ns / 1e9 - time.time()
    assert limits.LEASE_S - 20 < left_s <= limits.LEASE_S
    assert opened_of(docs).store.current_state() == before  # Neither seq nor generation.
    docs.upsert(["new"], RNG.normal(size=(1, 8)))
    store = opened_of(docs).store
    with store.environment.read() as transaction:
        assert leases.check_lease(store, transaction, lease.id) == lease


def test_oldest_lease_is_the_one_reported(database: Any) -> None:
    docs = filled(database)
    assert oldest(docs) is None
    first = run(docs, leases.take_lease)
    docs.delete(["row-1"])
    second = run(docs, leases.take_lease)
    assert oldest(docs) == 1
    assert (docs.stats().oldest_pin_seq, docs.stats().seq) == (1, 2)
    assert run(docs, leases.release_lease, first.id) is True
    assert run(docs, leases.release_lease, first.id) is False
    assert oldest(docs) == 2
    run(docs, leases.release_lease, second.id)
    assert oldest(docs) is None
    assert docs.stats().oldest_pin_seq is None


def test_renewed_lease_lasts_a_full_period_and_is_never_shortened(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = filled(database)
    lease = run(docs, leases.take_lease)
    monkeypatch.setattr(limits, "LEASE_S", 1000.0)
    renewed = run(docs, leases.renew_lease, lease.id)
    assert (renewed.id, renewed.seq, renewed.next_row) == (lease.id, lease.seq, lease.next_row)
    assert renewed.expiry_ns > lease.expiry_ns + 900 * 10**9
    assert docs.stats().oldest_pin_expires_s > 900
    monkeypatch.setattr(limits, "LEASE_S", 1.0)
    assert (
        run(docs, leases.renew_lease, lease.id).expiry_ns == renewed.expiry_ns
    )  # Never shortened.


def test_expired_lease_protects_nothing_and_is_removed(
    database: Any, pass_time: Callable[[float], None]
) -> None:
    docs = filled(database)
    lease = run(docs, leases.take_lease)
    pass_time(limits.LEASE_S + 1)
    assert (oldest(docs), entries(docs), docs.stats().oldest_pin_seq) == (None, 1, None)
    for function in (leases.check_lease, leases.renew_lease):
        with pytest.raises(vecdb.FailedPreconditionError) as caught:
            run(docs, function, lease.id)
        assert caught.value.reason == "PIN_EXPIRED"
    with pytest.raises(vecdb.FailedPreconditionError):
        run(docs, leases.check_lease, b"x" * 16)
    docs.delete(["row-1"])
    taken = run(docs, leases.take_lease)  # Taking a lease removes expired ones.
    assert (oldest(docs), entries(docs), taken.seq) == (2, 1, 2)
    assert run(docs, leases.remove_expired_leases) == 0


def test_lease_beyond_the_limit_is_refused(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = filled(database)
    monkeypatch.setattr(limits, "LEASES_MAX", 3)
    taken = [run(docs, leases.take_lease) for _ in range(3)]
    with pytest.raises(vecdb.ResourceExhaustedError, match=r"3 open .*limit 3\)") as caught:
        docs.scroll_page(batch=1)
    assert caught.value.reason == "TOO_MANY_SCROLLS"
    run(docs, leases.release_lease, taken[1].id)
    assert len(docs.scroll_page(batch=10).records) == 10


def test_lease_of_a_single_call_ignores_the_limit(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = filled(database)
    monkeypatch.setattr(limits, "LEASES_MAX", 2)
    docs.upsert(["later"], RNG.normal(size=(1, 8)))
    for _ in range(2):
        run(docs, leases.take_lease)
    taken = entries(docs)
    with leases.leased(opened_of(docs).store):
        assert entries(docs) == taken + 1
        with pytest.raises(vecdb.ResourceExhaustedError):
            run(docs, leases.take_lease)
    assert entries(docs) == taken == 2


def test_lease_of_an_ended_process_protects_its_rows(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    code = (
        "import sys, vecdb\n"
        "with vecdb.open(sys.argv[1], indexer=False) as database:\n"
        "    print(database.collection('docs').scroll_page(batch=4).next_token)"
    )
    with vecdb.open(data, indexer=False) as database:
        docs = filled(database)
        done = subprocess.run(
            [sys.executable, "-c", code, data], capture_output=True, text=True, check=True
        )
        assert docs.stats().oldest_pin_seq == 1  # The process has ended, its lease is valid.
        docs.delete([f"row-{i}" for i in range(10)])
        page = docs.scroll_page(done.stdout.strip())
        assert page.records.ids == [f"row-{i}" for i in range(4, 10)]
        assert docs.stats().oldest_pin_seq is None


def test_command_stats_shows_the_oldest_scroll(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        docs = filled(database)
        page = docs.scroll_page(batch=1)
        assert command_line.run(["stats", "docs", "--data", str(tmp_path / "data")]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "oldest scroll at seq 1, expires in " in said and "readers none" in said
        docs.end_scroll(page.next_token)
        assert command_line.run(["stats", "docs", "--data", str(tmp_path / "data")]) == 0
        assert "oldest scroll none" in " ".join(capsys.readouterr().out.split())


def test_damaged_lease_is_data_loss(database: Any) -> None:
    docs = filled(database)
    lease = run(docs, leases.take_lease)
    value = bytearray(layout.pack_lease(lease))
    value[9] ^= 1
    handle = opened_of(docs).store.environment.database(b"pins")
    run(docs, lambda store, transaction: transaction.put(lease.id, bytes(value), db=handle))
    with pytest.raises(vecdb.DataLossError, match="lease"):
        oldest(docs)


def counted_readers(docs: Any, readers: int, lag: int) -> None:
    """Wait for the numbers, since the work after a commit reads too and follows its answer."""

    def counted() -> bool:
        stats = docs.stats()
        return (stats.readers, stats.oldest_reader_lag) == (readers, lag)

    eventually(counted, docs.stats)


def test_readers_are_counted_with_their_lag(database: Any) -> None:
    docs = filled(database)
    environment = opened_of(docs).store.environment
    counted_readers(docs, 0, 0)
    begun, done = threading.Event(), threading.Event()

    def hold() -> None:
        with environment.read():
            begun.set()
            assert done.wait(HANG_S)

    reader = threading.Thread(target=hold)
    reader.start()
    try:
        assert begun.wait(HANG_S)
        for i in range(3):
            docs.delete([f"row-{i}"])
        counted_readers(docs, 1, 3)
    finally:
        done.set()
        reader.join()
    counted_readers(docs, 0, 0)
