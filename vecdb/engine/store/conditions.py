"""Preconditions of a write (optimistic concurrency): insert_only and if_seq.

The version of a live id is the seq of the batch that last changed it, which is the seq of its row's
last record. Writing the same vector and metadata again does not change the version. An id that is
not live has no version; the store keeps nothing of its earlier writes and deletions.

    the id is now                 insert_only   if_seq 0   if_seq S
    not live                      passes        passes     CONDITION_CHANGED
    live, its version <= S        EXISTS        CHANGED    passes
    live, its version > S         EXISTS        CHANGED    CONDITION_CHANGED

``if_seq=0`` means "none of the ids is live". ``if_seq=S`` means "all ids were live in a read at seq
S and have not changed since". An id that was deleted since then fails because it is not live; one
that was deleted and written again fails because its version is newer. An S greater than the
collection's seq always fails, since no read can have returned it.

If any id fails, nothing of the batch is applied.
"""

from __future__ import annotations

from collections.abc import Sequence

from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.store.rows import RowReader
from vecdb.errors import ConditionFailedError
from vecdb.reasons import Reason

__all__ = ["check_condition"]


def check_condition(
    rows: RowReader,
    transaction: Transaction,
    ids: Sequence[bytes],
    order: Sequence[int],
    seq: int,
    *,
    insert_only: bool,
    if_seq: int | None,
) -> None:
    """Check a batch's preconditions at ``seq``, the collection's latest.

    Args:
        ids: UTF-8, in the order of the batch.
        order: positions of the ids in ascending order.

    Raises:
        ConditionFailedError: CONDITION_EXISTS or CONDITION_CHANGED; the message names the first id
            that fails.
    """
    if if_seq is not None and if_seq > seq:
        raise ConditionFailedError(
            f"if_seq {if_seq} was not returned by a read: the collection is at seq {seq}",
            Reason.CONDITION_CHANGED,
        )
    row_of = rows.find(transaction, [ids[i] for i in order])
    versions = rows.last_versions(transaction, row_of.values())
    for key in ids:
        row = row_of.get(key)
        version = None if row is None else versions[row]
        if insert_only and version is not None:
            raise ConditionFailedError(
                f"id {key.decode()!r} already exists, last changed at seq {version} (the "
                f"collection is at seq {seq}); insert_only requires that no id exists",
                Reason.CONDITION_EXISTS,
            )
        if if_seq is not None and version is not None and version > if_seq:
            raise ConditionFailedError(
                f"id {key.decode()!r} was last changed at seq {version}, after if_seq {if_seq}",
                Reason.CONDITION_CHANGED,
            )
        if if_seq and version is None:
            raise ConditionFailedError(
                f"id {key.decode()!r} does not exist at seq {seq}; if_seq {if_seq} requires that "
                "it still exists, unchanged since that seq",
                Reason.CONDITION_CHANGED,
            )
