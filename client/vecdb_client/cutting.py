"""Calls that exceed the maximum message size, in pieces.

A write is divided by the size of its requests, which is known. Each piece is one atomic batch; if
the call fails, a prefix of the pieces is written. A read is divided by the known part of the size
of its answer. If ids and metadata, whose size is not known, make an answer too large, its piece is
halved.

A client requests the server's limit only if it needs it; no limit is below
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

__all__ = ["fitting", "in_pieces", "joined_records", "receipt_of", "rows_bytes_max", "write"]

_OVERHEAD_BYTES: Final = 1_024
"""Upper bound of the bytes of a message beside its rows."""

_ENTRY_BYTES: Final = 6
"""Upper bound of the bytes of an entry of a column beside its content."""

Build = Callable[[slice], Message]
BuildWrite = Callable[[slice, WriteFields], Message]
AnswerT = TypeVar("AnswerT")


def rows_bytes_max(ids: Sequence[str], dim: int, metadata: Sequence[bytes] | None) -> int:
    """Return an upper bound of the size of a message with these rows, without building it.
    ``dim``: 0 without vectors."""
    # A character has at most 4 bytes in UTF-8.
    ids_bytes = 4 * sum(map(len, ids)) + _ENTRY_BYTES * len(ids)
    raw_bytes = 0 if metadata is None else sum(map(len, metadata)) + _ENTRY_BYTES * len(ids)
    return _OVERHEAD_BYTES + 4 * dim * len(ids) + ids_bytes + raw_bytes


def fitting(
    build: Build, rows: slice, message_bytes: int, names: RowNames
) -> Iterator[tuple[Message, slice]]:
    """Yield requests for the rows: one, or recursively halved ones if it would be too large.

    Raises:
        ResourceExhaustedError: MESSAGE_TOO_LARGE: a single row exceeds a message.
    """
    request = build(rows)
    size = request.ByteSize()
    if size <= message_bytes:
        yield request, rows
        return
    if rows.stop - rows.start == 1:
        raise ResourceExhaustedError(
            f"{names.of(rows.start)} needs a message of {size} bytes, the server's maximum is "
            f"{message_bytes}; start the server with a larger maximum message size",
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
    """Send a write, in pieces if it exceeds a message.

    Args:
        build: returns the request of some rows.
        bytes_max: ``rows_bytes_max`` of all rows.
        write_options: fields of ``translation.wire_write_options``; the number of each piece is
            appended to the request id.

    Raises:
        ResourceExhaustedError: MESSAGE_TOO_LARGE: a single row exceeds a message; or the write
            does, and it has a condition. Nothing was written.
        InvalidArgumentError: the write must be divided, and its request id is too long for that.
        VecdbError: if pieces were acknowledged, its ``progress`` has their rows.
    """
    everything = slice(0, len(ids))
    if bytes_max <= limits.MESSAGE_BYTES.minimum or bytes_max <= calls.server_message_bytes():
        return receipt_of(calls.write(method, build(everything, write_options)), ids)
    prefix = write_options.get("request_id")

    def part_options(number: int) -> WriteFields:
        request_id = request_id_of_part(prefix, number)
        return {} if request_id is None else {"request_id": request_id}

    names, limit = RowNames(0, ids), calls.server_message_bytes()
    # Divide before anything is sent, so that a row that is too large is rejected before anything is
    # written. Sizes are computed with the largest number, which gives the longest request id.
    pieces = fitting(lambda rows: build(rows, part_options(len(ids))), everything, limit, names)
    parts = [rows for _, rows in pieces]
    if len(parts) == 1:
        return receipt_of(calls.write(method, build(everything, write_options)), ids)
    if "condition" in write_options:
        raise ResourceExhaustedError(
            f"a write with insert_only or if_seq must fit one message, and these {len(ids)} rows "
            f"need {len(parts)} messages of {limit} bytes; send fewer rows at once",
            Reason.MESSAGE_TOO_LARGE,
        )
    checks.check_request_id(prefix, limits.REQUEST_PREFIX_BYTES)
    return _write_parts(calls, method, build, ids, parts, part_options)


def _write_parts(
    calls: Calls,
    method: str,
    build: BuildWrite,
    ids: list[str],
    parts: list[slice],
    part_options: Callable[[int], WriteFields],
) -> Receipt:
    began, count, repeated = time.monotonic(), 0, True
    skipped: list[str] = []
    done = IngestProgress(0, parts[-1].stop, 0, 0.0)
    try:
        for number, rows in enumerate(parts, 1):
            answer = calls.write(method, build(rows, part_options(number)))
            receipt = receipt_of(answer, ids[rows])
            skipped += receipt.skipped
            count, repeated = count + receipt.count, repeated and receipt.repeated
            seq = max(done.seq, receipt.seq)
            done = replace(done, rows=rows.stop, seq=seq, elapsed_s=time.monotonic() - began)
    except BaseException as error:
        done = replace(done, skipped=len(skipped), skipped_ids=tuple(skipped))
        attach_progress(error, done, method.lower())
        raise
    return Receipt(done.seq, count, repeated, tuple(skipped))


def receipt_of(response: Message, ids: Sequence[str]) -> Receipt:
    """Return the receipt of a write of these ids."""
    places = getattr(response, "skipped", ())  # A delete skips none.
    skipped = tuple(ids[place] for place in places)
    return Receipt(response.seq, response.count, response.repeated_request, skipped)


def in_pieces(
    calls: Calls,
    count: int,
    entry_bytes: int,
    ask: Callable[[slice], AnswerT],
    timeout_s: float | None = None,
) -> list[AnswerT]:
    """Return the answers to ``count`` ids or queries, in pieces whose messages are small enough.

    Args:
        count: number of ids or queries.
        entry_bytes: known size of one of them, in the request or in the answer.
        ask: sends the request for some of them.
        timeout_s: timeout of requesting the server's limit.

    Raises:
        ResourceExhaustedError: MESSAGE_TOO_LARGE: the answer to a single one exceeds a message.
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
    """Concatenate records of several pieces. Their seq is the minimum, so that a condition on it
    may fail without need, but never holds wrongly."""
    if len(parts) == 1:
        return parts[0]
    return Records(
        [text for part in parts for text in part.ids],
        np.concatenate([part.vectors for part in parts]),
        [raw for part in parts for raw in part.raw_metadata],
        [text for part in parts for text in part.missing],
        min(part.seq for part in parts),
    )
