"""A bare loop of putmulti on LMDB: the least that storing rows durably costs; it can't search.

Ids, records and blocks of vectors, one transaction per batch, each fsynced. Nothing is validated,
and nothing else is stored.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from vecdb_bench.targets.base import Ids, Settings, Target

__all__ = ["Adapter"]

_BLOCK_BYTES = 65_520


class Adapter(Target):
    """Appends rows; a second row of one id is not noticed."""

    ids_of_text = True
    _environment: Any = None

    def open(self, folder: Path, dim: int, metric: str, settings: Settings) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._names = Ids(settings.ids)
        self._environment = lmdb.open(str(folder), map_size=1 << 36, max_dbs=4)
        self._ids, self._records, self._blocks = (
            self._environment.open_db(name) for name in (b"ids", b"records", b"blocks")
        )
        self._block_rows = max(1, _BLOCK_BYTES // (4 * dim))
        with self._environment.begin() as transaction:
            self._row = transaction.stat(self._records)["entries"]

    def upsert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        keys = [name.encode() for name in self._names.encode(ids)]
        pack, first, step = struct.Struct(">Q").pack, self._row, self._block_rows
        blocks = [
            (pack(first + at), vectors[at : at + step].tobytes())
            for at in range(0, len(vectors), step)
        ]
        with self._environment.begin(write=True) as transaction:
            with transaction.cursor(self._ids) as cursor:
                cursor.putmulti(sorted((key, pack(first + i)) for i, key in enumerate(keys)))
            for database, pairs in (
                (self._records, [(pack(first + i), key) for i, key in enumerate(keys)]),
                (self._blocks, blocks),
            ):
                with transaction.cursor(database) as cursor:
                    cursor.putmulti(pairs, append=True)
        self._row += len(ids)

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        raise NotImplementedError("stores rows only")

    def version(self) -> str:
        return str(lmdb.__version__)

    def close(self) -> None:
        if self._environment is not None:
            self._environment.close()
            self._environment = None
