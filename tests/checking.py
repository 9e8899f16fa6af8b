"""Helpers for the tests of ``vecdb.check``: a folder with all kinds of content, and ways to
change the stored values of a closed folder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import vecdb
from tests.model import flush_now, index_now
from vecdb.checking import CheckedCollection, Problem
from vecdb.engine.hnsw.graph import Graph
from vecdb.engine.kv.environment import Environment
from vecdb.engine.maintenance.checking.catalog import check_catalog
from vecdb.engine.maintenance.checking.check import CollectionCheck
from vecdb.engine.runtime.catalog import catalog_environment
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.segments.part_kind import MetadataReader
from vecdb.engine.segments.segment import RowArrays, Segment, write_segment
from vecdb.engine.store import layout, leases
from vecdb.engine.store.segment_table import SegmentEntry, in_place
from vecdb.engine.store.store import Store
from vecdb.engine.system.files import file_lock
from vecdb.engine.testing import opened_of

DIM = 8


def vectors_of(seed: int, count: int, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def ids_of(first: int, count: int) -> list[str]:
    return [f"id-{i}" for i in range(first, first + count)]


def fill(folder: Path) -> None:
    """Make a closed folder with the collection "docs".

    Rows 0 to 199 lie in a graph, 200 to 299 in a flat segment, 300 to 349 in none. Rows 0 to 9 are
    dead (seq 2) and were when the graph was built; 20 and 21 (seq 6) and 310 (seq 7) died later.
    Rows 30 to 39 have two versions of their record, the second of seq 5. The batches of seq 3 and 7
    had the request ids "r-3" and "r-7".
    """
    with vecdb.open(folder, indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        docs.upsert(ids_of(0, 200), vectors_of(0, 200), [{"n": i} for i in range(200)])
        docs.delete(ids_of(0, 10))
        flush_now(docs)
        index_now(docs)
        docs.upsert(ids_of(200, 100), vectors_of(1, 100), request_id="r-3")
        flush_now(docs)
        docs.upsert(ids_of(300, 50), vectors_of(2, 50))
        docs.upsert(ids_of(30, 10), vectors_of(0, 200)[30:40], [{"n": -1}] * 10)
        docs.delete(["id-20", "id-21"])
        docs.delete(["id-310"], request_id="r-7")
        store = opened_of(docs).store
        store.environment.transact(lambda transaction: leases.take_lease(store, transaction))


def collection_folder(folder: Path) -> Path:
    (found,) = (folder / "collections").iterdir()
    return found


def checked(
    folder: Path, *, findable: float | None = None
) -> tuple[list[Problem], list[CheckedCollection]]:
    """Check a folder that this process does not have open, here and not in a child."""
    problems: list[Problem] = []
    collections = []
    for name, entry in check_catalog(folder, problems.append).items():
        check = CollectionCheck(
            folder,
            name,
            entry["id"],
            entry,
            findable=findable,
            sample=1_000,
            report=problems.append,
        )
        if (found := check.run()) is not None:
            collections.append(found)
    return problems, collections


def kinds_of(problems: list[Problem]) -> set[str]:
    return {problem.kind for problem in problems}


@contextlib.contextmanager
def opened_store(folder: Path) -> Iterator[Store]:
    """The store of the only collection of a closed folder."""
    place = collection_folder(folder)
    environment = Environment(
        place / "store", layout.DATABASES, create=False, map_bytes=64 * 1024**2
    )
    try:
        yield Store(environment, place.name)
    finally:
        environment.close()


def change(folder: Path, function: Callable[[Store, Any], object]) -> None:
    """Run ``function(store, transaction)`` in a write transaction."""
    with opened_store(folder) as store:
        store.environment.transact(lambda transaction: function(store, transaction))


def put(folder: Path, database: str, key: bytes, payload: bytes | None) -> None:
    """Set a value with its checksum, or remove it."""

    def write(store: Store, transaction: Any) -> None:
        handle = store.environment.database(database.encode())
        if payload is None:
            assert transaction.delete(key, db=handle)
        else:
            transaction.put(key, layout.pack_value(key, payload), db=handle)

    change(folder, write)


def get(folder: Path, database: str, key: bytes) -> bytes:
    """The payload of a value."""
    with opened_store(folder) as store, store.environment.read() as transaction:
        value = transaction.get(key, db=store.environment.database(database.encode()))
        return bytes(layout.unpack_value(key, value, database))


def flip(folder: Path, database: str, key: bytes) -> None:
    """Flip a bit of a stored value, its checksum left as it is."""

    def write(store: Store, transaction: Any) -> None:
        handle = store.environment.database(database.encode())
        value = bytearray(transaction.get(key, db=handle))
        value[len(value) // 3] ^= 4
        transaction.put(key, bytes(value), db=handle)

    change(folder, write)


def change_counters(folder: Path, **values: int) -> None:
    def write(store: Store, transaction: Any) -> None:
        counters = store.read_counters(transaction)
        for name, value in values.items():
            setattr(counters, name, value)
        store.write_counters(transaction, counters)

    change(folder, write)


def counters_of(folder: Path) -> layout.Counters:
    return layout.Counters.unpack(get(folder, "meta", b"counters"))


def segments_of(folder: Path) -> list[tuple[int, SegmentEntry]]:
    """(number, entry) of those in place."""
    with opened_store(folder) as store, store.environment.read() as transaction:
        return in_place(store.read_segments(transaction))


def change_entry(folder: Path, number: int, **values: Any) -> None:
    def write(store: Store, transaction: Any) -> None:
        entry = store.read_segments(transaction).get(number)
        given = {} if entry is None else entry.to_json()
        store.write_segment(transaction, number, SegmentEntry.from_json({**given, **values}))

    change(folder, write)


def rewrite_segment(
    folder: Path,
    number: int,
    content: Callable[[RowArrays], RowArrays] = lambda content: content,
    graph: Callable[[Graph], Graph] = lambda graph: graph,
    metadata: MetadataReader | None = None,
) -> None:
    """Write a segment again with other arrays, and the checksums and entry that belong to them.

    metadata: what its columns say.
    """
    place = collection_folder(folder)
    with opened_store(folder) as store:
        with store.environment.read() as transaction:
            entry = store.read_segments(transaction)[number]
        segment = Segment(place / "segments" / str(number), number, place.name, entry)
        given = content(segment.content).parts
        if segment.parts.has(GRAPH):
            given.put(GRAPH, graph(segment.parts[GRAPH]))
        new = write_segment(
            place / "segments" / str(number),
            number=number,
            collection_id=place.name,
            config=store.config,
            first_row=segment.first_row,
            end_row=segment.end_row,
            seq=segment.seq,
            given=given,
            metadata=metadata,
        )
        store.environment.transact(
            lambda transaction: store.write_segment(transaction, number, new)
        )


def change_catalog(folder: Path, name: str, entry: dict[str, Any] | None) -> None:
    """Set or remove an entry of the catalogue."""
    environment = catalog_environment(folder)
    key = name.encode()

    def write(transaction: Any) -> None:
        names = environment.database(b"names")
        if entry is None:
            transaction.delete(key, db=names)
        else:
            transaction.put(key, layout.pack_json(key, entry), db=names)

    try:
        with file_lock(folder / "catalog.lock", wait=True):
            environment.transact(write)
    finally:
        environment.close()


def catalog_entry(folder: Path, name: str) -> dict[str, Any]:
    environment = catalog_environment(folder)
    key = name.encode()
    try:
        with environment.read() as transaction:
            value = transaction.get(key, db=environment.database(b"names"))
            return layout.unpack_json(key, value, "entry")
    finally:
        environment.close()
