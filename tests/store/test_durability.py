"""A server killed with SIGKILL during a load keeps every acknowledged batch, complete."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import recall
from tests.serving import ServerProcess
from tests.waiting import HANG_S

DIM = 32
BATCH_ROWS = 400
WRITERS = 3
KILLS = 5


def batch(writer: int, number: int) -> tuple[list[str], np.ndarray, list[dict[str, Any]]]:
    """Return the nth batch of a writer, a pure function of the two numbers."""
    vectors = np.random.default_rng([writer, number]).normal(size=(BATCH_ROWS, DIM))
    names = [f"w{writer}-b{number}-{i}" for i in range(BATCH_ROWS)]
    return names, vectors.astype(np.float32), [{"b": number}] * BATCH_ROWS


class Load(threading.Thread):
    """Writes batches until the server is killed, and records which were acknowledged."""

    def __init__(self, address: str, writer: int, first: int) -> None:
        super().__init__()
        self.address, self.writer, self.next = address, writer, first
        self.acknowledged: list[int] = []
        self.error: Exception | None = None

    def run(self) -> None:
        with vecdb.connect(self.address) as client:
            docs = client.collection("docs")
            while True:
                number, self.next = self.next, self.next + 1
                try:
                    docs.upsert(*batch(self.writer, number))
                except vecdb.VecdbError as error:
                    self.error = error
                    return
                self.acknowledged.append(number)


def check(folder: Path, sent_batches: dict[int, tuple[list[int], int]]) -> int:
    """Check that acknowledged batches are unchanged and all others complete or absent."""
    present = 0
    with vecdb.open(folder, indexer=False) as database:
        docs = database.collection("docs")
        for writer, (acknowledged, sent) in sent_batches.items():
            for number in range(sent):
                names, vectors, metadata = batch(writer, number)
                found = docs.get(names)
                assert len(found) in (0, BATCH_ROWS), f"half of batch {number} of {writer}"
                if number in acknowledged:
                    assert len(found) == BATCH_ROWS, f"batch {number} of {writer} is lost"
                if len(found):
                    present += 1
                    assert found.vectors.tobytes() == vectors.tobytes()
                    assert found.metadata == metadata
        assert docs.count() == present * BATCH_ROWS
        queries = np.random.default_rng(5).normal(size=(20, DIM)).astype(np.float32)
        exact = docs.search(queries, exact=True)
        assert recall(docs.search(queries, ef=400), exact) > 0.9
        truth = np.concatenate(
            [batch(w, n)[1] for w, (_, sent) in sent_batches.items() for n in range(sent)
             if len(docs.get([batch(w, n)[0][0]]))]
        )  # fmt: skip
        unit = truth / np.linalg.norm(truth, axis=1, keepdims=True)
        wanted = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        nearest = np.sort(1 - wanted @ unit.T, axis=1)[:, :10]
        np.testing.assert_allclose([h.distances for h in exact], nearest, atol=1e-5)
    return present


@pytest.mark.slow
def test_server_killed_during_load_keeps_acknowledged_batches(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    sent_batches: dict[int, tuple[list[int], int]] = {w: ([], 0) for w in range(WRITERS)}
    with vecdb.open(folder, indexer=False) as database:
        database.create_collection("docs", DIM)
    for round_number in range(KILLS):
        # A small seal_bytes, so that the kill interrupts flushes and graph builds too.
        with ServerProcess(folder, seal_bytes=128 * 1024) as server:
            loads = [Load(server.address, w, sent_batches[w][1]) for w in range(WRITERS)]
            for load in loads:
                load.start()
            wanted = 4 * (round_number + 1) ** 2
            while sum(len(load.acknowledged) for load in loads) < wanted:
                assert any(load.is_alive() for load in loads)
                time.sleep(0.001)
            server.signal(signal.SIGKILL)
            server.wait()
            for load in loads:
                load.join(HANG_S)
                assert isinstance(load.error, vecdb.UnavailableError | vecdb.OutcomeUnknownError), (
                    load.error
                )
                acknowledged, _ = sent_batches[load.writer]
                sent_batches[load.writer] = (acknowledged + load.acknowledged, load.next)
        total = sum(len(acknowledged) for acknowledged, _ in sent_batches.values())
        assert check(folder, sent_batches) >= total > 0


def test_server_ended_by_sigterm_keeps_everything(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with ServerProcess(folder) as server:
        with vecdb.connect(server.address) as client:
            client.create_collection("docs", DIM).upsert(*batch(0, 0))
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert check(folder, {0: ([0], 1)}) == 1
