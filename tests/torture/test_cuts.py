"""The workload is killed, or gets an error, at its Nth call of each kind that changes a disk.

Here a sample; ``python -m tests.torture`` makes every cut. VECDB_TORTURE_SEED chooses another
sample, VECDB_TORTURE_CUTS_S how long it takes.
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
from tests.torture.cutting import Cut, Run, all_cuts, check, cut, run, sample
from tests.torture.requirements import needs_strace

SEED = int(os.environ.get("VECDB_TORTURE_SEED", "0")) or random.randrange(1, 1_000_000)
SECONDS = float(os.environ.get("VECDB_TORTURE_CUTS_S", "45"))
CHECKED_EVERY = 3
"""Of so many cuts one is followed by a whole check of the folder."""

TRIES_MAX = 10
"""A run may make fewer calls than another, so that a cut is missed: then it has its turn again."""


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 300)
def test_kill_at_any_system_call_loses_no_acknowledged_write(tmp_path: Path) -> None:
    needs_strace()
    print(f"VECDB_TORTURE_SEED={SEED}")
    cuts = all_cuts(tmp_path / "whole")
    pairs = {(each.thread, each.call, each.kind) for each in cuts}
    ends = time.monotonic() + SECONDS
    made, hit, tries = 0, set(), Counter[tuple[str, ...]]()
    # All of them again and again: there may be one cut only of a pair, and that may be missed.
    for each in _rounds(cuts, random.Random(SEED)):
        pair = (each.thread, each.call, each.kind)
        if time.monotonic() > ends:
            if all(tries[missed] >= TRIES_MAX for missed in pairs - hit):
                break
            if pair in hit or tries[pair] >= TRIES_MAX:
                continue
        scratch = tmp_path / f"{made}-{each}"
        scratch.mkdir()
        try:
            if cut(scratch, each, whole=made % CHECKED_EVERY == 0):
                hit.add(pair)
        except AssertionError as error:
            raise AssertionError(f"{each} of VECDB_TORTURE_SEED={SEED}: {error}") from error
        made += 1
        tries[pair] += 1
    assert made >= len(pairs) and hit == pairs, (made, pairs - hit)


def _rounds(cuts: list[Cut], rng: random.Random) -> Iterator[Cut]:
    while True:
        yield from sample(cuts, rng)


WRITER = workload.Manner(writer=True)


def traced(scratch: Path, *expressions: str) -> Run:
    """The writer's thread, as far as a commit shows in it."""
    scratch.mkdir()
    return run(scratch, *expressions, manner=WRITER, trace=("pwrite64", "fdatasync"))


@pytest.mark.parametrize("kind", ["EIO", "ENOSPC"])
def test_commit_that_fails_in_its_last_step_has_an_unknown_outcome(
    tmp_path: Path, kind: str
) -> None:
    """And one that fails in the step before is refused; either way the next one is taken."""
    needs_strace()
    calls = [line.partition("(")[0] for line in traced(tmp_path / "whole").log if "(" in line]
    synced = calls.index("fdatasync")
    assert calls[synced + 1] == "pwrite64"  # The meta page.
    meta = calls[:synced].count("pwrite64") + 1
    for call, number, event in (("pwrite64", meta, "unknown"), ("fdatasync", 1, "refused")):
        where = Cut("writer", call, kind, number)
        result = traced(tmp_path / call, where.inject())
        assert result.said("done"), result.messages[-3:]
        told = [m for m in result.messages if m["step"] == workload.FIRST_STEPS]
        assert [m["event"] for m in told][:2] == ["begin", event], told
        assert len(result.said("unknown")) == (event == "unknown")
        check(tmp_path / call / "data", result.messages)
