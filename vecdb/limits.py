"""The limits of vecdb, each with its minimum, default and maximum.

A request outside a limit is rejected with INVALID_ARGUMENT and both numbers, embedded and over
gRPC alike. The numbers are part of the interface: raising a maximum is a new minor version,
lowering one is a breaking change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = [
    "BATCH_ROWS",
    "CHANGED_ROWS",
    "DIM",
    "EF",
    "EF_CONSTRUCTION",
    "EXAMPLES",
    "FILTER_BYTES_MAX",
    "FILTER_DEPTH_MAX",
    "FILTER_OPERANDS_MAX",
    "FILTER_TERMS_MAX",
    "GROUP_SIZE",
    "ID_BYTES",
    "IF_SEQ",
    "INDEX_FIELDS",
    "LEASES_MAX",
    "LEASE_S",
    "MESSAGE_BYTES",
    "METADATA_BYTES",
    "METADATA_DEPTH",
    "NAME_PATTERN",
    "REQUEST_ID_BYTES",
    "REQUEST_PREFIX_BYTES",
    "REQUEST_WINDOW_S",
    "RESULTS_PER_CALL_MAX",
    "SCROLL_PAGE_BYTES_MAX",
    "SQUARED_NORM_MAX",
    "SQUARED_NORM_MIN",
    "K",
    "Limit",
    "M",
]


@dataclass(frozen=True)
class Limit:
    """An integer argument from ``minimum`` to ``maximum``; ``default`` is None if the argument is
    required."""

    name: str
    minimum: int
    default: int | None
    maximum: int


DIM: Final = Limit("dim", 1, None, 16_384)
K: Final = Limit("k", 1, 10, 16_384)
TARGET_RECALL: Final = 0.95
"""Recall that a search reaches on average if neither a target nor ef is given."""

EF: Final = Limit("ef", 1, 128, 65_536)
"""Number of candidates that a graph walk keeps. A search uses at least k. If ef is not given, it
uses the default, or twice k if that is more."""

M: Final = Limit("M", 2, 16, 256)
"""Links per node on the upper levels of the graph; the lowest level has twice as many (Malkov &
Yashunin 2018, section 4)."""

EXAMPLES: Final = Limit("number of ids in near and away", 1, None, 1_000)
GROUP_SIZE: Final = Limit("group_size", 1, 1, 1_000)
EF_CONSTRUCTION: Final = Limit("ef_construction", 4, 128, 4_096)
INDEX_FIELDS: Final = Limit("number of index_fields", 0, None, 256)
"""Fields that a collection names to be indexed. Of all fields, as many are indexed in a segment:
those that most of its rows have."""

ID_BYTES: Final = Limit("id length in bytes", 1, None, 500)
METADATA_BYTES: Final = Limit("metadata_bytes_max", 1024, 64 * 1024, 1024**2)
"""The size of a row's metadata as JSON, which is an option of a database."""

METADATA_DEPTH: Final = Limit("metadata depth", 0, None, 8)
BATCH_ROWS: Final = Limit("rows in a batch", 1, 1_000, 10_000)
CHANGED_ROWS: Final = Limit("rows that one call deletes or patches", 1, None, 500_000)
"""Rows that match a filter, or ids of ``set_metadata``: they are changed in one transaction, which
keeps other writes of the collection waiting for about two seconds at most."""

MESSAGE_BYTES: Final = Limit("message size in bytes", 64 * 1024, 16 * 1024**2, 64 * 1024**2)
RESULTS_PER_CALL_MAX: Final = 1_000_000
"""Maximum of queries times k in one search call."""

FILTER_DEPTH_MAX: Final = 32
"""Maximum levels of a filter: each operator, $and, $or, $not, negated operator, and each object
with several conditions is a level above the conditions in it."""

FILTER_TERMS_MAX: Final = 1_024
"""Maximum of conditions in a filter."""

FILTER_OPERANDS_MAX: Final = 100_000
"""Maximum of values in all lists of a filter, such as the ids of ``$id``."""

FILTER_BYTES_MAX: Final = 8 * 1024**2
"""Maximum size in bytes of all strings of a filter: names of fields, operands and ids."""

IF_SEQ: Final = Limit("if_seq", 0, None, 2**63 - 1)
REQUEST_ID_BYTES: Final = Limit("request_id", 1, None, 64)
REQUEST_PREFIX_BYTES: Final = Limit("request_id of upsert_many", 1, None, 48)
"""Shorter than ``REQUEST_ID_BYTES``, since the number of each batch is appended to it."""

REQUEST_WINDOW_S: Final = 24 * 3600.0
"""Seconds for which the store remembers the request id of a write, so that a repeated write has one
effect. Measured by the store's clock: it ignores jumps of the wall clock and stops while the
machine is off."""

LEASE_S: Final = 60.0
"""Seconds from a page of a scroll until its lease expires, if no further page is requested. Each
page renews the lease. Measured by the store's clock."""

LEASES_MAX: Final = 1_000
"""Maximum of open scrolls of a collection. Another one ends the scroll that has been idle for
longest; if all are in use, it is rejected with RESOURCE_EXHAUSTED."""

SCROLL_PAGE_BYTES_MAX: Final = 8 * 1024**2
"""Maximum size of a page of a scroll in bytes, unless a single row is larger."""

NAME_PATTERN: Final = r"[A-Za-z0-9_-]{1,64}"
"""Regular expression that the name of a collection must match."""

SQUARED_NORM_MAX: Final = 3.4028234663852886e38 / 4
"""Maximum squared length of a vector. It keeps the squared distance of any two vectors within
float32."""

SQUARED_NORM_MIN: Final = 1e-30
"""Minimum squared length of a nonzero vector, under Euclidean distance and inner product. It keeps
the scores of vectors this short distinct in float32."""
