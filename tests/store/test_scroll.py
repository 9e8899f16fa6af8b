"""Scrolling returns every row live at one seq once, embedded and remote, despite later writes."""

from __future__ import annotations

import copy
import random
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import vecdb
from tests.model import Model, flush_now, index_now
from tests.places import override, value_of
from tests.serving import running_server
from tests.waiting import HANG_S, eventually
from vecdb import limits
from vecdb.engine.api.collection import Collection
from vecdb.engine.store import layout
from vecdb.engine.store.scroll_token import pack_token, unpack_token
from vecdb.engine.testing import opened_of
from vecdb_client.statuses import error_of
from vecdb_proto import vecdb_pb2 as wire
from vecdb_proto.vecdb_pb2_grpc import VecdbStub
from vecdb_server.service import Service

RNG = np.random.default_rng(29)
DIM = 8


def rows(count: int, dim: int = DIM) -> np.ndarray:
    return RNG.normal(size=(count, dim)).astype(np.float32)


def names(count: int, first: int = 0) -> list[str]:
    return [f"row-{i}" for i in range(first, first + count)]


def filled(surface: Any, count: int, name: str = "docs") -> tuple[Any, Model]:
    """Return a collection of ``count`` rows, every third with metadata, and its model."""
    docs, model = surface.create_collection(name, DIM), Model(DIM, "cosine")
    vectors = rows(count)
    metadata = [{"n": i} if i % 3 == 0 else None for i in range(count)]
    for start in range(0, count, 10_000):
        part = slice(start, start + 10_000)
        docs.upsert(names(count)[part], vectors[part], metadata[part])
    model.upsert(names(count), vectors, metadata)
    return docs, model


def check(pages: Iterable[Any], model: Model, *, batch: int = limits.BATCH_ROWS.maximum) -> None:
    """Check that the pages hold each row of the model once, all at one seq."""
    seen: dict[str, Any] = {}
    seqs = set()
    for page in pages:
        assert 0 < len(page) <= batch
        assert page.vectors.shape == (len(page), model.dim)
        assert page.missing == []
        seqs.add(page.seq)
        for name, vector, metadata in zip(page.ids, page.vectors, page.metadata, strict=True):
            assert name not in seen
            seen[name] = (vector.tobytes(), metadata)
    assert len(seqs) <= 1
    assert seen == {name: (v.tobytes(), m) for name, (v, m) in model.rows.items()}


def rest_of(docs: Any, page: Any, **options: Any) -> list[Any]:
    """Return the page and all later ones."""
    pages = [page]
    while page.next_token is not None:
        page = docs.scroll_page(page.next_token, **options)
        pages.append(page)
    return [page.records for page in pages if len(page.records)]


@pytest.mark.parametrize("batch", [3, 100, 1000])
def test_scroll_returns_every_row_once(surface: Any, batch: int) -> None:
    docs, model = filled(surface, 100)
    docs.delete(names(20, first=30))
    model.delete(names(20, first=30))
    pages = list(docs.scroll(batch))
    check(pages, model, batch=batch)
    assert [name for page in pages for name in page.ids] == list(model.rows)
    assert docs.stats().oldest_pin_seq is None
    check(rest_of(docs, docs.scroll_page(batch=batch), batch=batch), model, batch=batch)
    assert docs.stats().oldest_pin_seq is None


def test_scroll_of_an_empty_collection_has_no_pages(surface: Any) -> None:
    docs = surface.create_collection("docs", DIM)
    assert list(docs.scroll()) == []
    page = docs.scroll_page()
    assert (len(page.records), page.records.vectors.shape, page.next_token) == (0, (0, DIM), None)
    docs.upsert(names(5), rows(5))
    docs.delete(names(5))
    assert list(docs.scroll(1)) == []


def test_scroll_without_metadata_or_vectors_omits_them(surface: Any) -> None:
    docs, model = filled(surface, 10)
    (page,) = docs.scroll(include_vectors=False)
    assert (page.vectors, page.ids) == (None, list(model.rows))
    assert page.metadata == [metadata for _, metadata in model.rows.values()]
    page = docs.scroll_page(include_metadata=False).records
    assert page.metadata == [{}] * 10
    assert page.vectors.tobytes() == np.stack([v for v, _ in model.rows.values()]).tobytes()


@pytest.mark.parametrize("batch", [7, 1_600])
def test_scroll_returns_the_metadata_of_its_seq(
    database: Any, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LEASE_S", 3600.0)
    docs, model = filled(database, 1_600)
    begun = []
    for turn in range(4):
        # One row has hundreds of versions.
        several = [f"row-{i}" for i in (0, *range(498, 503), *range(997, 1_004), 1_599)]
        for version in range(150):
            some = [*several, "row-900"] if version % 50 == 0 else ["row-900"]
            vectors = np.stack([model.rows[name][0] for name in some])
            metadata = [{"version": [turn, version, name]} for name in some]
            docs.upsert(some, vectors, metadata)
            model.upsert(some, vectors, metadata)
        begun.append((docs.scroll_page(batch=3), copy.deepcopy(model)))
        gone = [f"row-{i}" for i in range(504 + turn, 1_590, 97) if f"row-{i}" not in several]
        docs.delete(gone)
        model.delete(gone)
    for page, then in begun:
        check(rest_of(docs, page, batch=batch), then)


def test_scroll_does_not_see_later_writes(surface: Any) -> None:
    docs, model = filled(surface, 60)
    scroll = docs.scroll(10)
    pages = [next(scroll)]
    docs.upsert(names(10, first=15), rows(10), [{"new": i} for i in range(10)])
    for n in range(3):  # The same vectors with new metadata: new versions of the records.
        kept = np.stack([model.rows[name][0] for name in names(10, first=30)])
        docs.upsert(names(10, first=30), kept, [{"again": n}] * 10)
    docs.delete(names(10, first=45))
    docs.upsert(names(30, first=100), rows(30))
    docs.optimize(timeout_s=HANG_S)
    pages += list(scroll)
    check(pages, model, batch=10)
    (now,) = docs.scroll()
    assert (now.seq, len(now)) == (7, docs.count())
    assert {r: m for r, m in zip(now.ids, now.metadata, strict=True) if m.get("again")} == {
        name: {"again": 2} for name in names(10, first=30)
    }


def test_scrolls_during_concurrent_writes_match_a_model(surface: Any) -> None:
    """While threads write, each of several scrolls sees one state between two batches."""
    seed = random.randrange(2**32)
    print("seed", seed)
    docs = surface.create_collection("docs", DIM)
    states: dict[int, dict[str, tuple[bytes, Any]]] = {0: {}}
    stop, failures = threading.Event(), []

    def write() -> None:
        chance, current, vector = random.Random(seed), {}, rows(2000)
        try:
            while not stop.is_set():
                chosen = sorted({f"row-{chance.randrange(400)}" for _ in range(30)})
                if chance.random() < 0.3:
                    seq = docs.delete(chosen).seq
                    current = {k: v for k, v in current.items() if k not in chosen}
                else:
                    place = [chance.randrange(2000) for _ in chosen]
                    if chance.random() < 0.5:  # The same vectors, if the rows are live.
                        place = [int(name[4:]) for name in chosen]
                    metadata = [{"n": chance.randrange(9)} for _ in chosen]
                    seq = docs.upsert(chosen, vector[place], metadata).seq
                    new = zip(chosen, vector[place], metadata, strict=True)
                    current = {**current, **{name: (v.tobytes(), m) for name, v, m in new}}
                states[seq] = current
                time.sleep(0.001)
        except Exception as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    found: list[tuple[int, dict[str, Any]]] = []
    try:
        for _ in range(12):
            seen: dict[str, Any] = {}
            for page in docs.scroll(40):
                for name, v, m in zip(page.ids, page.vectors, page.metadata, strict=True):
                    assert name not in seen
                    seen[name] = (v.tobytes(), m)
                time.sleep(0.002)
                seq = page.seq
            if seen:
                found.append((seq, seen))
            if isinstance(docs, Collection):
                opened_of(docs).flush(1)  # Does nothing while another flush is running.
    finally:
        stop.set()
        writer.join()
    assert failures == []
    assert len(found) > 5 and len({seq for seq, _ in found}) > 3
    for seq, seen in found:
        assert seen == states[seq]


def test_scroll_across_flush_merge_and_reopen_is_unchanged(tmp_path: Path) -> None:
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        docs, model = filled(database, 3000)
        page = docs.scroll_page(batch=700)
        pages = [page.records]
        flush_now(docs)
        index_now(docs)
        docs.delete(names(1500, first=500))
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        docs = database.collection("docs")
        check([*pages, *rest_of(docs, docs.scroll_page(page.next_token))], model)


def test_page_requested_twice_is_the_same(surface: Any) -> None:
    docs, _ = filled(surface, 30)
    first = docs.scroll_page(batch=10)
    second, again = docs.scroll_page(first.next_token, 10), docs.scroll_page(first.next_token, 10)
    assert second.records.ids == again.records.ids == names(10, first=10)
    assert second.next_token == again.next_token


def test_idle_scroll_expires(surface: Any, pass_time: Callable[[float], None]) -> None:
    docs, _ = filled(surface, 30)
    page, scroll = docs.scroll_page(batch=10), docs.scroll(10)
    next(scroll)
    pass_time(1.01 * limits.LEASE_S)
    assert docs.stats().oldest_pin_seq is None
    for call in (lambda: docs.scroll_page(page.next_token), lambda: list(scroll)):
        with pytest.raises(vecdb.FailedPreconditionError) as caught:
            call()
        assert caught.value.reason == "PIN_EXPIRED"
    assert list(scroll) == []  # An iterator that has failed returns nothing more.


def test_each_page_renews_the_lease(surface: Any, pass_time: Callable[[float], None]) -> None:
    docs, model = filled(surface, 50)
    pages = []
    for page in docs.scroll(10):
        pages.append(page)
        pass_time(0.4 * limits.LEASE_S)
    check(pages, model)


def test_abandoned_iterator_releases_its_lease(surface: Any) -> None:
    docs, _ = filled(surface, 30)

    def leased_seq() -> int | None:
        return docs.stats().oldest_pin_seq  # type: ignore[no-any-return]

    with docs.scroll(10) as scroll:
        next(scroll)
        assert leased_seq() == 1
        assert 0 < docs.stats().oldest_pin_expires_s <= limits.LEASE_S
    assert leased_seq() is None
    assert list(scroll) == []

    scroll = docs.scroll(10)
    next(scroll)
    scroll.close()
    scroll.close()
    assert leased_seq() is None

    for page in docs.scroll(10):
        assert len(page) == 10
        break
    eventually(lambda: leased_seq() is None)

    page = docs.scroll_page(batch=10)
    assert leased_seq() == 1
    docs.end_scroll(page.next_token)
    docs.end_scroll(page.next_token)
    assert leased_seq() is None
    with pytest.raises(vecdb.FailedPreconditionError, match="60 s"):
        docs.scroll_page(page.next_token)


def test_invalid_tokens_are_refused(surface: Any) -> None:
    docs, _ = filled(surface, 30)
    other, _ = filled(surface, 30, "other")
    token = docs.scroll_page(batch=10).next_token
    changed = ("A" if token[30] != "A" else "B").join((token[:30], token[31:]))
    longer = pack_token(unpack_token(token)._replace(seq=2, row=20))
    for bad in ("garbage", "", "é", token[:-4], changed, token + "AAAA", 7, b"", longer):
        for call in (docs.scroll_page, docs.end_scroll)[: 1 if bad is longer else 2]:
            with pytest.raises(vecdb.InvalidArgumentError) as caught:
                call(bad)
            assert caught.value.reason == "BAD_TOKEN"
    with pytest.raises(vecdb.InvalidArgumentError, match="another") as caught:
        other.scroll_page(token)
    assert caught.value.reason == "BAD_TOKEN"
    assert docs.scroll_page(token).records.ids == names(20, first=10)
    for batch in (0, 10_001, 2.5):
        with pytest.raises(vecdb.InvalidArgumentError):
            docs.scroll(batch)
        with pytest.raises(vecdb.InvalidArgumentError):
            docs.scroll_page(None, batch)


def test_scroll_of_a_dropped_collection_is_refused(surface: Any) -> None:
    docs, _ = filled(surface, 30)
    page, scroll = docs.scroll_page(batch=10), docs.scroll(10)
    surface.drop_collection("docs")
    for call in (docs.scroll_page, lambda: docs.scroll_page(page.next_token), lambda: next(scroll)):
        with pytest.raises(vecdb.NotFoundError):
            call()


def test_pages_are_bounded_in_bytes(surface: Any) -> None:
    docs = surface.create_collection("wide", 16_384)
    vectors = rows(140, 16_384)
    for start in range(0, 140, 70):
        docs.upsert(names(70, first=start), vectors[start : start + 70])
    sizes = [len(page) for page in docs.scroll(10_000)]
    assert sum(sizes) == 140 and max(sizes) * 4 * 16_384 <= limits.SCROLL_PAGE_BYTES_MAX
    assert min(sizes[:-1]) >= 120
    assert [len(page) for page in docs.scroll(10_000, include_vectors=False)] == [140]
    docs = surface.create_collection("deep", DIM)
    large = [{"text": "x" * 60_000} for _ in range(150)]
    docs.upsert(names(150), rows(150), large)
    sizes = [len(page) for page in docs.scroll(10_000)]
    assert sum(sizes) == 150 and 100 < max(sizes) <= limits.SCROLL_PAGE_BYTES_MAX // 60_000
    assert [len(page) for page in docs.scroll(10_000, include_metadata=False)] == [150]


def test_pages_fit_into_the_smallest_message(tmp_path: Path) -> None:
    options = {"message_bytes": 128 * 1024}
    with running_server(tmp_path / "data", **options) as address, vecdb.connect(address) as client:
        model = Model(4000, "cosine")
        docs = client.create_collection("docs", 4000)
        vectors = rows(50, 4000)
        for start in range(0, 50, 5):
            docs.upsert(names(5, first=start), vectors[start : start + 5])
        model.upsert(names(50), vectors, None)
        pages = list(docs.scroll())
        assert len(pages) > 5
        check(pages, model)


def test_page_with_few_live_rows_is_read_in_slices(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each slice reads few rows, although most rows in between are deleted."""
    docs, model = filled(database, 15_000)
    docs.scroll_page(batch=1)  # Its lease keeps the deleted rows from being purged.
    gone = [name for i, name in enumerate(names(15_000)) if i % 2500 != 7]
    for start in range(0, len(gone), 10_000):
        docs.delete(gone[start : start + 10_000])
    model.delete(gone)
    read: list[int] = []
    real = opened_of(docs).store.rows.read_deleted

    def counted(transaction: Any, first_row: int, end_row: int, seq: int) -> Any:
        read.append(end_row - first_row)
        return real(transaction, first_row, end_row, seq)

    monkeypatch.setattr(opened_of(docs).store.rows, "read_deleted", counted)
    check(docs.scroll(4), model, batch=4)
    assert len(read) > 15 and max(read) <= 1024


def test_scroll_across_purged_rows_and_rewritten_blocks_is_complete(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows deleted before the seq may be purged, and their blocks rewritten."""
    docs, model = filled(database, 5000)
    gone = [name for i, name in enumerate(names(5000)) if i % 7 == 0 or 1000 <= i < 4000]
    docs.delete(gone)
    model.delete(gone)
    store = opened_of(docs).store
    database_of = store.environment.database

    def purge(transaction: Any) -> None:
        deleted = store.rows.read_deleted(transaction, 0, 5000, 10).tolist()
        for row in deleted:
            transaction.delete(layout.record_key(row, 1), db=database_of(b"records"))
            transaction.delete(layout.row_key(row), db=database_of(b"dead"))
        blocks = [
            (rows.copy(), vectors.copy())
            for rows, vectors in store.rows.iterate_blocks(transaction, 0, 5000)
        ]
        for numbers, vectors in blocks:
            transaction.delete(layout.row_key(int(numbers[0])), db=database_of(b"blocks"))
            kept = ~np.isin(numbers, deleted)
            if kept.any():
                key = layout.row_key(int(numbers[kept][0]))
                value = layout.pack_block(key, vectors[kept], numbers[kept])
                transaction.put(key, value, db=database_of(b"blocks"))

    store.environment.transact(purge)
    override(monkeypatch, "scroll_slice_rows_min", 16)
    for batch in (1, 10, 1000):
        check(docs.scroll(batch), model, batch=batch)


@pytest.mark.parametrize("what", ["records", "blocks"])
def test_row_without_vector_or_record_is_data_loss(database: Any, what: str) -> None:
    docs, _ = filled(database, 100)
    store = opened_of(docs).store
    key = layout.record_key(50, 1) if what == "records" else layout.row_key(0)
    handle = store.environment.database(what.encode())
    store.environment.transact(lambda transaction: transaction.delete(key, db=handle))
    with pytest.raises(vecdb.DataLossError, match=r"row (50|0) has no"):
        list(docs.scroll())
    assert docs.stats().oldest_pin_seq is None  # An error ends the scroll.


def test_row_with_many_versions_is_returned_once(database: Any) -> None:
    docs, model = filled(database, 4)  # The last one keeps its single version.
    vectors = np.stack([v for v, _ in model.rows.values()])[:3]
    for n in range(20):
        docs.upsert(names(3), vectors, [{"n": n}] * 3)
    model.upsert(names(3), vectors, [{"n": 19}] * 3)
    scroll = docs.scroll(1)
    pages = [next(scroll)]
    for n in range(20, 40):
        docs.upsert(names(3), vectors, [{"n": n}] * 3)
    check([*pages, *scroll], model)
    flush_now(docs)  # Reads each id once, however many versions there are.
    assert sorted(docs.search(vectors[1], k=4, exact=True).ids) == names(4)


def test_disconnected_caller_leaves_no_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, release = threading.Event(), threading.Event()
    real, served, calls = value_of("read_scroll_slice"), Service.scroll_page, []

    def waiting(*arguments: Any) -> int:
        entered.set()
        assert release.wait(HANG_S)
        # Never full, so that only the check can end the page.
        arguments[4].__dict__["batch"] = 1 << 30
        return real(*arguments)

    def noted(self: Service, request: Any, call: Any) -> Any:
        calls.append(call)
        return served(self, request, call)

    monkeypatch.setattr(Service, "scroll_page", noted)  # Before the server binds it.

    override(monkeypatch, "read_scroll_slice", waiting)
    override(monkeypatch, "scroll_slice_rows", 16)
    with running_server(tmp_path / "data") as address, vecdb.connect(address) as client:
        docs, _ = filled(client, 1000)
        with grpc.insecure_channel(address) as channel:
            stub = VecdbStub(channel)
            call = stub.ScrollPage.future(wire.ScrollPageRequest(collection="docs", batch=1000))
            assert entered.wait(HANG_S)
            call.cancel()
            eventually(lambda: not calls[0].is_active())
            release.set()
            eventually(lambda: docs.stats().oldest_pin_seq is None)


def test_invalid_scroll_request_on_the_wire_is_refused(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as address, vecdb.connect(address) as client:
        filled(client, 30)
        with grpc.insecure_channel(address) as channel:
            stub = VecdbStub(channel)
            request = wire.ScrollPageRequest(collection="docs", batch=10, include_metadata=True)
            answer = stub.ScrollPage(request)
            assert (list(answer.ids), answer.seq) == (names(10), 1)
            assert not answer.HasField("vectors") and answer.metadata[0] == b'{"n":0}'
            for token, batch, reason in (
                ("xx", 1, "BAD_TOKEN"),
                (answer.next_token, 0, "OUT_OF_RANGE"),
            ):
                request = wire.ScrollPageRequest(collection="docs", batch=batch, token=token)
                with pytest.raises(grpc.RpcError) as caught:
                    stub.ScrollPage(request)
                assert error_of(caught.value, address, is_write=False).reason == reason
