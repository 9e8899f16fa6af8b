"""Collections: their configuration, description and statistics, and the limits of requests."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Final

from vecdb import checks, limits
from vecdb.reasons import Reason
from vecdb.types import (
    CollectionConfig,
    CollectionDescription,
    CollectionStats,
    MeasuredRecall,
    Metric,
)
from vecdb_proto import vecdb_pb2 as wire
from vecdb_server.translation.requests import enum_value

__all__ = [
    "collection_config",
    "config_message",
    "description_message",
    "descriptions_message",
    "limits_message",
    "metric_of",
    "stats_message",
]

_METRIC_OF_WIRE: Final = {
    int(wire.METRIC_COSINE): Metric.COSINE,
    int(wire.METRIC_EUCLIDEAN): Metric.EUCLIDEAN,
    int(wire.METRIC_DOT): Metric.DOT,
}

_WIRE_OF_METRIC: Final[dict[Metric, wire.Metric]] = {
    Metric.COSINE: wire.METRIC_COSINE,
    Metric.EUCLIDEAN: wire.METRIC_EUCLIDEAN,
    Metric.DOT: wire.METRIC_DOT,
}

_PAGE_BYTES: Final = 500_000
"""Descriptions of collections in a page: fewer than fit into the smallest message."""


def collection_config(config: wire.CollectionConfig) -> CollectionConfig:
    """Return the checked configuration, with defaults for unset fields.

    Raises:
        InvalidArgumentError: BAD_METRIC, OUT_OF_RANGE, BAD_INDEX_FIELDS.
    """
    M = config.m if config.HasField("m") else limits.M.default
    ef = limits.EF_CONSTRUCTION.default
    if config.HasField("ef_construction"):
        ef = config.ef_construction
    fields = config.index_fields.fields if config.HasField("index_fields") else None
    return checks.check_config(config.dim, metric_of(config.metric), M, ef, fields)


def metric_of(given: int) -> Metric:
    """Return the metric with a number. Raises InvalidArgumentError: BAD_METRIC."""
    return enum_value(_METRIC_OF_WIRE, given, "metric", Reason.BAD_METRIC)


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
