"""A data set in the cache: built once, opened as mapped files.

    <cache>/data/<name>/manifest.json     recipe, shapes, checksums of the files
                        base.npy          float32 (n, dim)
                        queries.npy       float32 (q, dim), none of them a row of base
                        neighbours.npy    int64 (q, 100), rows of base, nearest first
                        distances.npy     float64 (q, 100)
                        rows.npy          int64 (n,), row of the source of each row of base; the
                                          metadata of text-256, one line per row of the source, are
                                          in <cache>/data/.text/metadata.jsonl

A folder is created atomically: it is built under a temporary name and renamed. Its name contains a
hash of the recipe (format, source, rows, metric, queries, seed), so that each recipe has a folder
of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vecdb.checks import check_vectors
from vecdb.errors import InvalidArgumentError
from vecdb.row_names import RowNames
from vecdb.types import Metric
from vecdb_bench.data.sources import Source, source_of
from vecdb_bench.data.truth import METRICS, recall, true_neighbours

__all__ = ["Dataset", "cache_folder", "prepare"]

FORMAT = 1
QUERIES = 1_000
NEIGHBOURS = 100
SEED = 7801
_CHECKED_ROWS = 10_000
_SPECIFICATION = re.compile(r"(?P<source>.+?)(?::(?P<rows>\d+))?(?:@(?P<metric>[a-z]+))?")


def cache_folder(given: Path | None = None) -> Path:
    """Return the folder of data sets and environments: ``given``, or one in XDG_CACHE_HOME."""
    if given is not None:
        return given
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "vecdb-bench"


@dataclass(frozen=True)
class Dataset:
    """Real vectors with queries and their true neighbours; the arrays are mapped.

    Attributes:
        name: the name given to ``prepare``.
        metric: "cosine", "euclidean" or "dot".
        base: float32, shape (n, dim). queries: float32, shape (q, dim).
        neighbours: rows of base, nearest first, int64, shape (q, min(100, n)).
        distances: of the neighbours, float64, the same shape.
        manifest: recipe, shapes and checksums.
    """

    name: str
    folder: Path
    metric: str
    base: npt.NDArray[np.float32]
    queries: npt.NDArray[np.float32]
    neighbours: npt.NDArray[np.int64]
    distances: npt.NDArray[np.float64]
    manifest: dict[str, Any]

    @property
    def identity(self) -> str:
        """Return a text from the recipe and a checksum of base: equal texts mean equal rows."""
        return f"{self.folder.name}-{self.manifest['sha256']['base.npy'][:10]}"

    @property
    def dim(self) -> int:
        """Return the number of components of each vector."""
        return int(self.base.shape[1])

    def recall(self, found: npt.NDArray[np.integer], k: int) -> float:
        """Return the mean recall@k of answers to the first queries; see ``truth.recall``.

        Args:
            found: rows of ``base``, shape (at most q, at least k).
        """
        asked = self.queries[: len(found)]
        shares = recall(found, self.base, asked, self.metric, self.distances, k)
        return float(shares.mean())


def prepare(
    name: str,
    cache: Path,
    *,
    queries: int = QUERIES,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Dataset:
    """Return the data set of a name, built if the cache does not have it.

    Args:
        name: see the package's docstring.
        queries: number of rows to hold out as queries if the source has no queries.
        progress: called with the current step, the amount done and the total.

    Raises:
        InvalidArgumentError: the name or its metric is invalid, the source has too few rows, or
            it has vectors that a collection rejects.
        NotFoundError, MissingExtraError: what the data set is built from is not installed; the
            message has the command that installs it.
        InternalError, UnavailableError: the script that computes the vectors failed, or its
            environment could not be built.
    """
    found = _SPECIFICATION.fullmatch(name)
    if found is None or (found["metric"] and found["metric"] not in METRICS):
        raise InvalidArgumentError(
            f"data set {name!r}, expected SOURCE[:ROWS][@METRIC] with a metric of {METRICS}",
            "BAD_DATASET",
        )
    source = source_of(found["source"], cache)
    rows = int(found["rows"]) if found["rows"] else None
    metric = found["metric"] or source.metric
    recipe = {
        "format": FORMAT,
        "source": source.identity,
        "rows": rows,
        "metric": metric,
        "queries": queries,
        "seed": SEED,
    }
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:10]
    label = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(found["source"]).stem)
    folder = cache / "data" / f"{label}-{rows or 'all'}-{digest}"
    if not (folder / "manifest.json").exists():
        _make(folder, source, recipe, progress)
    return _opened(name, folder)


def _make(
    folder: Path,
    source: Source,
    recipe: dict[str, Any],
    progress: Callable[[str, int, int], None],
) -> None:
    progress("reading", 0, 1)
    vectors, asked = source.read()
    _check_storable(vectors, asked, recipe["metric"], source.identity)
    rows, queries = _held_out(vectors, asked, recipe["queries"], source.identity)
    if recipe["rows"] is not None:
        if recipe["rows"] > len(rows):
            raise InvalidArgumentError(
                f"{source.identity}: expected at least {recipe['rows']:,} rows, got {len(rows):,}",
                "TOO_FEW_ROWS",
            )
        rows = rows[: recipe["rows"]]
    base = vectors[rows]
    neighbours, distances = true_neighbours(
        base,
        queries,
        recipe["metric"],
        NEIGHBOURS,
        lambda done: progress("comparing all pairs", done, len(queries)),
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as place:
        built = Path(place) / "built"
        built.mkdir()
        arrays = {
            "base": base,
            "queries": queries,
            "neighbours": neighbours,
            "distances": distances,
            "rows": rows,
        }
        sums = {}
        for what, array in arrays.items():
            path = built / f"{what}.npy"
            np.save(path, np.ascontiguousarray(array))
            sums[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        manifest = {
            **recipe,
            "base_shape": base.shape,
            "queries_shape": queries.shape,
            "numpy": np.__version__,
            "sha256": sums,
        }
        (built / "manifest.json").write_text(json.dumps(manifest, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        built.rename(folder)


def _check_storable(
    vectors: npt.NDArray[np.float32],
    asked: npt.NDArray[np.float32] | None,
    metric: str,
    identity: str,
) -> None:
    """Reject vectors that a collection rejects (NaN, zeros under cosine); the error has the row."""
    for what, matrix in (("vectors", vectors), ("queries", asked)):
        for first in range(0, 0 if matrix is None else len(matrix), _CHECKED_ROWS):
            assert matrix is not None
            part = matrix[first : first + _CHECKED_ROWS]
            try:
                check_vectors(part, matrix.shape[1], Metric(metric), what, RowNames(first))
            except InvalidArgumentError as error:
                raise InvalidArgumentError(f"{identity}: {error.message}", error.reason) from None


def _held_out(
    vectors: npt.NDArray[np.float32],
    asked: npt.NDArray[np.float32] | None,
    count: int,
    identity: str,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the rows of the base in random order, and queries; no query equals a row."""
    if asked is None:
        if len(vectors) <= count:
            raise InvalidArgumentError(
                f"{identity}: expected more than {count:,} rows to hold out {count:,} queries, "
                f"got {len(vectors):,}",
                "TOO_FEW_ROWS",
            )
        order = np.random.default_rng(SEED).permutation(len(vectors))
        asked, rows = vectors[order[:count]], order[count:]
    else:
        rows = np.random.default_rng(SEED).permutation(len(vectors))
    known = {query.tobytes() for query in asked}
    rows = rows[[vectors[row].tobytes() not in known for row in rows]]
    if len(rows) == 0:
        raise InvalidArgumentError(
            f"{identity}: expected rows that are not queries, but all {len(vectors):,} rows are",
            "TOO_FEW_ROWS",
        )
    return rows, asked


def _opened(name: str, folder: Path) -> Dataset:
    manifest = json.loads((folder / "manifest.json").read_text())

    def mapped(what: str) -> Any:
        return np.load(folder / f"{what}.npy", mmap_mode="r").view(np.ndarray)

    return Dataset(
        name,
        folder,
        manifest["metric"],
        mapped("base"),
        mapped("queries"),
        mapped("neighbours"),
        mapped("distances"),
        manifest,
    )
