"""Collections that are renamed, and dropped by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

import vecdb
from tests.runtime.renames import DIM, all_ids, in_another_process, reason_of, rows
from tests.serving import free_port, running_server, running_server_at, wait_until_ready
from vecdb.engine.testing import (
    put_catalog_entry,
    runtime_of,
)
from vecdb_cli import command_line
from vecdb_client import Collection
from vecdb_client.testing import calls_of
from vecdb_proto import vecdb_pb2 as wire
from vecdb_proto.vecdb_pb2_grpc import VecdbStub


def test_rename_moves_the_name_and_keeps_the_collection(surface: Any) -> None:
    docs = surface.create_collection("docs", DIM, "dot")
    docs.upsert(["a"], rows(1))
    surface.create_collection("other", DIM)
    for taken in ("other", "docs"):
        with pytest.raises(vecdb.AlreadyExistsError, match=taken) as caught:
            surface.rename_collection("docs", taken)
        assert caught.value.reason == "NAME_TAKEN"
    assert reason_of(lambda: surface.rename_collection("missing", "free")) == "NO_COLLECTION"
    for old, new in (("docs", "a b"), ("../docs", "free")):
        with pytest.raises(vecdb.InvalidArgumentError):
            surface.rename_collection(old, new)
    assert [d.name for d in surface.list_collections()] == ["docs", "other"]
    surface.rename_collection("docs", "books")
    assert [d.name for d in surface.list_collections()] == ["books", "other"]
    assert reason_of(lambda: surface.collection("docs")) == "NO_COLLECTION"
    books = surface.collection("books")
    assert (books.name, books.metric, books.count()) == ("books", vecdb.Metric.DOT, 1)
    # The old name is free and can be given to another collection.
    surface.create_collection("docs", 2)
    books.upsert(["b"], rows(1))
    assert (books.count(), surface.collection("docs").count()) == (2, 0)
    surface.drop_collection("docs")
    surface.rename_collection("books", "docs")
    assert surface.collection("docs").count() == 2


USES: dict[str, Any] = {
    "upsert": lambda c: c.upsert(["x"], rows(1)),
    "upsert of nothing": lambda c: c.upsert([], []),
    "upsert_many": lambda c: c.upsert_many(["x", "y"], rows(2), batch_rows=1),
    "get": lambda c: c.get(["x"]),
    "search": lambda c: c.search(rows(1)[0]),
    "searches": lambda c: c.search(rows(3)),
    "count": lambda c: c.count(),
    "scroll": all_ids,
    "scroll_page": lambda c: c.scroll_page(),
    "stats": lambda c: c.stats(),
    "delete": lambda c: c.delete(["x", "y"]),
}


def test_handle_works_after_a_rename_and_fails_after_the_drop(surface: Any, tmp_path: Path) -> None:
    """A handle is bound to the collection and not to its name, embedded and remote."""
    docs = surface.create_collection("docs", DIM)
    found = surface.collection("docs")
    docs.upsert([f"r{i}" for i in range(20)], rows(20))
    docs.search(rows(1)[0])  # A client sends the next search through a stream.
    docs.search(rows(1)[0])
    scroll, page = docs.scroll(batch=5), docs.scroll_page(batch=5)
    ids = list(next(scroll).ids)
    surface.rename_collection("docs", "books")
    other = surface.create_collection("docs", DIM, "dot")
    other.upsert(["other"], rows(1))
    for handle in (docs, found):
        assert (handle.name, handle.metric) == ("docs", vecdb.Metric.COSINE)
        for name, use in USES.items():
            assert use(handle) is not None, name
        assert (handle.count(), len(all_ids(handle))) == (20, 20)
        assert handle.search(rows(1)[0], k=1).ids == ["r0"]
    # Operations that were running during the rename continue too.
    ids += [name for records in scroll for name in records.ids]
    assert ids == [f"r{i}" for i in range(20)]
    assert docs.scroll_page(page.next_token, batch=20).records.ids == ids[5:]
    docs.end_scroll(docs.scroll_page(batch=1).next_token)
    report = docs.export_faiss(tmp_path / "docs.faiss", flat=True)
    assert report.rows == 20
    books = surface.collection("books")
    books.upsert(["new"], rows(1))
    assert docs.count() == books.count() == 21
    assert (other.count(), surface.collection("docs").count()) == (1, 1)

    scroll = docs.scroll(batch=5)
    next(scroll)
    surface.drop_collection("books")
    surface.rename_collection("docs", "books")  # The name of the dropped one is another's.
    for handle in (docs, found, books):
        for name, use in USES.items():
            assert reason_of(lambda: use(handle)) == "DROPPED", name  # noqa: B023
        assert reason_of(lambda: handle.optimize()) == "DROPPED"  # noqa: B023
        assert reason_of(lambda: handle.upsert_many([], [])) == "DROPPED"  # noqa: B023
        assert reason_of(lambda: handle.scroll_page("no token")) == "DROPPED"  # noqa: B023
        assert reason_of(lambda: handle.end_scroll("no token")) == "DROPPED"  # noqa: B023
        assert reason_of(lambda: handle.export_faiss(tmp_path / "x", flat=True)) == "DROPPED"  # noqa: B023
    assert reason_of(lambda: list(scroll)) == "DROPPED"
    assert other.count() == 1


def test_handle_of_a_client_survives_renames_and_restarts(tmp_path: Path) -> None:
    """The server finds a collection by its id also if it has not opened it yet."""
    listen = f"127.0.0.1:{free_port()}"
    with vecdb.connect(listen) as client:
        with running_server_at(tmp_path, listen):
            docs, gone = (client.create_collection(name, DIM) for name in ("docs", "gone"))
            docs.upsert(["a"], rows(1))
        in_another_process(
            tmp_path,
            "db.rename_collection('docs', 'books'); db.drop_collection('gone'); "
            "db.create_collection('docs', 2); db.create_collection('gone', 4)",
        )
        with running_server_at(tmp_path, listen):
            wait_until_ready(client)
            assert docs.upsert(["b"], rows(1)).seq == 2
            assert docs.get(["a", "b"]).missing == []
            assert reason_of(gone.count) == "DROPPED"
            assert client.collection("gone").count() == 0


def test_remote_call_without_an_id_uses_the_name(tmp_path: Path) -> None:
    """Earlier and other clients send no id."""
    with (
        running_server(tmp_path, indexer=False) as address,
        vecdb.connect(address) as client,
        grpc.insecure_channel(address) as channel,
    ):
        stub: Any = VecdbStub(channel)
        docs = client.create_collection("docs", DIM)
        docs.upsert(["a"], rows(1))
        known = stub.GetCollection(wire.GetCollectionRequest(collection="docs")).collection.id
        assert known
        client.rename_collection("docs", "books")
        with pytest.raises(grpc.RpcError, match="no collection 'docs'"):
            stub.Count(wire.CountRequest(collection="docs"))
        assert stub.Count(wire.CountRequest(collection="books")).count == 1
        # With an id the name is ignored.
        for name in ("docs", "", "../up"):
            request = wire.CountRequest(collection=name, collection_id=known)
            assert stub.Count(request).count == 1
        for unknown in ("f" * 16, "../collections", known + "0", "\0"):
            with pytest.raises(grpc.RpcError, match="dropped") as caught:
                stub.Count(wire.CountRequest(collection="books", collection_id=unknown))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        # If a server returns no id, the client sends the name.
        handle = Collection(calls_of(client), "books", docs.config, "")
        assert handle.count() == 1
        client.rename_collection("books", "docs")
        assert reason_of(handle.count) == "NO_COLLECTION"


def test_rename_is_visible_to_another_process_at_once_and_after_reopening(tmp_path: Path) -> None:
    with vecdb.open(tmp_path, indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        docs.upsert(["a"], rows(1))
        database.collection("docs")  # Found, and kept in mind.
        in_another_process(tmp_path, "db.rename_collection('docs', 'books')")
        assert reason_of(lambda: database.collection("docs")) == "NO_COLLECTION"
        assert database.collection("books").count() == docs.count() == 1
    with vecdb.open(tmp_path, indexer=False) as database:
        assert [d.name for d in database.list_collections()] == ["books"]
        assert all_ids(database.collection("books")) == ["a"]


def test_name_of_an_interrupted_create_or_drop_is_taken(tmp_path: Path) -> None:
    with vecdb.open(tmp_path, indexer=False) as database:
        database.create_collection("docs", DIM)
        database.create_collection("going", DIM)
        runtime_of(database).catalog.drop("going")  # Only its first step.
        put_catalog_entry(database, "coming", "creating")
        for name in ("going", "coming"):
            with pytest.raises(vecdb.AlreadyExistsError):
                database.rename_collection("docs", name)
            assert reason_of(lambda: database.rename_collection(name, "new")) == "NO_COLLECTION"  # noqa: B023
        # The next drop finishes one that was interrupted.
        database.drop_collection("going")
        database.rename_collection("docs", "going")


def test_command_line_renames_a_collection(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with vecdb.open(tmp_path, indexer=False) as database:
        database.create_collection("docs", DIM)
    assert command_line.run(["rename", "docs", "books", "--data", str(tmp_path)]) == 0
    assert "docs renamed to books" in capsys.readouterr().out
    assert command_line.run(["rename", "docs", "books", "--data", str(tmp_path)]) == 1
    assert "there is no collection 'docs'" in capsys.readouterr().err
