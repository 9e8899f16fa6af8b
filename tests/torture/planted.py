"""Defects that are planted into a process, to check the checkers.

Each replaces a function of the engine by one with a plausible mistake.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tests.places import override_for_good
from vecdb.engine.indexing import indexer as indexing
from vecdb.engine.kv import environment
from vecdb.engine.segments import flushing, lifecycle
from vecdb.engine.store.rows import RowReader
from vecdb.engine.store.writer import Writer

__all__ = ["PLANTED", "plant"]


def _no_sync() -> None:
    """LMDB does not sync its data before the meta page."""
    real = environment.lmdb.open
    environment.lmdb.open = lambda *arguments, **named: real(*arguments, **named, sync=False)


def _early_acknowledgement() -> None:
    """Batches are acknowledged after they were applied, before the commit."""

    def write(self: Writer, group: list[Any]) -> None:
        store = group[0].store

        def function(transaction: Any) -> None:
            for job in group:
                job.answer.set_result(store.apply(transaction, job.batch))
            time.sleep(1.0)  # So that the answer comes first, as it would sometimes.

        store.environment.transact(function)

    override_for_good("write_batches", write)


def _forgotten_tombstone() -> None:
    """Tombstones of updated or deleted rows are not written."""
    override_for_good("add_tombstones", lambda self, transaction, rows, seq: None)


def _publication_before_sync() -> None:
    """The files of a segment are synced after the commit that publishes it."""
    real_sync, real_publish = os.fsync, lifecycle.publish
    skipped: list[str] = []

    def later(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if "/segments/" in path:
            skipped.append(path)
        else:
            real_sync(descriptor)

    def publish(*arguments: Any) -> bool:
        published = real_publish(*arguments)
        for path in skipped:
            descriptor = os.open(path, os.O_RDONLY)
            real_sync(descriptor)
            os.close(descriptor)
        skipped.clear()
        return published

    os.fsync = later  # type: ignore[assignment]
    flushing.publish = indexing.publish = publish


def _skipped_log_entry() -> None:
    """An advanced snapshot skips the tombstones of the last batch."""
    real = RowReader.read_log

    def read_log(self: RowReader, transaction: Any, after: int, to: int) -> Any:
        entries = real(self, transaction, after, to)
        if entries:
            entries[-1] = replace(entries[-1], deleted=np.zeros(0, np.uint64))
        return entries

    RowReader.read_log = read_log  # type: ignore[method-assign]


PLANTED: dict[str, Callable[[], None]] = {
    "no sync": _no_sync,
    "early acknowledgement": _early_acknowledgement,
    "forgotten tombstone": _forgotten_tombstone,
    "publication before sync": _publication_before_sync,
    "skipped log entry": _skipped_log_entry,
}


def plant(name: str) -> None:
    """Plant a defect into this process, which can't be used for anything else afterwards."""
    PLANTED[name]()
