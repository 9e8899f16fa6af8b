"""Counters and logs that contradict the entries are refused when a collection is opened."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vecdb
from tests.model import Model
from tests.segments.damage import QUERIES
from vecdb.engine.kv.environment import Environment
from vecdb.engine.store import layout
from vecdb.engine.store.store import Store


def changed_counters(change: Callable[[layout.Counters], None]) -> Callable[[Store, Any], None]:
    def write(store: Store, transaction: Any) -> None:
        counters = store.read_counters(transaction)
        change(counters)
        store.write_counters(transaction, counters)

    return write


def without_last(name: bytes) -> Callable[[Store, Any], None]:
    def write(store: Store, transaction: Any) -> None:
        with transaction.cursor(store.environment.database(name)) as cursor:
            assert cursor.last() and cursor.delete()

    return write


def added(name: str, number: int) -> Callable[[layout.Counters], None]:
    return lambda counters: setattr(counters, name, getattr(counters, name) + number)


@pytest.mark.parametrize(
    ("change", "counter"),
    [
        (changed_counters(added("live_count", 1)), "live_count"),
        (changed_counters(added("next_row", -1)), "next_row"),
        (changed_counters(added("sealed_to", 1)), "sealed_to"),
        (changed_counters(added("sealed_to", 99)), "sealed_to"),
        (changed_counters(added("next_segment", -1)), "next_segment"),
        (without_last(b"ids"), "live_count"),
        (without_last(b"log"), "seq"),
        (without_last(b"segments"), "sealed_to"),
    ],
)
def test_wrong_counters_are_refused_at_open(
    tmp_path: Path, pristine: tuple[Path, str, Model], change: Any, counter: str
) -> None:
    source, collection_id, _ = pristine
    folder = tmp_path / "data"
    shutil.copytree(source, folder)
    environment = Environment(
        folder / "collections" / collection_id / "store",
        layout.DATABASES,
        create=False,
        map_bytes=1 << 28,
    )
    store = Store(environment, collection_id)
    environment.transact(lambda transaction: change(store, transaction))
    environment.close()
    with vecdb.open(folder, indexer=False) as database:
        with pytest.raises(vecdb.DataLossError, match=f"counter {counter} is") as caught:
            database.collection("docs")
        assert caught.value.reason == "COUNTERS"
        assert database.collection("other").count() == 1


def test_trimmed_log_is_accepted_at_open(tmp_path: Path, pristine: tuple[Path, str, Model]) -> None:
    source, collection_id, model = pristine
    for trimmed in (1, 4, 100):
        folder = tmp_path / str(trimmed)
        shutil.copytree(source, folder)
        environment = Environment(
            folder / "collections" / collection_id / "store",
            layout.DATABASES,
            create=False,
            map_bytes=1 << 28,
        )

        def trim(transaction: Any, environment: Any = environment, count: int = trimmed) -> None:
            with transaction.cursor(environment.database(b"log")) as cursor:
                for _ in range(count):
                    if not (cursor.first() and cursor.delete()):
                        break

        environment.transact(trim)
        environment.close()
        with vecdb.open(folder, indexer=False) as database:
            docs = database.collection("docs")
            model.check_hits(docs.search(QUERIES[0], k=9, exact=True), QUERIES[0], 9, exact=True)
