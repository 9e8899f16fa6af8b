"""Rows and what their metadata say: records, pages of a scroll, facets, fields."""

from __future__ import annotations

import json
from collections.abc import Sequence

from vecdb.types import (
    Facet,
    FieldInfo,
    Records,
    ScrollPage,
)
from vecdb_proto import vecdb_pb2 as wire
from vecdb_proto.codec import encode_matrix

__all__ = [
    "facet_response",
    "fields_response",
    "metadata_column",
    "page_response",
    "records_response",
]


def records_response(records: Records) -> wire.GetResponse:
    """Return records in columns."""
    return wire.GetResponse(
        ids=records.ids,
        vectors=encode_matrix(records.vectors),
        metadata=metadata_column(records.raw_metadata),
        missing=records.missing,
        seq=records.seq,
    )


def page_response(page: ScrollPage) -> wire.ScrollPageResponse:
    """Return one page of a scroll in columns."""
    records = page.records
    return wire.ScrollPageResponse(
        ids=records.ids,
        vectors=None if records.vectors is None else encode_matrix(records.vectors),
        metadata=metadata_column(records.raw_metadata),
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


def metadata_column(raw: Sequence[bytes] | None) -> Sequence[bytes]:
    """Return one entry per row, or an empty column if no row has metadata."""
    return raw if raw is not None and any(raw) else ()
