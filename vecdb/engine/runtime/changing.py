"""Deletes and changes of metadata: by id, or of the rows that match a filter.

The rows of a filter are found first, and what they change to, in read transactions. The write then
brings them up to its own state (``filtered_rows.py``). If other writes changed too much for that,
they are brought up to date here, which takes less time than finding them, so that the next attempt
has less to do.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from vecdb import limits
from vecdb.checks import Target
from vecdb.engine.search.snapshots.lookup import records_at_once
from vecdb.engine.store.batch import DeleteBatch, PatchBatch, of_rows
from vecdb.engine.store.changes import prepare
from vecdb.engine.store.filtered_rows import FilteredRows, OvertakenError, Prepared, advance
from vecdb.engine.system.call_memory import CallMemory
from vecdb.engine.system.deadline import Deadline
from vecdb.errors import DataLossError, ResourceExhaustedError
from vecdb.filters import Filter
from vecdb.reasons import Reason
from vecdb.types import Receipt

if TYPE_CHECKING:
    from vecdb.engine.runtime.open_collection import OpenCollection
    from vecdb.engine.runtime.runtime import Runtime
    from vecdb.engine.store.store import Store

__all__ = ["change_rows"]

_ATTEMPTS: Final = 8

_SLICE_ROWS: Final = 2_000
"""Rows whose changes are computed in one read transaction: about 20 ms."""


def change_rows(
    runtime: Runtime,
    opened: OpenCollection,
    batch: DeleteBatch | PatchBatch,
    target: Target,
    deadline: Deadline,
) -> Receipt:
    """Apply a batch, to the rows of the target's filter if it has one, or count what it would
    change.

    Raises:
        ResourceExhaustedError: TOO_MANY_MATCHES: more rows would change than one batch may change.
        OvertakenError: other writes changed too much, again and again.
        VecdbError: as for every write.
    """
    if target.filter is None:
        if not target.dry_run or batch.is_empty:
            return runtime.write(opened, batch)
        return _rehearsed(runtime, opened, batch)
    runtime.check_usable()
    store = opened.store
    with store.call_memory.of_call() as memory:
        found: FilteredRows | None = None
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                found = _found(opened, target.filter, target.limit, found, deadline)
                found = _prepared(store, batch, found, memory, deadline)
                ready = of_rows(batch, found)
                if target.dry_run:
                    return _rehearsed(runtime, opened, ready)
                return runtime.write(opened, ready)
            except OvertakenError:
                if attempt == _ATTEMPTS:
                    raise
    raise AssertionError


def _rehearsed(
    runtime: Runtime, opened: OpenCollection, batch: DeleteBatch | PatchBatch
) -> Receipt:
    runtime.check_usable()
    with opened.store.environment.read() as transaction:
        return opened.store.rehearse(transaction, batch)


def _found(
    opened: OpenCollection,
    filter: Filter,
    limit: int | None,
    known: FilteredRows | None,
    deadline: Deadline,
) -> FilteredRows:
    """Return the rows that match, as of a recent seq."""
    store = opened.store
    if known is not None:
        with store.environment.read() as transaction:
            store.check_not_dropped(transaction)
            seq = store.read_state(transaction).seq
            try:
                return advance(store.rows, transaction, known, seq)
            except OvertakenError:
                pass  # The log was purged: find them again.
    return replace(opened.matched.rows(filter, deadline), limit=limit)


def _prepared(
    store: Store,
    batch: DeleteBatch | PatchBatch,
    found: FilteredRows,
    memory: CallMemory,
    deadline: Deadline,
) -> FilteredRows:
    """Add what the batch makes of the rows, up to the limit."""
    most = limits.CHANGED_ROWS.maximum if found.limit is None else found.limit
    patches = isinstance(batch, PatchBatch)
    made, nbytes, changed = dict(found.prepared), found.prepared_bytes, 0
    rows = found.rows.tolist()
    step = records_at_once(store, _SLICE_ROWS)
    for start in range(0, len(rows), step):
        deadline.check()
        some = rows[start : start + step]
        lacking = [row for row in some if row not in made]
        if lacking:
            more = _slice(store, batch, lacking)
            size = sum(len(each.metadata or b"") for each in more.values())
            memory.take(size + FilteredRows.ROW_BYTES * len(more))
            made.update(more)
            nbytes += size
        for row in some:
            each = made.get(row)
            if each is not None:
                changed += each.metadata is not None or each.refusal is not None or not patches
        if found.limit is not None and changed >= most:
            break
        if changed > most:
            raise ResourceExhaustedError(
                f"more than {most} rows match the filter and would change, which is too much for "
                f"one write; nothing was written: repeat the call with limit={most} until it "
                "changes fewer",
                Reason.TOO_MANY_MATCHES,
            )
    return replace(found, prepared=made, prepared_bytes=nbytes)


def _slice(store: Store, batch: DeleteBatch | PatchBatch, some: list[int]) -> dict[int, Prepared]:
    with store.environment.read() as transaction:
        store.check_not_dropped(transaction)
        seq = store.read_state(transaction).seq
        try:
            return prepare(store.rows, transaction, batch, some, seq)
        except DataLossError as error:
            if error.reason != Reason.RECORD_MISSING:
                raise
        # Rows that were deleted since may have been purged; the write leaves them out.
        there = store.rows.recorded(transaction, np.array(some, np.int64)).tolist()
        kept = [row for row, is_there in zip(some, there, strict=True) if is_there]
        return prepare(store.rows, transaction, batch, kept, seq)
