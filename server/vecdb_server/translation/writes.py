"""Writes of rows: options of requests, and receipts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from vecdb import checks
from vecdb.errors import InvalidArgumentError
from vecdb.metadata_patches import MetadataMode
from vecdb.reasons import Reason
from vecdb.types import Receipt
from vecdb_proto import vecdb_pb2 as wire
from vecdb_server.translation.filters import filter_of
from vecdb_server.translation.requests import enum_value

__all__ = [
    "change_options",
    "delete_response",
    "metadata_mode",
    "set_metadata_response",
    "target_of",
    "upsert_options",
    "upsert_response",
]

_ON_EXISTING: Final = {
    int(wire.ON_EXISTING_UNSPECIFIED): "replace",
    int(wire.ON_EXISTING_REPLACE): "replace",
    int(wire.ON_EXISTING_REFUSE): "refuse",
    int(wire.ON_EXISTING_SKIP): "skip",
}


def upsert_options(request: wire.UpsertRequest) -> tuple[bool, int | None, str | None, str]:
    """Return insert_only, if_seq, request_id and on_existing of an upsert.

    Raises:
        InvalidArgumentError: BAD_MODE: an on_existing that this server does not know.
    """
    condition = request.condition
    if_seq = condition.if_seq if condition.HasField("if_seq") else None
    existing = enum_value(_ON_EXISTING, request.on_existing, "on_existing", Reason.BAD_MODE)
    return condition.insert_only, if_seq, request.request_id or None, existing


_MODES: Final = {
    int(wire.METADATA_MODE_UNSPECIFIED): MetadataMode.MERGE,
    int(wire.METADATA_MODE_MERGE): MetadataMode.MERGE,
    int(wire.METADATA_MODE_REPLACE): MetadataMode.REPLACE,
    int(wire.METADATA_MODE_DELETE_KEYS): MetadataMode.DELETE_KEYS,
}


def metadata_mode(request: wire.SetMetadataRequest) -> MetadataMode:
    """Return the mode of a change of metadata.

    Raises:
        InvalidArgumentError: BAD_MODE: one that this server does not know.
    """
    return enum_value(_MODES, request.mode, "mode", Reason.BAD_MODE)


def target_of(request: wire.DeleteRequest | wire.SetMetadataRequest) -> checks.Target:
    """Return which rows a delete or a change of metadata is for. Without a filter, these are those
    of its ids, also if there are none.

    Raises:
        InvalidArgumentError: BAD_TARGET, BAD_FILTER, OUT_OF_RANGE.
    """
    filter = filter_of(request)
    ids = request.ids if request.ids or filter is None else None
    limit = request.limit if request.HasField("limit") else None
    return checks.check_target(ids, filter, limit, request.dry_run)


def change_options(
    request: wire.DeleteRequest | wire.SetMetadataRequest,
) -> tuple[bool, int | None, str | None]:
    """Return insert_only, if_seq and request_id of a delete or a change of metadata.

    Raises:
        InvalidArgumentError: BAD_CONDITION: insert_only, which does not apply to deletes.
    """
    condition = request.condition
    if condition.insert_only:
        raise InvalidArgumentError(
            "insert_only applies to upserts only; use if_seq", Reason.BAD_CONDITION
        )
    if_seq = condition.if_seq if condition.HasField("if_seq") else None
    return False, if_seq, request.request_id or None


def upsert_response(receipt: Receipt, ids: Sequence[str]) -> wire.UpsertResponse:
    """Return the receipt of an upsert."""
    return wire.UpsertResponse(
        seq=receipt.seq,
        count=receipt.count,
        repeated_request=receipt.repeated,
        skipped=_places(receipt, ids),
    )


def set_metadata_response(receipt: Receipt, ids: Sequence[str]) -> wire.SetMetadataResponse:
    """Return the receipt of a change of metadata."""
    return wire.SetMetadataResponse(
        seq=receipt.seq,
        count=receipt.count,
        repeated_request=receipt.repeated,
        skipped=_places(receipt, ids),
    )


def _places(receipt: Receipt, ids: Sequence[str]) -> list[int]:
    """Return the positions of the skipped ids in the request."""
    if not receipt.skipped:
        return []
    skipped = frozenset(receipt.skipped)
    return [place for place, each in enumerate(ids) if each in skipped]


def delete_response(receipt: Receipt) -> wire.DeleteResponse:
    """Return the receipt of a delete."""
    return wire.DeleteResponse(
        seq=receipt.seq, count=receipt.count, repeated_request=receipt.repeated
    )
