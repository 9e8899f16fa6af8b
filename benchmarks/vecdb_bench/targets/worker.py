"""The worker: runs one adapter; reads commands as lines of JSON on stdin, answers on stdout.

``python -m vecdb_bench.targets.worker NAME``. See the package's docstring for the protocol. Output
that a library prints to stdout is redirected to stderr, so that stdout has the protocol only. At
the end of stdin the worker closes its target and exits, so that it does not outlive the suite.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from vecdb_bench.targets.base import Condition, Settings, Target, folder_bytes, memory_bytes
from vecdb_bench.targets.timing import closed_loop, open_loop, queries_per_second, series

__all__ = ["Worker", "main"]


class Worker:
    """Runs commands: each is a method named ``do_*``, whose result is sent as JSON.

    Arguments that are arrays (vectors, queries, ids) are paths of .npy files.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._folder = Path()
        self._arrays: dict[str, np.ndarray] = {}

    def do_open(self, folder: str, dim: int, metric: str, settings: dict[str, Any]) -> Any:
        """Open or create the target; return the seconds taken, its version and its processes."""
        if settings.get("ids") == "uuid" and not self._target.ids_of_text:
            raise NotImplementedError("supports integer ids only")
        self._folder = Path(folder)
        began = time.perf_counter()
        self._target.open(self._folder, dim, metric, Settings(**settings))
        return {
            "seconds": time.perf_counter() - began,
            "version": self._target.version(),
            "processes": self._target.processes(),
        }

    def do_attach(self, address: str, dim: int, metric: str, settings: dict[str, Any]) -> Any:
        """Connect to the target as a further client; return the seconds taken."""
        began = time.perf_counter()
        self._target.attach(address, dim, metric, Settings(**settings))
        return {"seconds": time.perf_counter() - began}

    def do_address(self) -> str:
        """Return the address for further clients."""
        return self._target.address()

    def do_upsert(
        self,
        vectors: str,
        first: int,
        end: int,
        batch: int,
        ids: str = "",
        log: str = "",
        rate: float = 0.0,
        fields: dict[str, str] | None = None,
    ) -> Any:
        """Upsert rows [first, end) of a file in batches; return seconds and number of rows.

        Args:
            ids: file of the rows' ids; the row numbers if empty.
            log: file to which "FIRST END" of each acknowledged batch is appended before the
                next batch is sent; none if empty.
            rate: rows per second at most; 0 for as fast as possible.
            fields: name → file of int64, shape (n,).
        """
        array = self._array(vectors)
        columns = {name: self._array(path) for name, path in (fields or {}).items()}
        names = self._array(ids) if ids else np.arange(len(array))
        notes = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if log else -1
        began = time.perf_counter()
        for at in range(first, end, batch):
            stop = min(at + batch, end)
            rows = np.asarray(names[at:stop], np.int64), np.ascontiguousarray(array[at:stop])
            if columns:
                some = {name: values[at:stop] for name, values in columns.items()}
                self._target.upsert_fields(*rows, some)
            else:
                self._target.upsert(*rows)
            if log:
                os.write(notes, f"{at} {stop}\n".encode())
            if rate:
                time.sleep(max(0.0, began + (stop - first) / rate - time.perf_counter()))
        took = time.perf_counter() - began
        if log:
            os.close(notes)
        return {"seconds": took, "rows": end - first}

    def do_delete(self, ids: str, batch: int = 1000) -> Any:
        """Delete the ids of a file in batches; return the seconds taken."""
        array = self._array(ids)
        began = time.perf_counter()
        for at in range(0, len(array), batch):
            self._target.delete(np.asarray(array[at : at + batch], np.int64))
        return {"seconds": time.perf_counter() - began}

    def do_finish(self) -> Any:
        """Wait until all rows are indexed; return the seconds taken."""
        began = time.perf_counter()
        self._target.finish()
        return {"seconds": time.perf_counter() - began}

    def do_optimize(self) -> Any:
        """Run the maintenance that the target needs after churn; return the seconds taken."""
        began = time.perf_counter()
        self._target.optimize()
        return {"seconds": time.perf_counter() - began}

    def do_threads(self, threads: int) -> None:
        """Set the maximum number of threads of a batch."""
        self._target.set_threads(threads)

    def do_answers(self, queries: str, k: int, effort: int, out: str, batch: int = 100) -> Any:
        """Write the answers to all queries of a file to the file ``out``, int64, shape (q, k).

        Returns the seconds until all are answered.
        """
        array = self._array(queries)
        began = time.perf_counter()
        parts = [
            self._target.search(np.ascontiguousarray(array[at : at + batch]), k, effort)
            for at in range(0, len(array), batch)
        ]
        took = time.perf_counter() - began
        np.save(out, np.concatenate(parts))
        return {"seconds": took}

    def do_speed(
        self, queries: str, k: int, effort: int, batch: int, callers: int, seconds: float
    ) -> float:
        """Measure queries per second; see ``timing.queries_per_second``."""
        array = np.ascontiguousarray(self._array(queries))
        return queries_per_second(
            lambda part: self._target.search(part, k, effort), array, batch, callers, seconds
        )

    def do_latency(
        self,
        queries: str,
        k: int,
        effort: int,
        seconds: float,
        out: str,
        rate: float = 0.0,
        offset: float = 0.0,
        begin_at: float | None = None,
        first: int = 0,
        pause_s: float = 0.0,
    ) -> Any:
        """Write latencies of single queries to the file ``out``: seconds, float64, shape (calls,).

        Args:
            rate: queries per second of an open loop; 0 for a closed loop.
            offset: see ``timing.open_loop``.
            begin_at: by time.monotonic, which is the same clock in all processes of a machine.
            first: number of the query to start with.
            pause_s: seconds between two calls of a closed loop.
        """
        array = np.ascontiguousarray(self._array(queries))

        def call(number: int) -> None:
            at = (first + number) % len(array)
            self._target.search(array[at : at + 1], k, effort)

        call(0)
        if rate:
            took = open_loop(
                call, rate, seconds, offset=offset, begin_at=begin_at, clock=time.monotonic
            )
        else:
            took = closed_loop(
                call, seconds, pause_s=pause_s, begin_at=begin_at, clock=time.monotonic
            )
        np.save(out, took)
        return {"calls": len(took)}

    def do_where(
        self,
        queries: str,
        field: str,
        bounds: str,
        k: int,
        effort: int,
        seconds: float,
        found: str,
        took: str,
        warm: bool = False,
        scan: bool = False,
    ) -> Any:
        """Search with conditions: call i has query i of a file, and the condition on ``field`` with
        the bounds i, int64, shape (q, 2).

        Writes the answers to the file ``found``, int64, shape (calls, k), and the seconds of the
        calls to the file ``took``; see ``timing.series`` for how many calls are made.

        Args:
            field: of the condition; empty for none.
            warm: search once with each condition before.
            scan: compare with all rows that fulfil the condition.
        """
        array, pairs = np.ascontiguousarray(self._array(queries)), self._array(bounds).tolist()
        answers: list[np.ndarray] = []

        def call(number: int) -> None:
            where = Condition(field, *pairs[number]) if field else None
            query = array[number : number + 1]
            if scan and where is not None:
                answers.append(self._target.scan_where(query, k, where))
            else:
                answers.append(self._target.search_where(query, k, effort, where))

        different = {tuple(pair): number for number, pair in enumerate(pairs)}
        for number in different.values() if warm else [len(pairs) - 1]:
            call(number)
        answers.clear()
        np.save(took, series(call, len(array), seconds))
        np.save(found, np.concatenate(answers))
        return {"calls": len(answers)}

    def do_unindexed(self) -> int | None:
        """Return the number of rows that are not in a graph yet, None if the target hides it."""
        return self._target.unindexed()

    def do_present(self, ids: str) -> list[int]:
        """Return the ids of a file that are not stored."""
        array = np.asarray(self._array(ids), np.int64)
        missing: list[int] = []
        for at in range(0, len(array), 1000):
            part = array[at : at + 1000]
            missing += [int(each) for each in part[~self._target.present(part)]]
        return missing

    def do_sizes(self) -> dict[str, int]:
        """Return the memory of the target's processes and the size of its folder, in bytes."""
        sums = [memory_bytes(pid) for pid in self._target.processes()]
        return {
            "private_bytes": sum(private for private, _ in sums),
            "proportional_bytes": sum(proportional for _, proportional in sums),
            "disk_bytes": folder_bytes(self._folder),
        }

    def do_close(self) -> None:
        """Close the target."""
        self._target.close()

    def _array(self, path: str) -> np.ndarray:
        if path not in self._arrays:
            self._arrays[path] = np.load(path, mmap_mode="r").view(np.ndarray)
        return self._arrays[path]


def main() -> None:
    """Serve commands until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # Output of libraries must not mix with the protocol.
    adapter = importlib.import_module(f"vecdb_bench.targets.{sys.argv[1]}")
    target: Target = adapter.Adapter()
    worker = Worker(target)
    try:
        for line in sys.stdin:
            command = json.loads(line)
            try:
                done = {"ok": getattr(worker, "do_" + command.pop("do"))(**command)}
            except NotImplementedError as error:
                done = {"cannot": str(error)}
            except Exception as error:
                done = {
                    "error": f"{type(error).__name__}: {error}",
                    "trace": traceback.format_exc(),
                }
            answers.write(json.dumps(done) + "\n")
    finally:
        target.close()


if __name__ == "__main__":
    main()
