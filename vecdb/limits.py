"""The limits of vecdb, each with its least, usual and greatest value.

A request past a limit is refused with INVALID_ARGUMENT and both numbers, embedded and over gRPC
alike. Numbers here are part of the interface: raising a maximum is a new minor version, lowering
one is a breaking change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = [
    "BATCH_ROWS",
    "DIM",
    "EF",
    "EF_CONSTRUCTION",
    "ID_BYTES",
    "IF_SEQ",
    "LEASES_MAX",
    "LEASE_S",
    "MESSAGE_BYTES",
    "METADATA_BYTES",
    "METADATA_DEPTH",
    "NAME_PATTERN",
    "REQUEST_ID_BYTES",
    "REQUEST_STEM_BYTES",
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
    """An integer that may be ``minimum`` to ``maximum``; ``default`` is None where it must be
    given."""

    name: str
    minimum: int
    default: int | None
    maximum: int


DIM: Final = Limit("dim", 1, None, 16_384)
K: Final = Limit("k", 1, 10, 16_384)
EF: Final = Limit("ef", 1, 128, 65_536)
"""Effort of a graph walk: how many candidates are kept. A search uses at least k; without an
ef it uses the default, or twice k if that is more."""

M: Final = Limit("M", 2, 16, 256)
"""Links a node on the upper levels of the graph; twice as many on the lowest (Malkov & Yashunin
2018, section 4)."""

EF_CONSTRUCTION: Final = Limit("ef_construction", 4, 128, 4_096)
ID_BYTES: Final = Limit("id length in bytes", 1, None, 500)
METADATA_BYTES: Final = Limit("metadata size in bytes", 0, None, 64 * 1024)
METADATA_DEPTH: Final = Limit("metadata depth", 0, None, 8)
BATCH_ROWS: Final = Limit("rows in a batch", 1, 1_000, 10_000)
MESSAGE_BYTES: Final = Limit("message size in bytes", 64 * 1024, 16 * 1024**2, 64 * 1024**2)
RESULTS_PER_CALL_MAX: Final = 1_000_000
"""Queries times k of one search call."""

IF_SEQ: Final = Limit("if_seq", 0, None, 2**63 - 1)
REQUEST_ID_BYTES: Final = Limit("request_id", 1, None, 64)
REQUEST_STEM_BYTES: Final = Limit("request_id of upsert_many", 1, None, 48)
"""Shorter, since the numbers of its batches are put behind it."""

REQUEST_WINDOW_S: Final = 24 * 3600.0
"""Seconds for which a write is known by its request id: so long, repeating it has one effect. By a
clock that no jump of the wall clock moves, and in which a machine that is off has no time."""

LEASE_S: Final = 60.0
"""Seconds for which a scroll may rest between two pages; each page begins them anew. By the same
clock."""

LEASES_MAX: Final = 1_000
"""Scrolls of a collection under way at a time; one more ends the one that has rested for longest,
or is refused with RESOURCE_EXHAUSTED if all of them are in use."""

SCROLL_PAGE_BYTES_MAX: Final = 8 * 1024**2
"""A page of a scroll holds no more than this, unless one row is larger."""

NAME_PATTERN: Final = r"[A-Za-z0-9_-]{1,64}"
"""What a collection may be called."""

SQUARED_NORM_MAX: Final = 3.4028234663852886e38 / 4
"""Greatest squared length of a vector: so the squared distance of any two fits a float32."""

SQUARED_NORM_MIN: Final = 1e-30
"""Least squared length of a vector other than zero, under Euclidean distance and inner product: so
the scores of vectors as short as this still differ in a float32."""
