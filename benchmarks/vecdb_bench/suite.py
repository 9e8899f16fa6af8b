"""Runs scenarios over data sets and targets into a file of results; defines the plans.

``run`` executes a plan and skips what the file already has. The standard plan takes minutes, growth
an hour, parts (vecdb beside what it is made of) an hour per data set, that of all peers, contract
(recall asked for, beside other libraries) and filtered (searches with a condition, beside all that
filter) an afternoon, and the full plan a night.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from vecdb.errors import InvalidArgumentError
from vecdb_bench.data.dataset import prepare
from vecdb_bench.results import Results
from vecdb_bench.scenarios import SCENARIOS
from vecdb_bench.scenarios.context import Context, Scale
from vecdb_bench.targets.base import Settings
from vecdb_bench.targets.registry import BASELINES, COMPRESSED, TARGETS, describe

__all__ = [
    "CONTRACT",
    "FILTERED",
    "FULL",
    "GROWTH",
    "PARTS",
    "PEERS",
    "PLANS",
    "STANDARD",
    "TINY",
    "Plan",
    "run",
]


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        datasets, targets, scenarios: by name.
        scale: how much to measure.
        queries: number of queries held out of each data set.
    """

    datasets: tuple[str, ...]
    targets: tuple[str, ...]
    scenarios: tuple[str, ...] = SCENARIOS
    scale: Scale = field(default_factory=Scale)
    queries: int = 1_000


STANDARD = Plan(
    ("glove-50:20000",),
    ("vecdb", "vecdb-served", "hnswlib", "faiss"),
    scale=Scale(
        seconds=0.2,
        latency_seconds=2.0,
        clients=(1, 4),
        efforts=(10, 16, 32, 64, 128, 256),
        batches=(100, 1_000),
        sizes=(5_000, 10_000, 20_000),
        ingest_rows=10_000,
    ),
)
FULL = Plan(
    ("glove-50", "text-256", "sift-128"),
    tuple(name for name in TARGETS if name not in (*BASELINES, *COMPRESSED)),
    scale=Scale(sizes=(10_000, 30_000, 100_000, 300_000), ingest_rows=100_000),
)
PEERS = Plan(
    ("glove-50:50000", "text-256:50000", "sift-128:50000"),
    FULL.targets,
    ("search", "latency", "ingest", "beside", "churn", "recovery", "wire"),
    scale=Scale(
        seconds=0.3,
        latency_seconds=2.0,
        efforts=(10, 16, 32, 64, 128, 256, 512),
        batches=(1_000,),
        ingest_rows=20_000,
    ),
)
GROWTH = Plan(("glove-50",), FULL.targets, ("size",), scale=FULL.scale)
PARTS = Plan(
    ("glove-50",),
    ("vecdb", "vecdb-served", "hnswlib", "lmdb"),
    (
        *("walk", "contract", "call", "memory", "wire", "full_store", "ingest", "opening"),
        *("beside", "exchange"),
    ),
    scale=Scale(
        latency_seconds=30.0,
        efforts=(10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024),
        batches=(1_000,),
        sizes=(10_000, 399_000),
        ingest_rows=400_000,
    ),
)
CONTRACT = Plan(
    ("glove-50", "text-256", "sift-128", "glove-1536:100000"),
    ("vecdb", *COMPRESSED),
    ("contract",),
    scale=Scale(
        efforts=(10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024),
        sizes=(10_000, 30_000, 100_000, 340_000),
    ),
)
FILTERED = Plan(
    ("glove-50",),
    (
        *("vecdb", "vecdb-served", "faiss", "redisearch", "redis", "qdrant-edge", "pgvector"),
        *("chromadb", "lancedb", "milvus-lite"),
    ),
    ("filtered", "metadata"),
    scale=Scale(
        efforts=(10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024),
        ingest_rows=400_000,
    ),
)
TINY = Plan(
    ("glove-50:1000",),
    ("vecdb", "hnswlib"),
    scale=Scale(
        rounds=1,
        seconds=0.01,
        latency_seconds=0.1,
        clients=(1,),
        efforts=(10, 100),
        batches=(100,),
        sizes=(200, 400),
        ingest_rows=400,
    ),
    queries=50,
)
PLANS = {
    "standard": STANDARD,
    "parts": PARTS,
    "peers": PEERS,
    "growth": GROWTH,
    "contract": CONTRACT,
    "filtered": FILTERED,
    "full": FULL,
    "tiny": TINY,
}


def run(
    plan: Plan,
    results: Path,
    cache: Path,
    *,
    again: bool = False,
    say: Callable[[str], None] = lambda sentence: None,
    step: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Results:
    """Measure what is not in the file yet.

    Args:
        results: the file of JSON lines; created if missing, otherwise appended to.
        cache: folder of data sets and environments.
        again: measure all of the plan, also what the file has.
        say: called with a sentence on the current work.
        step: called with the current scenario, the number of scenarios done and their total.

    Raises:
        InvalidArgumentError: a name in the plan is unknown.
        NotFoundError, MissingExtraError: what a data set is built from is not installed.
    """
    for target in plan.targets:
        describe(target)
    unknown = set(plan.scenarios) - set(SCENARIOS)
    if unknown:
        raise InvalidArgumentError(
            f"no scenario {sorted(unknown)[0]!r}, expected one of {', '.join(SCENARIOS)}",
            "NO_SCENARIO",
        )
    file = Results(results, again=again)
    settings = Settings(threads=len(os.sched_getaffinity(0)))
    total = len(plan.datasets) * len(plan.scenarios)
    for at, name in enumerate(plan.datasets):
        dataset = prepare(name, cache, queries=plan.queries)
        for number, scenario in enumerate(plan.scenarios):
            step(f"{scenario} on {name}", at * len(plan.scenarios) + number, total)
            context = Context(
                scenario, dataset, plan.targets, settings, plan.scale, file, cache, say
            )
            importlib.import_module(f"vecdb_bench.scenarios.{scenario}").run(context)
    step("done", total, total)
    return file
