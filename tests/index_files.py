"""Small index files of each kind that comes in, written by faiss and hnswlib themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import hnswlib
import numpy as np

from vecdb.engine.interchange.faiss.read import read_faiss
from vecdb.engine.interchange.hnswlib_file import read_hnswlib
from vecdb.engine.interchange.importing.foreign_index import ForeignIndex
from vecdb.engine.interchange.untrusted_file import UntrustedFile
from vecdb.types import Metric

__all__ = ["KINDS", "faiss_index", "read", "vectors", "write"]

DIM = 3
KINDS = ("flat", "flat-ids", "hnsw", "hnsw-ids", "hnsw-normalised", "hnswlib")


def vectors(n: int, dim: int, *, unit: bool = False, seed: int = 5) -> Any:
    """Float32 (n, dim), normally distributed."""
    found = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    if unit:
        found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def faiss_index(
    kind: str, rows: Any, metric: int = faiss.METRIC_L2, M: int = 4, first_id: int = 100
) -> Any:
    """An index of one of ``KINDS`` with ids ``first_id`` and then every third number."""
    dim = rows.shape[1]
    inner = faiss.IndexFlat(dim, metric)
    if kind.startswith("hnsw"):
        inner = faiss.IndexHNSWFlat(dim, M, metric)
    if kind == "hnsw-normalised":
        inner = faiss.IndexPreTransform(faiss.NormalizationTransform(dim, 2.0), inner)
    if kind in ("flat", "hnsw"):
        inner.add(rows)
        return inner
    outer = faiss.IndexIDMap2(inner)
    outer.add_with_ids(rows, first_id + 3 * np.arange(len(rows)))
    return outer


def write(kind: str, path: Path, n: int = 6, dim: int = DIM) -> None:
    """A file of one of ``KINDS``."""
    rows = vectors(n, dim)
    if kind == "hnswlib":
        index = hnswlib.Index("l2", dim)
        index.init_index(n + 2, M=4, ef_construction=20)
        index.add_items(rows, 100 + 3 * np.arange(n), num_threads=1)
        index.save_index(str(path))
        return
    metric = faiss.METRIC_INNER_PRODUCT if kind == "hnsw-normalised" else faiss.METRIC_L2
    faiss.write_index(faiss_index(kind, rows, metric), str(path))


def read(kind: str, file: UntrustedFile) -> ForeignIndex:
    """The file as an import reads it."""
    return read_hnswlib(file, DIM, Metric.EUCLIDEAN) if kind == "hnswlib" else read_faiss(file)
