"""Shared by scenarios: workers of targets, each in its own folder, and access to the results.

Targets of a scenario are interleaved round by round, so that drift of the machine affects all of
them equally and their ratios hold. If a target fails, its error is recorded and the scenario
continues with the other targets.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vecdb.errors import UnsupportedError, VecdbError
from vecdb_bench.data.dataset import SEED, Dataset
from vecdb_bench.provenance import provenance
from vecdb_bench.results import Results
from vecdb_bench.targets.base import Settings
from vecdb_bench.targets.process import WorkerProcess

__all__ = ["Bench", "Context", "Scale"]

_OF_EACH_LINE = ("rounds", "seconds", "latency_seconds", "ingest_rows")
"""Fields of the scale that are part of a measurement's key; the other fields define points."""


@dataclass(frozen=True)
class Scale:
    """How much to measure.

    Attributes:
        rounds: number of rounds of each measurement, whose median is reported.
        seconds: duration of each speed measurement.
        latency_seconds: duration of each latency measurement.
        clients: numbers of concurrent clients.
        efforts: values of ef_search, or of a target's equivalent, in the sweep.
        recall_enough: a sweep ends at the first effort that reaches this recall.
        batches: batch sizes of ingest, in rows.
        sizes: numbers of rows of the growth sweep.
        ingest_rows: maximum number of rows that ingest, churn and recovery load.
    """

    rounds: int = 3
    seconds: float = 0.5
    latency_seconds: float = 3.0
    clients: tuple[int, ...] = (1, 4, 16)
    efforts: tuple[int, ...] = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
    recall_enough: float = 0.995
    batches: tuple[int, ...] = (1, 100, 1_000, 10_000)
    sizes: tuple[int, ...] = (10_000, 30_000, 100_000)
    ingest_rows: int = 20_000


@dataclass
class Context:
    """One scenario over one data set and some targets.

    Attributes:
        cache: folder of data sets and environments.
        say: called with a sentence on the current work.
        failed: names of targets that failed and are skipped from then on.
        versions: version of each target, as reported by the target.
    """

    scenario: str
    dataset: Dataset
    targets: tuple[str, ...]
    settings: Settings
    scale: Scale
    results: Results
    cache: Path
    say: Callable[[str], None] = lambda sentence: None
    failed: set[str] = field(default_factory=set)
    versions: dict[str, str] = field(default_factory=dict)

    def known(self, target: str, **point: Any) -> dict[str, Any] | None:
        """Return the line of a point that needs no measuring, or None."""
        return self.results.known(**self._key(target, point))

    def record(self, target: str, point: dict[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
        """Append a measured point to the results; return its line."""
        return self.results.add(
            **self._key(target, point),
            figures=figures,
            status="measured",
            provenance=self._provenance(target),
        )

    @contextmanager
    def attempt(self, target: str, **point: Any) -> Iterator[None]:
        """Turn errors inside the block into lines of the results, so that the scenario continues.

        UnsupportedError gives a line with status "cannot". Any other VecdbError gives a line with
        status "failed" and adds the target to ``failed``.
        """
        try:
            yield
        except UnsupportedError as error:
            self._note(target, point, "cannot", error)
        except VecdbError as error:
            self.failed.add(target)
            self._note(target, point, "failed", error)

    def _note(self, target: str, point: dict[str, Any], status: str, error: VecdbError) -> None:
        self.say(f"{target}: {error.message.splitlines()[0]}")
        self.results.add(
            **self._key(target, point),
            status=status,
            error=error.message,
            provenance=self._provenance(target),
        )

    def _provenance(self, target: str) -> dict[str, Any]:
        return {
            **provenance(),
            "target_version": self.versions.get(target, ""),
            "queries": len(self.dataset.queries),
            "seed": SEED,
        }

    def _key(self, target: str, point: dict[str, Any]) -> dict[str, Any]:
        settings = asdict(self.settings)
        del settings["fields"]  # A scenario's own; its points say what they mean.
        return {
            "scenario": self.scenario,
            "target": target,
            "dataset": self.dataset.name,
            "data": self.dataset.identity,
            "settings": {
                **settings,
                **{name: getattr(self.scale, name) for name in _OF_EACH_LINE},
            },
            "point": point,
        }


class Bench:
    """Starts workers, each with its own folder; a context manager that ends and removes them."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._stack = ExitStack()
        # A killed target's children may still be writing while the folder is removed.
        self._place = tempfile.TemporaryDirectory(prefix="vecdb-bench-", ignore_cleanup_errors=True)
        self.folder = Path(self._place.name)
        self._arrays = 0

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
        self._place.cleanup()

    def worker(self, target: str) -> WorkerProcess:
        """Start a worker for a target; it has no folder open yet."""
        worker = WorkerProcess(target, self.context.cache)
        self._stack.callback(worker.close)
        return worker

    def opened(
        self, target: str, folder: str = "", *, dim: int | None = None, **settings: Any
    ) -> WorkerProcess:
        """Start a worker and open its folder, which is created if missing.

        Args:
            folder: name of the folder; the target's name if empty.
            dim: components of each vector; those of the data set if None.
            settings: fields of ``Settings`` that differ from the context's.
        """
        worker = self.worker(target)
        self.open(worker, folder or target, dim=dim, **settings)
        return worker

    def open(
        self, worker: WorkerProcess, folder: str, *, dim: int | None = None, **settings: Any
    ) -> Any:
        """Open a folder in a worker; return the result of its command ``open``."""
        context = self.context
        opened = worker.call(
            "open",
            folder=str(self.folder / folder),
            dim=dim or context.dataset.dim,
            metric=context.dataset.metric,
            settings=asdict(replace(context.settings, **settings)),
        )
        worker.watch(opened["processes"])
        context.versions[worker.name] = opened["version"]
        return opened

    def attached(self, target: str, address: str) -> WorkerProcess:
        """Start a worker as a further client of the target at ``address``."""
        worker = self.worker(target)
        self.attach(worker, address)
        return worker

    def attach(self, worker: WorkerProcess, address: str) -> float:
        """Make a worker a further client of its target; return the seconds that this took."""
        seconds: float = worker.call(
            "attach",
            address=address,
            dim=self.context.dataset.dim,
            metric=self.context.dataset.metric,
            settings=asdict(self.context.settings),
        )["seconds"]
        return seconds

    def array_file(self, array: npt.NDArray[Any]) -> str:
        """Save an array to a file that workers read; return its path."""
        self._arrays += 1
        path = self.folder / f"array-{self._arrays}.npy"
        np.save(path, array)
        return str(path)

    def load(
        self,
        worker: WorkerProcess,
        rows: int,
        batch: int = 1_000,
        fields: dict[str, str] | None = None,
    ) -> dict[str, float]:
        """Upsert the first rows of the data set and wait until they are indexed.

        Args:
            fields: name → file of the values of an integer field, of a worker opened with these.

        Returns:
            Seconds from the start: ``sent_s`` until all rows are acknowledged, ``indexed_s`` until
            all are indexed.
        """
        base = str(self.context.dataset.folder / "base.npy")
        done = worker.call("upsert", vectors=base, first=0, end=rows, batch=batch, fields=fields)
        sent = done["seconds"]
        return {"sent_s": sent, "indexed_s": sent + worker.call("finish")["seconds"]}

    def answers(
        self, worker: WorkerProcess, queries: str, k: int, effort: int
    ) -> npt.NDArray[np.int64]:
        """Return a target's answers to all queries of a file, int64, shape (q, k), -1 for none."""
        return self.timed_answers(worker, queries, k, effort)[0]

    def timed_answers(
        self, worker: WorkerProcess, queries: str, k: int, effort: int
    ) -> tuple[npt.NDArray[np.int64], float]:
        """Return the answers, as ``answers`` does, and the seconds that they took."""
        out = str(self.folder / f"answers-{worker.pid}.npy")
        took = worker.call("answers", queries=queries, k=k, effort=effort, out=out)["seconds"]
        return np.asarray(np.load(out)), took

    @property
    def queries(self) -> str:
        """Return the path of the data set's queries."""
        return str(self.context.dataset.folder / "queries.npy")
