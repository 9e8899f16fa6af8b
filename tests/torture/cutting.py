"""Runs the workload under strace: killed at the Nth call of a kind, or with that call failing.

The workload has two threads that write: its own, which makes collections and segments, and the
writer's, which commits batches. strace is attached to one of them, just before the work begins, so
that the Nth call is the same one in each run.

After each run the folder is opened here and all that was said is compared with what is there.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import selectors
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import vecdb
from tests.model import index_now, seal_now
from tests.torture import workload

__all__ = [
    "CALLS",
    "KINDS",
    "Cut",
    "Run",
    "all_cuts",
    "assert_consistent",
    "assert_content",
    "check",
    "cut",
    "run",
    "sample",
]

CALLS = (
    *("write", "writev", "pwrite64", "pwritev", "ftruncate"),
    *("mkdir", "mkdirat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir"),
    *("fsync", "fdatasync"),
)
"""What changes a disk. A machine has some of them under another name; those that the workload makes
are cut."""

THREADS = ("own", "writer")
KINDS = ("SIGKILL", "EIO", "ENOSPC")
_ESSENTIAL = {
    "own": {"write", "pwrite64", "ftruncate", "fsync", "fdatasync"},
    "writer": {"pwrite64", "fdatasync"},
}
RUN_S_MAX = 60.0
_REFUSALS = {"UNAVAILABLE", "RESOURCE_EXHAUSTED", "UNKNOWN", "OSError"}
"""What an I/O error or a full disk may be called; OSError by maintenance alone, UNKNOWN is an
unknown outcome."""


@dataclass(frozen=True)
class Cut:
    """Where a run is cut short, or which of its calls fails."""

    thread: str
    call: str
    kind: str
    number: int

    def inject(self) -> str:
        action = "signal=SIGKILL" if self.kind == "SIGKILL" else f"error={self.kind}"
        return f"inject={self.call}:{action}:when={self.number}"

    def __str__(self) -> str:
        return f"{self.thread}-{self.call}-{self.kind}-{self.number}"


@dataclass(frozen=True)
class Run:
    """What a run said, and what strace saw."""

    messages: list[dict[str, Any]]
    exit_code: int | None
    log: list[str]

    def said(self, event: str) -> list[dict[str, Any]]:
        return [m for m in self.messages if m["event"] == event]


def run(
    scratch: Path,
    *expressions: str,
    trace: tuple[str, ...] = CALLS,
    manner: workload.Manner = workload.USUAL,
    whole: bool = False,
    fd_paths: bool = False,
) -> Run:
    """Run the workload on ``scratch/data`` under strace with these expressions (-e).

    Args:
        whole: trace all threads, not only the one that the manner says.
    """
    log = scratch / "strace.log"
    ours, theirs = socket.socketpair()
    process = workload.start(theirs, scratch / "data", manner)
    theirs.close()
    ends = time.monotonic() + RUN_S_MAX
    command = ["strace", *(["-f"] if whole else []), "-o", str(log), "-e", "signal=none"]
    command += ["-e", "trace=" + ",".join(f"?{name}" for name in trace)]
    command += ["-y", "-s", "256"] if fd_paths else []
    for expression in expressions:
        command += ["-e", expression]
    tracer = None
    try:
        messages = _read(ours, ends, until="ready")
        command += ["-p", str(messages[-1]["thread"])]
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        _wait_attached(tracer, ends)
        ours.send(b"go\n")
        messages += _read(ours, ends)
        process.join(max(0.1, ends - time.monotonic()))
        tracer.wait(max(0.1, ends - time.monotonic()))
        return Run(messages, process.exitcode, log.read_text(errors="replace").splitlines())
    finally:
        ours.close()
        if process.is_alive():
            process.kill()
        process.join(10)
        process.close()
        if tracer is not None:
            if tracer.poll() is None:
                tracer.kill()
            tracer.wait()
            assert tracer.stderr is not None
            tracer.stderr.close()


def _wait_attached(tracer: subprocess.Popen[bytes], ends: float) -> None:
    assert tracer.stderr is not None
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(tracer.stderr, selectors.EVENT_READ)
        while b"attached" not in said:
            assert selector.select(max(0.0, ends - time.monotonic())), "strace does not attach"
            chunk = os.read(tracer.stderr.fileno(), 4096)
            assert chunk, f"strace ended: {said.decode(errors='replace')}"
            said += chunk


def _read(channel: socket.socket, ends: float, *, until: str = "") -> list[dict[str, Any]]:
    """All that is said until this event, by default until the end of the process."""
    said = b""
    while not until or f'"{until}"'.encode() not in said:
        channel.settimeout(max(0.1, ends - time.monotonic()))
        try:
            chunk = channel.recv(65536)
        except ConnectionResetError:
            break
        except TimeoutError:
            raise AssertionError(f"it hangs after {said[-500:]!r}") from None
        if not chunk:
            break
        said += chunk
    return [json.loads(line) for line in said.splitlines()]


def _numbers_of(run: Run) -> dict[str, int]:
    """How often each call was made."""
    found = (re.match(r"(\w+)\(", line) for line in run.log)
    return dict(Counter(each[1] for each in found if each is not None and each[1] in CALLS))


def cut(scratch: Path, where: Cut, *, whole: bool = True) -> bool:
    """Run the workload with a cut and check what is there afterwards.

    Args:
        whole: see ``check``.

    Returns:
        True if it was hit; a run may make fewer calls than another.

    Raises:
        AssertionError: something acknowledged is gone, or whatever else must not be.
    """
    manner = workload.Manner(writer=where.thread == "writer")
    result = run(scratch, where.inject(), trace=(where.call,), manner=manner)
    for defect in result.said("defect"):
        raise AssertionError(defect["why"])
    if where.kind == "SIGKILL":
        hit = not result.said("done")
        assert hit == (result.exit_code == -9), (result.exit_code, result.messages[-3:])
    else:
        hit = any("(INJECTED)" in line for line in result.log)
        assert result.said("done") and result.exit_code == 0, result.messages[-3:]
        codes = {m["code"] for m in result.said("refused")}
        assert codes <= _REFUSALS, result.said("refused")
    check(scratch / "data", result.messages, whole=whole)
    return hit


def all_cuts(scratch: Path) -> list[Cut]:
    """Every call of the workload, with everything that may befall it."""
    cuts = []
    for thread in THREADS:
        (scratch / thread).mkdir(parents=True)
        whole = run(scratch / thread, manner=workload.Manner(writer=thread == "writer"))
        assert whole.said("done") and not whole.said("refused"), whole.messages[-3:]
        counts = _numbers_of(whole)
        assert set(counts) >= _ESSENTIAL[thread], counts
        assert {"writev", "pwritev"} & set(counts), counts
        cuts += [
            Cut(thread, call, kind, n + 1)
            for call, count in counts.items()
            for kind in KINDS
            for n in range(count)
        ]
    return cuts


def sample(cuts: list[Cut], rng: random.Random) -> Iterator[Cut]:
    """All; each call of a thread meets each kind once before any does again."""
    by_pair: dict[tuple[str, ...], list[Cut]] = {}
    for each in rng.sample(cuts, len(cuts)):
        by_pair.setdefault((each.thread, each.call, each.kind), []).append(each)
    while by_pair:
        for pair in list(by_pair):
            yield by_pair[pair].pop()
            if not by_pair[pair]:
                del by_pair[pair]


def _named(messages: list[dict[str, Any]], kind: str) -> tuple[bool, bool]:
    """A step of this kind was begun, and was acknowledged."""
    events = {
        m["event"]
        for m in messages
        if 0 <= m["step"] < len(workload.STEPS) and workload.STEPS[m["step"]][0] == kind
    }
    return "begin" in events, "acknowledged" in events


def check(data: Path, messages: list[dict[str, Any]], *, whole: bool = True) -> None:
    """Open the folder, and compare with what was said; then go on working with it.

    Args:
        whole: have it all checked in the end, by a process that takes half as long as a run.
    """
    history = workload.replay(messages)
    create_begun, created = _named(messages, "create")
    other_begun, other_created = _named(messages, "create_other")
    drop_begun, dropped = _named(messages, "drop_other")
    with vecdb.open(data, indexer=False) as database:
        names = {d.name for d in database.list_collections()}
        assert names <= {"docs", "other"}
        assert created <= ("docs" in names) <= create_begun
        assert (other_created and not drop_begun) <= ("other" in names)
        assert ("other" in names) <= (other_begun and not dropped)
        assert_tidy(data, len(names))
        if "docs" in names:
            docs = database.collection("docs")
            history.check(docs)
            _go_on(docs, history)
        else:
            assert history.possible[0].seq == 0
            database.create_collection("docs", workload.DIM)
        if "other" in names:
            database.drop_collection("other")
        database.create_collection("other", workload.DIM)
        database.drop_collection("other")
        assert_tidy(data, 1)
    if whole:
        assert_content(data)
    else:
        assert_consistent(data)


def _go_on(docs: Any, history: Any) -> None:
    """Write, seal and build: everything works as before."""
    rng = np.random.default_rng(99)
    vectors = rng.normal(size=(30, workload.DIM)).astype(np.float32)
    batch = workload.Batch([f"a{i}" for i in range(25, 55)], vectors)
    history.acknowledged(batch, batch.send(docs).seq)
    history.check(docs, queries=1)
    seal_now(docs)
    index_now(docs)
    history.check(docs, queries=1)
    stats = docs.stats()
    assert stats.unindexed_rows == 0 and len(stats.segments) <= 1


def assert_tidy(data: Path, collections: int) -> None:
    """Nothing lies about that belongs to no collection."""
    assert len(list((data / "collections").iterdir())) == collections
    assert list((data / "trash").iterdir()) == []
    assert len(list(data.glob("FORMAT*"))) == 1, list(data.iterdir())


def assert_content(data: Path) -> None:
    """``vecdb.check`` finds nothing wrong, not even a leftover."""
    report = vecdb.check(data)
    assert report.complete and report.problems == (), report.problems


def assert_consistent(data: Path) -> None:
    """What a new opening compares, and a look at every row: without a process of its own."""
    with vecdb.open(data, indexer=False) as database:
        for description in database.list_collections():
            collection = database.collection(description.name)
            stats = collection.stats()
            assert collection.count() == stats.live_count
            edge = 0
            for segment in stats.segments:
                assert segment.first_row == edge
                edge = segment.end_row
            assert edge == stats.sealed_to <= stats.next_row
            with contextlib.closing(collection.scroll()) as pages:
                assert sum(len(page.ids) for page in pages) == stats.live_count
