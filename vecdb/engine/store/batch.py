"""Write batches, prepared in the caller's thread: validated, encoded and sorted by id.

``Store.apply`` applies them. A batch with a request id or a condition carries ``WriteOptions``. A
batch that deletes or patches the rows of a filter carries ``FilteredRows`` instead of ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from vecdb import checks
from vecdb.engine.store.digest import batch_digest
from vecdb.engine.store.filtered_rows import FilteredRows
from vecdb.filters import Filter
from vecdb.metadata_patches import MetadataMode, Patcher, patcher

__all__ = [
    "Batch",
    "DeleteBatch",
    "PatchBatch",
    "UpsertBatch",
    "WriteOptions",
    "make_batch",
    "make_delete",
    "make_patch",
    "make_write_options",
    "of_rows",
]

_REPLACE, _REFUSE, _SKIP = 0, 1, 2


@dataclass(frozen=True)
class WriteOptions:
    """Validated options of one write.

    Attributes:
        insert_only, if_seq: preconditions on the batch's ids; see ``conditions``.
        skip_existing: leave the batch's ids that are live as they are.
        request_id: UTF-8, empty for none; see ``requests``.
        digest: ``batch_digest`` of the batch if it has a request id, else empty.
    """

    insert_only: bool = False
    if_seq: int | None = None
    request_id: bytes = b""
    digest: bytes = b""
    skip_existing: bool = False


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
    def is_empty(self) -> bool:
        """Whether there is nothing to write, so that the batch gets no seq."""
        return not self.ids

    @property
    def nbytes(self) -> int:
        """Return the approximate memory size of the batch in bytes."""
        return self.vectors.nbytes + 64 * len(self.ids) + sum(map(len, self.metadata or ()))

    def without(self, positions: Sequence[int]) -> UpsertBatch:
        """Return the batch without the rows at these positions."""
        gone = set(positions)
        kept = [i for i in range(len(self.ids)) if i not in gone]
        ids = [self.ids[i] for i in kept]
        metadata = None if self.metadata is None else [self.metadata[i] for i in kept]
        order = sorted(range(len(ids)), key=ids.__getitem__)
        return UpsertBatch(ids, order, self.vectors[kept], metadata)


@dataclass(frozen=True)
class DeleteBatch:
    """Rows to delete: by id, or those of a filter.

    Attributes:
        ids: UTF-8, ascending, distinct; empty with ``matched``.
        write_options: as in ``UpsertBatch``.
        matched: the rows of a filter.
    """

    ids: list[bytes]
    write_options: WriteOptions | None = None
    matched: FilteredRows | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write, so that the batch gets no seq."""
        return not self.ids and self.matched is None

    @property
    def order(self) -> range:
        """Return the positions of the ids in ascending order."""
        return range(len(self.ids))

    @property
    def nbytes(self) -> int:
        """Return the approximate memory size of the batch in bytes."""
        return 64 * len(self.ids) + (0 if self.matched is None else self.matched.nbytes)


@dataclass(frozen=True)
class PatchBatch:
    """A change of metadata: of rows by id, or of those of a filter.

    Attributes:
        ids: UTF-8, n of them, distinct; empty with ``matched``.
        order: positions of the ids in ascending order.
        patchers: one for all rows, or one for each id.
        mode: with REPLACE, a damaged record is replaced like any other.
        bytes_max: most bytes of a row's metadata afterwards.
        given: size of the patches in bytes.
        write_options: as in ``UpsertBatch``.
        matched: the rows of a filter.
    """

    ids: list[bytes]
    order: list[int]
    patchers: list[Patcher]
    mode: MetadataMode
    bytes_max: int
    given: int
    write_options: WriteOptions | None = None
    matched: FilteredRows | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write, so that the batch gets no seq."""
        return not self.ids and self.matched is None

    @property
    def nbytes(self) -> int:
        """Return the approximate memory size of the batch in bytes."""
        selected = 0 if self.matched is None else self.matched.nbytes
        return self.given + 64 * len(self.ids) + selected

    def patcher_of(self, position: int) -> Patcher:
        """Return the patch of the id at a position."""
        return self.patchers[position if len(self.patchers) > 1 else 0]


Batch: TypeAlias = UpsertBatch | DeleteBatch | PatchBatch


def make_write_options(
    insert_only: object, if_seq: object, request_id: object, on_existing: object = "replace"
) -> WriteOptions | None:
    """Validate the options of a write; return None if none is set.

    Raises:
        InvalidArgumentError: an option has a wrong type or is out of range.
    """
    existing, seq = checks.check_condition(insert_only, if_seq, on_existing)
    checked_id = checks.check_request_id(request_id)
    if existing == "replace" and seq is None and checked_id is None:
        return None
    return WriteOptions(
        existing == "refuse", seq, (checked_id or "").encode(), skip_existing=existing == "skip"
    )


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


def make_delete(
    ids: list[str] | None,
    write_options: WriteOptions | None = None,
    *,
    filter: Filter | None = None,
    limit: int | None = None,
) -> DeleteBatch:
    """Return a batch that deletes validated ids (duplicates are dropped), or the rows of a filter,
    to which ``of_rows`` adds them."""
    if filter is not None:
        named = [filter.key, _limit_text(limit)]
        return DeleteBatch([], _digested(write_options, b"delwhe", named, None, None))
    encoded = sorted({text.encode() for text in ids or ()})
    return DeleteBatch(encoded, _digested(write_options, b"delete", encoded, None, None))


def make_patch(
    ids: list[str] | None,
    patches: list[bytes],
    mode: MetadataMode,
    bytes_max: int,
    write_options: WriteOptions | None = None,
    *,
    filter: Filter | None = None,
    limit: int | None = None,
) -> PatchBatch:
    """Return a batch that patches the metadata of validated ids, or of the rows of a filter, to
    which ``of_rows`` adds them.

    Args:
        patches: of ``check_patches``.
    """
    encoded = [text.encode() for text in ids or ()]
    digested = [mode.value.encode(), *patches]
    if filter is None:
        write_options = _digested(write_options, b"patch", encoded, None, digested)
    else:
        named = [filter.key, _limit_text(limit)]
        write_options = _digested(write_options, b"patwhe", named, None, digested)
    order = sorted(range(len(encoded)), key=encoded.__getitem__)
    patchers = [patcher(mode, raw) for raw in patches]
    given = sum(map(len, patches))
    return PatchBatch(encoded, order, patchers, mode, bytes_max, given, write_options)


def of_rows(batch: DeleteBatch | PatchBatch, matched: FilteredRows) -> DeleteBatch | PatchBatch:
    """Return the batch for these rows."""
    return replace(batch, matched=matched)


def _limit_text(limit: int | None) -> bytes:
    return b"" if limit is None else str(limit).encode()


def _digested(
    write_options: WriteOptions | None,
    kind: bytes,
    ids: list[bytes],
    vectors: npt.NDArray[np.float32] | None,
    metadata: Sequence[bytes] | None,
) -> WriteOptions | None:
    if write_options is None or not write_options.request_id:
        return write_options
    existing = _REFUSE if write_options.insert_only else _REPLACE
    digest = batch_digest(
        kind,
        ids,
        vectors,
        metadata,
        _SKIP if write_options.skip_existing else existing,
        write_options.if_seq,
    )
    return replace(write_options, digest=digest)
