"""Calls of a client that are larger than a message: cut into pieces, with the answers of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.serving import free_port, running_server, running_server_at, wait_until_ready
from tests.waiting import HANG_S
from vecdb import limits
from vecdb.engine.runtime.runtime import Runtime
from vecdb.engine.search.search import Searcher
from vecdb_client import Client
from vecdb_server import service

DIM = 32
LIMIT = limits.MESSAGE_BYTES.minimum
COUNT = 1_500  # Three messages of vectors alone.
VECTORS = np.random.default_rng(7).normal(size=(COUNT, DIM)).astype(np.float32)
METADATA = [{"n": row} if row % 2 else None for row in range(COUNT)]
IDS = [f"row-{row}" for row in range(COUNT)]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data = tmp_path_factory.mktemp("cutting") / "data"
    with running_server(data, indexer=False, message_bytes=LIMIT) as address:
        yield address


@pytest.fixture
def docs(address: str) -> Iterator[Any]:
    with Client(address) as client:
        yield client.create_collection("docs", DIM)
        client.drop_collection("docs")


@pytest.fixture
def filled(docs: Any) -> Any:
    docs.upsert(IDS, VECTORS, METADATA)
    return docs


# ------------------------------------------------------------------------------------------ writes


def test_upsert_larger_than_a_message_writes_all_rows_in_several_batches(docs: Any) -> None:
    receipt = docs.upsert(IDS, VECTORS, METADATA)
    stats = docs.stats()
    assert (receipt.count, receipt.repeated, stats.live_count) == (COUNT, False, COUNT)
    assert receipt.seq == stats.seq >= COUNT * DIM * 4 / LIMIT
    # What fits stays one batch.
    assert docs.upsert(IDS[:100], VECTORS[:100]).seq == stats.seq + 1


@pytest.mark.parametrize("terms", [{"insert_only": True}, {"if_seq": 0}, {"if_seq": 5}])
def test_conditional_write_larger_than_a_message_is_refused_whole(
    docs: Any, terms: dict[str, Any]
) -> None:
    with pytest.raises(vecdb.ResourceExhaustedError, match="must fit one message") as caught:
        docs.upsert(IDS, VECTORS, **terms)
    assert caught.value.reason == "MESSAGE_TOO_LARGE"
    assert docs.stats().seq == 0


def test_request_id_of_a_cut_upsert_gives_the_call_one_effect(docs: Any) -> None:
    first = docs.upsert(IDS, VECTORS, METADATA, request_id="load")
    again = docs.upsert(IDS, VECTORS, METADATA, request_id="load")
    assert again == vecdb.Receipt(first.seq, COUNT, repeated=True)
    assert docs.stats().seq == first.seq
    with pytest.raises(vecdb.FailedPreconditionError) as caught:
        docs.upsert(IDS, -VECTORS, request_id="load")
    assert caught.value.reason == "REQUEST_ID_REUSED"
    with pytest.raises(vecdb.InvalidArgumentError, match="at most 48 bytes, got 60"):
        docs.upsert(IDS, VECTORS, request_id="x" * 60)
    assert docs.stats().seq == first.seq


def test_failed_piece_reports_the_acknowledged_rows(
    docs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Runtime.write

    def fails_late(self: Any, opened: Any, batch: Any) -> Any:
        if IDS[-1].encode() in batch.ids:
            raise vecdb.ResourceExhaustedError("the disk is full", "DISK_FULL")
        return real(self, opened, batch)

    monkeypatch.setattr(Runtime, "write", fails_late)
    with pytest.raises(vecdb.ResourceExhaustedError, match="disk is full") as caught:
        docs.upsert(IDS, VECTORS)
    progress = caught.value.progress
    assert 0 < progress.rows == docs.count() < progress.total == COUNT
    assert progress.seq == docs.stats().seq
    assert f"upsert: {progress.rows} of {COUNT} rows" in caught.value.__notes__[0]
    assert docs.get(IDS[: progress.rows]).missing == []


def test_row_larger_than_a_message_is_named_and_nothing_is_written(docs: Any) -> None:
    metadata: list[Any] = [None] * COUNT
    metadata[COUNT - 2] = {"text": "x" * (LIMIT - 100)}
    with pytest.raises(vecdb.ResourceExhaustedError) as caught:
        docs.upsert(IDS, VECTORS, metadata)
    message = str(caught.value)
    assert f"row {COUNT - 2} (id '{IDS[COUNT - 2]}')" in message and str(LIMIT) in message
    assert (caught.value.reason, docs.stats().seq) == ("MESSAGE_TOO_LARGE", 0)
    with pytest.raises(vecdb.ResourceExhaustedError, match=rf"row {COUNT - 2} \(id") as caught:
        docs.upsert_many(IDS, VECTORS, metadata, batch_rows=200)
    assert 0 < caught.value.progress.rows <= COUNT - 2


def test_bad_row_of_a_cut_upsert_is_refused_before_anything_is_sent(docs: Any) -> None:
    vectors = VECTORS.copy()
    vectors[COUNT - 1, 3] = np.nan
    with pytest.raises(vecdb.InvalidArgumentError, match=f"row {COUNT - 1} "):
        docs.upsert(IDS, vectors)
    assert docs.stats().seq == 0


def test_delete_of_more_ids_than_a_message_holds_deletes_them_all(filled: Any) -> None:
    others = [f"nobody-of-a-long-name-{row}" for row in range(8_000)]
    assert filled.delete([*others, *IDS[10:]], request_id="d").count == COUNT - 10
    assert filled.count() == 10
    assert filled.delete([*others, *IDS[10:]], request_id="d").repeated
    with pytest.raises(vecdb.ResourceExhaustedError, match="must fit one message"):
        filled.delete(others, if_seq=0)


# ------------------------------------------------------------------------------------------- reads


def test_get_larger_than_a_message_comes_whole_and_in_order(filled: Any) -> None:
    asked = [*IDS[::-1], "nobody", *IDS[:3], "no-one"]
    found = filled.get(asked)
    assert found.ids == [*IDS[::-1], *IDS[:3]] and found.missing == ["nobody", "no-one"]
    assert np.array_equal(found.vectors, np.concatenate([VECTORS[::-1], VECTORS[:3]]))
    wanted = [entry or {} for entry in METADATA]
    assert found.metadata == [*wanted[::-1], *wanted[:3]]
    assert found.seq == filled.stats().seq


def test_get_of_rows_with_large_metadata_comes_whole(docs: Any) -> None:
    """Its size is unknown before it is read."""
    metadata = [{"text": "x" * (row * 1_500)} for row in range(40)]
    docs.upsert(IDS[:40], VECTORS[:40], metadata)
    assert docs.get(IDS[:40]).metadata == metadata


def test_search_with_large_metadata_answers_as_each_query_alone(docs: Any) -> None:
    docs.upsert(IDS[:40], VECTORS[:40], [{"text": "x" * (row * 70)} for row in range(40)])
    together = docs.search(VECTORS[:7], k=40, exact=True)
    for query, hits in zip(VECTORS[:7], together, strict=True):
        alone = docs.search(query, k=40, exact=True)
        assert (hits.ids, hits.metadata) == (alone.ids, alone.metadata)


def test_seq_of_a_get_in_pieces_is_safe_for_a_condition(
    filled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write between two pieces: what was read before it must not pass for what is there now."""
    real, seq = service.get_records, filled.stats().seq
    written = []

    def then_writes(store: Any, ids: Any) -> Any:
        records = real(store, ids)
        if not written:
            written.append(filled.upsert([IDS[0], IDS[-1]], -VECTORS[:2]).seq)
        return records

    monkeypatch.setattr(service, "get_records", then_writes)
    found = filled.get(IDS)
    assert (found.seq, written) == (seq, [seq + 1])
    assert np.array_equal(found.vectors[0], VECTORS[0])
    with pytest.raises(vecdb.ConditionFailedError):
        filled.upsert([IDS[0]], VECTORS[:1], if_seq=found.seq)


@pytest.mark.parametrize(
    ("count", "wanted"),
    [
        (COUNT, {"k": 2}),  # The request is too large.
        (40, {"k": 300}),  # The answer is, by ids and metadata.
        (20, {"k": 50, "include_vectors": True}),  # It is, as is known before.
        (3, {"k": 400, "include_vectors": True, "include_metadata": False}),
    ],
)
def test_search_larger_than_a_message_answers_as_each_query_alone(
    filled: Any, count: int, wanted: dict[str, Any]
) -> None:
    queries = VECTORS[:count] + np.float32(0.1)
    together = filled.search(queries, exact=True, **wanted)
    assert len(together) == count
    for row in range(0, count, max(1, count // 10)):
        alone = filled.search(queries[row], exact=True, **wanted)
        hits = together[row]
        assert (hits.ids, hits.metadata) == (alone.ids, alone.metadata)
        assert len(hits) == wanted["k"]
        np.testing.assert_array_equal(hits.distances, alone.distances)
        if wanted.get("include_vectors"):
            np.testing.assert_array_equal(hits.vectors, alone.vectors)


def test_single_query_larger_than_a_message_answers_with_all_that_was_asked_for(
    filled: Any,
) -> None:
    hits, second = filled.search(VECTORS[:2], k=1_000, include_vectors=True)
    found = filled.get(hits.ids[:9])
    np.testing.assert_array_equal(hits.vectors[:9], found.vectors)
    assert hits.metadata[:9] == found.metadata and len(hits) == len(second) == 1_000
    bare = filled.search(VECTORS[0], k=1_000, include_metadata=False)
    assert (hits.ids, list(hits.distances)) == (bare.ids, list(bare.distances))
    alone = filled.search(VECTORS[1], k=1_000, include_vectors=True, include_metadata=False)
    assert alone.raw_metadata is None
    np.testing.assert_array_equal(alone.vectors, second.vectors)


def test_single_query_larger_than_a_message_during_writes_is_refused_with_advice(
    filled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids and rows of different states are not put together."""
    real = Searcher.run

    def then_writes(self: Any, request: Any, deadline: Any) -> Any:
        found = real(self, request, deadline)
        filled.upsert([IDS[0]], VECTORS[:1] + np.float32(found.info.seq))
        return found

    monkeypatch.setattr(Searcher, "run", then_writes)
    with pytest.raises(vecdb.ResourceExhaustedError, match="or no vectors") as caught:
        filled.search(VECTORS[0], k=1_000, include_vectors=True)
    assert caught.value.reason == "MESSAGE_TOO_LARGE"


def test_pieces_of_a_search_share_its_timeout(filled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[float] = []
    real = Searcher.run

    def noting(self: Any, request: Any, deadline: Any) -> Any:
        left.append(deadline.remaining_s())
        return real(self, request, deadline)

    monkeypatch.setattr(Searcher, "run", noting)
    filled.search(VECTORS, k=1, timeout_s=60.0)
    assert len(left) > 2
    assert left == sorted(left, reverse=True) and left[-1] < left[0]


def test_server_started_again_with_a_smaller_limit_is_asked_for_it(tmp_path: Path) -> None:
    """Reads find out by themselves; a write is refused once, and nothing of it was written."""
    listen = f"127.0.0.1:{free_port()}"
    with Client(listen, timeout_s=HANG_S) as client:
        with running_server_at(tmp_path, listen, 4 * LIMIT):
            docs = client.create_collection("docs", DIM)
            assert docs.upsert(IDS[:1_000], VECTORS[:1_000]).seq == 1
        with running_server_at(tmp_path, listen, LIMIT):
            wait_until_ready(client)
            assert docs.get(IDS[:1_000]).missing == []
            with pytest.raises(vecdb.ResourceExhaustedError) as caught:
                docs.upsert(IDS[:1_000], -VECTORS[:1_000])
            assert (caught.value.reason, docs.stats().seq) == ("MESSAGE_TOO_LARGE", 1)
            assert docs.upsert(IDS[:1_000], -VECTORS[:1_000]).count == 1_000
