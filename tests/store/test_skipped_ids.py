"""Ids that a batch with a request id skipped are kept where earlier versions ignore them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.checking import checked
from vecdb import limits
from vecdb.engine.maintenance.compaction import compact
from vecdb.engine.store import clock as store_clock
from vecdb.engine.store import layout, requests
from vecdb.engine.testing import opened_of

REQUEST_VALUE_BYTES = 8 + 8 + 32 + 4 + 4
"""Seq, time, digest, rows and CRC-32: earlier versions fail on any other size."""


@pytest.fixture
def docs(tmp_path: Path) -> Iterator[Any]:
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        yield database.create_collection("docs", 2)


def skipping(docs: Any, name: str) -> vecdb.Receipt:
    receipt: vecdb.Receipt = docs.upsert(
        ["old", f"new-{name}"], np.ones((2, 2)), on_existing="skip", request_id=name
    )
    return receipt


def values_of(docs: Any, database: bytes) -> dict[bytes, bytes]:
    environment = opened_of(docs).store.environment
    with (
        environment.read() as transaction,
        transaction.cursor(environment.database(database)) as cursor,
    ):
        return {bytes(key): bytes(value) for key, value in cursor.iternext()}


def kept_seqs(docs: Any) -> list[int]:
    keys = [key for key in values_of(docs, b"meta") if key.startswith(layout.SKIPPED)]
    return [int.from_bytes(key.removeprefix(layout.SKIPPED), "big") for key in keys]


def test_request_with_skipped_ids_is_one_that_earlier_versions_read(docs: Any) -> None:
    docs.upsert(["old"], np.ones((1, 2)), request_id="plain")
    receipt = skipping(docs, "skip")
    assert receipt.skipped == ("old",)
    docs.set_metadata(["gone", "old"], {"n": 1}, request_id="patch")
    stored = values_of(docs, b"requests")
    assert {len(stored[name]) for name in (b"plain", b"skip", b"patch")} == {REQUEST_VALUE_BYTES}
    assert kept_seqs(docs) == [receipt.seq, receipt.seq + 1]


def test_skipped_ids_are_named_again_after_compaction(tmp_path: Path) -> None:
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        docs = database.create_collection("docs", 2)
        docs.upsert(["old"], np.ones((1, 2)))
        first = skipping(docs, "skip")
    compact(tmp_path / "data")
    assert checked(tmp_path / "data")[0] == []
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        again = skipping(database.collection("docs"), "skip")
    assert again == vecdb.Receipt(first.seq, 1, repeated=True, skipped=("old",))


def test_skipped_ids_go_with_their_requests(docs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=10**18)
    monkeypatch.setattr(store_clock, "boot_time_ns", lambda: clock.now)
    docs.upsert(["old"], np.ones((1, 2)))
    count = requests.REMOVED_AT_ONCE_MAX + 4
    for number in range(count):
        skipping(docs, f"s{number}")
    # As if an earlier version had removed the request: it leaves what was skipped.
    environment = opened_of(docs).store.environment
    for key in (b"s0", layout.request_age_key(2)):
        environment.transact(lambda t, key=key: t.delete(key, db=environment.database(b"requests")))
    clock.now += int(limits.REQUEST_WINDOW_S * 1e9) + 1
    young = skipping(docs, "young")
    assert len(kept_seqs(docs)) == count + 1 - requests.REMOVED_AT_ONCE_MAX
    docs.upsert(["x"], np.ones((1, 2)), request_id="x")
    docs.upsert(["y"], np.ones((1, 2)), request_id="y")
    assert kept_seqs(docs) == [young.seq]
    assert skipping(docs, "young").skipped == ("old",)


def test_damaged_list_of_skipped_ids_affects_its_request_alone(docs: Any) -> None:
    docs.upsert(["old"], np.ones((1, 2)))
    for name in ("a", "b"):
        skipping(docs, name)
    environment = opened_of(docs).store.environment

    def write(transaction: Any) -> None:
        database, key = environment.database(b"meta"), layout.skipped_key(2)
        value = bytearray(transaction.get(key, db=database))
        value[0] ^= 1
        transaction.put(key, bytes(value), db=database)

    environment.transact(write)
    with pytest.raises(vecdb.DataLossError, match="skipped ids"):
        skipping(docs, "a")
    assert skipping(docs, "b").repeated
    assert not docs.upsert(["z"], np.ones((1, 2)), request_id="z").repeated
