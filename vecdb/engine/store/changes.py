"""Which rows a delete or a change of metadata affects, and how: computed before anything is
written, so that a refusal leaves the transaction as it was, and a dry run needs no write.
"""

from __future__ import annotations

import contextlib
from typing import Final, NamedTuple

import numpy as np

from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.store.batch import DeleteBatch, PatchBatch
from vecdb.engine.store.filtered_rows import FilteredRows, Prepared, advance
from vecdb.engine.store.rows import RowReader
from vecdb.errors import DataLossError, InvalidArgumentError
from vecdb.metadata_patches import MetadataMode
from vecdb.reasons import Reason
from vecdb.row_names import shown

__all__ = ["Changes", "changes_of", "prepare", "selected"]

_EVALUATED_ROWS_MAX: Final = 20_000
"""Rows that a write transaction evaluates to bring matched rows up to date, about 80 ms."""


class Changes(NamedTuple):
    """The rows that a batch changes, ascending.

    Attributes:
        rows: row numbers.
        ids: UTF-8, of the rows.
        metadata: their new metadata; None if they are deleted.
        skipped: positions of the batch's ids that do not exist, ascending.
    """

    rows: list[int]
    ids: list[bytes]
    metadata: list[bytes] | None
    skipped: list[int]


def changes_of(
    rows: RowReader, transaction: Transaction, batch: DeleteBatch | PatchBatch, seq: int
) -> Changes:
    """Return the changes of a batch at ``seq``, the latest of the transaction.

    Raises:
        OvertakenError: the matched rows can't be brought up to date.
        InvalidArgumentError: METADATA_TOO_LARGE: of a row after the change.
        DataLossError: a record is damaged.
    """
    if batch.matched is not None:
        matched = advance(rows, transaction, batch.matched, seq, _EVALUATED_ROWS_MAX)
        return selected(rows, transaction, batch, matched)
    row_of = rows.find(transaction, [batch.ids[i] for i in batch.order])
    if isinstance(batch, DeleteBatch):
        pairs = sorted((row, key) for key, row in row_of.items())
        return Changes([row for row, _ in pairs], [key for _, key in pairs], None, [])
    skipped = [i for i, key in enumerate(batch.ids) if key not in row_of]
    places = sorted((row_of[key], i) for i, key in enumerate(batch.ids) if key in row_of)
    changed, ids, metadata = [], [], []
    for row, i in places:
        stored: bytes | None = None
        # The batch holds everything that will be in a damaged record that it replaces.
        with contextlib.suppress(*[DataLossError] * (batch.mode is MetadataMode.REPLACE)):
            stored = rows.read_record(transaction, row, seq).metadata
        new = _patched(batch, i, batch.ids[i], stored)
        if new is not None:
            changed.append(row)
            ids.append(batch.ids[i])
            metadata.append(new)
    return Changes(changed, ids, metadata, skipped)


def _patched(batch: PatchBatch, position: int, key: bytes, stored: bytes | None) -> bytes | None:
    """Return the new metadata of a row, or None if they do not change."""
    new = batch.patcher_of(position)(stored or b"")
    if new == stored:
        return None
    if len(new) > batch.bytes_max:
        raise InvalidArgumentError(
            f"metadata of id {shown(key.decode())} would have {len(new)} bytes, at most "
            f"{batch.bytes_max}; nothing was written",
            Reason.METADATA_TOO_LARGE,
        )
    return new


def selected(
    rows: RowReader,
    transaction: Transaction,
    batch: DeleteBatch | PatchBatch,
    matched: FilteredRows,
) -> Changes:
    """Return the changes of matched rows that are up to date in the transaction. Raises as
    ``changes_of``."""
    most = len(matched.rows) if matched.limit is None else matched.limit
    changed: list[int] = []
    ids: list[bytes] = []
    metadata: list[bytes] = []
    patches = isinstance(batch, PatchBatch)
    for row in matched.rows.tolist():
        if len(changed) == most:
            break
        found = matched.prepared.get(row)
        if found is None:
            found = prepare(rows, transaction, batch, [row], matched.seq)[row]
        if found.refusal is not None:
            raise found.refusal
        if patches:
            if found.metadata is None:
                continue
            metadata.append(found.metadata)
        changed.append(row)
        ids.append(found.id)
    if not patches:
        _correct(rows, transaction, changed, ids, matched.seq)
    return Changes(changed, ids, metadata if patches else None, [])


def _correct(
    rows: RowReader, transaction: Transaction, numbers: list[int], ids: list[bytes], seq: int
) -> None:
    """Replace ids that are not those of their rows, because a segment is damaged, by those that the
    rows' records hold."""
    order = sorted(range(len(ids)), key=ids.__getitem__)
    ascending = [ids[at] for at in order]
    wrong = rows.misplaced(transaction, ascending, np.array(numbers, np.int64)[order])
    for place in wrong:
        at = order[place]
        ids[at] = rows.read_record(transaction, numbers[at], seq).id.encode()


def prepare(
    rows: RowReader,
    transaction: Transaction,
    batch: DeleteBatch | PatchBatch,
    some: list[int],
    seq: int,
) -> dict[int, Prepared]:
    """Return what the batch makes of some rows, as of ``seq``, the latest of the transaction, by
    their records.

    Raises:
        DataLossError: a record is damaged, or is missing since the row was purged.
    """
    made = {}
    for row, record in zip(some, rows.read_records(transaction, some, seq), strict=True):
        key, new, refusal = record.id.encode(), None, None
        if isinstance(batch, PatchBatch):
            try:
                new = _patched(batch, 0, key, record.metadata)
            except InvalidArgumentError as error:
                refusal = error
        made[row] = Prepared(key, new, refusal)
    return made
