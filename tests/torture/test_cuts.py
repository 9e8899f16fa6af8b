"""The workload is killed, or gets an error, at its Nth call of each kind that changes a disk.

Here a sample; ``python -m tests.torture`` makes every cut. VECDB_TORTURE_SEED chooses another
sample, VECDB_TORTURE_CUTS_S how long it takes.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from tests.torture.cutting import all_cuts, cut, sample
from tests.torture.requirements import needs_strace

SEED = int(os.environ.get("VECDB_TORTURE_SEED", "0")) or random.randrange(1, 1_000_000)
SECONDS = float(os.environ.get("VECDB_TORTURE_CUTS_S", "150"))


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 120)
def test_cuts_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    needs_strace()
    print(f"VECDB_TORTURE_SEED={SEED}")
    cuts = all_cuts(tmp_path / "whole")
    pairs = {(each.thread, each.call, each.kind) for each in cuts}
    ends = time.monotonic() + SECONDS
    made, hit = 0, set()
    for each in sample(cuts, random.Random(SEED)):
        if time.monotonic() > ends and made >= len(pairs):
            break
        scratch = tmp_path / str(each)
        scratch.mkdir()
        try:
            if cut(scratch, each):
                hit.add((each.thread, each.call, each.kind))
        except AssertionError as error:
            raise AssertionError(f"{each} of VECDB_TORTURE_SEED={SEED}: {error}") from error
        made += 1
    assert made >= len(pairs) and hit == pairs, (made, pairs - hit)
