"""Values of a store that change while the folder is closed are named, or harmless."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import Model, flush_now, index_now
from tests.places import override, value_of
from tests.segments.damage import (
    DIM,
    EVERYTHING,
    QUERIES,
    SEED,
    WRITES,
    batch,
    change_value,
    names,
    rows,
    values_of,
)
from tests.waiting import eventually
from vecdb.engine.segments import flushing
from vecdb.engine.store import layout
from vecdb.engine.store.clock import CLOCK_KEY
from vecdb.engine.testing import opened_of, runtime_of

Damage = Callable[[bytes], bytes]


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
        layout.unpack_record_key(key)[0]: layout.unpack_record(b"".join((key, value)))[0].decode()
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
            # The notes of name and metadata are read by a repair alone; a store's clock goes on
            # from the last stamp, and is written again with each batch.
            unread += name == "meta" and key in (b"name", b"metadata", CLOCK_KEY)
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
        # Of records, some are old versions that are never read.
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
    flush_now(docs)
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
        flush_now(docs)
    docs.delete(["row-3"])
    for _ in range(2):
        opened_of(docs).snapshots.forget()
        hits = docs.search(vectors[0], k=8, exact=True)
        assert sorted(hits.ids) == ["row-0", "row-1", "row-4", "row-5", "row-6", "row-7"]
        flush_now(docs)


@pytest.mark.slow
def test_failed_flush_is_reported_and_retried_with_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    load = flushing.load_rows

    def counted(*arguments: Any) -> Any:
        tried.append(time.monotonic())
        return load(*arguments)

    monkeypatch.setattr(flushing, "load_rows", counted)
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
    """A snapshot that it would advance is created again from the rows."""
    docs, vectors = database.create_collection("docs", DIM), rows(20)
    docs.upsert(names(10), vectors[:10])
    flush_now(docs)
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
    flush_now(docs)
    assert sorted(docs.search(vectors[0], k=20).ids) == sorted(names(16, 4))


def test_graphs_are_built_from_verified_rows_only(
    tmp_path: Path, pristine: tuple[Path, str, Model]
) -> None:
    """Files and the blocks below them are damaged: refused with the reason."""
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
