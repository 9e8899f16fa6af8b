"""Conditions of a write: whether a batch may be applied, as the store is now.

A live id's version is the seq of the batch that last changed it: that of the last record of its
row. A batch that repeated what was stored, bit for bit, has changed nothing and is no version. Of
an id that is not live the store knows nothing, however often it was written and deleted before.

    the id is now                 insert_only   if_seq 0   if_seq S
    not live                      holds         holds      CONDITION_CHANGED
    live, its version at most S   EXISTS        CHANGED    holds
    live, its version past S      EXISTS        CHANGED    CONDITION_CHANGED

So 0 says "I found none of them", and S "I found all of them in a read at seq S, and so they still
are": one that was deleted since is missed, one that was deleted and written again has a later
version. An S past the collection's own seq was never read in it, and holds for nothing.

All ids of a batch must pass, or nothing of it is applied.
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
    """Raise unless a batch's conditions hold at ``seq``, the collection's last.

    Args:
        ids: UTF-8, as the batch has them.
        order: their positions by ascending id.

    Raises:
        ConditionFailedError: CONDITION_EXISTS, CONDITION_CHANGED; names the first id at fault.
    """
    if if_seq is not None and if_seq > seq:
        raise ConditionFailedError(
            f"if_seq {if_seq} was never read here: the collection is at seq {seq}",
            Reason.CONDITION_CHANGED,
        )
    row_of = rows.find(transaction, [ids[i] for i in order])
    versions = rows.last_versions(transaction, row_of.values())
    for key in ids:
        row = row_of.get(key)
        version = None if row is None else versions[row]
        if insert_only and version is not None:
            raise ConditionFailedError(
                f"id {key.decode()!r} is there already, last changed at seq {version} "
                f"(the collection is at {seq}); insert_only wants none of the ids to be live",
                Reason.CONDITION_EXISTS,
            )
        if if_seq is not None and version is not None and version > if_seq:
            raise ConditionFailedError(
                f"id {key.decode()!r} was last changed at seq {version}, after if_seq {if_seq}",
                Reason.CONDITION_CHANGED,
            )
        if if_seq and version is None:
            raise ConditionFailedError(
                f"id {key.decode()!r} is not there at seq {seq}, if_seq {if_seq} wants it as it "
                "was read",
                Reason.CONDITION_CHANGED,
            )
