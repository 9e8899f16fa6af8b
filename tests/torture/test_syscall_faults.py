"""The workload is killed, or gets an error, at its Nth call of each kind that changes a disk.

This runs a sample; ``python -m tests.torture`` runs every fault. VECDB_TORTURE_SEED chooses another
sample, VECDB_TORTURE_FAULTS_S its duration.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.torture import workload
from tests.torture.requirements import needs_strace
from tests.torture.syscall_faults import Fault, Run, all_faults, check, run, run_with, sample

SEED = int(os.environ.get("VECDB_TORTURE_SEED", "0")) or random.randrange(1, 1_000_000)
SECONDS = float(os.environ.get("VECDB_TORTURE_FAULTS_S", "45"))
CHECKED_EVERY = 3
"""One in this many runs ends with a complete check of the folder."""

TRIES_MAX = 10
"""Retries of a fault that was not hit, as a run may make fewer calls than another."""


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 300)
def test_kill_at_any_system_call_loses_no_acknowledged_write(tmp_path: Path) -> None:
    needs_strace()
    print(f"VECDB_TORTURE_SEED={SEED}")
    faults = all_faults(tmp_path / "whole")
    pairs = {(each.thread, each.call, each.kind) for each in faults}
    ends = time.monotonic() + SECONDS
    made, hit, tries = 0, set(), Counter[tuple[str, ...]]()
    # Repeated, as a pair may have a single fault, and that may not be hit.
    for each in _rounds(faults, random.Random(SEED)):
        pair = (each.thread, each.call, each.kind)
        if time.monotonic() > ends:
            if all(tries[missed] >= TRIES_MAX for missed in pairs - hit):
                break
            if pair in hit or tries[pair] >= TRIES_MAX:
                continue
        scratch = tmp_path / f"{made}-{each}"
        scratch.mkdir()
        try:
            if run_with(scratch, each, whole=made % CHECKED_EVERY == 0):
                hit.add(pair)
        except AssertionError as error:
            raise AssertionError(f"{each} of VECDB_TORTURE_SEED={SEED}: {error}") from error
        made += 1
        tries[pair] += 1
    assert made >= len(pairs) and hit == pairs, (made, pairs - hit)


def _rounds(faults: list[Fault], rng: random.Random) -> Iterator[Fault]:
    while True:
        yield from sample(faults, rng)


WRITER = workload.Manner(writer=True)


def traced(scratch: Path, *expressions: str) -> Run:
    """Trace the system calls of a commit in the writer's thread."""
    scratch.mkdir()
    return run(scratch, *expressions, manner=WRITER, trace=("pwrite64", "fdatasync"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["EIO", "ENOSPC"])
def test_commit_that_fails_in_its_last_step_has_an_unknown_outcome(
    tmp_path: Path, kind: str
) -> None:
    """A commit that fails in the step before is refused; in both cases the next one succeeds."""
    needs_strace()
    calls = [line.partition("(")[0] for line in traced(tmp_path / "whole").log if "(" in line]
    synced = calls.index("fdatasync")
    assert calls[synced + 1] == "pwrite64"  # The meta page.
    meta = calls[:synced].count("pwrite64") + 1
    for call, number, event in (("pwrite64", meta, "unknown"), ("fdatasync", 1, "refused")):
        where = Fault("writer", call, kind, number)
        result = traced(tmp_path / call, where.inject())
        assert result.events("done"), result.messages[-3:]
        reported = [m for m in result.messages if m["step"] == workload.FIRST_STEPS]
        assert [m["event"] for m in reported][:2] == ["begin", event], reported
        assert len(result.events("unknown")) == (event == "unknown")
        check(tmp_path / call / "data", result.messages)
