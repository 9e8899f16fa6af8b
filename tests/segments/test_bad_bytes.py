"""Bytes that change while the folder is closed: each value of the store, each file beside it.

Of a value: DATA_LOSS that names it, or no harm, and everything else can be read. Of a file: an
answer is right or not marked verified, nothing crashes, and in the end all is built again.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import Model, index_now, seal_now
from tests.places import override, value_of
from tests.second_process import SecondProcess
from tests.waiting import HANG_S, eventually
from vecdb.engine.kv.environment import Environment
from vecdb.engine.segments import flushing as sealing
from vecdb.engine.segments.segment import Segment
from vecdb.engine.store import layout
from vecdb.engine.store.clock import CLOCK_KEY
from vecdb.engine.store.segment_table import SegmentEntry
from vecdb.engine.store.store import Store
from vecdb.engine.testing import opened_of, runtime_of

DIM = 8
SEED = int(os.environ.get("VECDB_TEST_SEED", "7"))
EVERYTHING = bool(os.environ.get("VECDB_TEST_EVERYTHING"))
"""All places of all files and both damages of all values, for some minutes; else a sample that
the seed chooses."""
Damage = Callable[[bytes], bytes]


def rows(count: int, seed: int = 3, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def names(count: int, first: int = 0) -> list[str]:
    return [f"row-{i}" for i in range(first, first + count)]


QUERIES = rows(4, 11)


WRITES = {"graph": (0, 40, 1), "flat": (36, 10, 2), "flat again": (36, 10, 2), "fresh": (44, 6, 4)}
"""First row, how many and the seed of the vectors, by request id."""


def batch(tag: str) -> tuple[list[str], np.ndarray, list[dict[str, Any]]]:
    first, count, seed = WRITES[tag]
    return names(count, first), rows(count, seed), [{"tag": tag, "n": i} for i in range(count)]


def fill(docs: Any) -> Model:
    """A graph, a flat segment, fresh rows; updates, deaths and versions of metadata in each."""
    model = Model(DIM, "cosine")

    def write(tag: str) -> None:
        docs.upsert(*batch(tag), request_id=tag)
        model.upsert(*batch(tag))

    write("graph")
    seal_now(docs)
    index_now(docs)
    write("flat")
    write("flat again")  # The same vectors: new versions of their records.
    seal_now(docs)
    write("fresh")
    docs.delete(names(2) + names(1, 41) + names(1, 47))
    model.delete(names(2) + names(1, 41) + names(1, 47))
    return model


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Model]:
    """A closed folder, the id of its collection "docs", and what is in that."""
    folder = tmp_path_factory.mktemp("pristine") / "data"
    with vecdb.open(folder, indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        model = fill(docs)
        docs.scroll_page(batch=5)  # Its pin stays.
        database.create_collection("other", DIM).upsert(["own"], rows(1))
        return folder, opened_of(docs).id, model


def values_of(folder: Path, databases: tuple[bytes, ...]) -> list[tuple[bytes, bytes, bytes]]:
    environment = Environment(folder, databases, create=False, map_bytes=1 << 28)
    found = []
    with environment.read() as transaction:
        for name in databases:
            with transaction.cursor(environment.database(name)) as cursor:
                found += [(name, bytes(k), bytes(v)) for k, v in cursor]
    environment.close()
    return found


def change_value(
    folder: Path, databases: tuple[bytes, ...], name: bytes, key: bytes, value: bytes
) -> None:
    environment = Environment(folder, databases, create=False, map_bytes=1 << 28)
    environment.transact(
        lambda transaction: transaction.put(key, value, db=environment.database(name))
    )
    environment.close()


def damages(chance: random.Random, size: int) -> Iterator[tuple[str, Damage]]:
    at, bit = chance.randrange(size), chance.randrange(8)
    yield (
        f"bit {bit} of byte {at}",
        lambda raw: raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :],
    )
    kept = chance.choice([0, 2, size // 2, size - 1])
    yield f"cut to {kept} bytes", lambda raw: raw[:kept]


def settle(call: Callable[[], Any]) -> Any:
    """What it returns, or the DataLossError that it raises; other errors are no answers."""
    try:
        return call()
    except vecdb.DataLossError as error:
        return error


def check_search(answer: Any, model: Model, query: np.ndarray, k: int, exact: bool) -> None:
    if not isinstance(answer, vecdb.DataLossError):
        model.check_hits(answer, query, k, exact=exact)


def ids_of_rows(folder: Path) -> dict[int, str]:
    return {
        layout.unpack_record_key(key)[0]: layout.unpack_record(key, value)[0].decode()
        for name, key, value in values_of(folder / "store", layout.DATABASES)
        if name == b"records"
    }


def touched(name: bytes, key: bytes, value: bytes, id_of: dict[int, str]) -> set[str]:
    """The ids that a value speaks of and that can't be read without it."""
    if name == b"ids":
        return {key.decode()}
    if name == b"records":
        return {id_of[layout.unpack_record_key(key)[0]]}
    if name == b"blocks":
        return {id_of[row] for row in layout.unpack_block(key, value, DIM)[0].tolist()}
    return set()


def named(name: bytes, key: bytes) -> str:
    """What a message says of a value."""
    number = int.from_bytes(key[:8], "big")
    return {
        b"ids": repr(key),
        b"records": f"row {number}",
        b"blocks": f"rows from {number}",
        b"dead": f"tombstone {number}",
        b"segments": f"segment {number}",
        b"pins": "lease",
        b"requests": f"request {key!r}",
        b"meta": repr(key),
    }.get(name, "log entry")


def check_collection(docs: Any, model: Model, lost: set[str], everything: list[str]) -> list[Any]:
    """All that can be asked of a collection with a damaged value: right, or an error, which are
    returned. Only the ids ``lost`` may be unreadable."""
    errors = []
    assert docs.count() == len(model.rows)
    readable = [n for n in everything if n not in lost]
    model.check_records(docs.get(readable), readable)
    for name in lost:
        answer = settle(lambda name=name: docs.get([name]))
        if isinstance(answer, vecdb.DataLossError):
            errors.append(answer)
        else:
            model.check_records(answer, [name])
    for query in QUERIES[:2]:
        for k, exact in ((5, False), (100, True)):
            answer = settle(lambda q=query, k=k, e=exact: docs.search(q, k=k, exact=e))
            check_search(answer, model, query, k, exact)
            errors += [answer] if isinstance(answer, vecdb.DataLossError) else []

    def scroll() -> dict[str, bytes]:
        return {
            i: v.tobytes()
            for p in docs.scroll(batch=7)
            for i, v in zip(p.ids, p.vectors, strict=True)
        }

    answer = settle(scroll)
    if isinstance(answer, vecdb.DataLossError):
        errors.append(answer)
    else:
        assert answer == {n: v.tobytes() for n, (v, _) in model.rows.items()}
    answer = settle(docs.stats)
    errors += [answer] if isinstance(answer, vecdb.DataLossError) else []
    return errors


def check_requests(docs: Any, damaged: bytes) -> list[Any]:
    """What was written with a request id has no second effect: its receipt comes again or an
    error, which is returned; that only where it is the request itself that is damaged."""
    errors = []
    for tag in WRITES:
        answer = settle(lambda tag=tag: docs.upsert(*batch(tag), request_id=tag))
        if isinstance(answer, vecdb.DataLossError):
            assert tag.encode() == damaged
            errors.append(answer)
        else:
            assert answer.repeated and tag.encode() != damaged
    return errors


@pytest.mark.slow
@pytest.mark.parametrize("name", [n.decode() for n in layout.DATABASES])
def test_changed_value_is_named_or_harmless(
    tmp_path: Path, pristine: tuple[Path, str, Model], name: str
) -> None:
    source, collection_id, model = pristine
    chance = random.Random(f"{SEED} {name}")
    print("seed", SEED)
    id_of = ids_of_rows(source / "collections" / collection_id)
    everything = names(52)
    values = [
        v
        for v in values_of(source / "collections" / collection_id / "store", layout.DATABASES)
        if v[0] == name.encode()
    ]
    assert values
    noticed = cases = unread = 0
    for number, (_, key, value) in enumerate(values):
        both = list(damages(chance, len(value)))
        for what, damage in both if EVERYTHING else [both[number % 2]]:
            cases += 1
            # The note of the name is read by a repair alone; a store's clock goes on from the last
            # stamp, and is written again with each batch.
            unread += (name, key) == ("meta", b"name") or key == CLOCK_KEY
            folder = tmp_path / f"{number}-{what[:3]}"
            shutil.copytree(source, folder)
            store = folder / "collections" / collection_id / "store"
            change_value(store, layout.DATABASES, name.encode(), key, damage(value))
            with vecdb.open(folder, indexer=False) as database:
                other = database.collection("other")
                assert other.search(rows(1)[0], k=3).ids == ["own"] and other.count() == 1
                docs = settle(lambda database=database: database.collection("docs"))
                if isinstance(docs, vecdb.DataLossError):
                    assert name == "meta"
                    errors = [docs]
                else:
                    lost = touched(name.encode(), key, value, id_of)
                    errors = check_collection(docs, model, lost, everything)
                    errors += check_requests(docs, key if name == "requests" else b"")
                    docs.upsert(["more"], rows(1), request_id="more")
                    assert docs.get(["more"]).ids == ["more"]
            noticed += bool(errors)
            for error in errors:
                text = f"{key!r} {what}: {error}"
                assert named(name.encode(), key) in str(error) or name == "meta", text
                assert collection_id in str(error), text
            shutil.rmtree(folder)
    if name in ("ids", "blocks", "dead", "segments", "meta"):
        # Of records, some are old versions that nobody reads.
        assert noticed == cases - unread and cases >= len(values)
    if name == "log":
        assert noticed == 0
    if name == "requests":  # Half of them lead from a request's age to its id.
        assert 2 * noticed == cases == 2 * len(WRITES)


def test_changed_catalogue_entry_hides_no_other_collection(
    tmp_path: Path, pristine: tuple[Path, str, Model]
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(pristine[0], folder)
    databases = (b"names", b"aliases")
    for name, key, value in values_of(folder / "catalog", databases):
        for _, damage in damages(random.Random(SEED), len(value)):
            change_value(folder / "catalog", databases, name, key, damage(value))
            other = "other" if key == b"docs" else "docs"
            with vecdb.open(folder, indexer=False) as database:
                assert [d.name for d in database.list_collections()] == [other]
                assert database.collection(other).count() > 0
                for call in (database.collection, database.drop_collection):
                    with pytest.raises(vecdb.DataLossError, match=key.decode()):
                        call(key.decode())
                with pytest.raises(vecdb.DataLossError, match=key.decode()):
                    database.create_collection(key.decode(), DIM)
            change_value(folder / "catalog", databases, name, key, value)


USES: list[tuple[str, tuple[Any, ...]]] = [
    ("count", ()),
    ("get", (["row-3"],)),
    ("search", (QUERIES[0],)),
    ("stats", ()),
    ("scroll_page", ()),
    ("upsert", (["more"], QUERIES[:1])),
    ("delete", (["row-3"],)),
]


@pytest.mark.parametrize("key", ["format", "collection", "state", "counters"])
def test_drop_of_a_store_with_a_changed_value_holds_for_all_processes(
    tmp_path: Path, pristine: tuple[Path, str, Model], key: str
) -> None:
    source, collection_id, _ = pristine
    folder = tmp_path / "data"
    shutil.copytree(source, folder)
    store = folder / "collections" / collection_id / "store"
    with SecondProcess() as other:
        other.open(folder)
        other.take("docs")
        other.call("search", QUERIES[0])
        value = {k: v for _, k, v in values_of(store, (b"meta",))}[key.encode()]
        change_value(
            store, layout.DATABASES, b"meta", key.encode(), value[:-1] + bytes([value[-1] ^ 1])
        )
        with vecdb.open(folder, indexer=False) as database:
            database.drop_collection("docs")
            check_dropped(folder, database)
        for method, arguments in USES:
            with pytest.raises(vecdb.NotFoundError) as caught:
                other.call(method, *arguments)
            assert caught.value.reason == "DROPPED", method


def check_dropped(folder: Path, database: Any) -> None:
    """Of docs nothing is left, and all else is as it was."""
    assert [d.name for d in database.list_collections()] == ["other"]
    assert len(list((folder / "collections").iterdir())) == 1
    assert not list((folder / "trash").iterdir())
    assert database.collection("other").search(rows(1)[0], k=3).ids == ["own"]
    database.create_collection("docs", DIM)


def cut_to(pages: float) -> Callable[[Path], None]:
    return lambda file: os.truncate(file, int(pages * 4096))


def overwritten(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[2 * 4096 :] = random.Random(SEED).randbytes(len(raw) - 2 * 4096)
    file.write_bytes(raw)


STORE_DAMAGES: dict[str, Callable[[Path], None]] = {
    **{f"cut to {pages} pages": cut_to(pages) for pages in (0, 0.5, 1, 2, 3.5, 6, 10)},
    "other bytes": overwritten,
    "gone": Path.unlink,
}


@pytest.mark.parametrize("half_done", [False, True], ids=["dropped", "half dropped"])
@pytest.mark.parametrize("damage", STORE_DAMAGES)
def test_store_that_can_not_be_opened_can_be_dropped(
    tmp_path: Path, pristine: tuple[Path, str, Model], damage: str, half_done: bool
) -> None:
    """In a process of its own, which LMDB must not bring down; by a drop, and by opening the folder
    after one that was begun."""
    source, collection_id, _ = pristine
    folder = tmp_path / "data"
    shutil.copytree(source, folder)
    if half_done:
        with vecdb.open(folder, indexer=False) as database:
            runtime_of(database).catalog.drop("docs")
    STORE_DAMAGES[damage](folder / "collections" / collection_id / "store" / "data.mdb")
    with SecondProcess() as process:
        process.open(folder)
        if not half_done:
            process.drop("docs")
        process.close()
    with vecdb.open(folder, indexer=False) as database:
        check_dropped(folder, database)


def test_store_damaged_while_open_can_be_dropped(
    database: Any, caplog: pytest.LogCaptureFixture
) -> None:
    docs = database.create_collection("docs", DIM)
    docs.upsert(names(4), rows(4))
    file = database.path / "collections" / opened_of(docs).id / "store" / "data.mdb"
    raw = bytearray(file.read_bytes())
    raw[2 * 4096 :] = bytes(len(raw) - 2 * 4096)
    with open(file, "r+b") as opened:  # In place, as LMDB has mapped it.
        opened.write(raw)
    database.drop_collection("docs")
    assert "without marking its store" in caplog.text
    assert not list((database.path / "collections").iterdir())
    with pytest.raises(vecdb.NotFoundError) as caught:
        docs.count()
    assert caught.value.reason == "DROPPED"


def flipped_block(docs: Any, first_row: int) -> None:
    """Flip a bit of a block of an open collection."""
    environment = opened_of(docs).store.environment

    def write(transaction: Any) -> None:
        database, key = environment.database(b"blocks"), layout.row_key(first_row)
        raw = bytearray(transaction.get(key, db=database))
        raw[1] ^= 0x10
        transaction.put(key, bytes(raw), db=database)

    environment.transact(write)


def test_upsert_over_a_damaged_block_is_read_back(database: Any) -> None:
    """The vector that is there already, bit for bit, but in a block whose checksum is wrong."""
    docs, vectors = database.create_collection("docs", DIM), rows(4)
    docs.upsert(names(4), vectors)
    flipped_block(docs, 0)
    with pytest.raises(vecdb.DataLossError, match="rows from 0"):
        docs.get(["row-3"])
    docs.upsert(names(4), vectors)
    assert docs.get(names(4)).vectors.tobytes() == vectors.tobytes()
    assert docs.search(vectors[3], k=1).ids == ["row-3"]
    seal_now(docs)
    assert docs.search(vectors[3], k=1).ids == ["row-3"]


def test_delete_of_damaged_rows_lets_flushes_go_on(database: Any) -> None:
    docs, vectors = database.create_collection("docs", DIM), rows(8)
    for i in range(4):
        docs.upsert(names(2, 2 * i), vectors[2 * i : 2 * i + 2])
    flipped_block(docs, 2)
    opened_of(docs).snapshots.forget()
    with pytest.raises(vecdb.DataLossError, match="rows from 2"):
        docs.search(vectors[0])
    docs.delete(["row-2"])
    with pytest.raises(vecdb.DataLossError, match="rows from 2"):
        docs.search(vectors[0])
    with pytest.raises(vecdb.DataLossError, match="rows from 2"):
        seal_now(docs)
    docs.delete(["row-3"])
    for _ in range(2):
        opened_of(docs).snapshots.forget()
        hits = docs.search(vectors[0], k=8, exact=True)
        assert sorted(hits.ids) == ["row-0", "row-1", "row-4", "row-5", "row-6", "row-7"]
        seal_now(docs)


@pytest.mark.slow
def test_failed_flush_is_reported_and_retried_with_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    load = sealing.load_rows

    def counted(*arguments: Any) -> Any:
        tried.append(time.monotonic())
        return load(*arguments)

    monkeypatch.setattr(sealing, "load_rows", counted)
    override(monkeypatch, "flush_poll_s", 0.05)
    with vecdb.open(tmp_path / "data", indexer=False, seal_bytes=64 * 100) as database:
        docs = database.create_collection("docs", DIM)
        docs.upsert(names(4), rows(4))
        flipped_block(docs, 0)
        i = 0
        while len(tried) < 3:
            docs.upsert(names(50, 10 + 50 * i), rows(50))
            i += 1
            time.sleep(0.01)
        first_s, second_s = np.diff(tried[:3])
        pause_s = value_of("flush_pause_first_s")
        assert first_s >= pause_s and second_s >= 2 * pause_s
        status = runtime_of(database).indexer_status(opened_of(docs))
        assert "could not be flushed" in status and "rows from 0" in status
        assert docs.count() == 4 + 50 * i
        docs.delete(names(4))
        runtime, opened = runtime_of(database), opened_of(docs)
        eventually(lambda: "could not be flushed" not in runtime.indexer_status(opened))
        assert docs.stats().sealed_to > 0


def test_damaged_log_entry_does_not_change_answers(database: Any) -> None:
    """A view that would be advanced by it is made anew from what the log stands for."""
    docs, vectors = database.create_collection("docs", DIM), rows(20)
    docs.upsert(names(10), vectors[:10])
    seal_now(docs)
    assert len(docs.search(vectors[0], k=20)) == 10
    docs.delete(names(3))
    docs.upsert(names(10, 10), vectors[10:])
    environment = opened_of(docs).store.environment
    for seq in (2, 3):
        key = layout.row_key(seq)
        environment.transact(
            lambda t, key=key: t.put(key, b"damaged", db=environment.database(b"log"))
        )
    assert sorted(docs.search(vectors[0], k=20).ids) == sorted(names(17, 3))
    docs.delete(["row-3"])
    seal_now(docs)
    assert sorted(docs.search(vectors[0], k=20).ids) == sorted(names(16, 4))


def test_graphs_are_built_from_verified_rows_only(
    tmp_path: Path, pristine: tuple[Path, str, Model]
) -> None:
    """Damaged files and damaged blocks under them at once: refused, and told why."""
    folder = tmp_path / "data"
    shutil.copytree(pristine[0], folder)
    with vecdb.open(folder, indexer=False) as database:
        docs = database.collection("docs")
        (first, *_) = docs.stats().segments
        flipped_block(docs, 0)
        path = opened_of(docs).folder / "segments" / str(first.number) / "vectors.npy"
        path.write_bytes(path.read_bytes()[:-1])
        opened_of(docs).snapshots.forget()
        with pytest.raises(vecdb.DataLossError, match="rows from 0"):
            docs.search(QUERIES[0])
        with pytest.raises(vecdb.DataLossError, match="rows from 0"):
            index_now(docs)
        assert docs.get(["row-45"]).ids == ["row-45"]


# Counters.


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


# Files.


def files_of(folder: Path) -> list[str]:
    """All but LMDB's, relative."""
    found = (p for p in folder.rglob("*") if p.is_file() and p.suffix != ".mdb")
    return sorted(str(path.relative_to(folder)) for path in found)


def file_damages(path: Path) -> list[tuple[str, bytes]]:
    """A sample of what may happen to a file; FORMAT is small enough for all of it."""
    every = list(_file_damages(path))
    if EVERYTHING or path.name == "FORMAT":
        return every
    lengths = [d for d in every if "byte " not in d[0]]
    flips = [d for d in every if "byte " in d[0]]
    chance = random.Random(f"{SEED} {path.name} {path.parent.name}")
    return [*chance.sample(flips, min(4, len(flips))), *chance.sample(lengths, 1)]


def _file_damages(path: Path) -> Iterator[tuple[str, bytes]]:
    """Places in the header, the middle and the end; three lengths."""
    raw, chance = path.read_bytes(), random.Random(f"{SEED} {path.name}")
    size = len(raw)
    places = {0, 6, 8, 9, 20, 45, 60, 100, 127, 130, size // 2, size - 5, size - 1}
    for at in sorted(p for p in places if 0 <= p < size):
        bit = chance.randrange(8)
        yield f"bit {bit} of byte {at}", raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]
    # High bits make numbers of rows and nodes, offsets and letters impossible.
    for at in sorted({size - 2, size // 2 | 7, size // 2 | 3}):
        if 0 <= at < size:
            yield f"top bit of byte {at}", raw[:at] + bytes([raw[at] ^ 0x80]) + raw[at + 1 :]
    for kept in sorted({0, size // 2, size - 1} - {size}):
        if kept >= 0:
            yield f"cut to {kept} bytes", raw[:kept]
    yield "longer", raw + b"\0\xff"


def check_file_damage(folder: Path, model: Model) -> None:
    everything = names(52)
    with vecdb.open(folder, indexer=False) as database:
        docs = database.collection("docs")
        for query in QUERIES:
            for arguments in ({"k": 5}, {"k": 100}, {"k": 100, "exact": True}):
                for metadata in (True, False):
                    hits = docs.search(query, include_metadata=metadata, **arguments)
                    if hits.info.verified and metadata:
                        model.check_hits(
                            hits, query, arguments["k"], exact=bool(arguments.get("exact"))
                        )
        model.check_records(docs.get(everything), everything)
        docs.delete(["row-30"])
        for _ in range(5):
            seal_now(docs)
            index_now(docs)
            if opened_of(docs).snapshots.verify(lambda: None):
                break
        changed = Model(DIM, "cosine")
        changed.rows = {n: r for n, r in model.rows.items() if n != "row-30"}
        for query in QUERIES:
            for exact in (False, True):
                hits = docs.search(query, k=100, exact=exact)
                assert hits.info.verified
                changed.check_hits(hits, query, 100, exact=True)
        assert docs.stats().unindexed_rows == 0


@pytest.mark.slow
def test_changed_file_never_gives_a_wrong_answer_marked_verified(
    tmp_path: Path, pristine: tuple[Path, str, Model]
) -> None:
    source, collection_id, model = pristine
    print("seed", SEED)
    base = tmp_path / "base"
    shutil.copytree(source, base)
    home = base / "collections" / collection_id
    (home / "graph-left.hnsw").write_bytes(b"half a graph" * 20)
    shutil.copytree(next((home / "segments").iterdir()), home / "segments" / "99")
    (base / "FORMAT.4711").write_bytes(b"vecdb")
    files = files_of(base)
    assert {"FORMAT", "catalog.lock"} <= set(files)
    assert {f.rsplit("/")[-1] for f in files} >= {
        "seal.lock", "graph.lock", "manifest.json", "links.npy", "upper_links.npy",
        "upper_offsets.npy", "rows.npy", "vectors.npy", "id_bytes.npy", "id_offsets.npy",
    }  # fmt: skip
    refused = cases = 0
    for file in files:
        if "/99/" in file:
            continue
        for what, raw in file_damages(base / file):
            folder = tmp_path / "data"
            shutil.copytree(base, folder)
            (folder / file).write_bytes(raw)
            cases += 1
            try:
                check_file_damage(folder, model)
            except vecdb.FailedPreconditionError:
                assert file == "FORMAT", (file, what)
                refused += 1
            except BaseException:
                print(file, what)
                raise
            shutil.rmtree(folder)
    assert cases > 60 and refused >= 8, (cases, refused)


@pytest.mark.parametrize("missing", ["vectors.npy", "manifest.json", "upper_links.npy"])
def test_missing_file_quarantines_the_segment(
    tmp_path: Path, pristine: tuple[Path, str, Model], missing: str
) -> None:
    source, collection_id, model = pristine
    folder = tmp_path / "data"
    shutil.copytree(source, folder)
    for path in (folder / "collections" / collection_id).rglob(missing):
        path.unlink()
    check_file_damage(folder, model)


# When an answer is verified.


def test_answers_become_verified_after_opening(
    tmp_path: Path, pristine: tuple[Path, str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first answer does not wait; each segment is read once, also after a rest."""
    folder = tmp_path / "data"
    shutil.copytree(pristine[0], folder)
    may_go_on, read = threading.Event(), []
    verify = Segment.verify

    def waiting(self: Segment, *arguments: Any) -> None:
        assert may_go_on.wait(HANG_S)
        read.append(self.number)
        verify(self, *arguments)

    monkeypatch.setattr(Segment, "verify", waiting)
    with vecdb.open(folder, indexer=False) as database:
        docs = database.collection("docs")
        for _ in range(3):
            assert not docs.search(QUERIES[0]).info.verified
        may_go_on.set()
        eventually(lambda: docs.search(QUERIES[0]).info.verified)
        for _ in range(2):
            opened_of(docs).evict()
            assert docs.search(QUERIES[0]).info.verified
        assert sorted(read) == sorted(set(read)) and len(read) == 2
        # Somebody wrote to a file: it is not the one that was compared.
        number = read[0]
        path = opened_of(docs).folder / "segments" / str(number) / "vectors.npy"
        os.utime(path)
        opened_of(docs).evict()
        eventually(lambda: docs.search(QUERIES[0]).info.verified)
        assert sorted(read) == sorted([*set(read), number])


def test_segment_written_while_the_folder_is_open_is_verified(tmp_path: Path) -> None:
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        for i in range(3):
            docs.upsert(names(20, 20 * i), rows(20))
            assert docs.search(QUERIES[0]).info.verified
            seal_now(docs)
            assert docs.search(QUERIES[0]).info.verified
            index_now(docs)
            assert docs.search(QUERIES[0]).info.verified


@pytest.mark.slow
def test_bit_flipped_while_closed_is_found_and_rebuilt(
    tmp_path: Path, pristine: tuple[Path, str, Model]
) -> None:
    """With a real indexer: without a word from anybody, and by ``optimize``."""
    source, collection_id, model = pristine
    for file in ("vectors.npy", "links.npy"):
        folder = tmp_path / file
        shutil.copytree(source, folder)
        for path in (folder / "collections" / collection_id).rglob(file):
            raw = bytearray(path.read_bytes())
            raw[-3] ^= 0x40
            path.write_bytes(raw)
        with vecdb.open(folder) as database:
            docs = database.collection("docs")
            assert not docs.search(QUERIES[0]).info.verified
            if file == "links.npy":
                docs.optimize(timeout_s=HANG_S)
            else:
                eventually(lambda docs=docs: docs.search(QUERIES[0]).info.verified)
            for query in QUERIES:
                hits = docs.search(query, k=100, exact=True)
                assert hits.info.verified
                model.check_hits(hits, query, 100, exact=True)


def test_too_many_open_files_quarantine_nothing(
    tmp_path: Path, pristine: tuple[Path, str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(pristine[0], folder)
    with vecdb.open(folder, indexer=False) as database:
        docs = database.collection("docs")
        monkeypatch.setattr(
            np, "memmap", lambda *a, **k: (_ for _ in ()).throw(OSError(24, "Too many open files"))
        )
        with pytest.raises(vecdb.ResourceExhaustedError, match="too many open files"):
            docs.search(QUERIES[0])
        monkeypatch.undo()
        assert len(docs.search(QUERIES[0], k=5)) == 5
        with contextlib.closing(docs.scroll()) as scroll:
            assert next(scroll).ids
        assert all(e.state == "published" for e in entries_of(docs).values())


def entries_of(docs: Any) -> dict[int, SegmentEntry]:
    store = opened_of(docs).store
    with store.environment.read() as transaction:
        return store.read_segments(transaction)
