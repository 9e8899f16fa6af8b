"""The truth of one collection: what is in its LMDB databases and how a batch changes them.

Functions that take a ``transaction`` do their work inside one that the caller holds; they keep
nothing of it. A batch is applied by ``apply_upsert`` or ``apply_delete``: it gets the next seq, its
new vectors the next row numbers, and all of it becomes visible with the commit. Whether batches
were committed one by one or in groups leaves no trace in the bytes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vecdb.engine import layout
from vecdb.engine.environment import Environment
from vecdb.engine.files import fsync_folder
from vecdb.errors import DataLossError, FailedPreconditionError, NotFoundError
from vecdb.types import CollectionConfig, Metric, Receipt

__all__ = ["DeleteBatch", "Record", "Store", "UpsertBatch"]

_FORMAT, _COLLECTION, _STATE = b"format", b"collection", b"state"
_COUNTERS, _DROPPED = b"counters", b"dropped"
_NO_ROWS = np.zeros(0, np.uint64)


@dataclass(frozen=True)
class UpsertBatch:
    """Rows to write, checked already. ``order``: positions by ascending id, since LMDB likes that.

    ids: UTF-8. vectors: float32, shape (n, dim), C-contiguous. metadata: JSON or b"" a row, or None.
    """

    ids: list[bytes]
    order: list[int]
    vectors: npt.NDArray[np.float32]
    metadata: Sequence[bytes] | None

    @property
    def nbytes(self) -> int:
        """About what the batch takes in memory."""
        return self.vectors.nbytes + 64 * len(self.ids) + sum(map(len, self.metadata or ()))


@dataclass(frozen=True)
class DeleteBatch:
    """Ids to delete, UTF-8, ascending."""

    ids: list[bytes]

    @property
    def nbytes(self) -> int:
        """About what the batch takes in memory."""
        return 64 * len(self.ids)


@dataclass(frozen=True)
class Record:
    """What a row is called and what is known of it."""

    id: str
    metadata: bytes


class Store:
    """The LMDB environment of a collection, and what its bytes mean."""

    def __init__(self, environment: Environment, collection_id: str) -> None:
        self.environment = environment
        database = environment.database
        self._meta, self._ids = database(b"meta"), database(b"ids")
        self._records, self._blocks = database(b"records"), database(b"blocks")
        self._log, self._dead = database(b"log"), database(b"dead")
        self._segments = database(b"segments")
        with environment.read() as transaction:
            number = self._get(transaction, _FORMAT, int.from_bytes, "little")
            if number > layout.FORMAT_NUMBER:
                raise FailedPreconditionError(
                    f"the store has format {number}, this vecdb knows up to {layout.FORMAT_NUMBER}",
                    "NEWER_FORMAT",
                )
            entry = layout.unpack_json(
                _COLLECTION, self._raw(transaction, _COLLECTION), "collection"
            )
        if entry["id"] != collection_id:
            raise DataLossError(
                f"{environment.folder} holds collection {entry['id']}, expected {collection_id}",
                "FOREIGN_STORE",
            )
        self.config = CollectionConfig(
            entry["dim"], Metric(entry["metric"]), entry["M"], entry["ef_construction"]
        )

    @staticmethod
    def create(folder: Path, collection_id: str, config: CollectionConfig, map_bytes: int) -> None:
        """Make the store of a new collection, on disk with its folders when this returns."""
        environment = Environment(folder, layout.DATABASES, create=True, map_bytes=map_bytes)
        entry = {
            "id": collection_id,
            "dim": config.dim,
            "metric": config.metric.value,
            "M": config.M,
            "ef_construction": config.ef_construction,
        }

        def write(transaction: Any) -> None:
            meta = environment.database(b"meta")
            number = layout.FORMAT_NUMBER.to_bytes(4, "little")
            for key, value in (
                (_FORMAT, layout.seal_value(_FORMAT, number)),
                (_COLLECTION, layout.pack_json(_COLLECTION, entry)),
                (_STATE, layout.seal_value(_STATE, layout.State(0, 0).pack())),
                (_COUNTERS, layout.seal_value(_COUNTERS, layout.Counters().pack())),
            ):
                transaction.put(key, value, db=meta)

        try:
            environment.transact(write)
        finally:
            environment.close()
        fsync_folder(folder)

    # The state of the collection.

    def _raw(self, transaction: Any, key: bytes) -> memoryview:
        value = transaction.get(key, db=self._meta)
        if value is None:
            raise DataLossError(f"the store has no {key.decode()}", "META_MISSING")
        return memoryview(value)

    def _get(self, transaction: Any, key: bytes, unpack: Any, *arguments: Any) -> Any:
        payload = layout.open_value(key, self._raw(transaction, key), "meta")
        return unpack(bytes(payload), *arguments)

    def read_state(self, transaction: Any) -> layout.State:
        """Seq and generation as committed."""
        state: layout.State = self._get(transaction, _STATE, layout.State.unpack)
        return state

    def current_state(self) -> layout.State:
        """Seq and generation, in a transaction of its own: about a microsecond."""
        with self.environment.read() as transaction:
            return self.read_state(transaction)

    def read_counters(self, transaction: Any) -> layout.Counters:
        """The counters as committed."""
        counters: layout.Counters = self._get(transaction, _COUNTERS, layout.Counters.unpack)
        return counters

    def write_state(self, transaction: Any, state: layout.State) -> None:
        """Set seq and generation."""
        transaction.put(_STATE, layout.seal_value(_STATE, state.pack()), db=self._meta)

    def write_counters(self, transaction: Any, counters: layout.Counters) -> None:
        """Set the counters."""
        transaction.put(_COUNTERS, layout.seal_value(_COUNTERS, counters.pack()), db=self._meta)

    def check_not_dropped(self, transaction: Any) -> None:
        """Raise NotFoundError if the collection was dropped, by whichever process."""
        if transaction.get(_DROPPED, db=self._meta) is not None:
            raise _dropped()

    def mark_dropped(self) -> None:
        """From this commit on every use is refused; the new generation makes views look."""

        def write(transaction: Any) -> None:
            state = self.read_state(transaction)
            transaction.put(_DROPPED, layout.seal_value(_DROPPED, b""), db=self._meta)
            self.write_state(transaction, layout.State(state.seq, state.generation + 1))

        self.environment.transact(write)

    # Writing batches.

    def apply(self, transaction: Any, batch: UpsertBatch | DeleteBatch) -> Receipt:
        """Apply one batch: it gets the next seq."""
        self.check_not_dropped(transaction)
        state, counters = self.read_state(transaction), self.read_counters(transaction)
        seq = state.seq + 1
        first_row = counters.next_row
        if isinstance(batch, UpsertBatch):
            died, changed = self._upsert(transaction, batch, seq, counters)
            count = len(batch.ids)
        else:
            died, changed = self._delete(transaction, batch, counters), _NO_ROWS
            count = len(died)
        self._bury(transaction, died, seq)
        key = layout.row_key(seq)
        entry = layout.LogEntry(
            time.time_ns(), first_row, counters.next_row - first_row, died, changed
        )
        transaction.put(key, layout.pack_log(key, entry), db=self._log, append=True)
        self.write_counters(transaction, counters)
        self.write_state(transaction, layout.State(seq, state.generation))
        return Receipt(seq, count)

    def _upsert(
        self, transaction: Any, batch: UpsertBatch, seq: int, counters: layout.Counters
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Write new rows and new versions of records; returns rows that died and rows changed."""
        ids, order = batch.ids, batch.order
        old_rows = self._find(transaction, [ids[i] for i in order])
        same = self._positions_unchanged(transaction, batch, old_rows) if old_rows else {}
        positions = [i for i in range(len(ids)) if i not in same]
        first_row = counters.next_row
        vectors = batch.vectors if not same else batch.vectors[positions]
        self._append_blocks(transaction, first_row, vectors)
        metadata: Sequence[bytes] = batch.metadata or [b""] * len(ids)
        record_key, pack_record = layout.record_key, layout.pack_record
        records = []
        row_of = {}
        for row, i in enumerate(positions, first_row):
            key = record_key(row, seq)
            records.append((key, pack_record(key, ids[i], metadata[i])))
            row_of[i] = row
        pack_u64 = layout.pack_u64
        entries = [(ids[i], pack_u64(ids[i], row_of[i])) for i in order if i in row_of]
        with transaction.cursor(self._records) as cursor:
            cursor.putmulti(records, append=True)
        with transaction.cursor(self._ids) as cursor:
            cursor.putmulti(entries)
        counters.next_row += len(positions)
        counters.live_count += len(ids) - len(old_rows)
        if batch.metadata is not None:
            counters.metadata_count += sum(1 for i in positions if metadata[i])
        changed = self._rewrite_records(transaction, batch, same, metadata, seq, counters)
        died = [row for key, row in old_rows.items()]
        if same:
            kept = set(same.values())
            died = [row for row in died if row not in kept]
        return np.array(sorted(died), np.uint64), np.array(sorted(changed), np.uint64)

    def _append_blocks(
        self, transaction: Any, first_row: int, vectors: npt.NDArray[np.float32]
    ) -> None:
        size = layout.block_rows_max(self.config.dim)
        blocks = []
        for start in range(0, len(vectors), size):
            key = layout.row_key(first_row + start)
            blocks.append((key, layout.pack_block(key, vectors[start : start + size])))
        with transaction.cursor(self._blocks) as cursor:
            cursor.putmulti(blocks, append=True)

    def _find(self, transaction: Any, ids: Sequence[bytes]) -> dict[bytes, int]:
        """Rows of those ids that are there. ids: ascending for speed."""
        with transaction.cursor(self._ids) as cursor:
            found = cursor.getmulti(ids)
        return {bytes(key): layout.unpack_u64(key, value, "id") for key, value in found}

    def _positions_unchanged(
        self, transaction: Any, batch: UpsertBatch, old_rows: dict[bytes, int]
    ) -> dict[int, int]:
        """Position → row of entries whose vector is bit for bit the one that is stored."""
        same = {}
        reader = _BlockReader(transaction, self._blocks, self.config.dim)
        pairs = sorted((old_rows[key], i) for i, key in enumerate(batch.ids) if key in old_rows)
        for row, i in pairs:
            if reader.raw_row(row) == batch.vectors[i].tobytes():
                same[i] = row
        return same

    def _rewrite_records(
        self,
        transaction: Any,
        batch: UpsertBatch,
        same: dict[int, int],
        metadata: Sequence[bytes],
        seq: int,
        counters: layout.Counters,
    ) -> list[int]:
        """A new version of each record whose vector stayed and whose metadata differs."""
        changed = []
        for i, row in sorted(same.items(), key=lambda item: item[1]):
            if self.read_record(transaction, row, seq).metadata == metadata[i]:
                continue
            key = layout.record_key(row, seq)
            value = layout.pack_record(key, batch.ids[i], metadata[i])
            transaction.put(key, value, db=self._records)
            counters.metadata_count += bool(metadata[i])
            changed.append(row)
        return changed

    def _delete(
        self, transaction: Any, batch: DeleteBatch, counters: layout.Counters
    ) -> npt.NDArray[np.uint64]:
        found = self._find(transaction, batch.ids)
        for key in found:
            transaction.delete(key, db=self._ids)
        counters.live_count -= len(found)
        return np.array(sorted(found.values()), np.uint64)

    def _bury(self, transaction: Any, died: npt.NDArray[np.uint64], seq: int) -> None:
        items = []
        for row in died.tolist():
            key = layout.row_key(row)
            items.append((key, layout.pack_u64(key, seq)))
        with transaction.cursor(self._dead) as cursor:
            cursor.putmulti(items)

    # Reading rows.

    def rows_of(self, transaction: Any, ids: Sequence[bytes]) -> dict[bytes, int]:
        """Rows of those ids that are live."""
        return self._find(transaction, sorted(set(ids)))

    def read_record(self, transaction: Any, row: int, seq: int) -> Record:
        """The record of a row as a reader at ``seq`` sees it.

        Raises:
            DataLossError: there is none.
        """
        with transaction.cursor(self._records) as cursor:
            return _record_at(cursor, row, seq)

    def read_records(self, transaction: Any, rows: Sequence[int], seq: int) -> list[Record]:
        """The records of rows, in the order given."""
        with transaction.cursor(self._records) as cursor:
            return [_record_at(cursor, row, seq) for row in rows]

    def read_vectors(self, transaction: Any, rows: Sequence[int]) -> npt.NDArray[np.float32]:
        """Vectors as given, float32 (n, dim), in the order of ``rows``."""
        out = np.empty((len(rows), self.config.dim), np.float32)
        reader = _BlockReader(transaction, self._blocks, self.config.dim, verify=True)
        for position in np.argsort(np.array(rows, np.int64), kind="stable"):
            out[position] = np.frombuffer(reader.raw_row(rows[position]), np.float32)
        return out

    def iterate_blocks(
        self, transaction: Any, first_row: int, end_row: int
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        """Rows and vectors of an interval, block by block, checksums compared.

        The vectors are views into the transaction: copy them before asking for the next block.
        """
        with transaction.cursor(self._blocks) as cursor:
            found = cursor.set_range(layout.row_key(first_row))
            if (not found or cursor.key() != layout.row_key(first_row)) and (
                cursor.prev() if found else cursor.last()
            ):
                found = True
            while found:
                key = bytes(cursor.key())
                if int.from_bytes(key, "big") >= end_row:
                    return
                rows, vectors = layout.unpack_block(key, cursor.value(), self.config.dim)
                inside = (rows >= first_row) & (rows < end_row)
                if inside.all():
                    yield rows, vectors
                elif inside.any():
                    yield rows[inside], vectors[inside]
                found = cursor.next()

    def iterate_ids(
        self, transaction: Any, first_row: int, end_row: int
    ) -> Iterator[tuple[int, bytes]]:
        """(row, id) of an interval of rows, ascending, versions of a record only once."""
        last = -1
        with transaction.cursor(self._records) as cursor:
            if not cursor.set_range(layout.record_key(first_row, 0)):
                return
            for key, value in cursor.iternext(keys=True, values=True):
                row = int.from_bytes(key[:8], "big")
                if row >= end_row:
                    return
                if row != last:
                    last = row
                    yield row, layout.unpack_record(key, value)[0]

    def read_dead(
        self, transaction: Any, first_row: int, end_row: int, seq: int
    ) -> npt.NDArray[np.int64]:
        """Rows of an interval that died at or before ``seq``, ascending."""
        with transaction.cursor(self._dead) as cursor:
            if not cursor.set_range(layout.row_key(first_row)):
                return np.zeros(0, np.int64)
            keys, values = [], []
            end_key = layout.row_key(end_row)
            for key, value in cursor.iternext(keys=True, values=True):
                if bytes(key) >= end_key:
                    break
                keys.append(key)
                values.append(value)
            rows, seqs = layout.unpack_u64_table(b"".join(keys), b"".join(values), "death")
        return rows[seqs <= seq]

    def read_log(self, transaction: Any, after: int, to: int) -> list[layout.LogEntry] | None:
        """Log entries of the seqs ``after + 1`` to ``to``; None if some were trimmed."""
        entries = []
        with transaction.cursor(self._log) as cursor:
            found = cursor.set_range(layout.row_key(after + 1))
            for seq in range(after + 1, to + 1):
                key = layout.row_key(seq)
                if not found or cursor.key() != key:
                    return None
                entries.append(layout.unpack_log(key, cursor.value()))
                found = cursor.next()
        return entries

    # Segments: what the database says of them (their bytes are in segment.py).

    def read_segments(self, transaction: Any) -> dict[int, dict[str, Any]]:
        """Number → entry of every segment, whatever its state."""
        with transaction.cursor(self._segments) as cursor:
            return {
                int.from_bytes(key, "big"): layout.unpack_json(key, value, "segment")
                for key, value in cursor.iternext(keys=True, values=True)
            }

    def write_segment(self, transaction: Any, number: int, entry: dict[str, Any] | None) -> None:
        """Set the entry of a segment, or remove it with None; the generation rises."""
        key = layout.row_key(number)
        if entry is None:
            transaction.delete(key, db=self._segments)
        else:
            transaction.put(key, layout.pack_json(key, entry), db=self._segments)

    def close(self, *, dropped: bool = False) -> None:
        """Close the environment; later calls are told why."""
        self.environment.close(_dropped() if dropped else None)


def _dropped() -> NotFoundError:
    return NotFoundError("the collection was dropped", "DROPPED")


def _record_at(cursor: Any, row: int, seq: int) -> Record:
    found = cursor.set_range(layout.record_key(row, seq + 1))
    found = cursor.prev() if found else cursor.last()
    key = cursor.key()
    if not found or int.from_bytes(key[:8], "big") != row:
        raise DataLossError(f"row {row} has no record at seq {seq}", "RECORD_MISSING")
    encoded, metadata = layout.unpack_record(key, cursor.value())
    return Record(encoded.decode(), metadata)


class _BlockReader:
    """Single rows out of blocks; keeps the last block at hand, so ascending rows are cheap."""

    def __init__(self, transaction: Any, database: Any, dim: int, verify: bool = False) -> None:
        self._cursor = transaction.cursor(database)
        self._dim = dim
        self._verify = verify
        self._first = self._count = 0
        self._value: memoryview | None = None
        self._rows: npt.NDArray[np.int64] | None = None

    def raw_row(self, row: int) -> bytes:
        """The bytes of a row's vector."""
        position = self._position(row)
        assert self._value is not None
        size = 4 * self._dim
        return bytes(self._value[position * size : (position + 1) * size])

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
        raise DataLossError(f"row {row} has no vector", "VECTOR_MISSING")

    def _load(self, row: int) -> None:
        key = layout.row_key(row)
        found = self._cursor.set_range(key)
        if not found or self._cursor.key() != key:
            found = self._cursor.prev() if found else self._cursor.last()
        if not found:
            raise DataLossError(f"row {row} has no vector", "VECTOR_MISSING")
        key, value = bytes(self._cursor.key()), memoryview(self._cursor.value())
        if self._verify:
            layout.open_value(key, value, "block")
        rows = layout.block_rows(key, value, self._dim)
        self._value, self._first = value, int.from_bytes(key, "big")
        self._rows = None if isinstance(rows, int) else rows
        self._count = rows if isinstance(rows, int) else int(rows[-1]) - self._first + 1


def make_batch(
    ids: list[str], vectors: npt.NDArray[np.float32], metadata: Sequence[bytes] | None
) -> UpsertBatch:
    """A batch of checked rows; the encoding and sorting is done here, outside the writer."""
    encoded = [text.encode() for text in ids]
    order = sorted(range(len(encoded)), key=encoded.__getitem__)
    return UpsertBatch(encoded, order, vectors, metadata)


def folder_bytes(folder: Path) -> int:
    """Size of all files of a folder."""
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            total += entry.stat().st_size if entry.is_file() else folder_bytes(Path(entry.path))
    return total
