"""The base class of adapters, and helpers for them; imports numpy and the standard library only.

Rows are identified by integers from 0, which an adapter converts to the ids of its target. An
adapter is called by one thread, except for ``search``, which several threads may call concurrently.
"""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "EFFORTS",
    "Condition",
    "Ids",
    "Settings",
    "Target",
    "descendants",
    "folder_bytes",
    "memory_bytes",
    "unit",
]

EFFORTS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""The sweep of ef_search, or of a target's equivalent."""


@dataclass(frozen=True)
class Settings:
    """Settings that are equal for all targets, as far as a target supports them.

    Attributes:
        M: links per node of the graph.
        ef_construction: number of candidates while the graph is built.
        threads: threads of the build, and of batches if a target has such a parameter.
        ids: "integer" (ascending) or "uuid" (in random order).
        fields: names of the integer fields of each row. A scenario sets them; a run does not.
    """

    M: int = 16
    ef_construction: int = 128
    threads: int = 1
    ids: str = "integer"
    fields: Sequence[str] = ()


@dataclass(frozen=True)
class Condition:
    """A condition on an integer field: ``low <= value < high``."""

    field: str
    low: int
    high: int


class Target:
    """One collection of one target; an adapter's class is named ``Adapter``.

    A method that a target does not support raises NotImplementedError with the reason.
    """

    ids_of_text = False
    """Whether the target accepts UUIDs as ids."""

    def open(self, folder: Path, dim: int, metric: str, settings: Settings) -> None:
        """Open the folder, creating it if missing; start the server of a served target.

        Args:
            metric: "cosine", "euclidean" or "dot".
        """
        raise NotImplementedError

    def attach(self, address: str, dim: int, metric: str, settings: Settings) -> None:
        """Connect as a further client to a target that another worker has opened."""
        raise NotImplementedError("runs in one process and accepts no further clients")

    def address(self) -> str:
        """Return the address for ``attach`` in further workers."""
        raise NotImplementedError("runs in one process and accepts no further clients")

    def upsert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Insert or replace one batch; it is acknowledged when this returns.

        Args:
            ids: int64, shape (n,). vectors: float32, shape (n, dim).
        """
        raise NotImplementedError

    def upsert_fields(
        self, ids: np.ndarray, vectors: np.ndarray, fields: Mapping[str, np.ndarray]
    ) -> None:
        """Do ``upsert`` with integer fields: name → int64, shape (n,), those of the settings."""
        raise NotImplementedError("the adapter stores no fields of rows")

    def delete(self, ids: np.ndarray) -> None:
        """Delete rows by their ids, int64, shape (n,)."""
        raise NotImplementedError("supports no deletes")

    def finish(self) -> None:
        """Wait until all rows are indexed, so that searches scan none of them."""

    def optimize(self) -> None:
        """Run the maintenance that the target needs after churn, and wait until it is done."""
        self.finish()

    def set_threads(self, threads: int) -> None:
        """Set the maximum number of threads of a batch."""
        raise NotImplementedError("the number of threads of a batch can't be set")

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        """Return the nearest rows of each query, nearest first.

        Args:
            queries: float32, shape (q, dim).
            effort: ef_search or its equivalent; adapters use at least k.

        Returns:
            int64, shape (q, k); -1 where there are fewer than k hits.
        """
        raise NotImplementedError

    def search_where(
        self, query: np.ndarray, k: int, effort: int, where: Condition | None
    ) -> np.ndarray:
        """Return the nearest rows that fulfil a condition, or of all rows.

        Args:
            query: float32, shape (1, dim).
            effort: as in ``search``; 0 for the one that the target chooses itself, of targets that
                aim at a recall.

        Returns:
            As ``search``, for one query.
        """
        raise NotImplementedError("the adapter does not filter")

    def scan_where(self, query: np.ndarray, k: int, where: Condition) -> np.ndarray:
        """Do ``search_where`` by comparing the query with every row that fulfils the condition."""
        raise NotImplementedError("the adapter has no exact search")

    def present(self, ids: np.ndarray) -> np.ndarray:
        """Return which ids are stored: int64, shape (n,) → bool, shape (n,)."""
        raise NotImplementedError("the adapter has no look-up by id")

    def unindexed(self) -> int | None:
        """Return the number of rows that a search scans, or None if the target hides it."""
        return None

    def processes(self) -> list[int]:
        """Return the ids of the processes whose memory is the target's."""
        return [os.getpid()]

    def version(self) -> str:
        """Return the version of the library or the server."""
        return ""

    def close(self) -> None:
        """Save what the target keeps on disk and stop it; called also if ``open`` failed."""


class Ids:
    """Converts integers to text ids and back: decimal numbers, or UUIDs in pseudo-random order.

    Random order is the worst case for a target that stores ids in a B-tree.
    """

    _FACTOR = 0x9E3779B97F4A7C15F39CC0605CEDC835  # Odd, so that it has an inverse.
    _INVERSE = pow(_FACTOR, -1, 1 << 128)

    def __init__(self, kind: str) -> None:
        self._uuids = kind == "uuid"

    def encode(self, rows: Any) -> list[str]:
        """Return the text id of each row."""
        if self._uuids:
            mask = (1 << 128) - 1
            numbers = ((int(row) + 1) * self._FACTOR & mask for row in rows)
            return [str(uuid.UUID(int=number)) for number in numbers]
        return [str(int(row)) for row in rows]

    def decode(self, texts: Any) -> list[int]:
        """Return the rows of text ids; the inverse of ``encode``."""
        if self._uuids:
            mask = (1 << 128) - 1
            return [(uuid.UUID(text).int * self._INVERSE & mask) - 1 for text in texts]
        return [int(text) for text in texts]

    def matrix(self, answers: Any, k: int) -> np.ndarray:
        """Return answers, one list of text ids per query, as rows: int64, shape (q, k).

        Answers shorter than k are padded with -1.
        """
        rows = np.full((len(answers), k), -1, np.int64)
        for at, answer in enumerate(answers):
            rows[at, : len(answer)] = self.decode(answer)
        return rows


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return the rows scaled to length 1, for targets that compute cosine as an inner product."""
    if len(vectors) == 1:  # A query: scaling is part of its latency, and this is faster.
        row = vectors[0]
        return np.asarray(vectors / max(math.sqrt(row.dot(row)), 1e-30))
    lengths: np.ndarray = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-30))


def folder_bytes(folder: Path) -> int:
    """Return the bytes that a folder occupies on disk: allocated blocks, since files may be sparse.

    Files that another process removes during the walk are not counted.
    """
    total = 0
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            try:
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


def memory_bytes(pid: int) -> tuple[int, int]:
    """Return the private and the proportional memory of a process and its descendants, in bytes.

    Private memory (Private_Clean + Private_Dirty) is what would be freed if the processes ended.
    Proportional memory (Pss) divides each shared page by the number of processes that map it.
    """
    private = proportional = 0
    for one in (pid, *descendants(pid)):
        try:
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
        except OSError:
            continue
        for line in text.splitlines():
            if line.startswith(("Private_Clean:", "Private_Dirty:")):
                private += int(line.split()[1]) * 1024
            elif line.startswith("Pss:"):
                proportional += int(line.split()[1]) * 1024
    return private, proportional


def descendants(pid: int) -> list[int]:
    """Return the ids of a process's children, of their children, and so on."""
    found: list[int] = []
    tasks = Path(f"/proc/{pid}/task")
    try:
        numbers = os.listdir(tasks)
    except OSError:
        return found  # The process has ended.
    for number in numbers:
        try:
            children = [int(child) for child in (tasks / number / "children").read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found
