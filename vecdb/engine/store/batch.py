"""Batches on their way to the writer: checked, encoded and sorted by the caller, applied by the
store. Those with a request id or a condition carry ``WriteOptions``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vecdb import checks
from vecdb.engine.store import layout

__all__ = [
    "DeleteBatch",
    "UpsertBatch",
    "WriteOptions",
    "make_batch",
    "make_delete",
    "make_write_options",
]


@dataclass(frozen=True)
class WriteOptions:
    """On what terms a batch is applied, checked.

    insert_only, if_seq: what must hold of its ids, see ``conditions``. request_id: UTF-8, see
    ``requests``; empty for none. digest: of the whole batch if there is a request id, else empty.
    """

    insert_only: bool = False
    if_seq: int | None = None
    request_id: bytes = b""
    digest: bytes = b""


@dataclass(frozen=True)
class UpsertBatch:
    """Rows to write, checked already. ``order``: positions by ascending id, since LMDB likes that.

    ids: UTF-8. vectors: float32, shape (n, dim), C-contiguous. metadata: JSON or b"" a row, or
    None. terms: None for a batch without any, as nearly all are.
    """

    ids: list[bytes]
    order: list[int]
    vectors: npt.NDArray[np.float32]
    metadata: Sequence[bytes] | None
    write_options: WriteOptions | None = None

    @property
    def nbytes(self) -> int:
        """About what the batch takes in memory."""
        return self.vectors.nbytes + 64 * len(self.ids) + sum(map(len, self.metadata or ()))


@dataclass(frozen=True)
class DeleteBatch:
    """Ids to delete, UTF-8, ascending. terms: as of ``UpsertBatch``."""

    ids: list[bytes]
    write_options: WriteOptions | None = None

    @property
    def order(self) -> range:
        """Positions by ascending id."""
        return range(len(self.ids))

    @property
    def nbytes(self) -> int:
        """About what the batch takes in memory."""
        return 64 * len(self.ids)


def make_write_options(
    insert_only: object, if_seq: object, request_id: object
) -> WriteOptions | None:
    """Terms from the arguments of a write, which are checked here; None if there are none.

    Raises:
        InvalidArgumentError.
    """
    must_be_new, seq = checks.check_condition(insert_only, if_seq)
    name = checks.check_request_id(request_id)
    if not must_be_new and seq is None and name is None:
        return None
    return WriteOptions(must_be_new, seq, (name or "").encode())


def make_batch(
    ids: list[str],
    vectors: npt.NDArray[np.float32],
    metadata: Sequence[bytes] | None,
    write_options: WriteOptions | None = None,
) -> UpsertBatch:
    """A batch of checked rows; encoding, sorting and digesting are done here, outside the
    writer."""
    encoded = [text.encode() for text in ids]
    order = sorted(range(len(encoded)), key=encoded.__getitem__)
    write_options = _digested(write_options, b"upsert", encoded, vectors, metadata)
    return UpsertBatch(encoded, order, vectors, metadata, write_options)


def make_delete(ids: list[str], write_options: WriteOptions | None = None) -> DeleteBatch:
    """A batch of checked ids."""
    encoded = sorted({text.encode() for text in ids})
    return DeleteBatch(encoded, _digested(write_options, b"delete", encoded, None, None))


def _digested(
    write_options: WriteOptions | None,
    kind: bytes,
    ids: list[bytes],
    vectors: npt.NDArray[np.float32] | None,
    metadata: Sequence[bytes] | None,
) -> WriteOptions | None:
    if write_options is None or not write_options.request_id:
        return write_options
    digest = layout.batch_digest(
        kind, ids, vectors, metadata, write_options.insert_only, write_options.if_seq
    )
    return replace(write_options, digest=digest)
