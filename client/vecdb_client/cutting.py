"""Calls that are larger than a message, in pieces that are not.

A write is cut by the size of its requests, which is known: each piece is a batch of its own, whole
or not at all, and the call is a prefix of them if it fails. A read is cut by what is known of its
answer, and further by halves where metadata and ids, which are not, make it too large.

A server's limit is asked for only by a client that needs it: none is below
``limits.MESSAGE_BYTES.minimum``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
from google.protobuf.message import Message

from vecdb import checks, limits
from vecdb.batching import attach_progress, request_id_of_part
from vecdb.errors import ResourceExhaustedError
from vecdb.reasons import Reason
from vecdb.row_names import RowNames
from vecdb.types import IngestProgress, Receipt, Records
from vecdb_client.translation import WriteFields

if TYPE_CHECKING:
    from vecdb_client.calls import Calls

__all__ = ["fitting", "in_pieces", "joined_records", "rows_bytes_max", "write"]

_OVERHEAD_BYTES: Final = 1_024
"""More than a message has beside its rows."""

_ENTRY_BYTES: Final = 6
"""More than a message has for an entry of a column beside its bytes."""

Build = Callable[[slice], Message]
BuildWrite = Callable[[slice, WriteFields], Message]
AnswerT = TypeVar("AnswerT")


def rows_bytes_max(ids: Sequence[str], dim: int, metadata: Sequence[bytes] | None) -> int:
    """More than a message of these rows has, found without making it. dim: 0 without vectors."""
    # A character has at most 4 bytes in UTF-8.
    ids_bytes = 4 * sum(map(len, ids)) + _ENTRY_BYTES * len(ids)
    raw_bytes = 0 if metadata is None else sum(map(len, metadata)) + _ENTRY_BYTES * len(ids)
    return _OVERHEAD_BYTES + 4 * dim * len(ids) + ids_bytes + raw_bytes


def fitting(
    build: Build, rows: slice, message_bytes: int, names: RowNames
) -> Iterator[tuple[Message, slice]]:
    """Rows as one request, or in halves of halves where a message can't hold them.

    Raises:
        ResourceExhaustedError: MESSAGE_TOO_LARGE: a single row.
    """
    request = build(rows)
    size = request.ByteSize()
    if size <= message_bytes:
        yield request, rows
        return
    if rows.stop - rows.start == 1:
        raise ResourceExhaustedError(
            f"{names.of(rows.start)} takes a message of {size} bytes, the server takes "
            f"{message_bytes}; start it with a larger limit on messages",
            Reason.MESSAGE_TOO_LARGE,
        )
    half = (rows.start + rows.stop) // 2
    for part in (slice(rows.start, half), slice(half, rows.stop)):
        yield from fitting(build, part, message_bytes, names)


def write(
    calls: Calls,
    method: str,
    build: BuildWrite,
    ids: list[str],
    bytes_max: int,
    write_options: WriteFields,
) -> Receipt:
    """Send a write, in pieces if a message can't hold it.

    Args:
        build: makes the request of some rows. bytes_max: of ``rows_bytes_max``, for all of them.
        write_options: fields of ``translation.wire_write_options``; the pieces get numbers behind
            the request id.

    Raises:
        ResourceExhaustedError: MESSAGE_TOO_LARGE: a single row is, or all of it and it has a
            condition. Nothing was written.
        InvalidArgumentError: it must be cut, and its request id has no room for a number.
        VecdbError: if a part of it was acknowledged, ``progress`` says how much.
    """
    everything = slice(0, len(ids))
    if bytes_max <= limits.MESSAGE_BYTES.minimum or bytes_max <= calls.server_message_bytes():
        return _receipt(calls.write(method, build(everything, write_options)))
    stem = write_options.get("request_id")

    def part_options(number: int) -> WriteFields:
        request_id = request_id_of_part(stem, number)
        return {} if request_id is None else {"request_id": request_id}

    names, limit = RowNames(0, ids), calls.server_message_bytes()
    # Cut before anything is sent: a row that is too large is found while nothing is written. The
    # greatest number makes the longest request id.
    pieces = fitting(lambda rows: build(rows, part_options(len(ids))), everything, limit, names)
    parts = [rows for _, rows in pieces]
    if len(parts) == 1:
        return _receipt(calls.write(method, build(everything, write_options)))
    if "condition" in write_options:
        raise ResourceExhaustedError(
            f"a write with insert_only or if_seq is whole or not at all, and these {len(ids)} rows "
            f"take {len(parts)} messages of {limit} bytes; send fewer rows at once",
            Reason.MESSAGE_TOO_LARGE,
        )
    checks.check_request_id(stem, limits.REQUEST_STEM_BYTES)
    return _write_parts(calls, method, build, parts, part_options)


def _write_parts(
    calls: Calls,
    method: str,
    build: BuildWrite,
    parts: list[slice],
    part_options: Callable[[int], WriteFields],
) -> Receipt:
    began, count, repeated = time.monotonic(), 0, True
    done = IngestProgress(0, parts[-1].stop, 0, 0.0)
    try:
        for number, rows in enumerate(parts, 1):
            receipt = _receipt(calls.write(method, build(rows, part_options(number))))
            count, repeated = count + receipt.count, repeated and receipt.repeated
            seq = max(done.seq, receipt.seq)
            done = replace(done, rows=rows.stop, seq=seq, elapsed_s=time.monotonic() - began)
    except BaseException as error:
        attach_progress(error, done, method.lower())
        raise
    return Receipt(done.seq, count, repeated)


def _receipt(response: Message) -> Receipt:
    return Receipt(response.seq, response.count, response.repeated_request)


def in_pieces(
    calls: Calls,
    count: int,
    entry_bytes: int,
    ask: Callable[[slice], AnswerT],
    timeout_s: float | None = None,
) -> list[AnswerT]:
    """The answers to ``count`` ids or queries, asked for so many at a time that each fits into a
    message.

    Args:
        entry_bytes: what is known of the size of one, in the request or in the answer.
        ask: asks for some of them.
        timeout_s: of asking for the server's limit.

    Raises:
        ResourceExhaustedError: MESSAGE_TOO_LARGE: a single one.
    """
    size = max(1, count)
    if _OVERHEAD_BYTES + count * entry_bytes > limits.MESSAGE_BYTES.minimum:
        room = calls.server_message_bytes(timeout_s) - _OVERHEAD_BYTES
        size = max(1, min(size, room // entry_bytes))
    answers: list[AnswerT] = []
    start = 0
    while start < count or not answers:
        stop = min(start + size, count)
        try:
            answers.append(ask(slice(start, stop)))
        except ResourceExhaustedError as error:
            if error.reason != Reason.MESSAGE_TOO_LARGE or stop - start <= 1:
                raise
            size = (stop - start) // 2
            continue
        start = stop
    return answers


def joined_records(parts: list[Records]) -> Records:
    """Records that came in pieces. The seq is the least of theirs, so that what was read at a later
    one passes for older than it is, which a condition may."""
    if len(parts) == 1:
        return parts[0]
    return Records(
        [text for part in parts for text in part.ids],
        np.concatenate([part.vectors for part in parts]),
        [raw for part in parts for raw in part.raw_metadata],
        [text for part in parts for text in part.missing],
        min(part.seq for part in parts),
    )
