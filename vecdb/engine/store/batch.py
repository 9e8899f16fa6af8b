"""Write batches, prepared in the caller's thread: validated, encoded and sorted by id.

``Store.apply`` applies them. A batch with a request id or a condition carries ``WriteOptions``.
"""

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
    """Validated options of one write.

    Attributes:
        insert_only, if_seq: preconditions on the batch's ids; see ``conditions``.
        request_id: UTF-8, empty for none; see ``requests``.
        digest: ``layout.batch_digest`` of the batch if it has a request id, else empty.
    """

    insert_only: bool = False
    if_seq: int | None = None
    request_id: bytes = b""
    digest: bytes = b""


@dataclass(frozen=True)
class UpsertBatch:
    """Validated rows to write.

    Attributes:
        ids: UTF-8, n of them, distinct.
        order: positions of the ids in ascending order. LMDB inserts sorted keys faster.
        vectors: float32, shape (n, dim), C-contiguous.
        metadata: JSON or b"" per row, or None if no row has metadata.
        write_options: None if the batch has no request id and no condition, as most have.
    """

    ids: list[bytes]
    order: list[int]
    vectors: npt.NDArray[np.float32]
    metadata: Sequence[bytes] | None
    write_options: WriteOptions | None = None

    @property
    def nbytes(self) -> int:
        """Return the approximate memory size of the batch in bytes."""
        return self.vectors.nbytes + 64 * len(self.ids) + sum(map(len, self.metadata or ()))


@dataclass(frozen=True)
class DeleteBatch:
    """Ids to delete: UTF-8, ascending, distinct. write_options: as in ``UpsertBatch``."""

    ids: list[bytes]
    write_options: WriteOptions | None = None

    @property
    def order(self) -> range:
        """Return the positions of the ids in ascending order."""
        return range(len(self.ids))

    @property
    def nbytes(self) -> int:
        """Return the approximate memory size of the batch in bytes."""
        return 64 * len(self.ids)


def make_write_options(
    insert_only: object, if_seq: object, request_id: object
) -> WriteOptions | None:
    """Validate the options of a write; return None if none is set.

    Raises:
        InvalidArgumentError: an option has a wrong type or is out of range.
    """
    must_be_new, seq = checks.check_condition(insert_only, if_seq)
    checked_id = checks.check_request_id(request_id)
    if not must_be_new and seq is None and checked_id is None:
        return None
    return WriteOptions(must_be_new, seq, (checked_id or "").encode())


def make_batch(
    ids: list[str],
    vectors: npt.NDArray[np.float32],
    metadata: Sequence[bytes] | None,
    write_options: WriteOptions | None = None,
) -> UpsertBatch:
    """Return a batch of validated rows.

    Encodes, sorts and hashes here, in the caller's thread, so that the writer thread need not.
    """
    encoded = [text.encode() for text in ids]
    order = sorted(range(len(encoded)), key=encoded.__getitem__)
    write_options = _digested(write_options, b"upsert", encoded, vectors, metadata)
    return UpsertBatch(encoded, order, vectors, metadata, write_options)


def make_delete(ids: list[str], write_options: WriteOptions | None = None) -> DeleteBatch:
    """Return a batch that deletes validated ids; duplicates are dropped."""
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
