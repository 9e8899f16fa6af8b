"""What scenarios share: workers of targets in folders of their own, and the way to the results.

Targets of a scenario are measured in turns, round by round, so that a drift of the machine meets
all of them alike and their ratios hold. A target that fails leaves the scenario with a line that
has its error; the others go on.
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
"""What of the scale is in a measurement's key; the other parts are points of their own."""


@dataclass(frozen=True)
class Scale:
    """How much is measured: the standard set, all of it, or next to nothing for tests.

    Attributes:
        rounds: of each measurement, whose median counts.
        seconds: of each speed measurement. latency_seconds: of each latency one.
        clients: numbers of concurrent clients.
        efforts: the sweep.
        recall_enough: a sweep ends once recall has come this far.
        batches: sizes of batches of ingest. sizes: rows of the growth sweep.
        ingest_rows: rows at most that ingest, churn and recovery load.
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
        say: told what is being done, for people.
        failed: targets that are left out from here on. versions: of targets, as they say it.
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
        """The line of that point, if it needs no measuring."""
        return self.results.known(**self._key(target, point))

    def record(self, target: str, point: dict[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
        """A measured point."""
        return self.results.add(
            **self._key(target, point),
            figures=figures,
            status="measured",
            provenance=self._provenance(target),
        )

    @contextmanager
    def attempt(self, target: str, **point: Any) -> Iterator[None]:
        """What goes wrong inside is a line of the results, and the scenario goes on without it.

        That a target can't do something is one too; after a failure it is left out from there on.
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
        return {
            "scenario": self.scenario,
            "target": target,
            "dataset": self.dataset.name,
            "data": self.dataset.identity,
            "settings": {
                **asdict(self.settings),
                **{name: getattr(self.scale, name) for name in _OF_EACH_LINE},
            },
            "point": point,
        }


class Bench:
    """Workers with a folder each; a context manager that ends and removes them all."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._stack = ExitStack()
        # Whoever was killed may still be writing, for all that is known here.
        self._place = tempfile.TemporaryDirectory(prefix="vecdb-bench-", ignore_cleanup_errors=True)
        self.folder = Path(self._place.name)
        self._arrays = 0

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
        self._place.cleanup()

    def worker(self, target: str) -> WorkerProcess:
        """A process for that target, which has nothing open yet."""
        worker = WorkerProcess(target, self.context.cache)
        self._stack.callback(worker.close)
        return worker

    def opened(
        self, target: str, folder: str = "", *, dim: int | None = None, **settings: Any
    ) -> WorkerProcess:
        """A process that has a folder of its own open, empty if it is a new one."""
        worker = self.worker(target)
        self.open(worker, folder or target, dim=dim, **settings)
        return worker

    def open(
        self, worker: WorkerProcess, folder: str, *, dim: int | None = None, **settings: Any
    ) -> Any:
        """Have a worker open a folder; what it says of it."""
        context = self.context
        told = worker.call(
            "open",
            folder=str(self.folder / folder),
            dim=dim or context.dataset.dim,
            metric=context.dataset.metric,
            settings=asdict(replace(context.settings, **settings)),
        )
        worker.watch(told["processes"])
        context.versions[worker.name] = told["version"]
        return told

    def attached(self, target: str, address: str) -> WorkerProcess:
        """A further client of what another worker has open."""
        worker = self.worker(target)
        worker.call(
            "attach",
            address=address,
            dim=self.context.dataset.dim,
            metric=self.context.dataset.metric,
            settings=asdict(self.context.settings),
        )
        return worker

    def array_file(self, array: npt.NDArray[Any]) -> str:
        """An array as a file that workers read."""
        self._arrays += 1
        path = self.folder / f"array-{self._arrays}.npy"
        np.save(path, array)
        return str(path)

    def load(self, worker: WorkerProcess, rows: int, batch: int = 1_000) -> dict[str, float]:
        """The first rows of the data set, and all of them indexed; seconds of both."""
        base = str(self.context.dataset.folder / "base.npy")
        sent = worker.call("upsert", vectors=base, first=0, end=rows, batch=batch)["seconds"]
        return {"sent_s": sent, "indexed_s": sent + worker.call("finish")["seconds"]}

    def answers(
        self, worker: WorkerProcess, queries: str, k: int, effort: int
    ) -> npt.NDArray[np.int64]:
        """What a target finds for all queries of a file."""
        out = str(self.folder / f"answers-{worker.pid}.npy")
        worker.call("answers", queries=queries, k=k, effort=effort, out=out)
        return np.asarray(np.load(out))

    @property
    def queries(self) -> str:
        """The file of the data set's queries."""
        return str(self.context.dataset.folder / "queries.npy")
