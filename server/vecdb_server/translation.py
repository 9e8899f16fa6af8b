"""Translation of messages to types of the vocabulary and back, and of errors to statuses.

``status_of`` is the only translation of an exception to a gRPC status. All messages are read and
built here, so that ``service`` reads like the contract.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol

import grpc

from vecdb import checks, errors, limits
from vecdb.engine.interchange.export.export import ExportRequest
from vecdb.engine.interchange.importing.import_file import ImportRequest
from vecdb.engine.interchange.importing.incoming import Announced, Chunk, TransferEnd
from vecdb.engine.system.call_memory import out_of_memory
from vecdb.errors import InternalError, InvalidArgumentError, UnsupportedError, VecdbError
from vecdb.reasons import Reason
from vecdb.search_variants import PLAIN, Variant, check_variant
from vecdb.types import (
    BackupReport,
    CollectionDescription,
    CollectionStats,
    ExportEnd,
    Facet,
    FieldInfo,
    GroupValue,
    HitColumns,
    ImportReport,
    MeasuredRecall,
    Metric,
    Records,
    ScrollPage,
)
from vecdb_proto import vecdb_pb2 as wire
from vecdb_proto.codec import encode_floats, encode_matrix
from vecdb_server.config_translation import config_message, metric_of

__all__ = [
    "GENERIC_MESSAGE",
    "REASON_KEY",
    "STATUS_OF_ERROR",
    "Status",
    "export_request",
    "export_response",
    "facet_response",
    "failure_answer",
    "fields_response",
    "import_begin",
    "import_parts",
    "import_report_message",
    "limits_message",
    "page_response",
    "refuse_reserved",
    "report_message",
    "search_response",
    "status_of",
    "variant_of",
]

REASON_KEY: Final = "vecdb-reason"
GENERIC_MESSAGE: Final = "a defect of the server; its log has the details"
_MESSAGE_BYTES_SHOWN: Final = 1_000
"""Maximum of a status message in bytes. It is sent as a header: all headers together have at most
8 KiB, and a byte that is not printable ASCII takes 3."""

STATUS_OF_ERROR: Final[dict[type[VecdbError], grpc.StatusCode]] = {
    errors.InvalidArgumentError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ConditionFailedError: grpc.StatusCode.ABORTED,
    errors.ResourceExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.OutcomeUnknownError: grpc.StatusCode.UNKNOWN,
    errors.DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.CancelledError: grpc.StatusCode.CANCELLED,
    errors.DataLossError: grpc.StatusCode.DATA_LOSS,
    errors.UnsupportedError: grpc.StatusCode.UNIMPLEMENTED,
    errors.InternalError: grpc.StatusCode.INTERNAL,
    errors.MissingExtraError: grpc.StatusCode.FAILED_PRECONDITION,
}


class Status(NamedTuple):
    """An error as sent to a caller: gRPC status, reason for programs, message for people."""

    code: grpc.StatusCode
    reason: str
    message: str


_PAGE_BYTES: Final = 500_000
"""Descriptions of collections in a page: fewer than fit into the smallest message."""


def status_of(error: BaseException) -> Status:
    """Return the status of any exception. The status of an unexpected one has no details."""
    if isinstance(error, MemoryError):
        error = out_of_memory(error)
    # A private subclass gets the status of its nearest base class in the table.
    table: Mapping[Any, grpc.StatusCode] = STATUS_OF_ERROR
    code = next((table[kind] for kind in type(error).__mro__ if kind in table), None)
    if code is None or not isinstance(error, VecdbError) or isinstance(error, InternalError):
        return Status(grpc.StatusCode.INTERNAL, "INTERNAL", GENERIC_MESSAGE)
    reason = (
        Reason.OUTCOME_UNKNOWN if isinstance(error, errors.OutcomeUnknownError) else error.reason
    )
    text = error.message.encode("utf-8", "replace")[:_MESSAGE_BYTES_SHOWN]
    return Status(code, reason, text.decode("utf-8", "ignore"))


# ---------------------------------------------------------------------------------------- requests


class _Reserving(Protocol):
    namespace: str

    def HasField(self, field_name: Any) -> bool: ...


def refuse_reserved(request: _Reserving, *fields: str) -> None:
    """Reject fields of the contract that are not implemented yet, rather than ignore them.

    Raises:
        UnsupportedError: a reserved field is set.
    """
    if request.namespace:
        raise _reserved("namespace")
    for field in fields:
        if request.HasField(field):
            raise _reserved(field)


def variant_of(request: wire.SearchRequest, metric: Metric) -> Variant:
    """Return the variant of a search.

    Raises:
        InvalidArgumentError: as ``check_variant``.
    """
    bound = request.max_distance if request.HasField("max_distance") else None
    grouped = request.group_by or request.group_size
    if bound is None and not (request.near or request.away or grouped):
        return PLAIN
    query = request.queries if request.HasField("queries") else None
    return check_variant(
        query,
        request.k or (None if bound is not None else 0),
        metric,
        near=list(request.near) or None,
        away=list(request.away) or None,
        max_distance=bound,
        group_by=tuple(request.group_by) or None,
        group_size=request.group_size or None,
    )


def _reserved(field: str) -> UnsupportedError:
    return UnsupportedError(f"{field} is reserved and not supported yet", Reason.RESERVED)


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
    kind = _EXPORT_KIND_OF_WIRE.get(int(request.format))
    if kind is None:
        known = ", ".join(f"{number} ({name})" for number, name in _EXPORT_KIND_OF_WIRE.items())
        raise InvalidArgumentError(
            f"format must be one of {known}, got {int(request.format)}", Reason.BAD_FORMAT
        )
    return ExportRequest(kind, request.normalize_queries, chunk_bytes)


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
    kind = _IMPORT_KIND_OF_WIRE.get(int(begin.kind))
    if kind is None:
        known = ", ".join(f"{number} ({name})" for number, name in _IMPORT_KIND_OF_WIRE.items())
        raise InvalidArgumentError(
            f"kind must be one of {known}, got {int(begin.kind)}", Reason.BAD_FORMAT
        )
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


# --------------------------------------------------------------------------------------- responses


def description_message(
    described: CollectionDescription, collection_id: str = ""
) -> wire.CollectionDescription:
    """Return a collection with its configuration and metadata."""
    return wire.CollectionDescription(
        name=described.name,
        id=collection_id,
        config=config_message(described.config),
        metadata=checks.check_collection_metadata(described.metadata),
    )


def descriptions_message(
    collections: Iterable[CollectionDescription], page_size: int, after: str
) -> wire.ListCollectionsResponse:
    """Return the descriptions of collections, sorted by name, or a page of them."""
    answer, nbytes = wire.ListCollectionsResponse(), 0
    for each in collections:
        if each.name > after:
            message = description_message(each)
            nbytes += message.ByteSize()
            count = len(answer.collections)
            if page_size and count and (count == page_size or nbytes > _PAGE_BYTES):
                answer.next = answer.collections[-1].name
                break
            answer.collections.append(message)
    return answer


def records_response(records: Records) -> wire.GetResponse:
    """Return records in columns."""
    return wire.GetResponse(
        ids=records.ids,
        vectors=encode_matrix(records.vectors),
        metadata=_metadata_column(records.raw_metadata),
        missing=records.missing,
        seq=records.seq,
    )


def page_response(page: ScrollPage) -> wire.ScrollPageResponse:
    """Return one page of a scroll in columns."""
    records = page.records
    return wire.ScrollPageResponse(
        ids=records.ids,
        vectors=None if records.vectors is None else encode_matrix(records.vectors),
        metadata=_metadata_column(records.raw_metadata),
        seq=records.seq,
        next_token=page.next_token or "",
    )


def facet_response(found: Facet) -> wire.FacetResponse:
    """Return the values of a field, each as JSON."""
    return wire.FacetResponse(
        values=[json.dumps(each.value, ensure_ascii=False).encode() for each in found.values],
        counts=[each.rows for each in found.values],
        distinct=found.distinct,
        rows=found.rows,
        seq=found.seq,
    )


def fields_response(found: Sequence[FieldInfo]) -> wire.FieldsResponse:
    """Return the fields of the metadata."""
    return wire.FieldsResponse(fields=[wire.FieldInfo(**each._asdict()) for each in found])


def search_response(found: HitColumns) -> wire.SearchResponse:
    """Return the results of all queries in columns."""
    response = wire.SearchResponse(
        counts=found.counts,
        ids=found.ids,
        distances=encode_floats(found.distances),
        metadata=_metadata_column(found.raw_metadata),
        visited=found.visited,
        deleted_visited=found.deleted_visited if any(found.deleted_visited) else None,
        gated=found.gated,
        group_counts=[len(groups) for groups in found.groups],
        group_sizes=[size for groups in found.groups for _, size in groups],
        group_values=[_json(value) for groups in found.groups for value, _ in groups],
    )
    if found.vectors is not None:
        response.vectors.CopyFrom(encode_matrix(found.vectors))
    for info in found.infos or ([found.info] if found.counts else []):
        response.infos.add(
            plan=info.plan,
            exact=info.exact,
            ef=info.ef,
            matches=info.matches,
            seq=info.seq,
            verified=info.verified,
            unindexed_rows=info.unindexed_rows,
            recall=None if info.recall is None else wire.RecallInfo(**info.recall._asdict()),
            explain=[wire.SegmentPlan(**plan._asdict()) for plan in info.explain],
        )
    return response


def _json(value: GroupValue) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def failure_answer(status: Status) -> wire.SearchResponse:
    """Return the answer in a stream to a search that failed."""
    return wire.SearchResponse(
        failure=wire.Failure(
            code=status.code.value[0],
            reason=status.reason,
            message=status.message or status.reason,
        )
    )


def _metadata_column(raw: Sequence[bytes] | None) -> Sequence[bytes]:
    """Return one entry per row, or an empty column if no row has metadata."""
    return raw if raw is not None and any(raw) else ()


def stats_message(stats: CollectionStats) -> wire.CollectionStats:
    """Return the state of a collection."""
    return wire.CollectionStats(
        live_count=stats.live_count,
        seq=stats.seq,
        generation=stats.generation,
        next_row=stats.next_row,
        sealed_to=stats.sealed_to,
        fresh_rows=stats.fresh_rows,
        unindexed_rows=stats.unindexed_rows,
        store_bytes=stats.store_bytes,
        segment_bytes=stats.segment_bytes,
        indexer=stats.indexer,
        backlog_bytes=stats.backlog_bytes,
        write_delay_s=stats.write_delay_s,
        segments=[
            wire.SegmentStats(
                number=segment.number,
                kind=segment.kind,
                first_row=segment.first_row,
                end_row=segment.end_row,
                rows=segment.rows,
                dead=segment.dead,
                bytes=segment.bytes,
                codes=segment.codes,
                codes_left_out=segment.codes_left_out,
                columns=segment.columns,
                columns_left_out=segment.columns_left_out,
            )
            for segment in stats.segments
        ],
        oldest_pin_seq=stats.oldest_pin_seq,
        oldest_pin_expires_s=stats.oldest_pin_expires_s,
        readers=stats.readers,
        oldest_reader_lag=stats.oldest_reader_lag,
        recall_hour=_measured_recall_message(stats.recall_hour),
        recall_day=_measured_recall_message(stats.recall_day),
    )


def _measured_recall_message(recall: MeasuredRecall | None) -> wire.MeasuredRecall | None:
    return None if recall is None else wire.MeasuredRecall(**dataclasses.asdict(recall))


def report_message(report: BackupReport) -> wire.BackupReport:
    """Return the report of a backup."""
    return wire.BackupReport(
        path=report.path,
        collections=report.collections,
        rows=report.rows,
        bytes=report.bytes,
        elapsed_s=report.elapsed_s,
    )


def export_response(piece: bytes | ExportEnd) -> wire.ExportResponse:
    """Return a chunk of an export, or its trailer."""
    if isinstance(piece, ExportEnd):
        config = None if piece.config is None else config_message(piece.config)
        return wire.ExportResponse(end=wire.ExportEnd(**{**piece._asdict(), "config": config}))
    return wire.ExportResponse(chunk=piece)


def import_report_message(report: ImportReport) -> wire.ImportReport:
    """Return the report of an import."""
    return wire.ImportReport(**dataclasses.asdict(report))


def limits_message(message_bytes: int, metadata_bytes_max: int) -> wire.Limits:
    """Return the limits of requests, for a server with this maximum message size."""
    return wire.Limits(
        dim_max=limits.DIM.maximum,
        k_max=limits.K.maximum,
        ef_max=limits.EF.maximum,
        results_per_call_max=limits.RESULTS_PER_CALL_MAX,
        batch_rows_max=limits.BATCH_ROWS.maximum,
        id_bytes_max=limits.ID_BYTES.maximum,
        metadata_bytes_max=metadata_bytes_max,
        metadata_depth_max=limits.METADATA_DEPTH.maximum,
        message_bytes=message_bytes,
        filter_depth_max=limits.FILTER_DEPTH_MAX,
        filter_terms_max=limits.FILTER_TERMS_MAX,
        filter_operands_max=limits.FILTER_OPERANDS_MAX,
        filter_bytes_max=limits.FILTER_BYTES_MAX,
    )
