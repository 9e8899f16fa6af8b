"""The store of one collection: its state in LMDB and how a batch changes it.

Functions with a ``transaction`` argument work inside the caller's transaction and keep no reference
to it. ``apply`` applies a batch: the batch gets the next seq and its new vectors the next row
numbers, and all of it becomes visible with the commit. Apart from timestamps, the bytes do not
depend on whether batches were committed singly or in groups.
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
from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.store import layout
from vecdb.engine.store.batch import Batch, DeleteBatch, PatchBatch, UpsertBatch, WriteOptions
from vecdb.engine.store.changed_rows import ChangedRows
from vecdb.engine.store.changes import Changes, changes_of
from vecdb.engine.store.clock import StoreClock
from vecdb.engine.store.conditions import check_condition
from vecdb.engine.store.number_tables import pack_numbers
from vecdb.engine.store.requests import Requests
from vecdb.engine.store.rows import RowReader
from vecdb.engine.store.scroll_uses import ScrollUses
from vecdb.engine.store.segment_table import SegmentEntry
from vecdb.engine.store.stored_name import METADATA_KEY, NAME_KEY
from vecdb.engine.system.call_memory import MemoryBudget
from vecdb.engine.system.files import fsync_folder
from vecdb.errors import DataLossError, FailedPreconditionError, NotFoundError
from vecdb.metadata_checks import DEFAULT_BYTES
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
    """The LMDB environment of one collection, with its typed reads and writes. Thread-safe.

    Raises:
        FailedPreconditionError: NEWER_FORMAT: a later version of vecdb wrote the store.
        DataLossError: FOREIGN_STORE: it belongs to another collection; or ``meta`` is damaged.
    """

    def __init__(self, environment: Environment, collection_id: str) -> None:
        self.environment = environment
        self._handles = environment.handles
        with environment.read() as transaction:
            number = self._get(transaction, _FORMAT, _number)
            if number > layout.FORMAT_NUMBER:
                raise FailedPreconditionError(
                    f"the store has format {number}, this version of vecdb reads formats up to "
                    f"{layout.FORMAT_NUMBER}; use a newer version",
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
        self.changed_rows = ChangedRows(environment, self.rows)
        self.clock = StoreClock(environment)
        self.call_memory = MemoryBudget(sys.maxsize)
        """Unlimited until the database that opens the store sets its own."""
        self.metadata_bytes_max = DEFAULT_BYTES  # The database sets its own.

    @staticmethod
    def create(
        folder: Path,
        collection_id: str,
        config: CollectionConfig,
        map_bytes: int,
        name: str,
        metadata: bytes = b"",
    ) -> None:
        """Create the store of a new collection; on return it is synced, with its folder entries.

        Args:
            map_bytes: size of LMDB's map in bytes.
            metadata: of the collection, JSON or empty.
        """
        environment = Environment(folder, layout.DATABASES, create=True, map_bytes=map_bytes)
        entry = layout.config_entry(collection_id, config)

        def write(transaction: Transaction) -> None:
            meta = environment.handles.meta
            number = layout.FORMAT_NUMBER.to_bytes(4, "little")
            for key, value in (
                (_FORMAT, layout.pack_value(_FORMAT, number)),
                (_COLLECTION, layout.pack_json(_COLLECTION, entry)),
                (_STATE, layout.pack_value(_STATE, layout.State(0, 0).pack())),
                (_COUNTERS, layout.pack_value(_COUNTERS, layout.Counters().pack())),
                (NAME_KEY, layout.pack_value(NAME_KEY, name.encode())),
                (METADATA_KEY, layout.pack_value(METADATA_KEY, metadata)),
            ):
                transaction.put(key, value, db=meta)

        try:
            environment.transact(write)
        finally:
            environment.close()
        fsync_folder(folder)

    # The state of the collection.

    def _raw(self, transaction: Transaction, key: bytes) -> memoryview:
        value = transaction.get(key, db=self._handles.meta)
        if value is None:
            raise DataLossError(f"the store has no {key.decode()}", Reason.META_MISSING)
        return value

    def _get(
        self, transaction: Transaction, key: bytes, unpack: Callable[[bytes], Result]
    ) -> Result:
        payload = layout.unpack_value(key, self._raw(transaction, key), "meta")
        return unpack(bytes(payload))

    def read_state(self, transaction: Transaction) -> layout.State:
        """Return seq and generation.

        Raises:
            NotFoundError: the state is damaged and the collection was dropped.
            DataLossError: the state is damaged.
        """
        try:
            return self._get(transaction, _STATE, layout.State.unpack)
        except DataLossError:
            # Dropping could not raise a damaged generation; all uses must still raise "dropped".
            self.check_not_dropped(transaction)
            raise

    def current_state(self) -> layout.State:
        """Return seq and generation, in a read transaction of its own. Raises as ``read_state``."""
        with self.environment.read() as transaction:
            return self.read_state(transaction)

    def read_counters(self, transaction: Transaction) -> layout.Counters:
        """Return the counters.

        Raises:
            DataLossError: they are damaged.
        """
        return self._get(transaction, _COUNTERS, layout.Counters.unpack)

    def purged_to(self, transaction: Transaction) -> int:
        """Return the seq up to which deleted rows may have been purged; no later ones have.

        It is the greater of the seq before the first log entry, since purging removes the oldest
        entries, and the seq of the current pass.
        """
        if transaction.get(_PURGING, db=self._handles.meta) is not None:
            purging_to = self._get(transaction, _PURGING, _number)
        else:
            purging_to = 0
        with transaction.cursor(self._handles.log) as cursor:
            if cursor.first():
                return max(purging_to, int.from_bytes(cursor.key(), "big") - 1)
        return self.read_state(transaction).seq

    def end_purging(self, transaction: Transaction, seq: int) -> None:
        """Note that a pass up to ``seq`` is complete, unless another pass goes further."""
        if transaction.get(_PURGING, db=self._handles.meta) is None:
            return
        purging_to = self._get(transaction, _PURGING, _number)
        if purging_to <= seq:
            transaction.delete(_PURGING, db=self._handles.meta)

    def write_purging(self, transaction: Transaction, seq: int) -> None:
        """Note that a pass purges rows deleted up to ``seq``."""
        seq = max(seq, self.purged_to(transaction))
        value = layout.pack_value(_PURGING, seq.to_bytes(8, "little"))
        transaction.put(_PURGING, value, db=self._handles.meta)

    def write_state(self, transaction: Transaction, state: layout.State) -> None:
        """Set seq and generation."""
        transaction.put(_STATE, layout.pack_value(_STATE, state.pack()), db=self._handles.meta)

    def write_counters(self, transaction: Transaction, counters: layout.Counters) -> None:
        """Set the counters."""
        transaction.put(
            _COUNTERS, layout.pack_value(_COUNTERS, counters.pack()), db=self._handles.meta
        )

    def check_not_dropped(self, transaction: Transaction) -> None:
        """Check that no process has dropped the collection.

        Raises:
            NotFoundError: DROPPED.
        """
        if transaction.get(_DROPPED, db=self._handles.meta) is not None:
            raise dropped_error()

    def clear_dropped(self, transaction: Transaction) -> None:
        """Undo ``mark_dropped`` in a copy of the store."""
        transaction.delete(_DROPPED, db=self._handles.meta)

    # Writing batches.

    def apply(self, transaction: Transaction, batch: Batch) -> Receipt:
        """Apply one batch and return its receipt.

        The batch gets the next seq, unless its request id was applied before: then nothing changes
        and the stored receipt is returned.

        Raises:
            ConditionFailedError, FailedPreconditionError, InvalidArgumentError, OvertakenError: the
                batch is refused. It has changed nothing in the transaction, so the transaction may
                continue with other batches.
            NotFoundError: the collection was dropped.
            DataLossError: a value that the batch depends on is damaged; abort the transaction.
        """
        self.check_not_dropped(transaction)
        state, counters = self.read_state(transaction), self.read_counters(transaction)
        write_options, now_ns = batch.write_options, self.clock.read(transaction)
        if write_options is not None and write_options.request_id:
            # Before the conditions: they fail once the first attempt was applied.
            known = self.requests.answered(
                transaction, write_options.request_id, write_options.digest, now_ns
            )
            if known is not None:
                names = _texts(batch, self.requests.skipped(transaction, known))
                return Receipt(known.seq, known.rows, repeated=True, skipped=names)
        seq = state.seq + 1
        first_row = counters.next_row
        if isinstance(batch, UpsertBatch):
            self._check_condition(transaction, batch.ids, batch.order, write_options, state.seq)
            deleted, changed, skipped = self._upsert(transaction, batch, seq, counters)
            count = len(batch.ids) - len(skipped)
        else:
            changes = self._changes(transaction, batch, state.seq)
            deleted, changed = self._write_changes(transaction, changes, seq, counters)
            count, skipped = len(changes.rows), changes.skipped
        self._add_tombstones(transaction, deleted, seq)
        key, now_ns = layout.row_key(seq), self.clock.advance(transaction)
        entry = layout.LogEntry(now_ns, first_row, counters.next_row - first_row, deleted, changed)
        transaction.put(key, layout.pack_log(key, entry), db=self._handles.log, append=True)
        self.write_counters(transaction, counters)
        self.write_state(transaction, layout.State(seq, state.generation))
        receipt = Receipt(seq, count, skipped=_texts(batch, skipped))
        if write_options is not None and write_options.request_id:
            name, digest = write_options.request_id, write_options.digest
            self.requests.remember(transaction, name, digest, receipt, now_ns, skipped)
        return receipt

    def rehearse(self, transaction: Transaction, batch: DeleteBatch | PatchBatch) -> Receipt:
        """Return the receipt that ``apply`` would return, with the latest seq; write nothing.

        Raises as ``apply``, but for the request id, which is not looked up.
        """
        self.check_not_dropped(transaction)
        seq = self.read_state(transaction).seq
        changes = self._changes(transaction, batch, seq)
        return Receipt(seq, len(changes.rows), skipped=_texts(batch, changes.skipped))

    def _changes(
        self, transaction: Transaction, batch: DeleteBatch | PatchBatch, seq: int
    ) -> Changes:
        """Return what a batch changes, if its conditions hold."""
        if batch.matched is None:
            self._check_condition(transaction, batch.ids, batch.order, batch.write_options, seq)
            return changes_of(self.rows, transaction, batch, seq)
        changes = changes_of(self.rows, transaction, batch, seq)
        if batch.write_options is not None:
            order = sorted(range(len(changes.ids)), key=changes.ids.__getitem__)
            self._check_condition(transaction, changes.ids, order, batch.write_options, seq)
        return changes

    def _check_condition(
        self,
        transaction: Transaction,
        ids: Sequence[bytes],
        order: Sequence[int],
        write_options: WriteOptions | None,
        seq: int,
    ) -> None:
        if write_options is None:
            return
        if write_options.insert_only or write_options.if_seq is not None:
            check_condition(
                self.rows,
                transaction,
                ids,
                order,
                seq,
                insert_only=write_options.insert_only,
                if_seq=write_options.if_seq,
            )

    def _upsert(
        self, transaction: Transaction, batch: UpsertBatch, seq: int, counters: layout.Counters
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], list[int]]:
        """Write new rows and record versions; return the rows deleted, the rows changed, and the
        positions of the rows skipped."""
        old_rows = self.rows.find(transaction, [batch.ids[i] for i in batch.order])
        skipped: list[int] = []
        if old_rows and batch.write_options is not None and batch.write_options.skip_existing:
            skipped = [i for i, key in enumerate(batch.ids) if key in old_rows]
            batch, old_rows = batch.without(skipped), {}
        ids, order = batch.ids, batch.order
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
        with transaction.cursor(self._handles.records) as cursor:
            _check_appended(cursor.putmulti(records, append=True), "records")
        with transaction.cursor(self._handles.ids) as cursor:
            cursor.putmulti(entries)
        counters.next_row += len(positions)
        counters.live_count += len(ids) - len(old_rows)
        if batch.metadata is not None:
            counters.metadata_count += sum(1 for i in positions if metadata[i])
        changed = self._rewrite_records(transaction, batch, same, metadata, seq, counters)
        deleted = list(old_rows.values())
        if same:
            kept = set(same.values())
            deleted = [row for row in deleted if row not in kept]
        rows_deleted, rows_changed = np.array(sorted(deleted), np.uint64), sorted(changed)
        return rows_deleted, np.array(rows_changed, np.uint64), skipped

    def _append_blocks(
        self, transaction: Transaction, first_row: int, vectors: npt.NDArray[np.float32]
    ) -> None:
        size = layout.block_rows_max(self.config.dim)
        blocks = []
        for start in range(0, len(vectors), size):
            key = layout.row_key(first_row + start)
            blocks.append((key, layout.pack_block(key, vectors[start : start + size])))
        with transaction.cursor(self._handles.blocks) as cursor:
            _check_appended(cursor.putmulti(blocks, append=True), "blocks")

    def _positions_unchanged(
        self, transaction: Transaction, batch: UpsertBatch, old_rows: dict[bytes, int]
    ) -> dict[int, int]:
        """Return position → row of the entries whose vector equals the stored one bit for bit."""
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
        """Write a new record version for each unchanged vector whose metadata differs."""
        changed = []
        for i, row in sorted(same.items(), key=lambda item: item[1]):
            # A damaged record is replaced too: the batch holds everything that is in it.
            with contextlib.suppress(DataLossError):
                if self.rows.read_record(transaction, row, seq).metadata == metadata[i]:
                    continue
            key = layout.record_key(row, seq)
            value = layout.pack_record(key, batch.ids[i], metadata[i])
            transaction.put(key, value, db=self._handles.records)
            counters.metadata_count += bool(metadata[i])
            changed.append(row)
        return changed

    def _write_changes(
        self, transaction: Transaction, changes: Changes, seq: int, counters: layout.Counters
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Delete rows or write record versions; return the rows deleted and the rows changed."""
        rows = np.array(changes.rows, np.uint64)
        if changes.metadata is None:
            for key in sorted(changes.ids):
                transaction.delete(key, db=self._handles.ids)
            counters.live_count -= len(rows)
            return rows, _NO_ROWS
        record_key, pack_record, records = layout.record_key, layout.pack_record, []
        for row, name, metadata in zip(changes.rows, changes.ids, changes.metadata, strict=True):
            key = record_key(row, seq)
            records.append((key, pack_record(key, name, metadata)))
        with transaction.cursor(self._handles.records) as cursor:
            cursor.putmulti(records)
        counters.metadata_count += sum(1 for metadata in changes.metadata if metadata)
        return _NO_ROWS, rows

    def _add_tombstones(
        self, transaction: Transaction, rows: npt.NDArray[np.uint64], seq: int
    ) -> None:
        with transaction.cursor(self._handles.dead) as cursor:
            cursor.putmulti(pack_numbers(rows, seq))

    def remove_tombstones(self, transaction: Transaction, rows: npt.NDArray[np.int64]) -> None:
        """Remove the tombstones of rows that no block, segment or reservation holds any more."""
        for row in rows.tolist():
            transaction.delete(layout.row_key(row), db=self._handles.dead)

    # The segment table (the format of segment files is in segments/segment.py).

    def read_segments(self, transaction: Transaction) -> dict[int, SegmentEntry]:
        """Return number → entry of every segment, in any state.

        Raises:
            DataLossError: an entry is damaged.
        """
        with transaction.cursor(self._handles.segments) as cursor:
            return {
                int.from_bytes(key, "big"): SegmentEntry.unpack(key, value)
                for key, value in cursor.iternext(keys=True, values=True)
            }

    def write_segment(
        self, transaction: Transaction, number: int, entry: SegmentEntry | None
    ) -> None:
        """Set the entry of a segment, or remove it (None). The caller raises the generation."""
        key = layout.row_key(number)
        if entry is None:
            transaction.delete(key, db=self._handles.segments)
        else:
            transaction.put(key, entry.pack(key), db=self._handles.segments)

    def close(self, *, dropped: bool = False) -> None:
        """Close the environment; later calls raise "dropped" or "closed"."""
        self.environment.close(dropped_error() if dropped else None)


def _texts(batch: Batch, positions: Sequence[int]) -> tuple[str, ...]:
    """Return the ids of a batch at these positions."""
    return tuple(batch.ids[i].decode() for i in positions)


def _check_appended(done: tuple[int, int], what: str) -> None:
    """Check that LMDB appended all rows: it silently skips keys not greater than the last."""
    given, added = done
    if given != added:
        raise DataLossError(
            f"{what}: expected to append {given} rows, appended {added}: the store already holds "
            "higher row numbers",
            Reason.ROW_ORDER,
        )


def dropped_error() -> NotFoundError:
    """Return the error that every use of a dropped collection raises."""
    return NotFoundError("the collection was dropped", Reason.DROPPED)


def mark_dropped(environment: Environment) -> None:
    """Mark the collection as dropped: from this commit on every use of it is refused.

    Also raises the generation, so that snapshots in all processes notice. Works on an environment
    alone, since a store that is too damaged to open must still be droppable.
    """

    def write(transaction: Transaction) -> None:
        meta = environment.handles.meta
        transaction.put(_DROPPED, layout.pack_value(_DROPPED, b""), db=meta)
        # A damaged state stays as it is, so that it does not look undamaged in a backup.
        with contextlib.suppress(DataLossError):
            raw = transaction.get(_STATE, db=meta) or b""
            state = layout.State.unpack(bytes(layout.unpack_value(_STATE, raw, "meta")))
            later = layout.State(state.seq, state.generation + 1)
            transaction.put(_STATE, layout.pack_value(_STATE, later.pack()), db=meta)

    environment.transact(write)
