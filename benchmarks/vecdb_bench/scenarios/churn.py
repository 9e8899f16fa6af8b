"""Recall, speed, memory and disk while rows are replaced and others deleted.

The first half of the data set is loaded. In three steps 10, 50 and 100 % of its rows are replaced
by rows of the second half, and each step also deletes 2 % of the ids. The true neighbours of each
state are recomputed. Finally ``optimize`` runs the maintenance that a target needs after churn. A
fresh load of the last state is measured as well; it is the ideal result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vecdb_bench.data.truth import recall, true_neighbours
from vecdb_bench.figures import summary
from vecdb_bench.scenarios.context import Bench, Context
from vecdb_bench.targets.process import WorkerProcess

__all__ = ["EFFORT", "TITLE", "run"]

TITLE = "Churn: rows replaced and deleted"
EFFORT = 64
K = 10
_STEPS = (0.0, 0.1, 0.5, 1.0)
_DELETED_EACH_STEP = 0.02
_SEED = 11
_BATCH = 1_000


class _State:
    """Tracks the row of the data set that each id has; -1 for deleted ids."""

    def __init__(self, context: Context) -> None:
        self.rows = min(context.scale.ingest_rows, len(context.dataset.base) // 2)
        self._base = context.dataset.base
        self._order = np.random.default_rng(_SEED).permutation(self.rows)
        self.row_of = np.arange(self.rows)
        self._replaced = 0

    def replace_up_to(self, share: float) -> npt.NDArray[np.int64]:
        """Replace rows up to a share of all ids by rows of the second half; return these ids.

        Deleted ids among them become live again.
        """
        end = round(share * self.rows)
        ids = self._order[self._replaced : end]
        self.row_of[ids] = ids + self.rows
        self._replaced = end
        return ids

    def delete_some(self, step: int) -> npt.NDArray[np.int64]:
        """Delete 2 % of the ids, chosen at random from the live ones; return them."""
        count = max(1, round(_DELETED_EACH_STEP * self.rows))
        live = np.flatnonzero(self.row_of >= 0)
        ids = np.random.default_rng(_SEED + step).choice(live, count, replace=False)
        self.row_of[ids] = -1
        return ids

    def live(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return the live ids, ascending, and their vectors, float32, shape (n, dim)."""
        ids = np.flatnonzero(self.row_of >= 0)
        return ids, self._base[self.row_of[ids]]


def run(context: Context) -> None:
    """Measure each target whose points are not all in the results."""
    points = [*(f"{share:.0%} replaced" for share in _STEPS), "optimized", "fresh load"]
    for target in context.targets:
        known = [context.known(target, state=name) for name in points]
        if any(line is not None and line["status"] == "cannot" for line in known):
            continue  # Each state builds on the one before, so that later ones fail as well.
        if None in known:
            context.say(f"{target}: churn")
            with Bench(context) as bench:
                _measure(context, bench, target)


def _measure(context: Context, bench: Bench, target: str) -> None:
    state = _State(context)
    name = f"{_STEPS[0]:.0%} replaced"
    with context.attempt(target, state=name):
        worker = bench.opened(target)
        bench.load(worker, state.rows, _BATCH)
        _record(context, bench, worker, state, name, 0.0)
    if not _measured(context, target, name):
        return
    for step, share in enumerate(_STEPS[1:], 1):
        name = f"{share:.0%} replaced"
        with context.attempt(target, state=name):
            seconds = _change(context, bench, worker, state, share, step)
            _record(context, bench, worker, state, name, seconds)
        if not _measured(context, target, name):
            return
    with context.attempt(target, state="optimized"):
        _record(context, bench, worker, state, "optimized", worker.call("optimize")["seconds"])
    with context.attempt(target, state="fresh load"):
        _fresh(context, bench, state, target)


def _measured(context: Context, target: str, state: str) -> bool:
    known = context.known(target, state=state)
    return known is not None and known["status"] == "measured"


def _fresh(context: Context, bench: Bench, state: _State, target: str) -> None:
    """Load the last state into a new folder and record it."""
    ids, vectors = state.live()
    fresh = bench.opened(target, "fresh")
    file = bench.array_file(vectors)
    order = bench.array_file(np.arange(len(ids)))
    done = fresh.call("upsert", vectors=file, first=0, end=len(ids), batch=_BATCH, ids=order)
    seconds = done["seconds"] + fresh.call("finish")["seconds"]
    # Ids are positions in ``live`` here, since FAISS supports no other ids.
    _record(context, bench, fresh, state, "fresh load", seconds, ids_are_places=True)


def _change(
    context: Context,
    bench: Bench,
    worker: WorkerProcess,
    state: _State,
    share: float,
    step: int,
) -> float:
    """Replace and delete rows; return the seconds until all of it is acknowledged."""
    ids = state.replace_up_to(share)
    vectors = context.dataset.base[ids + state.rows]
    done = worker.call(
        "upsert",
        vectors=bench.array_file(vectors),
        first=0,
        end=len(ids),
        batch=_BATCH,
        ids=bench.array_file(ids),
    )
    gone = state.delete_some(step)
    deleted = worker.call("delete", ids=bench.array_file(gone))
    return float(done["seconds"] + deleted["seconds"])


def _record(
    context: Context,
    bench: Bench,
    worker: WorkerProcess,
    state: _State,
    name: str,
    seconds: float,
    *,
    ids_are_places: bool = False,
) -> None:
    ids, vectors = state.live()
    queries, metric = context.dataset.queries, context.dataset.metric
    _, distances = true_neighbours(vectors, queries, metric, K)
    found = bench.answers(worker, bench.queries, K, EFFORT)
    if not ids_are_places:
        place_of = np.full(state.rows, -1)
        place_of[ids] = np.arange(len(ids))
        # Hits that are deleted rows become -1, which counts as no hit.
        found = np.where(found >= 0, place_of[np.maximum(found, 0)], -1)

    def speed() -> float:
        rate: float = worker.call(
            "speed",
            queries=bench.queries,
            k=K,
            effort=EFFORT,
            batch=1,
            callers=1,
            seconds=context.scale.seconds,
        )
        return rate

    figures: dict[str, Any] = {
        "recall_10": float(recall(found, vectors, queries, metric, distances, K).mean()),
        "answers_with_fewer": int((found < 0).any(axis=1).sum()),
        "queries_per_s": summary([speed() for _ in range(context.scale.rounds)]),
        "change_s": seconds,
        "rows": len(ids),
        "effort": EFFORT,
        **worker.call("sizes"),
    }
    context.record(worker.name, {"state": name}, figures)
