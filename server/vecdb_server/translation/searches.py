"""Searches: their variants, and hits in columns."""

from __future__ import annotations

import json

from vecdb.search_variants import PLAIN, Variant, check_variant
from vecdb.types import (
    GroupValue,
    HitColumns,
    Metric,
)
from vecdb_proto import vecdb_pb2 as wire
from vecdb_proto.codec import encode_floats, encode_matrix
from vecdb_server.translation.records import metadata_column
from vecdb_server.translation.statuses import Status

__all__ = ["failure_answer", "search_response", "variant_of"]


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


def search_response(found: HitColumns) -> wire.SearchResponse:
    """Return the results of all queries in columns."""
    response = wire.SearchResponse(
        counts=found.counts,
        ids=found.ids,
        distances=encode_floats(found.distances),
        metadata=metadata_column(found.raw_metadata),
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
