"""What a target does: the class that each adapter fills in. numpy and the standard library only.

Rows are known by integers, 0 upwards, which an adapter turns into whatever ids its target has. One
thread calls an adapter, but ``search``, which several may call at once.
"""

from __future__ import annotations

import math
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "EFFORTS",
    "Ids",
    "Settings",
    "Target",
    "descendants",
    "folder_bytes",
    "memory_bytes",
    "unit",
]

EFFORTS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""The sweep of ef, or of what a target has in its place."""


@dataclass(frozen=True)
class Settings:
    """What is equal for all targets, where they can be told.

    Attributes:
        M: links a node of the graph; ef_construction: effort of building.
        threads: of building, and of batches where a target has a number for it.
        ids: "integer" (ascending) or "uuid" (in random order).
    """

    M: int = 16
    ef_construction: int = 128
    threads: int = 1
    ids: str = "integer"


class Target:
    """One collection of one target; an adapter's class is called ``Adapter``."""

    ids_of_text = False
    """Whether it takes UUIDs as ids."""

    def open(self, folder: Path, dim: int, metric: str, settings: Settings) -> None:
        """Open what is in the folder, or make it; a served target's server is started."""
        raise NotImplementedError

    def attach(self, address: str, dim: int, metric: str, settings: Settings) -> None:
        """Be one more client of what another worker has open at ``address``."""
        raise NotImplementedError("lives in one process: there are no further clients")

    def address(self) -> str:
        """What further workers attach to."""
        raise NotImplementedError("lives in one process: there are no further clients")

    def upsert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """One batch, acknowledged when this returns. int64 (n,), float32 (n, dim).

        Ids that are there already are replaced.
        """
        raise NotImplementedError

    def delete(self, ids: np.ndarray) -> None:
        """Remove rows, int64 (n,)."""
        raise NotImplementedError("does not delete")

    def finish(self) -> None:
        """Wait until searches need no scan of what was written: all is indexed."""

    def optimize(self) -> None:
        """What its operators do after churn; waits until it is done."""
        self.finish()

    def set_threads(self, threads: int) -> None:
        """How many threads a batch may use from now on."""
        raise NotImplementedError("a batch's threads can't be set")

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        """The nearest rows of each query: float32 (q, dim) → int64 (q, k), -1 for none."""
        raise NotImplementedError

    def present(self, ids: np.ndarray) -> np.ndarray:
        """Which ids are stored: int64 (n,) → bool (n,)."""
        raise NotImplementedError("has no look-up by id in this adapter")

    def processes(self) -> list[int]:
        """Process numbers whose memory is the target's, this one among them if it is."""
        return [os.getpid()]

    def version(self) -> str:
        """Of the library or the server."""
        return ""

    def close(self) -> None:
        """End it in good order; what is durable is on disk."""


class Ids:
    """Integers as ids of text and back: decimal, or UUIDs in no order that a tree would like."""

    _FACTOR = 0x9E3779B97F4A7C15F39CC0605CEDC835  # odd, so that it has an inverse
    _INVERSE = pow(_FACTOR, -1, 1 << 128)

    def __init__(self, kind: str) -> None:
        self._uuids = kind == "uuid"

    def encode(self, rows: Any) -> list[str]:
        """Text of each."""
        if self._uuids:
            mask = (1 << 128) - 1
            numbers = ((int(row) + 1) * self._FACTOR & mask for row in rows)
            return [str(uuid.UUID(int=number)) for number in numbers]
        return [str(int(row)) for row in rows]

    def decode(self, texts: Any) -> list[int]:
        """The integers again."""
        if self._uuids:
            mask = (1 << 128) - 1
            return [(uuid.UUID(text).int * self._INVERSE & mask) - 1 for text in texts]
        return [int(text) for text in texts]

    def matrix(self, answers: Any, k: int) -> np.ndarray:
        """Answers (lists of ids) as int64 (q, k), -1 where one is shorter."""
        rows = np.full((len(answers), k), -1, np.int64)
        for at, answer in enumerate(answers):
            rows[at, : len(answer)] = self.decode(answer)
        return rows


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, for targets that know cosine as the inner product of such rows."""
    if len(vectors) == 1:  # A query, whose caller pays for what is done here.
        row = vectors[0]
        return np.asarray(vectors / max(math.sqrt(row.dot(row)), 1e-30))
    lengths: np.ndarray = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-30))


def folder_bytes(folder: Path) -> int:
    """What the folder takes on disk (blocks, since files may have holes).

    Whoever has it open may remove files and folders meanwhile; what is gone takes nothing.
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
    """Private and proportional memory of a process and its children, in bytes.

    Private is what would come free with it (Private_Clean + Private_Dirty); proportional (Pss)
    counts shared and mapped pages by their share.
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
    """Processes that it started, that these started, and so on."""
    found: list[int] = []
    tasks = Path(f"/proc/{pid}/task")
    try:
        numbers = os.listdir(tasks)
    except OSError:
        return found  # It has ended.
    for number in numbers:
        try:
            children = [int(child) for child in (tasks / number / "children").read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found
