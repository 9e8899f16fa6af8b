"""The truth of one collection: what is in its LMDB databases and how a batch changes them.

Functions that take a ``transaction`` do their work inside one that the caller holds; they keep
nothing of it. A batch is applied by ``apply``: it gets the next seq, its new vectors the next row
numbers, and all of it becomes visible with the commit. Whether batches were committed one by one or
in groups leaves no trace in the bytes.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from vecdb.engine.kv.environment import Environment
from vecdb.engine.kv.named_database import NamedDatabase
from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.store import layout
from vecdb.engine.store.batch import DeleteBatch, UpsertBatch, WriteOptions
from vecdb.engine.store.clock import StoreClock
from vecdb.engine.store.conditions import check_condition
from vecdb.engine.store.requests import Requests
from vecdb.engine.store.rows import RowReader
from vecdb.engine.store.scroll_uses import ScrollUses
from vecdb.engine.store.segment_table import SegmentEntry
from vecdb.engine.store.stored_name import NAME_KEY
from vecdb.engine.system.call_memory import MemoryBudget
from vecdb.engine.system.files import fsync_folder
from vecdb.errors import DataLossError, FailedPreconditionError, NotFoundError
from vecdb.reasons import Reason
from vecdb.types import CollectionConfig, Receipt

__all__ = ["Store", "dropped_error", "mark_dropped"]

Result = TypeVar("Result")

_FORMAT, _COLLECTION, _STATE = b"format", b"collection", b"state"
_COUNTERS, _DROPPED, _PURGING = b"counters", b"dropped", b"purging"
_NO_ROWS = np.zeros(0, np.uint64)


def _number(payload: bytes) -> int:
    return int.from_bytes(payload, "little")


class Store:
    """The LMDB environment of a collection, and what its bytes mean."""

    _meta, _ids, _records = NamedDatabase(b"meta"), NamedDatabase(b"ids"), NamedDatabase(b"records")
    _blocks, _log, _dead = NamedDatabase(b"blocks"), NamedDatabase(b"log"), NamedDatabase(b"dead")
    _segments = NamedDatabase(b"segments")

    def __init__(self, environment: Environment, collection_id: str) -> None:
        self.environment = environment
        with environment.read() as transaction:
            number = self._get(transaction, _FORMAT, _number)
            if number > layout.FORMAT_NUMBER:
                raise FailedPreconditionError(
                    f"the store has format {number}, this vecdb knows up to {layout.FORMAT_NUMBER}",
                    Reason.NEWER_FORMAT,
                )
            entry = layout.unpack_json(
                _COLLECTION, self._raw(transaction, _COLLECTION), "collection"
            )
        if entry["id"] != collection_id:
            raise DataLossError(
                f"{environment.folder} holds collection {entry['id']}, expected {collection_id}",
                Reason.FOREIGN_STORE,
            )
        self.config = layout.config_of(entry)
        self.rows = RowReader(environment, self.config.dim)
        self.requests = Requests(environment)
        self.scroll_uses = ScrollUses()
        self.clock = StoreClock(environment)
        self.call_memory = MemoryBudget(sys.maxsize)
        """That of the database, where there is one."""

    @staticmethod
    def create(
        folder: Path, collection_id: str, config: CollectionConfig, map_bytes: int, name: str
    ) -> None:
        """Make the store of a new collection, on disk with its folders when this returns."""
        environment = Environment(folder, layout.DATABASES, create=True, map_bytes=map_bytes)
        entry = layout.config_entry(collection_id, config)

        def write(transaction: Transaction) -> None:
            meta = environment.database(b"meta")
            number = layout.FORMAT_NUMBER.to_bytes(4, "little")
            for key, value in (
                (_FORMAT, layout.seal_value(_FORMAT, number)),
                (_COLLECTION, layout.pack_json(_COLLECTION, entry)),
                (_STATE, layout.seal_value(_STATE, layout.State(0, 0).pack())),
                (_COUNTERS, layout.seal_value(_COUNTERS, layout.Counters().pack())),
                (NAME_KEY, layout.seal_value(NAME_KEY, name.encode())),
            ):
                transaction.put(key, value, db=meta)

        try:
            environment.transact(write)
        finally:
            environment.close()
        fsync_folder(folder)

    # The state of the collection.

    def _raw(self, transaction: Transaction, key: bytes) -> memoryview:
        value = transaction.get(key, db=self._meta)
        if value is None:
            raise DataLossError(f"the store has no {key.decode()}", Reason.META_MISSING)
        return value

    def _get(
        self, transaction: Transaction, key: bytes, unpack: Callable[[bytes], Result]
    ) -> Result:
        payload = layout.open_value(key, self._raw(transaction, key), "meta")
        return unpack(bytes(payload))

    def read_state(self, transaction: Transaction) -> layout.State:
        """Seq and generation as committed."""
        try:
            return self._get(transaction, _STATE, layout.State.unpack)
        except DataLossError:
            # Who dropped it could not raise the generation, and everyone is to be told the same.
            self.check_not_dropped(transaction)
            raise

    def current_state(self) -> layout.State:
        """Seq and generation, in a transaction of its own."""
        with self.environment.read() as transaction:
            return self.read_state(transaction)

    def read_counters(self, transaction: Transaction) -> layout.Counters:
        """The counters as committed."""
        return self._get(transaction, _COUNTERS, layout.Counters.unpack)

    def purged_to(self, transaction: Transaction) -> int:
        """Every death up to this seq may have been purged; of later ones every byte is there.

        It is what is missing at the old end of the log, which purging consumes, or what a pass that
        is under way says.
        """
        if transaction.get(_PURGING, db=self._meta) is not None:
            under_way = self._get(transaction, _PURGING, _number)
        else:
            under_way = 0
        with transaction.cursor(self._log) as cursor:
            if cursor.first():
                return max(under_way, int.from_bytes(cursor.key(), "big") - 1)
        return self.read_state(transaction).seq

    def end_purging(self, transaction: Transaction, seq: int) -> None:
        """Deaths up to this seq have been purged, and are out of the log. Another pass may be
        further on."""
        if transaction.get(_PURGING, db=self._meta) is None:
            return
        under_way = self._get(transaction, _PURGING, _number)
        if under_way <= seq:
            transaction.delete(_PURGING, db=self._meta)

    def write_purging(self, transaction: Transaction, seq: int) -> None:
        """Deaths up to this seq are being purged."""
        seq = max(seq, self.purged_to(transaction))
        value = layout.seal_value(_PURGING, seq.to_bytes(8, "little"))
        transaction.put(_PURGING, value, db=self._meta)

    def write_state(self, transaction: Transaction, state: layout.State) -> None:
        """Set seq and generation."""
        transaction.put(_STATE, layout.seal_value(_STATE, state.pack()), db=self._meta)

    def write_counters(self, transaction: Transaction, counters: layout.Counters) -> None:
        """Set the counters."""
        transaction.put(_COUNTERS, layout.seal_value(_COUNTERS, counters.pack()), db=self._meta)

    def check_not_dropped(self, transaction: Transaction) -> None:
        """Raise NotFoundError if the collection was dropped, by whichever process."""
        if transaction.get(_DROPPED, db=self._meta) is not None:
            raise dropped_error()

    def clear_dropped(self, transaction: Transaction) -> None:
        """Undo ``mark_dropped`` in a copy of the store."""
        transaction.delete(_DROPPED, db=self._meta)

    # Writing batches.

    def apply(self, transaction: Transaction, batch: UpsertBatch | DeleteBatch) -> Receipt:
        """Apply one batch: it gets the next seq, unless it is a repeated one that has its receipt.

        Raises:
            ConditionFailedError, FailedPreconditionError: it is refused, and nothing in the
                transaction was changed: other batches in it are not concerned.
            NotFoundError: the collection was dropped.
        """
        self.check_not_dropped(transaction)
        state, counters = self.read_state(transaction), self.read_counters(transaction)
        write_options, now_ns = batch.write_options, self.clock.read(transaction)
        if write_options is not None:
            receipt = self._met(transaction, batch, write_options, state.seq, now_ns)
            if receipt is not None:
                return receipt
        seq = state.seq + 1
        first_row = counters.next_row
        if isinstance(batch, UpsertBatch):
            died, changed = self._upsert(transaction, batch, seq, counters)
            count = len(batch.ids)
        else:
            died, changed = self._delete(transaction, batch, counters), _NO_ROWS
            count = len(died)
        self._delete_rows(transaction, died, seq)
        key, now_ns = layout.row_key(seq), self.clock.advance(transaction)
        entry = layout.LogEntry(now_ns, first_row, counters.next_row - first_row, died, changed)
        transaction.put(key, layout.pack_log(key, entry), db=self._log, append=True)
        self.write_counters(transaction, counters)
        self.write_state(transaction, layout.State(seq, state.generation))
        receipt = Receipt(seq, count)
        if write_options is not None and write_options.request_id:
            self.requests.remember(
                transaction, write_options.request_id, write_options.digest, receipt, now_ns
            )
        return receipt

    def _met(
        self,
        transaction: Transaction,
        batch: UpsertBatch | DeleteBatch,
        write_options: WriteOptions,
        seq: int,
        now_ns: int,
    ) -> Receipt | None:
        """The receipt that a batch has already, or None if its conditions hold. A repeated batch
        comes first: it may itself be what its conditions would fail for."""
        if write_options.request_id:
            receipt = self.requests.answered(
                transaction, write_options.request_id, write_options.digest, now_ns
            )
            if receipt is not None:
                return receipt
        if write_options.insert_only or write_options.if_seq is not None:
            check_condition(
                self.rows,
                transaction,
                batch.ids,
                batch.order,
                seq,
                insert_only=write_options.insert_only,
                if_seq=write_options.if_seq,
            )
        return None

    def _upsert(
        self, transaction: Transaction, batch: UpsertBatch, seq: int, counters: layout.Counters
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Write new rows and new versions of records; returns rows that died and rows changed."""
        ids, order = batch.ids, batch.order
        old_rows = self.rows.find(transaction, [ids[i] for i in order])
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
            _check_appended(cursor.putmulti(records, append=True), "records")
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
        self, transaction: Transaction, first_row: int, vectors: npt.NDArray[np.float32]
    ) -> None:
        size = layout.block_rows_max(self.config.dim)
        blocks = []
        for start in range(0, len(vectors), size):
            key = layout.row_key(first_row + start)
            blocks.append((key, layout.pack_block(key, vectors[start : start + size])))
        with transaction.cursor(self._blocks) as cursor:
            _check_appended(cursor.putmulti(blocks, append=True), "blocks")

    def _positions_unchanged(
        self, transaction: Transaction, batch: UpsertBatch, old_rows: dict[bytes, int]
    ) -> dict[int, int]:
        """Position → row of entries whose vector is bit for bit the one that is stored."""
        same = {}
        reader = self.rows.block_reader(transaction)
        pairs = sorted((old_rows[key], i) for i, key in enumerate(batch.ids) if key in old_rows)
        for row, i in pairs:
            if reader.holds(row, batch.vectors[i].tobytes()):
                same[i] = row
        return same

    def _rewrite_records(
        self,
        transaction: Transaction,
        batch: UpsertBatch,
        same: dict[int, int],
        metadata: Sequence[bytes],
        seq: int,
        counters: layout.Counters,
    ) -> list[int]:
        """A new version of each record whose vector stayed and whose metadata differs."""
        changed = []
        for i, row in sorted(same.items(), key=lambda item: item[1]):
            # A record that is damaged is written anew: a batch says all that there is in it.
            with contextlib.suppress(DataLossError):
                if self.rows.read_record(transaction, row, seq).metadata == metadata[i]:
                    continue
            key = layout.record_key(row, seq)
            value = layout.pack_record(key, batch.ids[i], metadata[i])
            transaction.put(key, value, db=self._records)
            counters.metadata_count += bool(metadata[i])
            changed.append(row)
        return changed

    def _delete(
        self, transaction: Transaction, batch: DeleteBatch, counters: layout.Counters
    ) -> npt.NDArray[np.uint64]:
        found = self.rows.find(transaction, batch.ids)
        for key in found:
            transaction.delete(key, db=self._ids)
        counters.live_count -= len(found)
        return np.array(sorted(found.values()), np.uint64)

    def _delete_rows(
        self, transaction: Transaction, died: npt.NDArray[np.uint64], seq: int
    ) -> None:
        items = []
        for row in died.tolist():
            key = layout.row_key(row)
            items.append((key, layout.pack_u64(key, seq)))
        with transaction.cursor(self._dead) as cursor:
            cursor.putmulti(items)

    def remove_tombstones(self, transaction: Transaction, rows: npt.NDArray[np.int64]) -> None:
        """Remove deaths of rows that nothing holds any more."""
        for row in rows.tolist():
            transaction.delete(layout.row_key(row), db=self._dead)

    # Segments: what the database says of them (their bytes are in segment.py).

    def read_segments(self, transaction: Transaction) -> dict[int, SegmentEntry]:
        """Number → entry of every segment, whatever its state.

        Raises:
            DataLossError: an entry is damaged.
        """
        with transaction.cursor(self._segments) as cursor:
            return {
                int.from_bytes(key, "big"): SegmentEntry.unpack(key, value)
                for key, value in cursor.iternext(keys=True, values=True)
            }

    def write_segment(
        self, transaction: Transaction, number: int, entry: SegmentEntry | None
    ) -> None:
        """Set the entry of a segment, or remove it with None. The caller raises the generation."""
        key = layout.row_key(number)
        if entry is None:
            transaction.delete(key, db=self._segments)
        else:
            transaction.put(key, entry.pack(key), db=self._segments)

    def close(self, *, dropped: bool = False) -> None:
        """Close the environment; later calls are told why."""
        self.environment.close(dropped_error() if dropped else None)


def _check_appended(done: tuple[int, int], what: str) -> None:
    """LMDB passes over a key that is not past the last one: rows would be lost without a word."""
    given, added = done
    if given != added:
        raise DataLossError(
            f"{what}: {added} of {given} new rows are past the last", Reason.ROW_ORDER
        )


def dropped_error() -> NotFoundError:
    """What every use of a dropped collection raises."""
    return NotFoundError("the collection was dropped", Reason.DROPPED)


def mark_dropped(environment: Environment) -> None:
    """From this commit on every use is refused; the new generation makes views look.

    Nothing is asked of the store but that this can be written: one that is too damaged to be opened
    can still be dropped.
    """

    def write(transaction: Transaction) -> None:
        meta = environment.database(b"meta")
        transaction.put(_DROPPED, layout.seal_value(_DROPPED, b""), db=meta)
        # A state that can't be read stays as it is: in a backup it must not look sound.
        with contextlib.suppress(DataLossError):
            raw = transaction.get(_STATE, db=meta) or b""
            state = layout.State.unpack(bytes(layout.open_value(_STATE, raw, "meta")))
            later = layout.State(state.seq, state.generation + 1)
            transaction.put(_STATE, layout.seal_value(_STATE, later.pack()), db=meta)

    environment.transact(write)
