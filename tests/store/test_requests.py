"""Writes with a request id: repeated within the window, they have one effect."""

from __future__ import annotations

import hashlib
import os
import signal
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.places import override
from tests.serving import REQUEST_BYTES_MIN, ServerProcess, free_port, held, running_server
from tests.waiting import HANG_S, NEVER_S
from vecdb import limits
from vecdb.engine.store import clock as store_clock
from vecdb.engine.store import layout, requests
from vecdb.engine.store.batch import make_batch, make_write_options
from vecdb.engine.store.digest import batch_digest
from vecdb.engine.system import failpoints
from vecdb.engine.testing import opened_of
from vecdb_client import Client
from vecdb_client.testing import calls_of
from vecdb_proto import vecdb_pb2 as wire

DIM = 4


def rows(count: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


@pytest.fixture
def docs(database: Any) -> Any:
    return database.create_collection("docs", DIM)


# ------------------------------------------------------------------------ embedded and remote alike


def test_repeated_write_has_one_effect(surface: Any) -> None:
    docs = surface.create_collection("docs", DIM)
    metadata = [{"n": 1}, None]
    first = docs.upsert(["a", "b"], rows(2), metadata, request_id="one")
    assert first == vecdb.Receipt(1, 2)
    newer = rows(1, seed=6)
    docs.upsert(["a"], newer)
    again = docs.upsert(["a", "b"], rows(2), metadata, request_id="one")
    assert again == vecdb.Receipt(1, 2, repeated=True)
    # Repeating the first write does not undo later ones.
    assert docs.get(["a"]).vectors.tobytes() == newer.tobytes()
    assert docs.delete(["b", "nobody"], request_id="two") == vecdb.Receipt(3, 1)
    docs.upsert(["b"], rows(1))
    assert docs.delete(["nobody", "b"], request_id="two") == vecdb.Receipt(3, 1, repeated=True)
    assert (docs.count(), docs.stats().seq) == (2, 4)


def test_request_id_reused_for_another_batch_is_refused(surface: Any) -> None:
    docs = surface.create_collection("docs", DIM)
    docs.upsert(["a", "b"], rows(2), [{"n": 1}, None], request_id="used")
    for call in (
        lambda: docs.upsert(["b", "a"], rows(2), [{"n": 1}, None], request_id="used"),
        lambda: docs.upsert(["a", "c"], rows(2), [{"n": 1}, None], request_id="used"),
        lambda: docs.upsert(["a", "b"], rows(2, 6), [{"n": 1}, None], request_id="used"),
        lambda: docs.upsert(["a", "b"], rows(2), [{"n": 2}, None], request_id="used"),
        lambda: docs.upsert(["a", "b"], rows(2), [None, {"n": 1}], request_id="used"),
        lambda: docs.upsert(["a", "b"], rows(2), request_id="used"),
        lambda: docs.upsert(["a", "b"], rows(2), [{"n": 1}, None], if_seq=1, request_id="used"),
        lambda: docs.delete(["a", "b"], request_id="used"),
    ):
        with pytest.raises(vecdb.FailedPreconditionError, match=r"'used'.*seq 1") as caught:
            call()
        assert caught.value.reason == "REQUEST_ID_REUSED"
    assert (docs.count(), docs.stats().seq) == (2, 1)
    assert docs.upsert(["a"], rows(1), request_id="free").seq == 2


def test_equal_batches_in_other_types_are_recognised(surface: Any) -> None:
    docs = surface.create_collection("docs", DIM)
    docs.upsert([1, "2"], rows(2), request_id="r")
    assert docs.upsert(["1", 2], rows(2).tolist(), [None, {}], request_id="r").repeated
    docs.delete([2, 1, 1], request_id="d")
    assert docs.delete(["1", "2"], request_id="d").repeated


@pytest.mark.parametrize(
    ("request_id", "reason", "said"),
    [
        ("", "OUT_OF_RANGE", "got 0"),
        ("ž" * 33, "OUT_OF_RANGE", "at most 64 bytes, got 66"),
        (7, "BAD_REQUEST_ID", "got 7"),
        ("\ud800", "BAD_REQUEST_ID", "Unicode"),
    ],
)
def test_invalid_request_id_is_refused(
    surface: Any, request_id: Any, reason: str, said: str
) -> None:
    docs = surface.create_collection("docs", DIM)
    for call in (
        lambda: docs.upsert(["a"], rows(1), request_id=request_id),
        lambda: docs.delete(["a"], request_id=request_id),
    ):
        with pytest.raises(vecdb.InvalidArgumentError, match=said) as caught:
            call()
        assert caught.value.reason == reason
    assert docs.stats().seq == 0
    assert docs.upsert(["a"], rows(1), request_id="ž" * 32).seq == 1


def test_upsert_many_repeated_has_one_effect(surface: Any) -> None:
    docs = surface.create_collection("docs", DIM)
    vectors = rows(95)
    broken = vectors.copy()
    broken[57, 0] = np.nan
    with pytest.raises(vecdb.InvalidArgumentError):
        docs.upsert_many(range(95), broken, batch_rows=10, request_id="load")
    assert (docs.count(), docs.stats().seq) == (50, 5)
    docs.delete(["3"])
    done = docs.upsert_many(range(95), vectors, batch_rows=10, request_id="load")
    # The batches applied before were not written again, or "3" would exist.
    assert (done.rows, docs.count(), docs.stats().seq) == (95, 94, 11)
    docs.upsert_many(range(95), vectors, batch_rows=10, request_id="load")
    assert (docs.count(), docs.stats().seq) == (94, 11)
    with pytest.raises(vecdb.FailedPreconditionError) as caught:
        docs.upsert_many(range(95), vectors, batch_rows=20, request_id="load")
    assert caught.value.reason == "REQUEST_ID_REUSED"
    with pytest.raises(vecdb.InvalidArgumentError, match="at most 48 bytes, got 49"):
        docs.upsert_many(range(95), vectors, request_id="x" * 49)
    assert docs.stats().seq == 11


# ------------------------------------------------------------------------------------- in the store


def test_refused_write_leaves_its_request_id_free(docs: Any) -> None:
    docs.upsert(["a"], rows(1))
    with pytest.raises(vecdb.ConditionFailedError):
        docs.upsert(["a"], rows(1, 6), insert_only=True, request_id="r")
    docs.delete(["a"])
    assert docs.upsert(["a"], rows(1, 6), insert_only=True, request_id="r") == vecdb.Receipt(3, 1)
    # The effect of the first attempt does not make the condition fail.
    assert docs.upsert(["a"], rows(1, 6), insert_only=True, request_id="r").repeated


def test_two_equal_writes_in_one_commit_group_have_one_effect(docs: Any) -> None:
    store = opened_of(docs).store
    batch = make_batch(["a"], rows(1), None, make_write_options(False, None, "r"))
    receipts = store.environment.transact(lambda t: [store.apply(t, batch) for _ in range(3)])
    assert [r.repeated for r in receipts] == [False, True, True]
    assert {r.seq for r in receipts} == {store.current_state().seq} == {1}


def test_many_equal_writes_at_once_have_one_effect(surface: Any) -> None:
    docs = surface.create_collection("docs", DIM)
    with ThreadPoolExecutor(8) as pool:
        write = lambda _: docs.upsert(["a", "b"], rows(2), request_id="r")  # noqa: E731
        receipts = list(pool.map(write, range(40)))
    assert sum(not r.repeated for r in receipts) == 1
    assert {r.seq for r in receipts} == {1} == {docs.stats().seq}


def test_request_ids_are_known_after_reopening(tmp_path: Path) -> None:
    with vecdb.open(tmp_path, indexer=False) as database:
        database.create_collection("docs", DIM).upsert(["a"], rows(1), request_id="r")
    with vecdb.open(tmp_path, indexer=False) as database:
        docs = database.collection("docs")
        assert docs.upsert(["a"], rows(1), request_id="r") == vecdb.Receipt(1, 1, repeated=True)


@pytest.mark.parametrize(("where", "applied"), [("commit.begin", False), ("commit.end", True)])
@pytest.mark.parametrize("reopened", [False, True])
def test_repeated_call_after_an_io_error_settles_the_outcome(
    tmp_path: Path, where: str, applied: bool, reopened: bool
) -> None:
    with vecdb.open(tmp_path, indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        failpoints.arm(f"{where}=EIO")
        with pytest.raises(vecdb.VecdbError) as caught:
            docs.upsert(["a"], rows(1), request_id="r")
        assert isinstance(caught.value, vecdb.OutcomeUnknownError) is applied
        failpoints.arm("")
        if not reopened:
            assert docs.upsert(["a"], rows(1), request_id="r").repeated is applied
            assert docs.stats().seq == 1
    with vecdb.open(tmp_path, indexer=False) as database:
        docs = database.collection("docs")
        assert docs.upsert(["a"], rows(1), request_id="r").repeated is (applied or not reopened)
        assert (docs.count(), docs.stats().seq) == (1, 1)


def entries(docs: Any) -> int:
    store = opened_of(docs).store
    with store.environment.read() as transaction:
        number: int = transaction.stat(store.environment.database(b"requests"))["entries"]
    return number


def test_expired_requests_are_removed_a_few_per_write(
    docs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=10**18)
    monkeypatch.setattr(store_clock, "boot_time_ns", lambda: clock.now)
    second, window = 10**9, int(limits.REQUEST_WINDOW_S * 1e9)
    assert window == 24 * 3600 * second
    vectors = rows(1)
    for i in range(40):
        docs.upsert([f"a{i}"], vectors, request_id=f"old-{i}")
    clock.now += window
    assert docs.upsert(
        ["a0"], vectors, request_id="old-0"
    ).repeated  # In the last nanosecond of the window.
    clock.now += 1
    # An expired id may be used for any write, and its old entry does not come back.
    assert not docs.upsert(["other"], vectors, request_id="old-39").repeated
    assert entries(docs) == 2 * (40 - requests.REMOVED_AT_ONCE_MAX)
    assert docs.upsert(["other"], vectors, request_id="old-39").repeated
    docs.upsert(["b"], vectors)
    assert entries(docs) == 2 * (40 - requests.REMOVED_AT_ONCE_MAX)
    docs.upsert(["b"], vectors, request_id="new-1")
    docs.upsert(["b"], vectors, request_id="new-2")
    assert entries(docs) == 2 * 3
    assert docs.upsert(["other"], vectors, request_id="old-39").repeated


def age_key(docs: Any, request_id: str) -> bytes:
    store = opened_of(docs).store
    with store.environment.read() as transaction:
        value = transaction.get(request_id.encode(), db=store.environment.database(b"requests"))
        return layout.request_age_key(layout.unpack_request(request_id.encode(), value).seq)


def flip(docs: Any, key: bytes) -> None:
    """Flip one bit of an entry in the database of requests."""
    environment = opened_of(docs).store.environment

    def write(transaction: Any) -> None:
        database = environment.database(b"requests")
        value = bytearray(transaction.get(key, db=database))
        value[1] ^= 0x10
        transaction.put(key, bytes(value), db=database)

    environment.transact(write)


def test_damaged_request_is_removed_when_a_younger_one_expires(
    docs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=10**18)
    monkeypatch.setattr(store_clock, "boot_time_ns", lambda: clock.now)
    window, vectors = int(limits.REQUEST_WINDOW_S * 1e9), rows(1)
    for name in ("a", "b", "c"):
        docs.upsert([name], vectors, request_id=name)
        clock.now += 1
    flip(docs, age_key(docs, "a"))
    flip(docs, b"b")
    # Neither has a readable time, and both are the oldest: all other ids still work.
    for name in ("d", "e"):
        assert not docs.upsert([name], vectors, request_id=name).repeated
    assert entries(docs) == 2 * 5
    # The damaged age entry of "a" does not affect a repeated write of "a".
    assert docs.upsert(["a"], vectors, request_id="a").repeated
    docs.delete(["b"])
    for _ in range(2):
        with pytest.raises(vecdb.DataLossError, match="request b'b'"):
            docs.upsert(["b"], vectors, request_id="b")
    assert docs.get(["b"]).missing == ["b"]
    clock.now += window - 1  # The younger one, "c", is still in its window.
    docs.upsert(["f"], vectors, request_id="f")
    assert docs.upsert(["c"], vectors, request_id="c").repeated
    with pytest.raises(vecdb.DataLossError):
        docs.upsert(["b"], vectors, request_id="b")
    clock.now += 1
    docs.upsert(["g"], vectors, request_id="g")
    assert not docs.upsert(["b"], vectors, request_id="b").repeated
    assert not docs.upsert(["a"], vectors, request_id="a").repeated


def test_age_entry_without_request_does_not_remove_damaged_ones(docs: Any) -> None:
    for name in ("a", "b"):
        docs.upsert([name], rows(1), request_id=name)
    environment = opened_of(docs).store.environment
    environment.transact(lambda t: t.delete(b"b", db=environment.database(b"requests")))
    flip(docs, b"a")
    docs.upsert(["c"], rows(1), request_id="c")
    with pytest.raises(vecdb.DataLossError):
        docs.upsert(["a"], rows(1), request_id="a")


def test_compaction_keeps_damaged_requests_and_repairs_their_ages(tmp_path: Path) -> None:
    vectors = rows(1)
    with vecdb.open(tmp_path, indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        for name in ("a", "b", "c", "d"):
            docs.upsert([name], vectors, request_id=name)
        ages = [age_key(docs, name) for name in ("a", "c", "d")]
        flip(docs, ages[0])
        flip(docs, b"b")
        flip(docs, b"c")
        flip(docs, ages[1])
        environment = opened_of(docs).store.environment
        environment.transact(lambda t: t.delete(ages[2], db=environment.database(b"requests")))
    vecdb.compact(tmp_path)
    said = [problem.detail for problem in vecdb.check(tmp_path).problems]
    assert len(said) == 1 and "2 values" in said[0] and "'b'" in said[0], said
    with vecdb.open(tmp_path, indexer=False) as database:
        docs = database.collection("docs")
        # Both entries of "c" are damaged: only the one that refuses its writes is kept.
        assert entries(docs) == 2 * 4 - 1
        for name in ("a", "d"):
            assert docs.upsert([name], vectors, request_id=name).repeated
        for name in ("b", "c"):
            with pytest.raises(vecdb.DataLossError):
                docs.upsert([name], vectors, request_id=name)
        assert not docs.upsert(["e"], vectors, request_id="e").repeated


def test_batch_digest_matches_its_documented_format() -> None:
    """Digests are stored: a change of the computation would refuse every repeated write."""
    ids, vectors = [b"a", "ž".encode()], np.arange(4, dtype=np.float32).reshape(2, 2)
    metadata = [b'{"n":1}', b""]
    texts = struct.pack("<II", 1, 2) + b"a\xc5\xbe"
    upsert = (
        *(b"upsert", bytes([1, 1]), struct.pack("<QI", 7, 2), bytes([1]), texts),
        *(vectors.astype("<f4").tobytes(), struct.pack("<II", 7, 0), b'{"n":1}'),
    )
    digest = hashlib.sha256(b"".join(upsert)).digest()
    assert batch_digest(b"upsert", ids, vectors, metadata, True, 7) == digest
    delete = (b"delete", bytes([0, 0]), struct.pack("<QI", 0, 2), bytes([0]), texts)
    digest = hashlib.sha256(b"".join(delete)).digest()
    assert batch_digest(b"delete", ids, None, None, False, None) == digest
    plain = batch_digest(b"upsert", ids, vectors, None, False, None)
    assert plain == batch_digest(b"upsert", ids, vectors, [b"", b""], False, None)
    assert plain != batch_digest(b"upsert", [b"a\xc5", b"\xbe"], vectors, None, False, None)


# ------------------------------------------------------------------------------------ over the wire


def test_client_settles_a_write_after_the_server_was_killed(tmp_path: Path) -> None:
    """The server is killed between commit and answer and restarted: the write has one effect."""
    data, listen = tmp_path / "data", f"127.0.0.1:{free_port()}"
    with vecdb.open(data, indexer=False) as database:
        database.create_collection("docs", DIM)
    crash = "from vecdb.engine.system import failpoints; failpoints.arm('commit.end=crash')"
    with Client(listen, timeout_s=HANG_S) as client, ThreadPoolExecutor(1) as pool:
        with ServerProcess(data, listen, before=crash) as server:
            assert server.address == listen
            docs = client.collection("docs")
            outcome = pool.submit(docs.upsert, ["a"], rows(1), request_id="r")
            assert server.wait() == -signal.SIGKILL
        assert not outcome.done()
        with ServerProcess(data, listen):
            assert outcome.result(HANG_S) == vecdb.Receipt(1, 1, repeated=True)
            assert docs.upsert(["a"], rows(1), request_id="r").repeated
            assert (docs.count(), docs.stats().seq) == (1, 1)


@pytest.mark.slow
def test_client_resends_a_write_that_a_killed_server_never_read(tmp_path: Path) -> None:
    data, listen = tmp_path / "data", f"127.0.0.1:{free_port()}"
    vectors = rows(3000)
    with Client(listen, timeout_s=HANG_S) as client, ThreadPoolExecutor(1) as pool:
        with ServerProcess(data, listen) as server:
            assert server.address == listen
            docs = client.create_collection("docs", DIM)
            calls_of(client).server_message_bytes()
            server.stop()
            outcome = pool.submit(
                docs.upsert_many, range(3000), vectors, batch_rows=1000, request_id="r"
            )
            server.wait_for_unread(vectors[:2000].nbytes)  # Two parts are sent at a time.
        with ServerProcess(data, listen):
            assert outcome.result(HANG_S).rows == 3000
            assert (docs.count(), docs.stats().seq) == (3000, 3)


@pytest.mark.slow
def test_lost_response_without_a_server_is_an_unknown_outcome(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server, Client(server.address) as client:
        docs = client.create_collection("docs", DIM)
        server.stop()
        calls_of(client).timeout_s = 5.0
        with ThreadPoolExecutor(1) as pool:
            outcome = pool.submit(docs.upsert, ["b"], rows(1), request_id="r")
            server.wait_for_unread(REQUEST_BYTES_MIN)
            os.kill(server.pid, signal.SIGKILL)
            error = outcome.exception(HANG_S)
    # Not the last attempt's error: that attempt wrote nothing, but the first may have.
    assert type(error) is vecdb.OutcomeUnknownError
    with Client(f"127.0.0.1:{free_port()}", timeout_s=NEVER_S) as client:
        # If no response was lost, the outcome is known and nothing is retried.
        docs = type(docs)(calls_of(client), "docs", docs.config, "")
        with pytest.raises(vecdb.UnavailableError):
            docs.upsert(["b"], rows(1), request_id="r")


LOST = vecdb.OutcomeUnknownError("lost", "OUTCOME_UNKNOWN")
AWAY = [vecdb.UnavailableError("", r) for r in ("CONNECTION", "STARTING", "DRAINING")]
BUSY = vecdb.ResourceExhaustedError("", "TOO_MANY_WRITES")
FULL = vecdb.ResourceExhaustedError("", "DISK_FULL")
REFUSED = vecdb.ConditionFailedError("", "CONDITION_EXISTS")
CLOSED = vecdb.FailedPreconditionError("", "CLOSED")
RECEIPT = wire.UpsertResponse(seq=3)


@pytest.mark.parametrize(
    ("request_id", "answers", "expected"),
    [
        ("", [BUSY, RECEIPT], RECEIPT),
        ("", [BUSY, LOST], LOST),
        *(("", [error], error) for error in (LOST, FULL, REFUSED, *AWAY)),
        *(("r", [error], error) for error in (FULL, REFUSED, *AWAY)),
        ("r", [LOST, *AWAY, BUSY, LOST, RECEIPT], RECEIPT),
        ("r", [LOST, REFUSED], REFUSED),  # An applied write would have returned its receipt.
        ("r", [LOST, FULL], LOST),
        ("r", [LOST, CLOSED], LOST),
        ("r", [CLOSED], CLOSED),
        ("r", [BUSY, LOST, AWAY[0], vecdb.UnavailableError("", "STORE_FAILED")], LOST),
    ],
)
def test_client_retries_only_outcomes_that_are_safe(
    monkeypatch: pytest.MonkeyPatch, request_id: str, answers: list[Any], expected: Any
) -> None:
    left = list(answers)

    def send(self: Any, *arguments: Any, **named: Any) -> Any:
        answer = left.pop(0)
        if isinstance(answer, vecdb.VecdbError):
            raise answer
        return answer

    override(monkeypatch, "send_call", send)
    with Client("127.0.0.1:1") as client:
        request = wire.UpsertRequest(request_id=request_id)
        try:
            outcome = calls_of(client).write("Upsert", request)
        except vecdb.VecdbError as error:
            outcome = error
    assert outcome is expected
    assert left == []


def test_client_does_not_retry_after_its_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_server(tmp_path / "data", indexer=False) as address, Client(address) as client:
        docs = client.create_collection("docs", DIM)
        entered, release = held(monkeypatch, "write")
        calls_of(client).timeout_s = 0.3
        with pytest.raises(vecdb.DeadlineExceededError):
            docs.upsert(["a"], rows(1), request_id="r")
        assert entered.is_set()
        release.set()
        calls_of(client).timeout_s = 10
        # One of the two attempts was applied, and the other got its receipt.
        assert docs.upsert(["a"], rows(1), request_id="r").seq == 1
        assert docs.stats().seq == 1


def test_parts_of_a_large_batch_have_their_own_request_ids(tmp_path: Path) -> None:
    """A batch larger than a message is always split in the same way."""
    least = limits.MESSAGE_BYTES.minimum
    with (
        running_server(tmp_path / "data", indexer=False, message_bytes=least) as address,
        Client(address) as client,
    ):
        docs = client.create_collection("wide", 1_000)
        vectors = np.random.default_rng(1).normal(size=(60, 1_000)).astype(np.float32)
        metadata = [{"text": "x" * (40_000 if i == 30 else 10)} for i in range(60)]
        for _ in range(2):
            done = docs.upsert_many(range(60), vectors, metadata, batch_rows=60, request_id="r")
            assert (done.rows, docs.count()) == (60, 60)
            seq = done.seq
        assert docs.stats().seq == seq
        docs.delete(["0", "59"])
        docs.upsert_many(range(60), vectors, metadata, batch_rows=60, request_id="r")
        assert docs.count() == 58


def test_request_id_sent_to_a_server_is_known_embedded(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", indexer=False) as address, Client(address) as client:
        docs = client.create_collection("docs", DIM)
        docs.upsert(["a"], rows(1), [{"text": "ž", "n": 1.5}], request_id="r")
        with vecdb.open(tmp_path / "data") as database:
            same = database.collection("docs")
            again = same.upsert(["a"], rows(1), [{"text": "ž", "n": 1.5}], request_id="r")
            assert again.repeated
