"""Exports, imports and backups."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Final, Literal

from vecdb.engine.interchange.export.export import ExportRequest
from vecdb.engine.interchange.importing.import_file import ImportRequest
from vecdb.engine.interchange.importing.incoming import Announced, Chunk, TransferEnd
from vecdb.errors import InvalidArgumentError
from vecdb.reasons import Reason
from vecdb.types import (
    BackupReport,
    ExportEnd,
    ImportReport,
)
from vecdb_proto import vecdb_pb2 as wire
from vecdb_server.translation.descriptions import config_message, metric_of
from vecdb_server.translation.requests import enum_value, refuse_reserved

__all__ = [
    "export_request",
    "export_response",
    "import_begin",
    "import_parts",
    "import_report_message",
    "report_message",
]

_EXPORT_KIND_OF_WIRE: Final[dict[int, Literal["faiss", "faiss_flat", "hnswlib"]]] = {
    int(wire.EXPORT_FORMAT_FAISS): "faiss",
    int(wire.EXPORT_FORMAT_FAISS_FLAT): "faiss_flat",
    int(wire.EXPORT_FORMAT_HNSWLIB): "hnswlib",
}


def export_request(request: wire.ExportRequest, chunk_bytes: int) -> ExportRequest:
    """Return the request of an export.

    Raises:
        InvalidArgumentError: BAD_FORMAT: a format that this server does not know.
    """
    kind = enum_value(_EXPORT_KIND_OF_WIRE, request.format, "format", Reason.BAD_FORMAT)
    return ExportRequest(kind, request.normalize_queries, chunk_bytes)


def export_response(piece: bytes | ExportEnd) -> wire.ExportResponse:
    """Return a chunk of an export, or its trailer."""
    if isinstance(piece, ExportEnd):
        config = None if piece.config is None else config_message(piece.config)
        return wire.ExportResponse(end=wire.ExportEnd(**{**piece._asdict(), "config": config}))
    return wire.ExportResponse(chunk=piece)


_IMPORT_KIND_OF_WIRE: Final[dict[int, Literal["faiss", "hnswlib"]]] = {
    int(wire.IMPORT_KIND_FAISS): "faiss",
    int(wire.IMPORT_KIND_HNSWLIB): "hnswlib",
}


def import_begin(messages: Iterator[wire.ImportRequest]) -> tuple[ImportRequest, Announced]:
    """Return the request of an import from its first message, ``begin``.

    Raises:
        InvalidArgumentError: BAD_TRANSFER: the first message is another one. BAD_FORMAT, BAD_NAME,
            BAD_METRIC, OUT_OF_RANGE: a field is invalid.
    """
    part = next(messages, wire.ImportRequest())
    if part.WhichOneof("part") != "begin":
        raise InvalidArgumentError(
            f"the first message of an import must be begin, got {part.WhichOneof('part')}",
            Reason.BAD_TRANSFER,
        )
    begin = part.begin
    refuse_reserved(begin)
    kind = enum_value(_IMPORT_KIND_OF_WIRE, begin.kind, "kind", Reason.BAD_FORMAT)
    given = int(begin.metric) != int(wire.METRIC_UNSPECIFIED) or kind == "hnswlib"
    metric = metric_of(begin.metric) if given else None
    side_bytes = begin.side_bytes if begin.HasField("side_bytes") else None
    return (
        ImportRequest(kind, begin.collection, metric, begin.dim).checked(),
        Announced(
            begin.bytes,
            side_bytes,
            begin.file_name or "the file",
            begin.side_name or "the sidecar",
        ),
    )


def import_parts(messages: Iterator[wire.ImportRequest]) -> Iterator[Chunk | TransferEnd]:
    """Yield the content of the messages after ``begin``.

    Raises:
        InvalidArgumentError: BAD_TRANSFER: a message is neither a chunk nor the end.
    """
    for message in messages:
        kind = message.WhichOneof("part")
        if kind == "chunk":
            yield Chunk(message.chunk, False)
        elif kind == "side_chunk":
            yield Chunk(message.side_chunk, True)
        elif kind == "end":
            yield TransferEnd(message.end.sha256, message.end.side_sha256)
        else:
            raise InvalidArgumentError(
                f"expected chunk, side_chunk or end after begin, got {kind}", Reason.BAD_TRANSFER
            )


def import_report_message(report: ImportReport) -> wire.ImportReport:
    """Return the report of an import."""
    return wire.ImportReport(**dataclasses.asdict(report))


def report_message(report: BackupReport) -> wire.BackupReport:
    """Return the report of a backup."""
    return wire.BackupReport(
        path=report.path,
        collections=report.collections,
        rows=report.rows,
        bytes=report.bytes,
        elapsed_s=report.elapsed_s,
    )
