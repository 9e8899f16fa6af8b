"""Ctrl-C in the middle of a client's call: the client works on, closes, and its process ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.interrupted_client import DIM, KINDS, ROWS
from tests.serving import running_server
from vecdb_client import Client

ROUNDS = 100


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    vectors = np.random.default_rng(8).normal(size=(ROWS, DIM)).astype(np.float32)
    with running_server(tmp_path_factory.mktemp("served") / "data") as address:
        with Client(address) as client:
            docs = client.create_collection("docs", DIM)
            docs.upsert_many(range(ROWS), vectors)
            docs.optimize()
        yield address


@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_calls_leave_a_client_that_works(
    address: str, kind: str, tmp_path: Path
) -> None:
    child = [sys.executable, "-m", "tests.interrupted_client"]
    ended = subprocess.run(
        [*child, address, kind, str(ROUNDS), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert ended.returncode == 0, ended.stderr[-10_000:]
    assert ended.stdout == f"{ROUNDS} rounds\n"
