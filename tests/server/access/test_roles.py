"""What tokens permit: roles, scopes, and who gets no answer at all."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import vecdb
from tests.server.raw_calls import Wire, creation, search, upsert
from tests.serving import running_server
from tests.waiting import HANG_S
from vecdb_proto import vecdb_pb2 as wire
from vecdb_server.access.roles import REQUIRED_ROLE, Role
from vecdb_server.access.tokens import Tokens
from vecdb_server.process import Server

METHODS = {method.name: method for method in wire.DESCRIPTOR.services_by_name["Vecdb"].methods}
ROWS = np.eye(3, 4, dtype=np.float32)


def outcome(raw: Wire, method: str, request: Any, token: str | None) -> str:
    """The reason why a call is refused, "" if it was answered."""
    metadata = None if token is None else (("authorization", f"Bearer {token}"),)
    if METHODS[method].client_streaming:
        request = iter([request])
    try:
        answer = getattr(raw.stub, method)(request, timeout=HANG_S, metadata=metadata)
        answers = list(answer) if METHODS[method].server_streaming else [answer]
    except grpc.RpcError as error:
        return dict(error.trailing_metadata()).get("vecdb-reason", error.code().name)
    for each in answers:
        if method == "SearchStream" and each.HasField("failure"):
            return str(each.failure.reason)
    return ""


def request_of(method: str, collection: str) -> Any:
    """A request of a method for a collection; most lack what they need beyond that."""
    request = getattr(wire, METHODS[method].input_type.name)()
    if method == "Import":
        request.begin.CopyFrom(
            wire.ImportBegin(collection=collection, kind=wire.ImportKind.IMPORT_KIND_FAISS)
        )
    elif hasattr(request, "collection"):
        request.collection = collection
        if method == "CreateCollection":
            request.CopyFrom(creation(collection))
        elif method == "RenameCollection":
            request.new_name = "docs-2"
    return request


@pytest.fixture
def raw(tmp_path: Path, tokens: Path) -> Iterator[Callable[[], Wire]]:
    """Starts a server with the tokens made so far."""
    started, stops = [], []

    def start() -> Wire:
        server = running_server(tmp_path / "data", indexer=False, tokens=tokens)
        stops.append(server)
        started.append(Wire(server.__enter__()))
        return started[-1]

    yield start
    for wire_ in started:
        wire_.channel.close()
    for server in stops:
        server.__exit__(None, None, None)


def test_every_rpc_has_a_role() -> None:
    assert set(REQUIRED_ROLE) == set(METHODS)


def test_each_role_permits_its_rpcs_and_no_more(
    raw: Callable[[], Wire], new_token: Callable[..., str]
) -> None:
    texts = {role: new_token(role.title, role) for role in Role}
    server = raw()
    assert server.health() == 1  # The health service asks for no token.
    for method, needed in REQUIRED_ROLE.items():
        request = request_of(method, "nothing")
        assert outcome(server, method, request, None) == "NO_TOKEN"
        assert outcome(server, method, request, "vecdb_unknown") == "UNKNOWN_TOKEN"
        for role, text in texts.items():
            found = outcome(server, method, request, text)
            assert (found == "ROLE") == (role < needed), (method, role, found)
            assert found not in ("NO_TOKEN", "UNKNOWN_TOKEN", "SCOPE", "INTERNAL")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        *(("vecdb_x", "NO_TOKEN"), ("Basic abc", "NO_TOKEN"), ("Bearer", "NO_TOKEN")),
        *(("", "NO_TOKEN"), ("bearer abc", "UNKNOWN_TOKEN")),
    ],
)
def test_other_headers_are_no_token(
    raw: Callable[[], Wire], new_token: Callable[..., str], header: str, expected: str
) -> None:
    new_token("a", Role.READER)
    request, metadata = wire.ServerInfoRequest(), (("authorization", header),)
    code, reason, _ = raw().failure("ServerInfo", request, metadata=metadata)
    assert (code, reason) == (grpc.StatusCode.UNAUTHENTICATED, expected)


def test_scope_permits_collections_by_prefix(
    raw: Callable[[], Wire], new_token: Callable[..., str]
) -> None:
    admin, scoped = new_token("all", Role.ADMIN), new_token("docs", Role.ADMIN, "docs-")
    server = raw()
    ids = {}
    for name in ("docs-1", "other"):
        assert outcome(server, "CreateCollection", creation(name), admin) == ""
        assert outcome(server, "Upsert", upsert(collection=name), admin) == ""
        request, metadata = (
            request_of("GetCollection", name),
            (("authorization", f"Bearer {admin}"),),
        )
        found = server.stub.GetCollection(request, metadata=metadata)
        ids[name] = found.collection.id
    open_to_all = {"ServerInfo", "ListCollections"}
    for method in set(METHODS) - open_to_all:
        request = request_of(method, "other")
        assert outcome(server, method, request, scoped) == "SCOPE", method
        if hasattr(request, "collection_id"):
            request.collection = "docs-1"
            request.collection_id = ids["other"]
            assert outcome(server, method, request, scoped) == "SCOPE", method
    # Whether the collection exists makes no difference.
    assert outcome(server, "Count", request_of("Count", "nothing"), scoped) == "SCOPE"
    assert outcome(server, "Search", search(collection="docs-1"), scoped) == ""
    assert outcome(server, "SearchStream", search(collection="docs-1"), scoped) == ""
    away = wire.RenameCollectionRequest(collection="docs-1", new_name="other-2")
    assert outcome(server, "RenameCollection", away, scoped) == "SCOPE"
    metadata = (("authorization", f"Bearer {scoped}"),)
    listed = server.stub.ListCollections(wire.ListCollectionsRequest(), metadata=metadata)
    assert [each.name for each in listed.collections] == ["docs-1"]
    # A handle keeps its rights with the name: renamed out of the scope, it is out of reach.
    away.new_name = "moved"
    assert outcome(server, "RenameCollection", away, admin) == ""
    by_id = wire.CountRequest(collection="docs-1", collection_id=ids["docs-1"])
    assert outcome(server, "Count", by_id, scoped) == "SCOPE"


def test_client_with_a_token(tmp_path: Path, tokens: Path, new_token: Callable[..., str]) -> None:
    admin, reader = new_token("admin", Role.ADMIN), new_token("reader", Role.READER)
    with running_server(tmp_path / "data", indexer=False, tokens=tokens) as address:
        with vecdb.connect(address, token=admin) as client:
            docs = client.create_collection("docs", 4)
            docs.upsert_many(["0", "1", "2"], ROWS, request_id="load")
        with vecdb.connect(address, token=reader) as client:
            docs = client.collection("docs")
            for _ in range(3):  # By calls, then by a stream.
                assert docs.search(ROWS[1], k=1).ids == ["1"]
            with pytest.raises(vecdb.PermissionDeniedError, match="role writer") as caught:
                docs.delete(["1"])
            assert caught.value.reason == "ROLE" and docs.count() == 3
        with vecdb.connect(address) as client, pytest.raises(vecdb.UnauthenticatedError) as missing:
            client.list_collections()
        assert missing.value.reason == "NO_TOKEN"


def test_removed_token_is_refused_once_the_file_is_read_again(
    tmp_path: Path, tokens: Path, new_token: Callable[..., str]
) -> None:
    new_token("admin", Role.ADMIN)
    reader = new_token("reader", Role.READER)
    server = Server(tmp_path / "data", "127.0.0.1:0", indexer=False, tokens=tokens)
    server.start()
    try:
        with vecdb.connect(server.address, token=reader) as client:
            client.list_collections()
            Tokens.read(tokens).remove("reader").write(tokens)
            client.list_collections()  # The server has not read it again.
            server.reload()
            with pytest.raises(vecdb.UnauthenticatedError) as caught:
                client.list_collections()
            assert caught.value.reason == "UNKNOWN_TOKEN"
        tokens.write_text("{")
        assert [error.reason for error in server.reload()] == ["BAD_TOKEN_FILE"]
        with vecdb.connect(server.address) as client, pytest.raises(vecdb.UnauthenticatedError):
            client.list_collections()  # What was read before stays in use.
    finally:
        server.drain(0)


def test_searches_of_an_open_stream_need_a_valid_token(
    tmp_path: Path, tokens: Path, new_token: Callable[..., str]
) -> None:
    admin, reader = new_token("admin", Role.ADMIN), new_token("reader", Role.READER)
    server = Server(tmp_path / "data", "127.0.0.1:0", indexer=False, tokens=tokens)
    server.start()
    try:
        with vecdb.connect(server.address, token=admin) as client:
            client.create_collection("docs", 4).upsert(["a"], ROWS[:1])
        with vecdb.connect(server.address, token=reader) as client:
            docs = client.collection("docs")
            for _ in range(3):
                assert docs.search(ROWS[0], k=1).ids == ["a"]
            Tokens.read(tokens).remove("reader").write(tokens)
            server.reload()
            with pytest.raises(vecdb.UnauthenticatedError):
                docs.search(ROWS[0], k=1)
    finally:
        server.drain(0)


def test_denied_and_admin_calls_are_logged_without_the_text_of_the_token(
    raw: Callable[[], Wire], new_token: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    admin, reader = new_token("ops", Role.ADMIN, "docs"), new_token("shop", Role.READER)
    server = raw()
    caplog.set_level(logging.INFO, "vecdb.server")
    outcome(server, "CreateCollection", creation("docs"), admin)
    outcome(server, "CreateCollection", creation("docs"), reader)
    outcome(server, "Count", request_of("Count", "docs"), reader)
    outcome(server, "Count", request_of("Count", "other"), admin)
    outcome(server, "Export", request_of("Export", "other"), admin)
    outcome(server, "DropCollection", request_of("DropCollection", "other"), admin)
    outcome(server, "RenameCollection", request_of("RenameCollection", "docs-1"), admin)
    outcome(server, "Count", request_of("Count", "docs"), None)
    lines = [record.getMessage().split(" peer=")[0] for record in caplog.records]
    assert [line for line in lines if line.startswith(("admin", "denied"))] == [
        "admin call=CreateCollection token=ops outcome=ok collection=docs",
        "denied call=CreateCollection token=shop reason=ROLE",
        "denied call=Count token=ops reason=SCOPE collection=other",
        "denied call=Export token=ops reason=SCOPE collection=other",
        "denied call=DropCollection token=ops reason=SCOPE collection=other",
        "admin call=RenameCollection token=ops outcome=NO_COLLECTION collection=docs-1,docs-2",
        "denied call=Count token=- reason=NO_TOKEN",
    ]
    assert all("peer=" in r.getMessage() for r in caplog.records if "token=" in r.getMessage())
    assert admin not in caplog.text and reader not in caplog.text


def test_removed_token_ends_an_import(
    tmp_path: Path, tokens: Path, new_token: Callable[..., str]
) -> None:
    admin, other = new_token("admin", Role.ADMIN), new_token("other", Role.ADMIN)
    with vecdb.open(tmp_path / "source", indexer=False) as database:
        docs = database.create_collection("docs", 4, metric="euclidean")
        docs.upsert(list("abc"), ROWS)
        docs.export_faiss(tmp_path / "docs.faiss", flat=True)
    data = (tmp_path / "docs.faiss").read_bytes()
    server = Server(tmp_path / "data", "127.0.0.1:0", indexer=False, tokens=tokens)
    server.start()
    raw_ = Wire(server.address)

    def messages() -> Iterator[wire.ImportRequest]:
        begin = wire.ImportBegin(
            collection="docs", kind=wire.ImportKind.IMPORT_KIND_FAISS, bytes=len(data)
        )
        yield wire.ImportRequest(begin=begin)
        Tokens.read(tokens).remove("admin").write(tokens)
        assert server.reload() == []
        yield wire.ImportRequest(chunk=data)

    try:
        with pytest.raises(grpc.RpcError) as caught:
            raw_.stub.Import(
                messages(), timeout=HANG_S, metadata=(("authorization", f"Bearer {admin}"),)
            )
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with vecdb.connect(server.address, token=other) as client:
            assert client.list_collections() == []
    finally:
        raw_.channel.close()
        server.drain(0)


def test_refused_calls_fill_no_log(
    raw: Callable[[], Wire], new_token: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    new_token("a", Role.READER)
    server = raw()
    caplog.set_level(logging.INFO, "vecdb.server")
    count, began = 600, time.monotonic()
    for _ in range(count):
        assert outcome(server, "ServerInfo", wire.ServerInfoRequest(), None) == "NO_TOKEN"
    seconds = int(time.monotonic() - began) + 2
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("denied")]
    assert 0 < len(lines) <= 21 * seconds
    told = sum(int(line.split("more=")[1]) for line in lines if "more=" in line)
    assert told + len([line for line in lines if "more=" not in line]) <= count
