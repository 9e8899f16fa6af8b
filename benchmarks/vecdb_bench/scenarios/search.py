"""Recall against queries per second over a sweep of the effort.

Calls have one query or a batch of 100, on one thread or on all cores. Recall@1 and recall@10 are
measured with k 10, recall@100 with k 100. Targets are interleaved at each point. A target's sweep
ends at the first effort that reaches ``Scale.recall_enough``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from vecdb.errors import UnsupportedError
from vecdb_bench.figures import summary
from vecdb_bench.scenarios.context import Bench, Context
from vecdb_bench.targets.process import WorkerProcess

__all__ = ["TITLE", "run"]

TITLE = "Recall against queries a second"
BATCH = 100


class Mode(NamedTuple):
    """How queries are sent.

    Attributes:
        name: key of the mode in the results.
        k: hits per query. batch: queries per call.
        threads: threads of a batch, 0 for all cores.
        many_callers: one caller per core instead of a single one.
    """

    name: str
    k: int
    batch: int
    threads: int
    many_callers: bool


MODES = (
    Mode("one query, one caller", 10, 1, 1, False),
    Mode("one query, a caller a core", 10, 1, 0, True),
    Mode("batches of 100, one thread", 10, BATCH, 1, False),
    Mode("batches of 100, all cores", 10, BATCH, 0, False),
    Mode("batches of 100, all cores, a caller a core", 10, BATCH, 0, True),
    Mode("batches of 100, all cores, k 100", 100, BATCH, 0, False),
)


def run(context: Context) -> None:
    """Measure the points that are not in the results."""
    wanted = [name for name in context.targets if _missing(context, name)]
    if not wanted:
        return
    with Bench(context) as bench:
        workers: dict[str, WorkerProcess] = {}
        for target in wanted:
            with context.attempt(target, what="load"):
                context.say(f"{target}: loading {len(context.dataset.base):,} rows")
                workers[target] = bench.opened(target)
                figures = bench.load(workers[target], len(context.dataset.base))
                sizes = workers[target].call("sizes")
                context.record(target, {"what": "load"}, {**figures, **sizes})
        recalls: dict[tuple[str, int, int], dict[str, float]] = {}
        for mode in MODES:
            _measure(context, bench, workers, mode, recalls)


def _missing(context: Context, target: str) -> bool:
    """Return whether any sweep of a target is incomplete."""
    return any(not _ended(context, target, mode) for mode in MODES)


def _ended(context: Context, target: str, mode: Mode) -> bool:
    for effort in _efforts(context, mode):
        line = context.known(target, mode=mode.name, k=mode.k, effort=effort)
        if line is None:
            return False
        if line["status"] == "cannot" or _enough(context, line["figures"], mode):
            return True
    return True


def _enough(context: Context, figures: dict[str, float], mode: Mode) -> bool:
    return figures[f"recall_{mode.k}"] >= context.scale.recall_enough


def _efforts(context: Context, mode: Mode) -> list[int]:
    return [effort for effort in context.scale.efforts if effort >= mode.k]


def _recalls(
    context: Context, bench: Bench, worker: WorkerProcess, k: int, effort: int
) -> dict[str, float]:
    """Return the recall at an effort; it does not depend on batch size, threads or callers."""
    found = bench.answers(worker, bench.queries, k, effort)
    places = (1, 10) if k == 10 else (100,)
    return {f"recall_{place}": context.dataset.recall(found, place) for place in places}


def _measure(
    context: Context,
    bench: Bench,
    workers: dict[str, WorkerProcess],
    mode: Mode,
    recalls: dict[tuple[str, int, int], dict[str, float]],
) -> None:
    going = {
        target: worker
        for target, worker in workers.items()
        if target not in context.failed and not _ended(context, target, mode)
    }
    for target in list(going):
        if not _threads_set(context, going[target], target, mode):
            del going[target]
    for effort in _efforts(context, mode):
        going = {name: worker for name, worker in going.items() if name not in context.failed}
        point = {"mode": mode.name, "k": mode.k, "effort": effort}
        missing = [name for name in going if context.known(name, **point) is None]
        if missing:
            context.say(f"{mode.name}, effort {effort}: {', '.join(missing)}")
        speeds: dict[str, list[float]] = {name: [] for name in missing}
        for _ in range(context.scale.rounds):
            for target in missing:
                with context.attempt(target, **point):
                    speeds[target].append(_speed(context, bench, going[target], mode, effort))
        for target in missing:
            if target in context.failed:
                continue
            with context.attempt(target, **point):
                known = (target, mode.k, effort)
                if known not in recalls:
                    recalls[known] = _recalls(context, bench, going[target], mode.k, effort)
                figures: dict[str, Any] = dict(recalls[known])
                figures["queries_per_s"] = summary(speeds[target])
                figures["in_turns_with"] = missing
                context.record(target, point, figures)
        for target in list(going):
            line = context.known(target, **point)
            if line is not None and (
                line["status"] == "cannot" or _enough(context, line["figures"], mode)
            ):
                del going[target]


def _threads_set(context: Context, worker: WorkerProcess, target: str, mode: Mode) -> bool:
    """Set the number of threads of a batch; return False, with a line in the results, if it fails.

    A target whose threads can't be set uses as many as it was opened with. That suffices if the
    mode asks for as many or sends single queries.
    """
    threads = mode.threads or context.settings.threads
    done = False
    with context.attempt(target, mode=mode.name, k=mode.k, effort=_efforts(context, mode)[0]):
        try:
            worker.call("threads", threads=threads)
        except UnsupportedError:
            if mode.batch > 1 and threads != context.settings.threads:
                raise
        done = True
    return done


def _speed(context: Context, bench: Bench, worker: WorkerProcess, mode: Mode, effort: int) -> float:
    rate: float = worker.call(
        "speed",
        queries=bench.queries,
        k=mode.k,
        effort=effort,
        batch=mode.batch,
        callers=context.settings.threads if mode.many_callers else 1,
        seconds=context.scale.seconds,
    )
    return rate
