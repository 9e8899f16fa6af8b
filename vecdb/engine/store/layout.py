"""Every byte that a store holds: keys and values of the LMDB databases, and their checksums.

Format 1. Never change what is written here; a change is a new number in FORMAT.

    database   key                 value, then a CRC-32
    meta       b"format"           u32 format number
               b"collection"       JSON: id, dim, metric, M, ef_construction
               b"state"            u64 seq, u64 generation
               b"counters"         u64 next_row, live_count, next_segment, sealed_to, metadata_count
               b"name"             UTF-8 name, as noted last (optional; the catalogue decides)
               b"clock"            the store's clock, as ``clock.py`` draws it (optional)
               b"dropped"          (empty; there only once the collection is dropped)
               b"purging"          u64 seq: deaths up to there are being purged (only meanwhile)
    ids        id, UTF-8           u64 row
    records    u64 row, u64 seq    u16 id length, id, metadata (UTF-8 JSON, may be empty)
    blocks     u64 row, none       float32 rows; [u32 offsets from the key's row, if they are not
               before it           consecutive from there on]; u32 count, flags
    log        u64 seq             u64 time_ns, u64 first row added, u32 added, died, changed,
                                   u64 rows that died, u64 rows whose metadata changed
    dead       u64 row             u64 seq of its death
    segments   u64 number          JSON: state, lock, first_row, end_row, seq, kind, count, bytes,
                                   manifest_crc, verified
    pins       16 bytes            u64 seq, u64 next_row, u64 expiry (ns, by the store's clock)
    requests   request id, UTF-8   u64 seq, u64 time_ns, 32 bytes SHA-256 of the batch, u32 rows
               0xFF, u64 seq       request id (by age: no UTF-8 text begins with this byte)

Integers in keys are big-endian, so that LMDB's order is theirs; in values little-endian. The
CRC-32 (zlib's polynomial, u32 little-endian) runs over key and value, so that a value under a wrong
key is noticed too. Values in LMDB are not aligned: vectors are copied before a kernel sees them.

A record has a version for each change of its metadata: the one that a reader at seq S sees is the
last with a seq of at most S. ``metadata_count`` counts the versions ever written with metadata,
so that a collection without any need not look for it.

The SHA-256 of a batch runs over a head, the ids and what goes with them; numbers little-endian:

    head       6 bytes "upsert" or "delete", u8 insert_only, u8 1 if there is an if_seq, u64 if_seq
               (else 0), u32 number of ids, u8 1 if any of them has metadata
    ids        u32 length of each, then all of them; of a delete each once, ascending
    vectors    float32, as given (none for a delete)
    metadata   if any: u32 length of each, then all of them
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from vecdb.errors import DataLossError
from vecdb.reasons import Reason
from vecdb.types import CollectionConfig, Metric

__all__ = [
    "BLOCK_BYTES_MAX",
    "DATABASES",
    "FORMAT_NUMBER",
    "REQUEST_AGES",
    "Counters",
    "Lease",
    "LogEntry",
    "Request",
    "State",
    "batch_digest",
    "block_rows",
    "block_rows_max",
    "config_entry",
    "config_of",
    "held_rows",
    "open_value",
    "pack_block",
    "pack_json",
    "pack_lease",
    "pack_log",
    "pack_record",
    "pack_request",
    "pack_u64",
    "parse_block",
    "parse_lease",
    "parse_log",
    "parse_request",
    "record_key",
    "request_age_key",
    "row_key",
    "seal_value",
    "unpack_block",
    "unpack_json",
    "unpack_lease",
    "unpack_log",
    "unpack_record",
    "unpack_record_key",
    "unpack_request",
    "unpack_u64",
    "unpack_u64_table",
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

_CRC = struct.Struct("<I")
_CRC_OF_SEALED = 0x2144DF1C
"""The CRC-32 of bytes that end with their own, whatever they are."""
_KEY = struct.Struct(">Q")
_RECORD_KEY = struct.Struct(">QQ")
_U64 = struct.Struct("<Q")
_STATE = struct.Struct("<QQ")
_COUNTERS = struct.Struct("<QQQQQ")
_ID_LENGTH = struct.Struct("<H")
_BLOCK_TAIL = struct.Struct("<II")
_LOG_HEAD = struct.Struct("<QQIII")
_LEASE = struct.Struct("<QQQ")
_REQUEST = struct.Struct("<QQ32sI")
_DIGEST_HEAD = struct.Struct("<6sBBQIB")

row_key = _KEY.pack
record_key = _RECORD_KEY.pack
unpack_record_key = _RECORD_KEY.unpack


@dataclass(frozen=True)
class State:
    """What changed last: ``seq`` with each batch, ``generation`` with each change of segments."""

    seq: int
    generation: int

    def pack(self) -> bytes:
        """The payload."""
        return _STATE.pack(self.seq, self.generation)

    @classmethod
    def unpack(cls, payload: bytes) -> State:
        """From the payload."""
        return cls(*_STATE.unpack(payload))


@dataclass
class Counters:
    """Numbers given out and sums kept, so that nobody has to count."""

    next_row: int = 0
    live_count: int = 0
    next_segment: int = 1
    sealed_to: int = 0
    metadata_count: int = 0

    def pack(self) -> bytes:
        """The payload."""
        return _COUNTERS.pack(
            self.next_row,
            self.live_count,
            self.next_segment,
            self.sealed_to,
            self.metadata_count,
        )

    @classmethod
    def unpack(cls, payload: bytes) -> Counters:
        """From the payload."""
        return cls(*_COUNTERS.unpack(payload))


@dataclass(frozen=True)
class LogEntry:
    """What one batch did. ``died`` and ``changed``: uint64 rows, shape (n,)."""

    time_ns: int
    first_row: int
    added: int
    died: npt.NDArray[np.uint64]
    changed: npt.NDArray[np.uint64]


class Lease(NamedTuple):
    """A lease on the state at ``seq``: its rows are those below ``next_row``. expiry_ns: by the
    store's clock."""

    id: bytes
    seq: int
    next_row: int
    expiry_ns: int


class Request(NamedTuple):
    """What is known of a batch by its request id. time_ns: by the store's clock. rows: ``count``
    of its receipt."""

    seq: int
    time_ns: int
    digest: bytes
    rows: int


def seal_value(key: bytes, payload: bytes) -> bytes:
    """A value as it is stored: the payload and the checksum over key and payload."""
    return payload + _CRC.pack(zlib.crc32(payload, zlib.crc32(key)))


def open_value(key: bytes | memoryview, value: bytes | memoryview, what: str) -> memoryview:
    """The payload of a stored value, without a copy; valid as long as ``value`` is.

    Raises:
        DataLossError: the checksum differs.
    """
    snapshot = memoryview(value)
    payload = snapshot[:-4]
    if len(snapshot) < 4 or _CRC.unpack(snapshot[-4:])[0] != zlib.crc32(payload, zlib.crc32(key)):
        raise DataLossError(
            f"the checksum of {_named(bytes(key), what)} is wrong: its bytes on disk have changed",
            Reason.CHECKSUM,
        )
    return payload


def _named(key: bytes, what: str) -> str:
    """A value in words, for a message: by its row or number where the key is one."""
    if what in ("block", "death", "log entry", "segment") and len(key) == _KEY.size:
        number = _KEY.unpack(key)[0]
        return f"the block of the rows from {number}" if what == "block" else f"{what} {number}"
    if what == "record" and len(key) == _RECORD_KEY.size:
        row, seq = _RECORD_KEY.unpack(key)
        return f"the record of row {row}, written at seq {seq},"
    return f"{what} {key[:40]!r}"


def pack_u64(key: bytes, number: int) -> bytes:
    """A sealed value of one number: a row in ``ids``, a seq in ``dead``."""
    payload = _U64.pack(number)
    return payload + _CRC.pack(zlib.crc32(payload, zlib.crc32(key)))


def unpack_u64(key: bytes | memoryview, value: bytes | memoryview, what: str) -> int:
    """The number of ``pack_u64``."""
    number: int = _U64.unpack(open_value(key, value, what))[0]
    return number


def unpack_u64_table(
    keys: bytes, values: bytes, what: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Many ``pack_u64`` at once whose keys are rows: rows and numbers, int64 (n,) each.

    keys: 8 bytes each, values: 12 bytes each, one after the other. The checksums are computed a
    byte of all values at a time, which is many times faster than one value after another.
    """
    if 12 * len(keys) != 8 * len(values):
        raise DataLossError(
            f"{len(keys) // 8} values ({what}) have {len(values)} bytes, expected "
            f"{12 * (len(keys) // 8)}",
            Reason.CHECKSUM,
        )
    key_bytes = np.frombuffer(keys, np.uint8).reshape(-1, 8)
    value_bytes = np.frombuffer(values, np.uint8).reshape(-1, 12)
    crc = np.full(len(key_bytes), 0xFFFFFFFF, np.uint32)
    for column in (*key_bytes.T, *value_bytes[:, :8].T):
        crc = _CRC_TABLE[(crc ^ column) & 0xFF] ^ (crc >> np.uint32(8))
    stored = np.ascontiguousarray(value_bytes[:, 8:]).view("<u4").ravel()
    wrong = np.flatnonzero((crc ^ np.uint32(0xFFFFFFFF)) != stored)
    if len(wrong):
        at = int(wrong[0])
        open_value(keys[8 * at : 8 * at + 8], values[12 * at : 12 * at + 12], what)
    rows = key_bytes.view(">u8").ravel().astype(np.int64)
    numbers = np.ascontiguousarray(value_bytes[:, :8]).view("<u8").ravel().astype(np.int64)
    return rows, numbers


def _crc_table() -> npt.NDArray[np.uint32]:
    """What each byte adds to a CRC-32 (reflected polynomial 0xEDB88320, as zlib's)."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, np.uint32(0xEDB88320) ^ (table >> 1), table >> 1)
    return table


_CRC_TABLE: Final = _crc_table()


def pack_json(key: bytes, entry: Mapping[str, object]) -> bytes:
    """A sealed value of a JSON object."""
    return seal_value(key, json.dumps(entry, sort_keys=True).encode())


def unpack_json(key: bytes | memoryview, value: bytes | memoryview, what: str) -> dict[str, Any]:
    """The object of ``pack_json``."""
    entry: dict[str, Any] = json.loads(bytes(open_value(key, value, what)))
    return entry


def config_entry(collection_id: str, config: CollectionConfig) -> dict[str, object]:
    """What JSON says of a collection, in its store and in the catalogue."""
    return {
        "id": collection_id,
        "dim": config.dim,
        "metric": config.metric.value,
        "M": config.M,
        "ef_construction": config.ef_construction,
    }


def config_of(entry: Mapping[str, Any]) -> CollectionConfig:
    """The configuration in such an entry."""
    return CollectionConfig(
        entry["dim"], Metric(entry["metric"]), entry["M"], entry["ef_construction"]
    )


def pack_record(key: bytes, encoded_id: bytes, metadata: bytes) -> bytes:
    """A sealed record: an id and its metadata."""
    payload = _ID_LENGTH.pack(len(encoded_id)) + encoded_id + metadata
    return payload + _CRC.pack(zlib.crc32(payload, zlib.crc32(key)))


def unpack_record(key: bytes | memoryview, value: bytes | memoryview) -> tuple[bytes, bytes]:
    """Id and metadata of a record, as copies."""
    # Slices of bytes cost half of what those of a memoryview do, and this is done for every row.
    raw = bytes(value)
    if zlib.crc32(raw, zlib.crc32(key)) != _CRC_OF_SEALED:
        open_value(key, value, "record")
    end = 2 + _ID_LENGTH.unpack_from(raw)[0]
    return raw[2:end], raw[end:-4]


def block_rows_max(dim: int, *, with_offsets: bool = False) -> int:
    """Rows that go into one block, so that it has at most 64 KiB; at least one."""
    row_bytes = 4 * dim + 4 * with_offsets
    return max(1, (BLOCK_BYTES_MAX - _BLOCK_TAIL.size - _CRC.size) // row_bytes)


def pack_block(
    key: bytes, vectors: npt.NDArray[np.float32], rows: npt.NDArray[np.int64] | None = None
) -> bytes:
    """A sealed block. vectors: float32, shape (n, dim), C-contiguous. rows: int64 (n,), ascending,
    none below the key's row; None if they are consecutive from there on."""
    offsets, flags = b"", 0
    if rows is not None:
        offsets, flags = (rows - _KEY.unpack(key)[0]).astype("<u4").tobytes(), BLOCK_HAS_OFFSETS
    payload = vectors.tobytes() + offsets + _BLOCK_TAIL.pack(len(vectors), flags)
    return payload + _CRC.pack(zlib.crc32(payload, zlib.crc32(key)))


def unpack_block(
    key: bytes | memoryview, value: bytes | memoryview, dim: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Row numbers, int64 (n,), and vectors, float32 (n, dim), of a block.

    The vectors are a view of ``value``, perhaps not aligned: copy them before ``value`` goes.
    """
    return parse_block(key, open_value(key, value, "block"), dim)


def parse_block(
    key: bytes | memoryview, payload: bytes | memoryview, dim: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """``unpack_block`` of a payload whose checksum was compared.

    Raises:
        struct.error, ValueError: it is too short for what it says that it holds.
    """
    count, flags = _BLOCK_TAIL.unpack_from(payload, len(payload) - _BLOCK_TAIL.size)
    first = _KEY.unpack(key)[0]
    vectors = np.frombuffer(payload, np.float32, count * dim).reshape(count, dim)
    if flags & BLOCK_HAS_OFFSETS:
        offsets = np.frombuffer(payload, np.uint32, count, count * dim * 4)
        return first + offsets.astype(np.int64), vectors
    return np.arange(first, first + count, dtype=np.int64), vectors


def block_rows(key: bytes, value: memoryview, dim: int) -> int | npt.NDArray[np.int64]:
    """Which rows a block holds, checksum not compared: a count if consecutive, else all.

    Raises:
        DataLossError: it does not have the size for them.
    """
    tail = len(value) - _BLOCK_TAIL.size - _CRC.size
    count, flags = _BLOCK_TAIL.unpack_from(value, tail) if tail >= 0 else (0, 0)
    row_size = 4 * dim + (4 if flags & BLOCK_HAS_OFFSETS else 0)
    if count == 0 or tail != count * row_size:
        raise DataLossError(
            f"{_named(key, 'block')} has {len(value)} bytes, which is no number of rows",
            Reason.CHECKSUM,
        )
    if flags & BLOCK_HAS_OFFSETS:
        offsets = np.frombuffer(value, np.uint32, count, count * dim * 4)
        rows: npt.NDArray[np.int64] = _KEY.unpack(key)[0] + offsets.astype(np.int64)
        return rows
    return int(count)


def held_rows(key: bytes, value: memoryview, dim: int) -> npt.NDArray[np.int64]:
    """The rows that a block holds, int64 (n,), ascending; checksum not compared."""
    rows, first = block_rows(key, value, dim), _KEY.unpack(key)[0]
    return np.arange(first, first + rows) if isinstance(rows, int) else rows


def pack_log(key: bytes, entry: LogEntry) -> bytes:
    """A sealed log entry."""
    head = _LOG_HEAD.pack(
        entry.time_ns, entry.first_row, entry.added, len(entry.died), len(entry.changed)
    )
    return seal_value(key, head + entry.died.tobytes() + entry.changed.tobytes())


def unpack_log(key: bytes | memoryview, value: bytes | memoryview) -> LogEntry:
    """The log entry of one batch, as copies."""
    return parse_log(bytes(open_value(key, value, "log entry")))


def parse_log(payload: bytes) -> LogEntry:
    """``unpack_log`` of a payload whose checksum was compared. Raises as ``parse_block``."""
    time_ns, first_row, added, died, changed = _LOG_HEAD.unpack_from(payload)
    at = _LOG_HEAD.size
    return LogEntry(
        time_ns,
        first_row,
        added,
        np.frombuffer(payload, np.uint64, died, at),
        np.frombuffer(payload, np.uint64, changed, at + 8 * died),
    )


def pack_lease(lease: Lease) -> bytes:
    """A sealed pin; its key is its id."""
    return seal_value(lease.id, _LEASE.pack(lease.seq, lease.next_row, lease.expiry_ns))


def unpack_lease(key: bytes | memoryview, value: bytes | memoryview) -> Lease:
    """The pin of ``pack_lease``."""
    return parse_lease(bytes(key), open_value(key, value, "pin"))


def parse_lease(key: bytes, payload: bytes | memoryview) -> Lease:
    """``unpack_lease`` of a payload whose checksum was compared. Raises as ``parse_block``."""
    return Lease(key, *_LEASE.unpack(payload))


def pack_request(key: bytes, request: Request) -> bytes:
    """A sealed request; its key is its id."""
    return seal_value(key, _REQUEST.pack(*request))


def unpack_request(key: bytes | memoryview, value: bytes | memoryview) -> Request:
    """The request of ``pack_request``."""
    return parse_request(open_value(key, value, "request"))


def parse_request(payload: bytes | memoryview) -> Request:
    """``unpack_request`` of a payload whose checksum was compared. Raises as ``parse_block``."""
    return Request(*_REQUEST.unpack(payload))


def request_age_key(seq: int) -> bytes:
    """The key under which the id of the request of this seq is found: older ones come first."""
    return REQUEST_AGES + row_key(seq)


def batch_digest(
    kind: bytes,
    ids: Sequence[bytes],
    vectors: npt.NDArray[np.float32] | None,
    metadata: Sequence[bytes] | None,
    insert_only: bool,
    if_seq: int | None,
) -> bytes:
    """SHA-256 of all that a batch asks for: the same for the same, whichever way it came in."""
    has_metadata = metadata is not None and any(metadata)
    head = _DIGEST_HEAD.pack(
        kind, insert_only, if_seq is not None, if_seq or 0, len(ids), has_metadata
    )
    digest = hashlib.sha256(head)
    _digest_texts(digest, ids)
    if vectors is not None:
        digest.update(np.ascontiguousarray(vectors, "<f4").reshape(-1).data)
    if metadata is not None and has_metadata:
        _digest_texts(digest, metadata)
    return digest.digest()


def _digest_texts(digest: hashlib._Hash, texts: Sequence[bytes]) -> None:
    digest.update(np.fromiter(map(len, texts), "<u4", len(texts)).data)
    digest.update(b"".join(texts))
