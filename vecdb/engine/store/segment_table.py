"""The table of segments: what the store records of each one, as JSON in ``segments``.

    state         "claimed": a number and an interval are reserved, no files yet
                  "published": live, its files are complete
                  "lost": quarantined; the rows are served from the store until it is rebuilt
                  "retired": replaced or given up; garbage collection removes the files, then the
                  entry
    lock          "seal" or "graph" of a reservation: the lock under which the work is done
    first_row, end_row, seq
                  its interval, the end excluded, and the state that its rows were read at
    kind, count, bytes, manifest_crc
                  once files are written: "flat" or "graph", rows, size of the files, CRC-32 of
                  manifest.json
    verified      true once the files were read back
    lost_parts    names of optional parts that are missing or damaged; absent if there are none

Live and quarantined segments partition the rows [0, sealed_to). A key that this version does not
know is kept whenever an entry is rewritten, as a newer version may have written it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from vecdb.engine.store import layout
from vecdb.errors import DataLossError
from vecdb.reasons import Reason

__all__ = [
    "FLAT_KIND",
    "GRAPH_KIND",
    "PUBLISHED",
    "STATES",
    "SegmentEntry",
    "in_place",
    "reserved_intervals",
]

RESERVED: Final = "claimed"
PUBLISHED: Final = "published"
QUARANTINED: Final = "lost"
RETIRED: Final = "retired"
STATES: Final = (RESERVED, PUBLISHED, RETIRED, QUARANTINED)

FLAT_KIND: Final = "flat"
GRAPH_KIND: Final = "graph"

_NUMBER_END: Final = 2**63
_INTERVAL: Final = {name: name for name in ("first_row", "end_row", "seq")}
_FILES: Final = {"count": "count", "file_bytes": "bytes", "manifest_crc": "manifest_crc"}
"""Numbers: name of the field → key in the JSON object."""

_KNOWN: Final = {
    *("state", "lock", "kind", "verified", "lost_parts"),
    *_INTERVAL.values(),
    *_FILES.values(),
}


@dataclass(frozen=True)
class SegmentEntry:
    """One segment in the table; the module docstring describes each field.

    Attributes:
        kind: empty while no files are written; count, file_bytes and manifest_crc are 0.
        verified: None if the JSON object has no such key.
        unknown: keys of a newer version.
    """

    state: str
    first_row: int
    end_row: int
    seq: int
    lock: str | None = None
    kind: str = ""
    count: int = 0
    file_bytes: int = 0
    manifest_crc: int = 0
    verified: bool | None = None
    lost_parts: tuple[str, ...] = ()
    unknown: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def reserved(cls, lock: str, first_row: int, end_row: int, seq: int) -> SegmentEntry:
        """Return the entry of a segment that is about to be written under ``lock``."""
        return cls(RESERVED, first_row, end_row, seq, lock)

    @classmethod
    def from_json(cls, found: Any) -> SegmentEntry:
        """Return the entry in a parsed JSON object.

        Raises:
            KeyError, TypeError, ValueError, OverflowError: a field is absent, has another type or
                is outside of 0 to 2**63 - 1.
        """
        if not isinstance(found, dict):
            raise TypeError(f"expected a JSON object, got {found!r}")
        state = _typed(found, "state", str)
        # A reservation that was given up is retired without files.
        written = state not in (RESERVED, RETIRED) or "kind" in found
        numbers = {**_INTERVAL, **_FILES} if written else _INTERVAL
        lost_parts = found.get("lost_parts", [])
        if not isinstance(lost_parts, list) or not all(type(n) is str for n in lost_parts):
            raise TypeError(f"lost_parts: expected a list of names, got {lost_parts!r}")
        return cls(
            state=state,
            lock=found.get("lock"),
            kind=_typed(found, "kind", str) if written else "",
            verified=found.get("verified"),
            lost_parts=tuple(lost_parts),
            unknown={key: value for key, value in found.items() if key not in _KNOWN},
            **{name: _number(found, key) for name, key in numbers.items()},
        )

    @classmethod
    def unpack(cls, key: bytes | memoryview, value: bytes | memoryview) -> SegmentEntry:
        """Return the entry in a value of the database ``segments``.

        Raises:
            DataLossError: CHECKSUM, its checksum differs, or it is not an entry.
        """
        found = layout.unpack_json(key, value, "segment")
        try:
            return cls.from_json(found)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            number = int.from_bytes(key, "big")
            raise DataLossError(
                f"the entry of segment {number} can't be read: {error!r}", Reason.CHECKSUM
            ) from error

    def pack(self, key: bytes) -> bytes:
        """Return the value for the database ``segments``."""
        return layout.pack_json(key, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object."""
        entry: dict[str, Any] = {**self.unknown, "state": self.state, "lock": self.lock}
        numbers = {**_INTERVAL, **_FILES} if self.kind else _INTERVAL
        entry |= {key: getattr(self, name) for name, key in numbers.items()}
        if self.kind:
            entry["kind"] = self.kind
        if self.verified is not None:
            entry["verified"] = self.verified
        if self.lost_parts:
            entry["lost_parts"] = list(self.lost_parts)
        return entry

    @property
    def is_reserved(self) -> bool:
        """Whether its files are still being written."""
        return self.state == RESERVED

    @property
    def is_published(self) -> bool:
        """Whether its files serve its rows."""
        return self.state == PUBLISHED

    @property
    def is_quarantined(self) -> bool:
        """Whether the store serves its rows until the indexer has rebuilt it."""
        return self.state == QUARANTINED

    @property
    def is_retired(self) -> bool:
        """Whether garbage collection may remove its files."""
        return self.state == RETIRED

    @property
    def is_in_place(self) -> bool:
        """Whether it owns the rows of its interval."""
        return self.state in (PUBLISHED, QUARANTINED)

    @property
    def has_graph(self) -> bool:
        """Whether its files have a graph."""
        return self.kind == GRAPH_KIND

    def overlaps(self, first_row: int, end_row: int) -> bool:
        """Return whether it shares a row with an interval."""
        return self.first_row < end_row and self.end_row > first_row

    def retired(self) -> SegmentEntry:
        """Return the entry in state "retired"."""
        return replace(self, state=RETIRED)

    def quarantined(self) -> SegmentEntry:
        """Return the entry in state "lost", without lost parts: all files are to be rebuilt."""
        return replace(self, state=QUARANTINED, lost_parts=())

    def without_parts(self, names: Iterable[str]) -> SegmentEntry:
        """Return the entry with these optional parts added to ``lost_parts``."""
        return replace(self, lost_parts=tuple(sorted({*self.lost_parts, *names})))


def _typed(found: dict[str, Any], name: str, kind: type) -> Any:
    value = found[name]
    if type(value) is not kind:
        raise TypeError(f"{name}: expected {kind.__name__}, got {value!r}")
    return value


def _number(found: dict[str, Any], name: str) -> int:
    value: int = _typed(found, name, int)
    if not 0 <= value < _NUMBER_END:
        raise OverflowError(f"{name}: expected 0 to 2**63 - 1, got {value}")
    return value


def in_place(entries: Mapping[int, SegmentEntry]) -> list[tuple[int, SegmentEntry]]:
    """Return the segments that partition [0, sealed_to), by first row."""
    chosen = [item for item in entries.items() if item[1].is_in_place]
    return sorted(chosen, key=lambda item: item[1].first_row)


def reserved_intervals(entries: Mapping[int, SegmentEntry]) -> list[tuple[int, int, int]]:
    """Return first row, end row and seq of the reservations.

    A segment of what was live at that seq is being written: tombstones since then are needed.
    """
    return [(e.first_row, e.end_row, e.seq) for e in entries.values() if e.is_reserved]
