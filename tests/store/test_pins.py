"""Pins: leases on a seq that every process sees, that end by themselves and never come back."""

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
from vecdb import limits
from vecdb.engine.store import layout
from vecdb.engine.store import leases as pins
from vecdb.engine.testing import opened_of
from vecdb_cli import command_line

RNG = np.random.default_rng(31)


def filled(database: Any, count: int = 10) -> Any:
    docs = database.create_collection("docs", 8)
    docs.upsert([f"row-{i}" for i in range(count)], RNG.normal(size=(count, 8)))
    return docs


def run(docs: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """A function of ``pins`` in a write transaction of its own."""
    store = opened_of(docs).store
    return store.environment.transact(lambda t: function(store, t, *arguments))


def oldest(docs: Any) -> int | None:
    store = opened_of(docs).store
    with store.environment.read() as transaction:
        return pins.oldest_leased_seq(store, transaction)


def entries(docs: Any) -> int:
    store = opened_of(docs).store
    with store.environment.read() as transaction:
        count: int = transaction.stat(store.environment.database(b"pins"))["entries"]
        return count


def test_a_pin_is_what_was_committed(database: Any) -> None:
    docs = filled(database)
    before = opened_of(docs).store.current_state()
    pin = run(docs, pins.take_lease)
    assert (pin.seq, pin.next_row, len(pin.id)) == (1, 10, 16)
    left_s = pin.expiry_ns / 1e9 - time.time()
    assert limits.LEASE_S - 20 < left_s <= limits.LEASE_S
    assert opened_of(docs).store.current_state() == before  # Neither seq nor generation.
    docs.upsert(["new"], RNG.normal(size=(1, 8)))
    store = opened_of(docs).store
    with store.environment.read() as transaction:
        assert pins.check_lease(store, transaction, pin.id) == pin


def test_the_oldest_counts(database: Any) -> None:
    docs = filled(database)
    assert oldest(docs) is None
    first = run(docs, pins.take_lease)
    docs.delete(["row-1"])
    second = run(docs, pins.take_lease)
    assert oldest(docs) == 1
    assert (docs.stats().oldest_pin_seq, docs.stats().seq) == (1, 2)
    assert run(docs, pins.release_lease, first.id) is True
    assert run(docs, pins.release_lease, first.id) is False
    assert oldest(docs) == 2
    run(docs, pins.release_lease, second.id)
    assert oldest(docs) is None
    assert docs.stats().oldest_pin_seq is None


def test_renewing_goes_on_from_now(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = filled(database)
    pin = run(docs, pins.take_lease)
    monkeypatch.setattr(limits, "LEASE_S", 1000.0)
    renewed = run(docs, pins.renew_lease, pin.id)
    assert (renewed.id, renewed.seq, renewed.next_row) == (pin.id, pin.seq, pin.next_row)
    assert renewed.expiry_ns > pin.expiry_ns + 900 * 10**9
    assert docs.stats().oldest_pin_expires_s > 900
    monkeypatch.setattr(limits, "LEASE_S", 1.0)
    assert run(docs, pins.renew_lease, pin.id).expiry_ns == renewed.expiry_ns  # Never shortened.


def test_an_expired_pin_counts_for_nothing(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = filled(database)
    monkeypatch.setattr(limits, "LEASE_S", 0.05)
    pin = run(docs, pins.take_lease)
    monkeypatch.setattr(limits, "LEASE_S", 60.0)
    time.sleep(0.1)
    assert (oldest(docs), entries(docs), docs.stats().oldest_pin_seq) == (None, 1, None)
    for function in (pins.check_lease, pins.renew_lease):
        with pytest.raises(vecdb.FailedPreconditionError) as caught:
            run(docs, function, pin.id)
        assert caught.value.reason == "PIN_EXPIRED"
    with pytest.raises(vecdb.FailedPreconditionError):
        run(docs, pins.check_lease, b"x" * 16)
    docs.delete(["row-1"])
    taken = run(docs, pins.take_lease)  # Who takes a pin clears up.
    assert (oldest(docs), entries(docs), taken.seq) == (2, 1, 2)
    assert run(docs, pins.remove_expired_leases) == 0


def test_there_are_never_too_many(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = filled(database)
    monkeypatch.setattr(limits, "LEASES_MAX", 3)
    taken = [run(docs, pins.take_lease) for _ in range(3)]
    with pytest.raises(vecdb.ResourceExhaustedError, match=r"3 .* 3 ") as caught:
        docs.scroll_page(batch=1)
    assert caught.value.reason == "TOO_MANY_SCROLLS"
    run(docs, pins.release_lease, taken[1].id)
    assert len(docs.scroll_page(batch=10).records) == 10


def test_a_read_pins_beside_as_many_scrolls_as_may_be(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = filled(database)
    monkeypatch.setattr(limits, "LEASES_MAX", 2)
    docs.upsert(["later"], RNG.normal(size=(1, 8)))
    for _ in range(2):
        run(docs, pins.take_lease)
    taken = entries(docs)
    with pins.leased(opened_of(docs).store):
        assert entries(docs) == taken + 1
        with pytest.raises(vecdb.ResourceExhaustedError):
            run(docs, pins.take_lease)
    assert entries(docs) == taken == 2


def test_pins_are_seen_by_other_processes(tmp_path: Path) -> None:
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
        assert docs.stats().oldest_pin_seq == 1  # Its process has ended; the lease has not.
        docs.delete([f"row-{i}" for i in range(10)])
        page = docs.scroll_page(done.stdout.strip())
        assert page.records.ids == [f"row-{i}" for i in range(4, 10)]
        assert docs.stats().oldest_pin_seq is None


def test_stats_on_the_command_line_show_the_oldest(
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


def test_a_changed_pin_is_data_loss(database: Any) -> None:
    docs = filled(database)
    pin = run(docs, pins.take_lease)
    value = bytearray(layout.pack_lease(pin))
    value[9] ^= 1
    handle = opened_of(docs).store.environment.database(b"pins")
    run(docs, lambda store, transaction: transaction.put(pin.id, bytes(value), db=handle))
    with pytest.raises(vecdb.DataLossError, match="pin"):
        oldest(docs)


def counted_readers(docs: Any, readers: int, lag: int) -> None:
    """What follows a commit reads too, and comes after its answer: so wait for the numbers."""
    ends = time.monotonic() + 10
    while True:
        stats = docs.stats()
        if (stats.readers, stats.oldest_reader_lag) == (readers, lag):
            return
        assert time.monotonic() < ends, stats
        time.sleep(0.01)


def test_readers_are_counted_with_their_lag(database: Any) -> None:
    docs = filled(database)
    environment = opened_of(docs).store.environment
    counted_readers(docs, 0, 0)
    begun, done = threading.Event(), threading.Event()

    def hold() -> None:
        with environment.read():
            begun.set()
            assert done.wait(20)

    reader = threading.Thread(target=hold)
    reader.start()
    try:
        assert begun.wait(20)
        for i in range(3):
            docs.delete([f"row-{i}"])
        counted_readers(docs, 1, 3)
    finally:
        done.set()
        reader.join()
    counted_readers(docs, 0, 0)
