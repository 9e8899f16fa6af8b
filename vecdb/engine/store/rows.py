"""Read rows in the caller's transaction: ids, records, vectors, tombstones and the log.

``BlockReader`` reads single rows from blocks. ``iterate_blocks`` reads intervals, at twenty times
the rate in rows/s. All results are copies, except those of ``iterate_blocks`` and
``blocks_holding``. Values that fail their checksum raise ``DataLossError``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vecdb.engine.kv.environment import Environment
from vecdb.engine.kv.transaction import Cursor, DatabaseHandle, Transaction
from vecdb.engine.store import layout
from vecdb.engine.store.number_tables import unpack_numbers
from vecdb.errors import DataLossError
from vecdb.reasons import Reason

__all__ = ["BlockReader", "Record", "RowReader", "to_last_version"]

_TOMBSTONES_AT_ONCE = 100
"""Few enough not to trigger Python's garbage collector, which would visit every object of the
process while the transaction is open."""

_KEYS_AT_ONCE = 1_000

_EVERY_SEQ = 2**63 - 1


class Record(NamedTuple):
    """The id and metadata (JSON, or b"") of a row."""

    id: str
    metadata: bytes


class RowReader:
    """Reads the rows of one store. Holds no state between calls; thread-safe."""

    def __init__(self, environment: Environment, dim: int) -> None:
        self.environment = environment
        self._handles = environment.handles
        self._dim = dim

    def find(self, transaction: Transaction, ids: Sequence[bytes]) -> dict[bytes, int]:
        """Return id → row of the ids that are live. ids: UTF-8, ascending for speed."""
        with transaction.cursor(self._handles.ids) as cursor:
            found = cursor.getmulti(ids)
        return {bytes(key): layout.unpack_u64(key, value, "id") for key, value in found}

    def read_ids(
        self, transaction: Transaction, begin: bytes, count: int
    ) -> list[tuple[bytes, int]]:
        """Return ids and rows of at most ``count`` live rows, from the id ``begin`` on, by id."""
        with transaction.cursor(self._handles.ids) as cursor:
            if not (cursor.set_range(begin) if begin else cursor.first()):
                return []
            entries = itertools.islice(cursor.iternext(keys=True, values=True), count)
            return [(bytes(key), layout.unpack_u64(key, value, "id")) for key, value in entries]

    def read_record(self, transaction: Transaction, row: int, seq: int) -> Record:
        """Return the record of a row as a reader at ``seq`` sees it.

        Raises:
            DataLossError: RECORD_MISSING: the row has no record at that seq; or it is damaged.
        """
        with transaction.cursor(self._handles.records) as cursor:
            return _records_at(cursor, [row], seq)[0]

    def last_versions(self, transaction: Transaction, rows: Iterable[int]) -> dict[int, int]:
        """Return row → seq of its last record, for live rows.

        Raises:
            DataLossError: RECORD_MISSING: a row has no record.
        """
        versions = {}
        with transaction.cursor(self._handles.records) as cursor:
            for row in sorted(rows):
                to_last_version(cursor, row)
                key = cursor.key()
                found = layout.unpack_record_key(key) if key else (-1, 0)
                if found[0] != row:
                    raise DataLossError(f"row {row} has no record", Reason.RECORD_MISSING)
                versions[row] = found[1]
        return versions

    def read_records(self, transaction: Transaction, rows: Sequence[int], seq: int) -> list[Record]:
        """Return the records of rows as a reader at ``seq`` sees them, in the order given.

        Raises:
            DataLossError: RECORD_MISSING: a row has no record at that seq; or one is damaged.
        """
        with transaction.cursor(self._handles.records) as cursor:
            return _records_at(cursor, rows, seq)

    def read_encoded(
        self, transaction: Transaction, rows: Sequence[int], seq: int
    ) -> list[tuple[bytes, bytes]]:
        """Do ``read_records``, in less time: return id (UTF-8) and metadata of each row."""
        with transaction.cursor(self._handles.records) as cursor:
            return _encoded_at(cursor, rows, seq)

    def read_vectors(
        self, transaction: Transaction, rows: Sequence[int]
    ) -> npt.NDArray[np.float32]:
        """Return the vectors as written, float32 (n, dim), in the order of ``rows``.

        Raises:
            DataLossError: VECTOR_MISSING: no block holds a row; or a block is damaged.
        """
        out = np.empty((len(rows), self._dim), np.float32)
        reader = BlockReader(transaction, self._handles.blocks, self._dim, verify=True)
        for position in np.argsort(np.array(rows, np.int64), kind="stable"):
            out[position] = np.frombuffer(reader.raw_row(rows[position]), np.float32)
        return out

    def iterate_blocks(
        self, transaction: Transaction, first_row: int, end_row: int
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        """Yield rows, int64 (n,), and vectors, float32 (n, dim), of an interval, per block.

        The vectors point into LMDB's memory: copy them before asking for the next block. Checksums
        are compared. A damaged block without live rows is skipped, so that deleting the affected
        rows ends the error.

        Raises:
            DataLossError: a block is damaged and one of its rows is live.
        """
        with transaction.cursor(self._handles.blocks) as cursor:
            found = _to_block_of(cursor, first_row)
            while found:
                key = bytes(cursor.key())
                if int.from_bytes(key, "big") >= end_row:
                    return
                try:
                    rows, vectors = layout.unpack_block(key, cursor.value(), self._dim)
                except DataLossError:
                    found = cursor.next()
                    end = int.from_bytes(cursor.key(), "big") if found else end_row
                    if self._live_between(transaction, int.from_bytes(key, "big"), end):
                        raise
                    continue
                inside = (rows >= first_row) & (rows < end_row)
                if inside.all():
                    yield rows, vectors
                elif inside.any():
                    yield rows[inside], vectors[inside]
                found = cursor.next()

    def blocks_holding(
        self, transaction: Transaction, rows: npt.NDArray[np.int64]
    ) -> Iterator[tuple[bytes, memoryview, npt.NDArray[np.int64]]]:
        """Yield key and value of each block that holds some of the rows, and which it holds.

        rows: int64, ascending. Checksums are not compared. The values point into LMDB's memory.

        Raises:
            DataLossError: the size of a block does not match its row count.
        """
        at = 0
        while at < len(rows):
            wanted, end = layout.row_key(int(rows[at])), len(rows)
            with transaction.cursor(self._handles.blocks) as cursor:
                found = _to_block_of(cursor, int(rows[at]))
                if not found:
                    return
                key, value = bytes(cursor.key()), memoryview(cursor.value())
                if key > wanted:  # No block holds the rows before this one.
                    at = int(np.searchsorted(rows, int.from_bytes(key, "big")))
                    continue
                if cursor.next():
                    end = int(np.searchsorted(rows, int.from_bytes(cursor.key(), "big")))
            held = layout.held_rows(key, value, self._dim)
            inside, at = rows[at:end], end
            inside = inside[np.isin(inside, held, assume_unique=True)]
            if len(inside):
                yield key, value, inside

    def _live_between(self, transaction: Transaction, first_row: int, end_row: int) -> bool:
        """Return whether some row of the interval has a record and no tombstone."""
        deleted = set(self.read_deleted(transaction, first_row, end_row, _EVERY_SEQ).tolist())
        with transaction.cursor(self._handles.records) as cursor:
            found = cursor.set_range(layout.record_key(first_row, 0))
            while found:
                row = layout.unpack_record_key(cursor.key())[0]
                if row >= end_row:
                    return False
                if row not in deleted:
                    return True
                to_last_version(cursor, row)
                found = cursor.next()
        return False

    def iterate_ids(
        self, transaction: Transaction, first_row: int, end_row: int
    ) -> Iterator[tuple[int, bytes]]:
        """Yield (row, id) of the rows of an interval that have a record, once each, ascending."""
        last = -1
        with transaction.cursor(self._handles.records) as cursor:
            if not cursor.set_range(layout.record_key(first_row, 0)):
                return
            for key, value in cursor.iternext(keys=True, values=True):
                row = int.from_bytes(key[:8], "big")
                if row >= end_row:
                    return
                if row != last:
                    last = row
                    yield row, layout.unpack_record(b"".join((key, value)))[0]
                else:
                    to_last_version(cursor, row)

    def iterate_records(
        self, transaction: Transaction, first_row: int, end_row: int, seq: int
    ) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield (row, id, metadata) of an interval of rows as a reader at ``seq`` sees them.

        Ascending; rows without a record at that seq are left out, deleted rows are not.
        """
        unpack_key, unpack_record = layout.unpack_record_key, layout.unpack_record
        last, record = -1, None
        with transaction.cursor(self._handles.records) as cursor:
            if not cursor.set_range(layout.record_key(first_row, 0)):
                return
            for key, value in cursor.iternext(keys=True, values=True):
                row, version = unpack_key(key)
                if row > last:
                    if record is not None:
                        yield last, *record
                    if row >= end_row:
                        return
                    last = row
                    record = unpack_record(b"".join((key, value))) if version <= seq else None
                else:
                    # Seek to the wanted version and past the last one: a row may have many.
                    record = self._version_at(cursor, row, seq)
                    to_last_version(cursor, row)
            if record is not None:
                yield last, *record

    def _version_at(self, cursor: Cursor, row: int, seq: int) -> tuple[bytes, bytes] | None:
        found = cursor.set_range(layout.record_key(row, seq + 1))
        found = cursor.prev() if found else cursor.last()
        if not found or layout.unpack_record_key(cursor.key())[0] != row:
            return None
        return layout.unpack_record(b"".join(cursor.item()))

    def read_versions(
        self, transaction: Transaction, first_row: int, end_row: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return row and seq of every version of the records of an interval of rows, int64 (n,)
        each, ascending. Reads keys only, and compares no checksums."""
        end, inside = layout.row_key(end_row), bytearray()
        with transaction.cursor(self._handles.records) as cursor:
            found = cursor.set_range(layout.record_key(first_row, 0))
            keys = cursor.iternext(keys=True, values=False) if found else iter(())
            while some := b"".join(itertools.islice(keys, _KEYS_AT_ONCE)):
                inside += some
                if some[-16:] >= end:
                    break
        numbers = np.frombuffer(inside, ">u8").astype(np.int64).reshape(-1, 2)
        numbers = numbers[: np.searchsorted(numbers[:, 0], end_row)]
        return numbers[:, 0], numbers[:, 1]

    def next_recorded(self, transaction: Transaction, row: int) -> int | None:
        """Return the first row from ``row`` on that has a record, or None."""
        with transaction.cursor(self._handles.records) as cursor:
            if not cursor.set_range(layout.record_key(row, 0)):
                return None
            found: int = layout.unpack_record_key(cursor.key())[0]
            return found

    def recorded(
        self, transaction: Transaction, rows: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Return bool (n,): which of ``rows`` (int64 (n,), ascending) have a record."""
        found, reached = np.zeros(len(rows), bool), -1
        with transaction.cursor(self._handles.records) as cursor:
            for at, row in enumerate(rows.tolist()):
                if reached < row:
                    if not cursor.set_range(layout.record_key(row, 0)):
                        break
                    reached = layout.unpack_record_key(cursor.key())[0]
                found[at] = reached == row
        return found

    def read_deleted(
        self, transaction: Transaction, first_row: int, end_row: int, seq: int
    ) -> npt.NDArray[np.int64]:
        """Return the rows of an interval deleted at or before ``seq``, int64, ascending."""
        return self.read_deleted_slice(transaction, first_row, end_row, seq, end_row - first_row)[0]

    def read_deleted_slice(
        self, transaction: Transaction, first_row: int, end_row: int, seq: int, tombstones_max: int
    ) -> tuple[npt.NDArray[np.int64], int]:
        """Do ``read_deleted`` up to a number of tombstones; also return the row to go on at."""
        rows, seqs, next_row = self.read_tombstones(transaction, first_row, end_row, tombstones_max)
        return rows[seqs <= seq], next_row

    def read_tombstones(
        self, transaction: Transaction, first_row: int, end_row: int, tombstones_max: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
        """Return the deleted rows of an interval, the seqs that deleted them, and the row to go on
        at, which is ``end_row`` after the last. Rows and seqs: int64 (n,), ascending by row."""
        keys, values, wanted, next_row = bytearray(), bytearray(), tombstones_max, end_row
        with transaction.cursor(self._handles.dead) as cursor:
            found = cursor.set_range(layout.row_key(first_row))
            entries = cursor.iternext(keys=True, values=True) if found else iter(())
            # In batches, which take half the time of a loop over single tombstones.
            while some := list(itertools.islice(entries, _TOMBSTONES_AT_ONCE)):
                some_keys = b"".join([key for key, _ in some])
                numbers = np.frombuffer(some_keys, ">u8").astype(np.int64)
                inside = int(np.searchsorted(numbers, end_row))
                taken = min(inside, wanted)
                some_values = b"".join([value for _, value in some[:taken]])
                if len(some_values) != 12 * taken:
                    for key, value in some[:taken]:
                        layout.unpack_u64(key, value, "tombstone")  # Raises at the short one.
                keys += some_keys[: 8 * taken]
                values += some_values
                wanted -= taken
                if taken < inside:
                    next_row = int(numbers[taken])
                if taken < len(some):
                    break
            rows, seqs = unpack_numbers(bytes(keys), bytes(values), "tombstone")
        return rows, seqs, next_row

    def read_log(
        self, transaction: Transaction, after: int, to: int
    ) -> list[layout.LogEntry] | None:
        """Return the log entries of seqs ``after + 1`` to ``to``; None if some were purged."""
        entries = []
        with transaction.cursor(self._handles.log) as cursor:
            found = cursor.set_range(layout.row_key(after + 1))
            for seq in range(after + 1, to + 1):
                key = layout.row_key(seq)
                if not found or cursor.key() != key:
                    return None
                entries.append(layout.unpack_log(key, cursor.value()))
                found = cursor.next()
        return entries

    def block_reader(self, transaction: Transaction) -> BlockReader:
        """Return a reader that compares single rows with others (``BlockReader.holds``)."""
        return BlockReader(transaction, self._handles.blocks, self._dim)


def _to_block_of(cursor: Cursor, row: int) -> bool:
    """Move the cursor to the last block that begins at or before a row, else to the next block."""
    key = layout.row_key(row)
    found: bool = cursor.set_range(key)
    if not found or cursor.key() != key:
        found = (cursor.prev() if found else cursor.last()) or cursor.set_range(key)
    return found


def to_last_version(cursor: Cursor, row: int) -> None:
    """Move the cursor to the last record of a row, so that the next record is another row's."""
    if not cursor.set_range(layout.record_key(row + 1, 0)):
        cursor.last()
    else:
        cursor.prev()


def _records_at(cursor: Cursor, rows: Iterable[int], seq: int) -> list[Record]:
    return [Record(name.decode(), metadata) for name, metadata in _encoded_at(cursor, rows, seq)]


def _encoded_at(cursor: Cursor, rows: Iterable[int], seq: int) -> list[tuple[bytes, bytes]]:
    pack, after_seq, join = layout.record_key, seq + 1, b"".join
    set_range, prev, item = cursor.set_range, cursor.prev, cursor.item
    found = []
    for row in rows:
        after = pack(row, after_seq)
        is_found = prev() if set_range(after) else cursor.last()
        raw = join(item())
        if not is_found or raw[:8] != after[:8]:
            raise DataLossError(f"row {row} has no record at seq {seq}", Reason.RECORD_MISSING)
        found.append(raw)
    return list(map(layout.unpack_record, found))


class BlockReader:
    """Reads single rows from blocks; caches the last block, so ascending rows are cheap.

    verify: compare the checksum of each block when it is loaded. Not thread-safe; valid as long as
    the transaction.
    """

    def __init__(
        self, transaction: Transaction, database: DatabaseHandle, dim: int, verify: bool = False
    ) -> None:
        self._cursor = transaction.cursor(database)
        self._dim = dim
        self._verify = verify
        self._first = self._count = 0
        self._sound = False
        self._value: memoryview | None = None
        self._rows: npt.NDArray[np.int64] | None = None

    def raw_row(self, row: int) -> bytes:
        """Return the bytes of a row's vector.

        Raises:
            DataLossError: VECTOR_MISSING: no block holds the row; or the block is damaged.
        """
        position = self._position(row)
        assert self._value is not None
        size = 4 * self._dim
        return bytes(self._value[position * size : (position + 1) * size])

    def holds(self, row: int, raw: bytes) -> bool:
        """Return whether a row's bytes equal ``raw`` and its block is undamaged.

        The checksum of a block is compared only once one of its rows is equal: a row that differs
        is rewritten anyway, and so is one whose block is damaged.
        """
        try:
            if self.raw_row(row) != raw:
                return False
            if not self._sound:
                assert self._value is not None
                layout.unpack_value(layout.row_key(self._first), self._value, "block")
                self._sound = True
        except DataLossError:
            return False
        return True

    def _position(self, row: int) -> int:
        if self._value is None or not self._first <= row < self._first + self._count:
            self._load(row)
        if self._rows is None:
            position = row - self._first
            if position < self._count:
                return position
        else:
            position = int(np.searchsorted(self._rows, row))
            if position < len(self._rows) and self._rows[position] == row:
                return position
        raise DataLossError(f"row {row} has no vector", Reason.VECTOR_MISSING)

    def _load(self, row: int) -> None:
        key = layout.row_key(row)
        found = self._cursor.set_range(key)
        if not found or self._cursor.key() != key:
            found = self._cursor.prev() if found else self._cursor.last()
        if not found:
            raise DataLossError(f"row {row} has no vector", Reason.VECTOR_MISSING)
        key, value = bytes(self._cursor.key()), memoryview(self._cursor.value())
        if self._verify:
            layout.unpack_value(key, value, "block")
        self._sound, self._value = self._verify, None
        rows = layout.block_rows(key, value, self._dim)
        self._value, self._first = value, int.from_bytes(key, "big")
        self._rows = None if isinstance(rows, int) else rows
        self._count = rows if isinstance(rows, int) else int(rows[-1]) - self._first + 1
