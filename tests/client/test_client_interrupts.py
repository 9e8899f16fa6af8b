"""Ctrl-C in the middle of a client's call: the client works on, closes, and its process ends."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.interrupted_client import DIM, KINDS, ROWS
from tests.serving import running_server
from tests.waiting import HANG_S
from vecdb_client import Client
from vecdb_client.interrupts import interrupt_in
from vecdb_client.testing import calls_of, connection_of, open_streams

ROUNDS, ROUNDS_BESIDE = 40, 15


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    vectors = np.random.default_rng(8).normal(size=(ROWS, DIM)).astype(np.float32)
    with running_server(tmp_path_factory.mktemp("served") / "data") as address:
        with Client(address) as client:
            docs = client.create_collection("docs", DIM)
            docs.upsert_many(range(ROWS), vectors)
            docs.optimize()
        yield address


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_calls_leave_a_client_that_works(
    address: str, kind: str, tmp_path: Path
) -> None:
    seed, rounds = random.randrange(1_000_000), ROUNDS_BESIDE if "beside" in kind else ROUNDS
    print(f"seed {seed}")
    child = [sys.executable, "-m", "tests.interrupted_client"]
    ended = subprocess.run(
        [*child, address, kind, str(rounds), str(tmp_path), str(seed)],
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert ended.returncode == 0, ended.stderr[-10_000:]
    # What another thread has under way in the very moment may never be answered.
    assert int(ended.stdout) >= (0.8 if "beside" in kind else 1.0) * rounds


def test_connection_that_was_interrupted_twice_is_abandoned(address: str) -> None:
    query = np.ones(DIM, np.float32)
    with Client(address) as client:
        docs, calls = client.collection("docs"), calls_of(client)
        begun = docs.scroll(batch=100)
        next(begun)
        for _ in range(2):
            docs.search(query)
        left = connection_of(calls)
        assert open_streams(left) == 1
        left.enter()  # As if a second interrupt had come before the first was handled.
        assert docs.count() >= ROWS
        assert connection_of(calls) is not left
        assert left.is_abandoned
        assert open_streams(left) == 0
        # The page that was on its way comes over the new one.
        assert len(next(begun)) == 100
        for _ in range(2):
            docs.search(query)
        assert open_streams(connection_of(calls)) == 1


def test_interrupts_are_distinguished_from_other_errors() -> None:
    def chained(error: BaseException, context: BaseException | None) -> BaseException:
        error.__context__ = context
        return error

    interrupt, release = KeyboardInterrupt(), RuntimeError("release unlocked lock")
    assert interrupt_in(interrupt, None) is interrupt
    assert isinstance(interrupt_in(SystemExit(1), None), SystemExit)
    for error in (ValueError(), RuntimeError(), GeneratorExit()):
        assert interrupt_in(error, None) is None
    assert interrupt_in(chained(release, interrupt), None) is interrupt
    assert interrupt_in(chained(RuntimeError(), release), None) is interrupt
    # One that was being handled when the call began is not the call's.
    assert interrupt_in(release, interrupt) is None
    assert interrupt_in(chained(RuntimeError(), ValueError()), None) is None
