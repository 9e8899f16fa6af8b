"""The byte format of a store: keys and values of the LMDB databases, and their checksums.

Format 1. Never change this format; a change needs a new number in FORMAT.

    database   key                 value, then a CRC-32
    meta       b"format"           u32 format number
               b"collection"       JSON: id, dim, metric, M, ef_construction,
                                   target_recall (optional),
                                   index_fields (optional: a list of paths as text)
               b"state"            u64 seq, u64 generation
               b"counters"         u64 next_row, live_count, next_segment, sealed_to, metadata_count
               b"name"             UTF-8 name, last written (optional; the catalogue's name counts)
               b"metadata"         JSON of the collection's metadata, last written (optional; the
                                   catalogue's count)
               b"recall"           recall measured with real queries, format in
                                   ``recall_sums.py`` (optional)
               b"clock"            the store's clock, format in ``clock.py`` (optional)
               b"skipped", u64 seq u32 position of each id that the batch of this seq skipped, if it
                                   has a request id (optional; earlier versions ignore it)
               b"dropped"          (empty; present only once the collection is dropped)
               b"purging"          u64 seq: up to there a purge is in progress (else absent)
    ids        id, UTF-8           u64 row
    records    u64 row, u64 seq    u16 id length, id, metadata (UTF-8 JSON, may be empty)
    blocks     u64 first row       float32 rows; [u32 offsets from the key's row, if the rows are
                                   not consecutive]; u32 count, flags
    log        u64 seq             u64 time_ns, u64 first row added, u32 added, deleted, changed,
                                   u64 deleted rows, u64 rows whose metadata changed
    dead       u64 row             u64 seq that deleted it (the row's tombstone)
    segments   u64 number          JSON: state, lock, first_row, end_row, seq, kind, count, bytes,
                                   manifest_crc, verified
    pins       16 bytes            a lease: u64 seq, u64 next_row, u64 expiry (ns, store's clock)
    requests   request id, UTF-8   u64 seq, u64 time_ns, 32 bytes SHA-256 of the batch, u32 rows
               0xFF, u64 seq       request id (index by age: no UTF-8 text begins with this byte)

Integers in keys are big-endian, so that LMDB sorts keys by number; in values little-endian. The
CRC-32 (zlib's polynomial, u32 little-endian) covers key and value, so that a value under a wrong
key is detected too. Values in LMDB are not aligned: copy vectors before a kernel reads them.

A record has one version for each change of its metadata. A reader at seq S sees the last version
with a seq of at most S. ``metadata_count`` counts the versions ever written with metadata; if it is
zero, searches skip the look-up of metadata.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from vecdb import limits
from vecdb.errors import DataLossError
from vecdb.reasons import Reason
from vecdb.types import CollectionConfig, Metric

__all__ = [
    "BLOCK_BYTES_MAX",
    "DATABASES",
    "FORMAT_NUMBER",
    "REQUEST_AGES",
    "SKIPPED",
    "Counters",
    "Lease",
    "LogEntry",
    "Request",
    "State",
    "block_rows",
    "block_rows_max",
    "config_entry",
    "config_of",
    "held_rows",
    "pack_block",
    "pack_json",
    "pack_lease",
    "pack_log",
    "pack_record",
    "pack_request",
    "pack_skipped",
    "pack_u64",
    "pack_value",
    "parse_block",
    "parse_lease",
    "parse_log",
    "parse_request",
    "record_key",
    "request_age_key",
    "row_key",
    "unpack_block",
    "unpack_json",
    "unpack_lease",
    "unpack_log",
    "unpack_record",
    "unpack_record_key",
    "unpack_request",
    "unpack_skipped",
    "unpack_u64",
    "unpack_value",
]

FORMAT_NUMBER: Final = 1
DATABASES: Final = (
    b"meta",
    b"ids",
    b"records",
    b"blocks",
    b"log",
    b"dead",
    b"segments",
    b"pins",
    b"requests",
)
BLOCK_BYTES_MAX: Final = 64 * 1024
BLOCK_HAS_OFFSETS: Final = 1
REQUEST_AGES: Final = b"\xff"
SKIPPED: Final = b"skipped"

_CRC = struct.Struct("<I")
_CRC_RESIDUE = 0x2144DF1C
"""The CRC-32 of any payload followed by its own CRC-32."""
_KEY = struct.Struct(">Q")
_RECORD_KEY = struct.Struct(">QQ")
_U64 = struct.Struct("<Q")
_STATE = struct.Struct("<QQ")
_COUNTERS = struct.Struct("<QQQQQ")
_ID_LENGTH = struct.Struct("<H")
_RECORD_ID_AT = _RECORD_KEY.size + _ID_LENGTH.size
_BLOCK_TAIL = struct.Struct("<II")
_LOG_HEAD = struct.Struct("<QQIII")
_LEASE = struct.Struct("<QQQ")
_REQUEST = struct.Struct("<QQ32sI")

row_key = _KEY.pack
record_key = _RECORD_KEY.pack
unpack_record_key = _RECORD_KEY.unpack


@dataclass(frozen=True)
class State:
    """``seq`` rises with each batch, ``generation`` with each change of the segment table."""

    seq: int
    generation: int

    def pack(self) -> bytes:
        """Return the payload, without a checksum."""
        return _STATE.pack(self.seq, self.generation)

    @classmethod
    def unpack(cls, payload: bytes) -> State:
        """Read the payload of ``pack``."""
        return cls(*_STATE.unpack(payload))


@dataclass
class Counters:
    """Next numbers to assign and running totals, kept so that no read has to count rows."""

    next_row: int = 0
    live_count: int = 0
    next_segment: int = 1
    sealed_to: int = 0
    metadata_count: int = 0

    def pack(self) -> bytes:
        """Return the payload, without a checksum."""
        return _COUNTERS.pack(
            self.next_row,
            self.live_count,
            self.next_segment,
            self.sealed_to,
            self.metadata_count,
        )

    @classmethod
    def unpack(cls, payload: bytes) -> Counters:
        """Read the payload of ``pack``."""
        return cls(*_COUNTERS.unpack(payload))


@dataclass(frozen=True)
class LogEntry:
    """The changes of one batch. ``deleted`` and ``changed``: uint64 rows, shape (n,)."""

    time_ns: int
    first_row: int
    added: int
    deleted: npt.NDArray[np.uint64]
    changed: npt.NDArray[np.uint64]


class Lease(NamedTuple):
    """A lease on the snapshot at ``seq``, whose rows are below ``next_row``. expiry_ns: by the
    store's clock."""

    id: bytes
    seq: int
    next_row: int
    expiry_ns: int


class Request(NamedTuple):
    """The entry of a request id: its batch's seq and digest (``digest.py``). time_ns: by the
    store's clock. rows: ``count`` of the receipt."""

    seq: int
    time_ns: int
    digest: bytes
    rows: int


def pack_value(key: bytes, payload: bytes) -> bytes:
    """Return the value as stored: the payload and the checksum over key and payload."""
    return payload + _CRC.pack(zlib.crc32(payload, zlib.crc32(key)))


def unpack_value(key: bytes | memoryview, value: bytes | memoryview, what: str) -> memoryview:
    """Return the payload of a stored value, not copied; valid as long as ``value`` is.

    Raises:
        DataLossError: the checksum differs. ``what`` is the kind of the value in the message.
    """
    stored = memoryview(value)
    payload = stored[:-4]
    if len(stored) < 4 or _CRC.unpack(stored[-4:])[0] != zlib.crc32(payload, zlib.crc32(key)):
        raise DataLossError(
            f"the checksum of {_named(bytes(key), what)} is wrong: its bytes on disk have changed",
            Reason.CHECKSUM,
        )
    return payload


def _named(key: bytes, what: str) -> str:
    """Return a value's name for messages, with its row or number if the key is one."""
    if what in ("block", "tombstone", "log entry", "segment") and len(key) == _KEY.size:
        number = _KEY.unpack(key)[0]
        return f"the block of the rows from {number}" if what == "block" else f"{what} {number}"
    if what == "record" and len(key) == _RECORD_KEY.size:
        row, seq = _RECORD_KEY.unpack(key)
        return f"the record of row {row}, written at seq {seq},"
    return f"{what} {key[:40]!r}"


def pack_u64(key: bytes, number: int) -> bytes:
    """Return a value with checksum that holds one number: a row in ``ids``, a seq in ``dead``."""
    payload = _U64.pack(number)
    return payload + _CRC.pack(zlib.crc32(payload, zlib.crc32(key)))


def unpack_u64(key: bytes | memoryview, value: bytes | memoryview, what: str) -> int:
    """Return the number of ``pack_u64``. Raises as ``unpack_value``."""
    number: int = _U64.unpack(unpack_value(key, value, what))[0]
    return number


def pack_json(key: bytes, entry: Mapping[str, object]) -> bytes:
    """Return a value with checksum that holds a JSON object."""
    return pack_value(key, json.dumps(entry, sort_keys=True).encode())


def unpack_json(key: bytes | memoryview, value: bytes | memoryview, what: str) -> dict[str, Any]:
    """Return the object of ``pack_json``. Raises as ``unpack_value``."""
    entry: dict[str, Any] = json.loads(bytes(unpack_value(key, value, what)))
    return entry


def config_entry(collection_id: str, config: CollectionConfig) -> dict[str, object]:
    """Return the JSON entry of a collection, used in its store and in the catalogue."""
    entry: dict[str, object] = {
        "id": collection_id,
        "dim": config.dim,
        "metric": config.metric.value,
        "M": config.M,
        "ef_construction": config.ef_construction,
        "target_recall": config.target_recall,
    }
    # Earlier versions ignore it, and index all fields.
    if config.index_fields is not None:
        entry["index_fields"] = list(config.index_fields)
    return entry


def config_of(entry: Mapping[str, Any]) -> CollectionConfig:
    """Return the configuration in an entry of ``config_entry``."""
    fields = entry.get("index_fields")
    return CollectionConfig(
        entry["dim"],
        Metric(entry["metric"]),
        entry["M"],
        entry["ef_construction"],
        None if fields is None else tuple(fields),
        entry.get("target_recall", limits.TARGET_RECALL),  # Earlier versions had none.
    )


def pack_record(key: bytes, encoded_id: bytes, metadata: bytes) -> bytes:
    """Return a record with checksum: an id and its metadata."""
    payload = _ID_LENGTH.pack(len(encoded_id)) + encoded_id + metadata
    return payload + _CRC.pack(zlib.crc32(payload, zlib.crc32(key)))


def unpack_record(raw: bytes) -> tuple[bytes, bytes]:
    """Return id and metadata of a record, given its key and value in one piece, which takes the
    fewest calls: this runs for every hit. Raises as ``unpack_value``."""
    if zlib.crc32(raw) != _CRC_RESIDUE:
        unpack_value(raw[: _RECORD_KEY.size], raw[_RECORD_KEY.size :], "record")
    end = _RECORD_ID_AT + _ID_LENGTH.unpack_from(raw, _RECORD_KEY.size)[0]
    return raw[_RECORD_ID_AT:end], raw[end:-4]


def block_rows_max(dim: int, *, with_offsets: bool = False) -> int:
    """Return how many rows fit into one block of at most 64 KiB; at least one."""
    row_bytes = 4 * dim + 4 * with_offsets
    return max(1, (BLOCK_BYTES_MAX - _BLOCK_TAIL.size - _CRC.size) // row_bytes)


def pack_block(
    key: bytes, vectors: npt.NDArray[np.float32], rows: npt.NDArray[np.int64] | None = None
) -> bytes:
    """Return a block with checksum. vectors: float32, shape (n, dim), C-contiguous. rows: int64
    (n,), ascending, from the key's row on; None if they are consecutive from that row."""
    offsets, flags = b"", 0
    if rows is not None:
        offsets, flags = (rows - _KEY.unpack(key)[0]).astype("<u4").tobytes(), BLOCK_HAS_OFFSETS
    payload = vectors.tobytes() + offsets + _BLOCK_TAIL.pack(len(vectors), flags)
    return payload + _CRC.pack(zlib.crc32(payload, zlib.crc32(key)))


def unpack_block(
    key: bytes | memoryview, value: bytes | memoryview, dim: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the row numbers, int64 (n,), and vectors, float32 (n, dim), of a block.

    The vectors point into ``value`` and may be unaligned: copy them before the transaction ends.
    """
    return parse_block(key, unpack_value(key, value, "block"), dim)


def parse_block(
    key: bytes | memoryview, payload: bytes | memoryview, dim: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return ``unpack_block`` of a payload whose checksum was compared.

    Raises:
        struct.error, ValueError: the payload is shorter than its own counts require.
    """
    count, flags = _BLOCK_TAIL.unpack_from(payload, len(payload) - _BLOCK_TAIL.size)
    first = _KEY.unpack(key)[0]
    vectors = np.frombuffer(payload, np.float32, count * dim).reshape(count, dim)
    if flags & BLOCK_HAS_OFFSETS:
        offsets = np.frombuffer(payload, np.uint32, count, count * dim * 4)
        return first + offsets.astype(np.int64), vectors
    return np.arange(first, first + count, dtype=np.int64), vectors


def block_rows(key: bytes, value: memoryview, dim: int) -> int | npt.NDArray[np.int64]:
    """Return a block's rows without comparing the checksum: a count if consecutive, else all.

    Raises:
        DataLossError: the size of the block does not match its row count.
    """
    tail = len(value) - _BLOCK_TAIL.size - _CRC.size
    count, flags = _BLOCK_TAIL.unpack_from(value, tail) if tail >= 0 else (0, 0)
    row_size = 4 * dim + (4 if flags & BLOCK_HAS_OFFSETS else 0)
    if count == 0 or tail != count * row_size:
        raise DataLossError(
            f"{_named(key, 'block')} has {len(value)} bytes, which does not match {count} rows",
            Reason.CHECKSUM,
        )
    if flags & BLOCK_HAS_OFFSETS:
        offsets = np.frombuffer(value, np.uint32, count, count * dim * 4)
        rows: npt.NDArray[np.int64] = _KEY.unpack(key)[0] + offsets.astype(np.int64)
        return rows
    return int(count)


def held_rows(key: bytes, value: memoryview, dim: int) -> npt.NDArray[np.int64]:
    """Return the rows of a block, int64 (n,), ascending, without comparing the checksum."""
    rows, first = block_rows(key, value, dim), _KEY.unpack(key)[0]
    return np.arange(first, first + rows) if isinstance(rows, int) else rows


def pack_log(key: bytes, entry: LogEntry) -> bytes:
    """Return a log entry with checksum."""
    head = _LOG_HEAD.pack(
        entry.time_ns, entry.first_row, entry.added, len(entry.deleted), len(entry.changed)
    )
    return pack_value(key, head + entry.deleted.tobytes() + entry.changed.tobytes())


def unpack_log(key: bytes | memoryview, value: bytes | memoryview) -> LogEntry:
    """Return a copy of the log entry of one batch. Raises as ``unpack_value``."""
    return parse_log(bytes(unpack_value(key, value, "log entry")))


def parse_log(payload: bytes) -> LogEntry:
    """Return ``unpack_log`` of a payload whose checksum was compared. Raises as ``parse_block``."""
    time_ns, first_row, added, deleted, changed = _LOG_HEAD.unpack_from(payload)
    at = _LOG_HEAD.size
    return LogEntry(
        time_ns,
        first_row,
        added,
        np.frombuffer(payload, np.uint64, deleted, at),
        np.frombuffer(payload, np.uint64, changed, at + 8 * deleted),
    )


def pack_lease(lease: Lease) -> bytes:
    """Return a lease with checksum; its key is its id."""
    return pack_value(lease.id, _LEASE.pack(lease.seq, lease.next_row, lease.expiry_ns))


def unpack_lease(key: bytes | memoryview, value: bytes | memoryview) -> Lease:
    """Return the lease of ``pack_lease``. Raises as ``unpack_value``."""
    return parse_lease(bytes(key), unpack_value(key, value, "lease"))


def parse_lease(key: bytes, payload: bytes | memoryview) -> Lease:
    """Return ``unpack_lease`` of a payload whose checksum was compared; as ``parse_block``."""
    return Lease(key, *_LEASE.unpack(payload))


def pack_request(key: bytes, request: Request) -> bytes:
    """Return a request with checksum; its key is its id."""
    return pack_value(key, _REQUEST.pack(*request))


def unpack_request(key: bytes | memoryview, value: bytes | memoryview) -> Request:
    """Return the request of ``pack_request``. Raises as ``unpack_value``."""
    return parse_request(unpack_value(key, value, "request"))


def parse_request(payload: bytes | memoryview) -> Request:
    """Return ``unpack_request`` of a payload whose checksum was compared; as ``parse_block``."""
    # For a time before the first release, the positions of skipped ids followed, of 4 bytes each.
    tail = (len(payload) - _REQUEST.size) // 4 * 4
    return Request(*_REQUEST.unpack(payload[: len(payload) - tail]))


def request_age_key(seq: int) -> bytes:
    """Return the key of the index by age that leads to the request of this seq; oldest first."""
    return REQUEST_AGES + row_key(seq)


def skipped_key(seq: int) -> bytes:
    """Return the key in ``meta`` of the positions that the batch of a seq skipped."""
    return SKIPPED + row_key(seq)


def pack_skipped(key: bytes, positions: Sequence[int]) -> bytes:
    """Return positions in a batch with checksum."""
    return pack_value(key, np.array(positions, "<u4").tobytes())


def unpack_skipped(key: bytes | memoryview, value: bytes | memoryview) -> list[int]:
    """Return the positions of ``pack_skipped``. Raises as ``unpack_value``."""
    raw = bytes(unpack_value(key, value, "list of skipped ids"))
    positions: list[int] = np.frombuffer(raw, "<u4").tolist()
    return positions
