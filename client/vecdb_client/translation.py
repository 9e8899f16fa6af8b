"""Translation of messages to types of the vocabulary and back."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any, Final, TypedDict

from google.protobuf.message import Message

from vecdb import checks, errors, limits
from vecdb.metadata_patches import MetadataMode
from vecdb.reasons import Reason
from vecdb.search_variants import Variant
from vecdb.surface.searching import SearchFlags
from vecdb.types import (
    BackupReport,
    CollectionConfig,
    CollectionDescription,
    CollectionStats,
    ExportEnd,
    Facet,
    FacetValue,
    FieldInfo,
    GroupValue,
    HitColumns,
    Hits,
    ImportReport,
    MeasuredRecall,
    Metric,
    RecallInfo,
    Records,
    ScrollPage,
    SearchInfo,
    SegmentPlan,
    SegmentStats,
)
from vecdb_client.filters import filter_to_wire
from vecdb_proto import vecdb_pb2 as wire
from vecdb_proto.codec import decode_floats, decode_matrix

__all__ = [
    "MODES",
    "change_fields",
    "config_message",
    "description_of",
    "export_end_of",
    "facet_of",
    "fields_of",
    "hits_of",
    "import_begin",
    "import_report_of",
    "page_of",
    "records_of",
    "report_of",
    "stats_of",
    "wire_write_options",
]

# ------------------------------------------------------------------------------------ collections

_WIRE_OF_METRIC: Final[dict[Metric, wire.Metric]] = {
    Metric.COSINE: wire.METRIC_COSINE,
    Metric.EUCLIDEAN: wire.METRIC_EUCLIDEAN,
    Metric.DOT: wire.METRIC_DOT,
}
_METRIC_OF_WIRE: Final = {int(number): metric for metric, number in _WIRE_OF_METRIC.items()}


def config_message(config: CollectionConfig) -> wire.CollectionConfig:
    """Return the message of a configuration, with every field set."""
    return wire.CollectionConfig(
        dim=config.dim,
        metric=_WIRE_OF_METRIC[config.metric],
        m=config.M,
        ef_construction=config.ef_construction,
        index_fields=(
            None if config.index_fields is None else wire.IndexFields(fields=config.index_fields)
        ),
    )


def description_of(message: wire.CollectionDescription) -> CollectionDescription:
    """Return the name and the configuration of a collection.

    Raises:
        UnsupportedError: a metric that this client is too old to know.
    """
    metadata = json.loads(message.metadata) if message.metadata else {}
    return CollectionDescription(message.name, _config_of(message.name, message.config), metadata)


def _config_of(name: str, config: wire.CollectionConfig) -> CollectionConfig:
    metric = _METRIC_OF_WIRE.get(int(config.metric))
    if metric is None:
        raise errors.UnsupportedError(
            f"collection {name!r} has metric {int(config.metric)}, which this client does not know",
            Reason.UNKNOWN_METRIC,
        )
    fields = tuple(config.index_fields.fields) if config.HasField("index_fields") else None
    return CollectionConfig(config.dim, metric, config.m, config.ef_construction, fields)


# -------------------------------------------------------------------------------------------- rows


class Target(TypedDict):
    """Fields of a request that name its collection."""

    collection: str
    collection_id: str


class WriteFields(TypedDict, total=False):
    """Fields of a write for its conditions and its request id."""

    condition: wire.WriteCondition
    request_id: str


class ChangeFields(TypedDict, total=False):
    """Fields of a delete or a change of metadata for its filter."""

    filter: wire.Filter
    limit: int
    dry_run: bool


class VariantFields(TypedDict):
    """Fields of a search for its variant."""

    near: tuple[str, ...]
    away: tuple[str, ...]
    max_distance: float | None
    group_by: tuple[str, ...] | None
    group_size: int


class SearchFields(Target, SearchFlags, VariantFields):
    """Fields of a search but for the queries. k: 0 for all within ``max_distance``."""

    k: int
    ef: int | None


def variant_fields(variant: Variant) -> VariantFields:
    """Return the fields of a variant."""
    return {
        "near": variant.near,
        "away": variant.away,
        "max_distance": variant.max_distance,
        "group_by": variant.group_by,
        "group_size": 0 if variant.group_by is None else variant.group_size,
    }


def wire_write_options(
    insert_only: object, if_seq: object, request_id: object, on_existing: object = "replace"
) -> WriteFields:
    """Check the conditions and the request id of a write; return their fields of the request."""
    existing, seq = checks.check_condition(insert_only, if_seq, on_existing)
    write_options: WriteFields = {}
    must_be_new = existing == "refuse"
    if must_be_new or seq is not None:
        write_options["condition"] = wire.WriteCondition(insert_only=must_be_new, if_seq=seq)
    name = checks.check_request_id(request_id)
    if name is not None:
        write_options["request_id"] = name
    return write_options


def change_fields(target: checks.Target) -> ChangeFields:
    """Return the fields of a delete or a change of metadata that say which rows it is for, but for
    ids."""
    fields: ChangeFields = {}
    if target.filter is not None:
        fields["filter"] = filter_to_wire(target.filter)
    if target.limit is not None:
        fields["limit"] = target.limit
    if target.dry_run:
        fields["dry_run"] = True
    return fields


MODES: Final[dict[MetadataMode, wire.MetadataMode]] = {
    MetadataMode.MERGE: wire.METADATA_MODE_MERGE,
    MetadataMode.REPLACE: wire.METADATA_MODE_REPLACE,
    MetadataMode.DELETE_KEYS: wire.METADATA_MODE_DELETE_KEYS,
}


def check_variant_known(response: wire.SearchResponse, wanted: VariantFields) -> None:
    """Check that the server knew the variant; one of an earlier version ignores its fields.

    Raises:
        UnsupportedError: the server is too old.
    """
    bound = wanted["max_distance"]
    if bound is not None and (decode_floats(response.distances).astype(float) > bound).any():
        raise errors.UnsupportedError("the server is too old for max_distance")
    if wanted["group_by"] and len(response.group_counts) != len(response.counts):
        raise errors.UnsupportedError("the server is too old for group_by")


def hits_of(
    response: wire.SearchResponse, query_count: int, *, with_metadata: bool, with_vectors: bool
) -> list[Hits]:
    """Return the hits of each query. Their columns are slices, not copies."""
    if not query_count:
        return []
    metadata = list(response.metadata) if with_metadata else None
    columns = HitColumns(
        list(response.counts),
        list(response.ids),
        # Writable, like those of an embedded database.
        decode_floats(response.distances, writable=True),
        metadata or None,
        decode_matrix(response.vectors, writable=True) if with_vectors else None,
        _info_of(response.infos[0]),
        list(response.visited),
        list(response.deleted_visited) or [0] * query_count,
        list(response.gated),
        [_info_of(info) for info in response.infos] if len(response.infos) > 1 else (),
        _groups_of(response),
    )
    return columns.hits()


def _groups_of(response: wire.SearchResponse) -> list[list[tuple[GroupValue, int]]]:
    """Return value and number of hits of the groups of each query; empty without groups."""
    values = map(json.loads, response.group_values)
    groups = iter(list(zip(values, response.group_sizes, strict=True)))
    return [list(islice(groups, count)) for count in response.group_counts]


def _info_of(info: wire.SearchInfo) -> SearchInfo:
    """Return the info of a whole answer; the counts per query are separate columns."""
    return SearchInfo(
        info.plan,
        info.exact,
        info.ef,
        0,
        info.matches,
        info.seq,
        info.verified,
        unindexed_rows=info.unindexed_rows,
        recall=_recall_of(info.recall) if info.HasField("recall") else None,
        explain=tuple(map(_segment_plan_of, info.explain)),
    )


def _segment_plan_of(plan: wire.SegmentPlan) -> SegmentPlan:
    number = plan.segment if plan.HasField("segment") else None
    return SegmentPlan(number, plan.way, plan.rows, plan.matches, dict(plan.costs_us))


def _recall_of(recall: wire.RecallInfo) -> RecallInfo:
    return RecallInfo(
        recall.expected,
        recall.lower,
        recall.target,
        recall.rows,
        recall.queries,
        recall.measured_at if recall.HasField("measured_at") else None,
    )


def records_of(response: wire.GetResponse) -> Records:
    """Return the records of an answer."""
    ids = list(response.ids)
    return Records(
        ids,
        decode_matrix(response.vectors, writable=True),
        list(response.metadata) or [b""] * len(ids),
        list(response.missing),
        response.seq,
    )


def page_of(response: wire.ScrollPageResponse) -> ScrollPage:
    """Return one page of a scroll."""
    ids = list(response.ids)
    vectors = None
    if response.HasField("vectors"):
        vectors = decode_matrix(response.vectors, writable=True)
    metadata = list(response.metadata) or [b""] * len(ids)
    return ScrollPage(
        Records(ids, vectors, metadata, [], response.seq), response.next_token or None
    )


def facet_of(response: wire.FacetResponse) -> Facet:
    """Return the values of a field."""
    values = [json.loads(raw) for raw in response.values]
    counted = map(FacetValue, values, response.counts)
    return Facet(list(counted), response.distinct, response.rows, response.seq)


def fields_of(response: wire.FieldsResponse) -> list[FieldInfo]:
    """Return the fields of the metadata."""
    order = ("null", "boolean", "integer", "double", "string", "list", "object")
    return [
        FieldInfo(
            each.name,
            each.rows,
            {kind: each.types[kind] for kind in order if kind in each.types},
            each.distinct if each.HasField("distinct") else None,
        )
        for each in response.fields
    ]


def stats_of(message: wire.CollectionStats) -> CollectionStats:
    """Return the state of a collection."""
    fields = _numbers(message, wire.CollectionStats, skipped="segments")
    for name in ("recall_hour", "recall_day"):
        if fields[name] is not None:
            fields[name] = MeasuredRecall(**_numbers(fields[name], wire.MeasuredRecall))
    return CollectionStats(
        **fields,
        segments=[
            SegmentStats(**_numbers(segment, wire.SegmentStats)) for segment in message.segments
        ],
    )


def report_of(message: wire.BackupReport) -> BackupReport:
    """Return the report of a backup."""
    return BackupReport(**_numbers(message, wire.BackupReport))


def export_end_of(message: wire.ExportEnd) -> ExportEnd:
    """Return the trailer of an export."""
    fields = _numbers(message, wire.ExportEnd)
    if fields["config"] is not None:
        fields["config"] = _config_of("that is exported", message.config)
    return ExportEnd(**fields)


_KIND_OF_IMPORT: Final[dict[str, wire.ImportKind]] = {
    "faiss": wire.IMPORT_KIND_FAISS,
    "hnswlib": wire.IMPORT_KIND_HNSWLIB,
}


def import_begin(
    kind: str, collection: object, metric: object, dim: object = None
) -> wire.ImportBegin:
    """Check the arguments of an import; return its first message, without sizes and names of files.

    Args:
        kind: "faiss" or "hnswlib"; the latter needs ``metric`` and ``dim``.
    """
    begin = wire.ImportBegin(collection=checks.check_name(collection), kind=_KIND_OF_IMPORT[kind])
    if kind == "hnswlib":
        begin.dim = checks.check_limit(limits.DIM, dim)
    if kind == "hnswlib" or metric is not None:
        begin.metric = _WIRE_OF_METRIC[checks.check_metric(metric)]
    return begin


def import_report_of(message: wire.ImportReport) -> ImportReport:
    """Return the report of an import."""
    fields = _numbers(message, wire.ImportReport)
    return ImportReport(**{**fields, "assumed": tuple(message.assumed)})


def _numbers(message: Message, kind: type[Message], skipped: str = "") -> dict[str, Any]:
    """Return the fields that have the same names in a message and in the vocabulary; a test
    compares the names. An optional field that is unset is None."""
    return {
        field.name: (
            None
            if field.has_presence and not message.HasField(field.name)
            else getattr(message, field.name)
        )
        for field in kind.DESCRIPTOR.fields
        if field.name != skipped
    }
