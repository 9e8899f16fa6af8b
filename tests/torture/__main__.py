"""Everything, for a given time: ``python -m tests.torture [--hours H] [--seed N]``.

First each fault once, in an order given by the seed; then rounds of killed processes until the time
is over. Failures are printed at once, with what is needed to repeat them; the exit status is 1 if
there was one.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.torture.controller import torture
from tests.torture.syscall_faults import all_faults, run_with, sample

_TELL_EVERY = 50
_ROUNDS_AT_ONCE_S = 120.0


class _Tally:
    """Counts of attempts and failures."""

    def __init__(self) -> None:
        self.made = self.failed = 0

    def attempt(self, name: str, work: Callable[[Path], object]) -> None:
        """Run something in a folder of its own, which is kept if it fails."""
        scratch = Path(tempfile.mkdtemp(prefix="vecdb-torture-"))
        self.made += 1
        try:
            work(scratch)
        except Exception:
            self.failed += 1
            print(f"FAILED {name}, see {scratch}\n{traceback.format_exc()}", flush=True)
            return
        # An indexer that outlives its database may still write there.
        shutil.rmtree(scratch, ignore_errors=True)


def main() -> int:
    """Run; return 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0, help="at most (default 1)")
    parser.add_argument("--seed", type=int, default=random.randrange(1, 1_000_000))
    parser.add_argument("--only", choices=["faults", "processes"])
    arguments = parser.parse_args()
    ends = time.monotonic() + 3600 * arguments.hours
    print(f"seed {arguments.seed}", flush=True)
    tally = _Tally()
    if arguments.only != "processes":
        with tempfile.TemporaryDirectory(prefix="vecdb-torture-") as folder:
            faults = all_faults(Path(folder) / "whole")
        for each in sample(faults, random.Random(arguments.seed)):
            if time.monotonic() > ends:
                break
            tally.attempt(str(each), lambda scratch, each=each: run_with(scratch, each))
            if tally.made % _TELL_EVERY == 0:
                print(f"{tally.made} of {len(faults)} faults, {tally.failed} failed", flush=True)
    seed = arguments.seed
    while arguments.only != "faults" and (left_s := ends - time.monotonic()) > 0:
        seconds = min(left_s, _ROUNDS_AT_ONCE_S)
        tally.attempt(
            f"processes with seed {seed}",
            lambda scratch, seed=seed, seconds=seconds: print(torture(scratch, seed, seconds)),
        )
        seed += 1
    print(f"{tally.made} done, {tally.failed} failed", flush=True)
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
