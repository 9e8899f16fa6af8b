"""Reads the databases of a store in one transaction, without trusting their content.

Values with a wrong checksum are reported and skipped. Keys must ascend, and their number must be
the one that LMDB has: so a damaged page that points back to an earlier one, or nowhere, is detected
and does not lead into an endless loop. (It may still crash the process, as LMDB's pages have no
checksum.) ``read_facts`` collects the small fields of each row in arrays, ascending by row, with
ids as hashes of 64 bits. The rest of the check compares these arrays.
"""

from __future__ import annotations

import json
import struct
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecdb.checking import ERROR, WARNING
from vecdb.engine.kv.environment import Environment
from vecdb.engine.kv.transaction import DatabaseHandle, Transaction
from vecdb.engine.maintenance.checking.findings import EXAMPLES_MAX, Examples, Findings, shown_id
from vecdb.engine.segments.part_check import StoreRecords, is_among
from vecdb.engine.store import layout
from vecdb.engine.store.segment_table import SegmentEntry
from vecdb.errors import VecdbError
from vecdb.types import CollectionConfig

__all__ = [
    "BAD_VALUE",
    "Facts",
    "Rows",
    "Walk",
    "named_rows",
    "read_entries",
    "read_facts",
]

Rows = npt.NDArray[np.int64]

BAD_VALUE: Final = (struct.error, ValueError, KeyError, TypeError, OverflowError)
"""The exceptions that parsing an invalid value raises."""

_VALUE_BYTES_MAX: Final = 64 * 1024**2
_NONE: Final[Rows] = np.zeros(0, np.int64)


@dataclass
class Facts:
    """The content of a store's databases in one committed state.

    Attributes:
        state, counters: None if unreadable. entry: the configuration as JSON, or None.
        purging: seq up to which tombstones are being purged, or None.
        id_rows, id_hashes: row and hash of each id, ordered by id. id_count: number of ids,
            unreadable ones included. bad_id_hashes: ids whose row is unreadable, ascending.
        record_rows, record_hashes: each row with a record, ascending, and the hash of its id.
        bad_record_rows: rows with an unreadable record, ascending.
        metadata_versions: number of records with metadata, all versions.
        deleted_rows, deleted_seqs: the tombstones, ascending by row; seq -1 if unreadable.
        segments: number → entry of readable entries; bad_segments: numbers of the others.
        incomplete: databases that could not be read to their end.
    """

    state: layout.State | None = None
    counters: layout.Counters | None = None
    entry: dict[str, Any] | None = None
    dropped: bool = False
    purging: int | None = None
    id_rows: Rows = field(default_factory=lambda: _NONE)
    id_hashes: Rows = field(default_factory=lambda: _NONE)
    id_count: int = 0
    bad_id_hashes: Rows = field(default_factory=lambda: _NONE)
    record_rows: Rows = field(default_factory=lambda: _NONE)
    record_hashes: Rows = field(default_factory=lambda: _NONE)
    bad_record_rows: Rows = field(default_factory=lambda: _NONE)
    metadata_versions: int = 0
    deleted_rows: Rows = field(default_factory=lambda: _NONE)
    deleted_seqs: Rows = field(default_factory=lambda: _NONE)
    segments: dict[int, SegmentEntry] = field(default_factory=dict)
    bad_segments: list[int] = field(default_factory=list)
    incomplete: set[str] = field(default_factory=set)

    @cached_property
    def live_rows(self) -> Rows:
        """Rows with a record and without a tombstone, ascending."""
        rows = np.union1d(self.record_rows, self.bad_record_rows)
        return rows[~is_among(rows, self.deleted_rows)]

    def records(self) -> StoreRecords:
        """Return what the deep checks of parts need."""
        return StoreRecords(
            self.live_rows,
            self.deleted_rows,
            self.record_rows,
            self.record_hashes,
            self.bad_record_rows,
            not self.incomplete & {"records", "dead"},
        )

    def config(self) -> CollectionConfig | None:
        """Return the configuration, or None if it is invalid."""
        try:
            return None if self.entry is None else layout.config_of(self.entry)
        except BAD_VALUE:
            return None


class Walk:
    """Reads the databases of one store in the caller's transaction."""

    def __init__(
        self, environment: Environment, transaction: Transaction, findings: Findings
    ) -> None:
        self.environment = environment
        self.transaction = transaction
        self.findings = findings
        self.incomplete: set[str] = set()

    def values(
        self,
        name: str,
        show: Callable[[bytes], str],
        on_bad: Callable[[bytes], object] = lambda key: None,
        severity: str = ERROR,
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, payload) of a database's values with a correct checksum.

        Args:
            show: returns a key as text for people.
            on_bad: called with the keys of values with a wrong checksum.
            severity: severity of a wrong checksum.
        """
        bad, count, expected = Examples(), 0, 0
        try:
            with self.environment.errors_translated():
                database = self.environment.database(name.encode())
                expected = self.transaction.stat(database)["entries"]
                for key, raw in self._raw(name, database):
                    count += 1
                    payload = raw[:-4]
                    crc = zlib.crc32(payload, zlib.crc32(key))
                    if len(raw) >= 4 and crc == int.from_bytes(raw[-4:], "little"):
                        yield key, payload
                    else:
                        bad.add(show(key))
                        on_bad(key)
                    if count > expected:
                        break
        except VecdbError as error:
            self._damaged(name, error.message)
        else:
            if count != expected:
                self._damaged(name, f"expected {expected:,} from LMDB's count, found {count:,}")
        what = f"values in {name} have a wrong checksum"
        bad.report(self.findings, "CHECKSUM", what, severity)

    def _raw(self, name: str, database: DatabaseHandle) -> Iterator[tuple[bytes, bytes]]:
        last = b""
        with self.transaction.cursor(database) as cursor:
            for key_view, value in cursor.iternext(keys=True, values=True):
                key = bytes(key_view)
                if key <= last:
                    self._damaged(name, f"key {key[:40]!r} comes after {last[:40]!r}")
                    return
                if len(value) > _VALUE_BYTES_MAX:
                    self._damaged(name, f"the value of {key[:40]!r} has {len(value):,} bytes")
                    return
                last = key
                yield key, bytes(value)

    def _damaged(self, name: str, what: str) -> None:
        if name not in self.incomplete:
            self.incomplete.add(name)
            self.findings.add("STORE_DAMAGED", f"entries of {name}: {what}")


def read_facts(walk: Walk) -> Facts:
    """Read all databases except ``blocks``, ``log``, ``pins`` and ``requests``."""
    facts = Facts()
    _read_meta(walk, facts)
    _read_ids(walk, facts)
    _read_records(walk, facts)
    _read_deleted(walk, facts)
    _read_segments(walk, facts)
    for name in {n.decode() for n in layout.DATABASES} - _KNOWN:
        for _ in walk.values(name, repr):
            pass
    facts.incomplete = walk.incomplete
    return facts


_KNOWN: Final = {
    *("meta", "ids", "records", "blocks", "log", "dead", "segments", "pins", "requests"),
}


def read_entries(walk: Walk) -> Facts:
    """Read only ``meta`` and ``segments``."""
    facts = Facts()
    _read_meta(walk, facts)
    _read_segments(walk, facts)
    facts.incomplete = walk.incomplete
    return facts


def _read_meta(walk: Walk, facts: Facts) -> None:
    for key, payload in walk.values("meta", lambda key: key.decode(errors="replace")):
        try:
            if key == b"state":
                facts.state = layout.State.unpack(_in_range(payload))
            elif key == b"counters":
                facts.counters = layout.Counters.unpack(_in_range(payload))
            elif key == b"collection":
                facts.entry = dict(json.loads(payload))
            elif key == b"dropped":
                facts.dropped = True
            elif key == b"purging":
                (facts.purging,) = _U64.unpack(_in_range(payload))
        except BAD_VALUE:
            walk.findings.add("VALUE", f"the {key.decode()} in meta is invalid")


def _in_range(payload: bytes) -> bytes:
    """Return a payload of 64-bit numbers if all are below 2**63.

    Raises:
        OverflowError: a number is larger.
    """
    if any(byte >= 128 for byte in payload[7::8]):
        raise OverflowError("expected numbers below 2**63")
    return payload


def named_rows(walk: Walk, rows: Rows) -> list[str]:
    """Return the first few rows as text, with the ids that refer to them."""
    wanted = rows[:EXAMPLES_MAX].tolist()
    names: dict[int, str] = {}
    if not wanted:
        return []
    database = walk.environment.handles.ids
    with walk.environment.errors_translated(), walk.transaction.cursor(database) as cursor:
        for key, value in cursor.iternext(keys=True, values=True):
            row = int.from_bytes(value[:8], "little")
            if row in wanted:
                names[row] = f"{shown_id(bytes(key))} (row {row})"
                if len(names) == len(wanted):
                    break
    return [names.get(row, f"row {row}") for row in wanted]


def _read_ids(walk: Walk, facts: Facts) -> None:
    rows, hashes, damaged = array("q"), array("q"), array("q")
    bad = Examples()

    def on_bad(key: bytes) -> None:
        damaged.append(hash(key))

    for key, payload in walk.values("ids", shown_id, on_bad):
        try:
            rows.append(_U64.unpack(payload)[0])
            hashes.append(hash(key))
        except BAD_VALUE:
            bad.add(shown_id(key))
            on_bad(key)
    bad.report(walk.findings, "VALUE", "ids without a valid row number")
    facts.id_rows, facts.id_hashes = _array(rows), _array(hashes)
    facts.bad_id_hashes = np.sort(_array(damaged))
    facts.id_count = len(rows) + len(damaged)


def _read_records(walk: Walk, facts: Facts) -> None:
    rows, hashes, damaged = array("q"), array("q"), array("q")
    bad, renamed, ahead = Examples(), Examples(), Examples()
    seq_max = _seq_max(facts)
    last = -1

    def on_bad(key: bytes) -> None:
        if len(key) == 16 and key[0] < 128:
            damaged.append(layout.unpack_record_key(key)[0])

    for key, payload in walk.values("records", _shown_record, on_bad):
        try:
            row, seq = layout.unpack_record_key(key)
            facts.metadata_versions += len(payload) > 2 + int.from_bytes(payload[:2], "little")
            hashed = hash(_id_of_record(payload))
            if row == last:
                if hashes[-1] != hashed:
                    renamed.add(_shown_record(key))
                hashes[-1] = hashed
            else:
                rows.append(row)
                hashes.append(hashed)
                last = row
        except BAD_VALUE:
            bad.add(_shown_record(key))
            on_bad(key)
            continue
        if seq > seq_max:
            ahead.add(_shown_record(key))
    bad.report(walk.findings, "VALUE", "records that are not an id with a JSON object")
    renamed.report(walk.findings, "RECORDS", "records that change the id of their row")
    ahead.report(walk.findings, "RECORDS", f"records have a later seq than {seq_max}")
    facts.record_rows, facts.record_hashes = _array(rows), _array(hashes)
    facts.bad_record_rows = np.unique(_array(damaged))


def _id_of_record(payload: bytes) -> bytes:
    """Return the id of a record, after checking its metadata.

    Raises:
        ValueError: the record is too short, or its metadata is not a JSON object.
    """
    end = 2 + int.from_bytes(payload[:2], "little")
    encoded, metadata = payload[2:end], payload[end:]
    if end == 2 or len(payload) < end:
        raise ValueError(f"expected an id of {end - 2} bytes, got {len(encoded)}")
    if metadata and not isinstance(json.loads(metadata), dict):
        raise ValueError("metadata is not a JSON object")
    return encoded


def _read_deleted(walk: Walk, facts: Facts) -> None:
    rows, seqs = array("q"), array("q")
    bad, ahead = Examples(), Examples()
    seq_max = _seq_max(facts)

    def on_bad(key: bytes) -> None:
        if len(key) == 8 and key[0] < 128:
            rows.append(int.from_bytes(key, "big"))
            seqs.append(-1)

    for key, payload in walk.values("dead", _shown_row, on_bad):
        try:
            (row,), (seq,) = _KEY.unpack(key), _U64.unpack(payload)
            rows.append(row)
            seqs.append(min(seq, 2**63 - 1))
        except BAD_VALUE:
            bad.add(_shown_row(key))
            on_bad(key)
            continue
        if seq > seq_max:
            ahead.add(f"{_shown_row(key)} at seq {seq}")
    bad.report(walk.findings, "VALUE", "tombstones without a valid seq")
    ahead.report(walk.findings, "DEATHS", f"tombstones have a later seq than {seq_max}")
    facts.deleted_rows, facts.deleted_seqs = _array(rows), _array(seqs)


def _read_segments(walk: Walk, facts: Facts) -> None:
    def number_of(key: bytes) -> str:
        return f"segment {int.from_bytes(key, 'big')}"

    def on_bad(key: bytes) -> None:
        facts.bad_segments.append(int.from_bytes(key, "big"))

    for key, payload in walk.values("segments", number_of, on_bad, WARNING):
        try:
            (number,) = _KEY.unpack(key)
            facts.segments[number] = SegmentEntry.from_json(json.loads(payload))
        except BAD_VALUE:
            what = f"the entry of {number_of(key)} is invalid"
            walk.findings.add("VALUE", what, WARNING)
            on_bad(key)


_KEY: Final = struct.Struct(">Q")
_U64: Final = struct.Struct("<Q")


def _seq_max(facts: Facts) -> int:
    return 2**64 if facts.state is None else facts.state.seq


def _array(numbers: array[int]) -> Rows:
    return np.array(numbers, np.int64)


def _shown_row(key: bytes) -> str:
    return f"row {int.from_bytes(key, 'big')}"


def _shown_record(key: bytes) -> str:
    return f"row {int.from_bytes(key[:8], 'big')} (seq {int.from_bytes(key[8:], 'big')})"
