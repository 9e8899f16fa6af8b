"""FAISS: IndexHNSWSQ in memory, rows of 8 bits a component."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from vecdb_bench.targets import faiss_

__all__ = ["Adapter"]


class Adapter(faiss_.Adapter):
    """The first batch trains the ranges of components: it should be all rows, or many."""

    def _created(self, dim: int, links: int, product: int) -> Any:
        made: Any = faiss.IndexHNSWSQ
        return made(dim, faiss.ScalarQuantizer.QT_8bit, links, product)

    def upsert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        if not self._index.is_trained:
            self._index.train(self._prepared(vectors))
        super().upsert(ids, vectors)
