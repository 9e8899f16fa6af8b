"""Searches over streams: the same answers and errors as calls, and calls where no stream is."""

from __future__ import annotations

import gc
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.places import override
from tests.serving import held, running_server
from tests.waiting import HANG_S, eventually
from vecdb_client import Client
from vecdb_client.streams import SearchStreams
from vecdb_server import admission, transport

VECTORS = np.random.default_rng(5).normal(size=(20, 8)).astype(np.float32)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with running_server(tmp_path / "data", indexer=False) as address:
        yield address


@pytest.fixture
def docs(address: str) -> Iterator[Any]:
    with Client(address) as client:
        docs = client.create_collection("docs", VECTORS.shape[1])
        docs.upsert(range(len(VECTORS)), VECTORS)
        yield docs


@contextmanager
def one_place_for_two(data: Path) -> Iterator[tuple[Any, Any]]:
    """A collection as two clients have it, whose server has one thread for a stream."""
    with (
        running_server(data, threads=4) as address,
        Client(address) as first,
        Client(address) as second,
    ):
        docs = first.create_collection("docs", VECTORS.shape[1])
        docs.upsert(range(len(VECTORS)), VECTORS)
        yield docs, second.collection("docs")


def _served_by(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which rpc each search goes by, "Search" or "SearchStream"."""
    ways: list[str] = []
    real = SearchStreams.ask

    def ask(self: Any, request: Any, timeout_s: Any) -> Any:
        answer = real(self, request, timeout_s)
        ways.append("Search" if answer is None else "SearchStream")
        return answer

    monkeypatch.setattr(SearchStreams, "ask", ask)
    return ways


def test_searches_after_the_first_share_a_stream(
    docs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = _served_by(monkeypatch)
    answers = [docs.search(VECTORS[0], k=3) for _ in range(4)]
    assert ways == ["Search"] + 3 * ["SearchStream"]
    assert all(a.ids == answers[0].ids for a in answers)
    assert all((a.distances == answers[0].distances).all() for a in answers)


def test_a_search_that_fails_leaves_its_stream_open(
    docs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs.search(VECTORS[0], k=3)
    docs.search(VECTORS[0], k=3)
    ways = _served_by(monkeypatch)
    with pytest.raises(vecdb.InvalidArgumentError) as caught:
        docs.search(np.full(docs.dim, np.nan, np.float32))
    assert caught.value.reason == "NOT_FINITE"
    assert len(docs.search(VECTORS[0], k=3)) == 3
    assert ways == ["SearchStream", "SearchStream"]


def test_a_server_without_a_thread_for_a_stream_serves_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with one_place_for_two(tmp_path / "data") as (docs, other):
        docs.search(VECTORS[0])
        docs.search(VECTORS[0])  # Holds the one thread that streams may have.
        ways = _served_by(monkeypatch)
        for _ in range(3):
            assert len(other.search(VECTORS[0], k=3)) == 3
        assert ways == ["Search"] * 3
        assert len(docs.search(VECTORS[0], k=3)) == 3
        assert ways[-1] == "SearchStream"


def _noted_places(monkeypatch: pytest.MonkeyPatch) -> dict[str, admission.Slots]:
    """Those of the server that is started next, by the reason of their refusal."""
    made = {}

    class Noted(admission.Slots):
        def __init__(self, reason: str, *arguments: Any, **options: Any) -> None:
            super().__init__(reason, *arguments, **options)
            made[reason] = self

    monkeypatch.setattr(transport, "Slots", Noted)
    return made


def test_a_stream_that_is_idle_makes_room_for_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = _noted_places(monkeypatch)
    with one_place_for_two(tmp_path / "data") as (docs, other):
        ways = _served_by(monkeypatch)
        take_place, opened = admission.Slot, []

        def noted(context: Any) -> Any:
            opened.append(take_place(context))
            return opened[-1]

        monkeypatch.setattr(admission, "Slot", noted)
        for each in (docs, docs, other):
            each.search(VECTORS[0])
        # Until the server is done with the answer.
        eventually(lambda: opened[0].idle_since != math.inf)
        places["TOO_MANY_STREAMS"].idle_s = 0.0
        assert len(other.search(VECTORS[0], k=3)) == 3
        assert ways == ["Search", "SearchStream", "Search", "SearchStream"]
        # Whose stream it was finds it ended, searches by a call, and asks for no other at once.
        for _ in range(2):
            assert len(docs.search(VECTORS[0], k=3)) == 3
            assert len(other.search(VECTORS[0], k=3)) == 3
        assert ways[4:] == ["Search", "SearchStream"] * 2


def test_a_stream_with_a_search_under_way_keeps_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    override(monkeypatch, "idle_stream_s", 0.0)
    with one_place_for_two(tmp_path / "data") as (docs, other):
        docs.search(VECTORS[0])
        docs.search(VECTORS[0])
        other.search(VECTORS[0])
        entered, release = held(monkeypatch, "search")
        ways = _served_by(monkeypatch)
        with ThreadPoolExecutor() as pool:
            held_one = pool.submit(docs.search, VECTORS[0], k=3)
            assert entered.wait(HANG_S)
            by_call = pool.submit(other.search, VECTORS[0], k=3)
            eventually(lambda: ways == ["Search"])
            release.set()
            assert len(held_one.result(HANG_S)) == len(by_call.result(HANG_S)) == 3
        assert ways == ["Search", "SearchStream"]


def test_a_stream_that_the_server_does_not_answer_is_cut(
    docs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs.search(VECTORS[0])
    docs.search(VECTORS[0])
    entered, release = held(monkeypatch, "search")
    with pytest.raises(vecdb.DeadlineExceededError):
        docs.search(VECTORS[0], timeout_s=0.1)
    assert entered.is_set()
    release.set()
    assert len(docs.search(VECTORS[0], k=3)) == 3


def test_stream_ends_when_its_client_is_garbage_collected(docs: Any, address: str) -> None:
    def streams() -> set[threading.Thread]:
        return {t for t in threading.enumerate() if t.name == "vecdb-client-deadlines"}

    before = streams()  # Those of other tests' clients may end at any moment.
    client = Client(address)
    mine = client.collection(docs.name)
    mine.search(VECTORS[0])
    mine.search(VECTORS[0])
    (stream,) = streams() - before
    del client, mine
    gc.collect()
    eventually(lambda: not stream.is_alive())
