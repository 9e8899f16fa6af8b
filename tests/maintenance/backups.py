"""Databases to back up, and what tests of backups and of restoring compare."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import vecdb
from tests.model import Model, flush_now, index_now
from tests.waiting import HANG_S, eventually
from vecdb.engine.store.segment_table import SegmentEntry
from vecdb.engine.testing import opened_of

DIM = 16
NAMES = ("a", "b")


def vectors_of(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def filled(folder: Path, rows: int = 600) -> tuple[Any, Model]:
    """Return an open database with "docs": graph, flat segment, memtable rows, deleted rows."""
    database = vecdb.open(folder, indexer=False)
    docs = database.create_collection("docs", DIM)
    model = Model(DIM, "cosine")
    for number in range(3):
        names = [f"{number}-{i}" for i in range(rows // 3)]
        batch = (names, vectors_of(number, len(names)), [{"n": number}] * len(names))
        docs.upsert(*batch)
        model.upsert(*batch)
        if number < 2:
            flush_now(docs)
        if number == 0:
            index_now(docs)
    gone = [f"{number}-{i}" for number in range(3) for i in range(0, rows // 3, 5)]
    docs.delete(gone)
    model.delete(gone)
    return database, model


def check_same(docs: Any, model: Model, seed: int = 0) -> None:
    """Check that a collection equals the model, bit for bit, and finds its rows."""
    assert docs.count() == len(model.rows)
    for start in range(0, len(model.rows), 5_000):
        names = list(model.rows)[start : start + 5_000]
        model.check_records(docs.get(names), names)
    if model.rows:
        query = vectors_of(seed + 1_000_000, 1)[0]
        model.check_hits(docs.search(query, k=20, exact=True), query, 20, exact=True)


def entries_of(docs: Any) -> dict[int, SegmentEntry]:
    store = opened_of(docs).store
    with store.environment.read() as transaction:
        found: dict[int, SegmentEntry] = store.read_segments(transaction)
    return found


def partials(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.partial-*"))


def wait_for(path: Path) -> None:
    eventually(lambda: list(path.parent.glob(path.name)))


def flipped(whole: bytes, at: int) -> bytes:
    return whole[:at] + bytes([whole[at] ^ (1 << random.randrange(8))]) + whole[at + 1 :]


def flip(path: Path, at: int) -> None:
    path.write_bytes(flipped(path.read_bytes(), at))


class PausedBackup:
    """The process of a backup, stopped just before it calls a function.

    Args:
        function: like "Environment.copy", in the namespace of its module.
        call: number of the call, from 1.
    """

    def __init__(
        self, root: Path, target: Path, function: str, call: int = 1, *options: str
    ) -> None:
        self._go = target.with_name(f"{target.name}.go")
        holder, _, name = f"backup.{function}".rpartition(".")
        code = f"""
import itertools, os, time
from vecdb.engine.maintenance.backup import backup
real, calls = {holder}.{name}, itertools.count(1)
def paused(*arguments, **named):
    if next(calls) == {call}:
        print("paused", flush=True)
        while not os.path.exists({str(self._go)!r}):
            time.sleep(0.005)
    return real(*arguments, **named)
{holder}.{name} = paused
backup.main()
"""
        self._child = subprocess.Popen(
            [sys.executable, "-c", code, *options, str(root), str(target)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        assert self._child.stdout is not None
        assert self._child.stdout.readline() == "paused\n"

    def finish(self) -> dict[str, Any]:
        """Continue the process and return its answer."""
        self._go.touch()
        assert self._child.stdout is not None
        answer: dict[str, Any] = json.loads(self._child.stdout.readline())
        self.end()
        return answer

    def kill(self) -> None:
        self._child.send_signal(signal.SIGKILL)
        self.end()

    def end(self) -> int:
        """Close its stdin, as when its parent was killed, and return its exit status."""
        assert self._child.stdout is not None and self._child.stdin is not None
        self._child.stdin.close()
        status = self._child.wait(HANG_S)
        self._child.stdout.close()
        self._go.unlink(missing_ok=True)
        return status
