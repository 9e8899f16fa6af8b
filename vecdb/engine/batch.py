"""Batches on their way to the writer: checked, encoded and sorted by the caller, applied by the
store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["DeleteBatch", "UpsertBatch", "make_batch"]


@dataclass(frozen=True)
class UpsertBatch:
    """Rows to write, checked already. ``order``: positions by ascending id, since LMDB likes that.

    ids: UTF-8. vectors: float32, shape (n, dim), C-contiguous. metadata: JSON or b"" a row, or
    None.
    """

    ids: list[bytes]
    order: list[int]
    vectors: npt.NDArray[np.float32]
    metadata: Sequence[bytes] | None

    @property
    def nbytes(self) -> int:
        """About what the batch takes in memory."""
        return self.vectors.nbytes + 64 * len(self.ids) + sum(map(len, self.metadata or ()))


@dataclass(frozen=True)
class DeleteBatch:
    """Ids to delete, UTF-8, ascending."""

    ids: list[bytes]

    @property
    def nbytes(self) -> int:
        """About what the batch takes in memory."""
        return 64 * len(self.ids)


def make_batch(
    ids: list[str], vectors: npt.NDArray[np.float32], metadata: Sequence[bytes] | None
) -> UpsertBatch:
    """A batch of checked rows; the encoding and sorting is done here, outside the writer."""
    encoded = [text.encode() for text in ids]
    order = sorted(range(len(encoded)), key=encoded.__getitem__)
    return UpsertBatch(encoded, order, vectors, metadata)
