"""Runs the workload under strace with a fault: a kill or an error at the Nth call of a kind.

The workload has two writing threads: its own, which creates collections and segments, and the
writer's, which commits batches. strace is attached to one of them, just before the work begins, so
that the Nth call is the same one in each run.

After each run the folder is opened in this process and compared with the messages of the run.
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
from tests.model import flush_now, index_now
from tests.torture import workload
from tests.waiting import HANG_S

__all__ = [
    "CALLS",
    "KINDS",
    "Fault",
    "Run",
    "all_faults",
    "assert_consistent",
    "assert_content",
    "check",
    "run",
    "run_with",
    "sample",
]

CALLS = (
    *("write", "writev", "pwrite64", "pwritev", "ftruncate"),
    *("mkdir", "mkdirat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir"),
    *("fsync", "fdatasync"),
)
"""The calls that change a disk. A machine has some of them under another name; faults are injected
into those that the workload makes.
"""

THREADS = ("own", "writer")
KINDS = ("SIGKILL", "EIO", "ENOSPC")
_ESSENTIAL = {
    "own": {"write", "pwrite64", "ftruncate", "fsync", "fdatasync"},
    "writer": {"pwrite64", "fdatasync"},
}
RUN_S_MAX = HANG_S
_REFUSALS = {"UNAVAILABLE", "RESOURCE_EXHAUSTED", "UNKNOWN", "OSError"}
"""The codes that an I/O error or a full disk may lead to: OSError only in maintenance, UNKNOWN for
an unknown outcome.
"""


@dataclass(frozen=True)
class Fault:
    """A system call of a thread at which the process is killed, or which fails."""

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
    """The messages of a run, and the log of strace."""

    messages: list[dict[str, Any]]
    exit_code: int | None
    log: list[str]

    def events(self, event: str) -> list[dict[str, Any]]:
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
        whole: trace all threads, not only that of the manner.
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
    received = b""
    with selectors.DefaultSelector() as selector:
        selector.register(tracer.stderr, selectors.EVENT_READ)
        while b"attached" not in received:
            assert selector.select(max(0.0, ends - time.monotonic())), "strace does not attach"
            chunk = os.read(tracer.stderr.fileno(), 4096)
            assert chunk, f"strace ended: {received.decode(errors='replace')}"
            received += chunk


def _read(channel: socket.socket, ends: float, *, until: str = "") -> list[dict[str, Any]]:
    """Read messages up to this event, by default up to the end of the process."""
    received = b""
    while not until or f'"{until}"'.encode() not in received:
        channel.settimeout(max(0.1, ends - time.monotonic()))
        try:
            chunk = channel.recv(65536)
        except ConnectionResetError:
            break
        except TimeoutError:
            raise AssertionError(f"it hangs after {received[-500:]!r}") from None
        if not chunk:
            break
        received += chunk
    return [json.loads(line) for line in received.splitlines()]


def _numbers_of(run: Run) -> dict[str, int]:
    """Return the number of each call."""
    found = (re.match(r"(\w+)\(", line) for line in run.log)
    return dict(Counter(each[1] for each in found if each is not None and each[1] in CALLS))


def run_with(scratch: Path, where: Fault, *, whole: bool = True) -> bool:
    """Run the workload with a fault and check the folder afterwards.

    Args:
        whole: see ``check``.

    Returns:
        True if the fault was hit; a run may make fewer calls than another.

    Raises:
        AssertionError: an acknowledged write is lost, or another defect was found.
    """
    manner = workload.Manner(writer=where.thread == "writer")
    result = run(scratch, where.inject(), trace=(where.call,), manner=manner)
    for defect in result.events("defect"):
        raise AssertionError(defect["why"])
    if where.kind == "SIGKILL":
        hit = not result.events("done")
        assert hit == (result.exit_code == -9), (result.exit_code, result.messages[-3:])
    else:
        hit = any("(INJECTED)" in line for line in result.log)
        assert result.events("done") and result.exit_code == 0, result.messages[-3:]
        codes = {m["code"] for m in result.events("refused")}
        assert codes <= _REFUSALS, result.events("refused")
    check(scratch / "data", result.messages, whole=whole)
    return hit


def all_faults(scratch: Path) -> list[Fault]:
    """Return every fault at every call of the workload."""
    faults = []
    for thread in THREADS:
        (scratch / thread).mkdir(parents=True)
        whole = run(scratch / thread, manner=workload.Manner(writer=thread == "writer"))
        assert whole.events("done") and not whole.events("refused"), whole.messages[-3:]
        counts = _numbers_of(whole)
        assert set(counts) >= _ESSENTIAL[thread], counts
        assert {"writev", "pwritev"} & set(counts), counts
        faults += [
            Fault(thread, call, kind, n + 1)
            for call, count in counts.items()
            for kind in KINDS
            for n in range(count)
        ]
    return faults


def sample(faults: list[Fault], rng: random.Random) -> Iterator[Fault]:
    """Yield all faults in random order, but first one of each thread, call and kind."""
    by_pair: dict[tuple[str, ...], list[Fault]] = {}
    for each in rng.sample(faults, len(faults)):
        by_pair.setdefault((each.thread, each.call, each.kind), []).append(each)
    while by_pair:
        for pair in list(by_pair):
            yield by_pair[pair].pop()
            if not by_pair[pair]:
                del by_pair[pair]


def _named(messages: list[dict[str, Any]], kind: str) -> tuple[bool, bool]:
    """Return whether a step of this kind was begun, and whether it was acknowledged."""
    events = {
        m["event"]
        for m in messages
        if 0 <= m["step"] < len(workload.STEPS) and workload.STEPS[m["step"]][0] == kind
    }
    return "begin" in events, "acknowledged" in events


def check(data: Path, messages: list[dict[str, Any]], *, whole: bool = True) -> None:
    """Open the folder, compare it with the messages, and continue to work with it.

    Args:
        whole: run ``vecdb.check`` at the end, in a process, which takes half as long as a run.
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
    """Check that writing, flushing and building work as before."""
    rng = np.random.default_rng(99)
    vectors = rng.normal(size=(30, workload.DIM)).astype(np.float32)
    batch = workload.Batch([f"a{i}" for i in range(25, 55)], vectors)
    history.acknowledged(batch, batch.send(docs).seq)
    history.check(docs, queries=1)
    flush_now(docs)
    index_now(docs)
    history.check(docs, queries=1)
    stats = docs.stats()
    assert stats.unindexed_rows == 0 and len(stats.segments) <= 1


def assert_tidy(data: Path, collections: int) -> None:
    """Check that there are no files without a collection."""
    assert len(list((data / "collections").iterdir())) == collections
    assert list((data / "trash").iterdir()) == []
    assert len(list(data.glob("FORMAT*"))) == 1, list(data.iterdir())


def assert_content(data: Path) -> None:
    """Check that ``vecdb.check`` finds nothing, not even a leftover."""
    report = vecdb.check(data)
    assert report.complete and report.problems == (), report.problems


def assert_consistent(data: Path) -> None:
    """Do the checks of opening, and read every row, without another process."""
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
