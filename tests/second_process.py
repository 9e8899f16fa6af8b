"""Two processes with one folder open: ``Hand`` is one's hold of it, ``SecondProcess`` the same hold
in a child that obeys over a pipe.

The child is started once and lives for as long as its owner wants: opening a folder in it takes
milliseconds. What it raises is raised here. It ends by itself at the end of the pipe.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import vecdb
from tests.checking import checked
from tests.model import flush_now, index_now
from tests.waiting import HANG_S
from vecdb.checking import Problem
from vecdb.engine.indexing.trimming import trim_tombstones
from vecdb.engine.store.purging import PurgePass, garbage_rows, purge_all
from vecdb.engine.testing import opened_of

__all__ = ["Hand", "SecondProcess"]


class Hand:
    """A database and one of its collections, by names that go over a pipe."""

    def open(self, folder: Path) -> None:
        self.database: Any = vecdb.open(folder, indexer=False)

    def close(self) -> None:
        self.database.close()

    def create(self, name: str, *arguments: Any, **options: Any) -> None:
        self.collection: Any = self.database.create_collection(name, *arguments, **options)

    def take(self, name: str) -> None:
        """Make ``call`` and the others speak of this collection."""
        self.collection = self.database.collection(name)

    def rename(self, old: str, new: str) -> None:
        self.database.rename_collection(old, new)

    def drop(self, name: str) -> None:
        self.database.drop_collection(name)

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """A method of the collection."""
        return getattr(self.collection, method)(*arguments, **options)

    def flush(self) -> None:
        flush_now(self.collection)

    def index(self, rows_max: int) -> None:
        index_now(self.collection, rows_max)

    def purge(self, steps: int | None) -> None:
        """Purge everything that no lease holds and trim, or stop a pass after some steps."""
        opened = opened_of(self.collection)
        store = opened.store
        if steps is None:
            purge_all(store, grace_s=0.0)
            trim_tombstones(store, opened.snapshots.snapshot())
        elif (purge := PurgePass.begin(store, rows_max=10, grace_s=0.0)) is not None:
            for _ in range(steps):
                if not purge.done:
                    purge.step()

    def garbage(self) -> int:
        """Records of no live row, and those that have been replaced."""
        store = opened_of(self.collection).store
        with store.environment.read() as transaction:
            return garbage_rows(store, transaction)

    def checked(self, folder: Path) -> list[Problem]:
        """What a check finds; this process must not have the folder open."""
        return checked(folder)[0]


class SecondProcess:
    """A ``Hand`` in a process of its own; a context manager that ends it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("forkserver")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_obey, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_") or not hasattr(Hand, name):
            raise AttributeError(name)
        return lambda *arguments, **options: self._ask(name, arguments, options)

    def _ask(self, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        self._pipe.send((name, arguments, options))
        assert self._pipe.poll(HANG_S), f"the second process does not answer to {name}"
        error, value = self._pipe.recv()
        if error is not None:
            error.add_note(f"in the second process:\n{value}")
            raise error
        return value

    def __enter__(self) -> SecondProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pipe.close()
        self._process.join(HANG_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(HANG_S)
        self._process.close()


def _obey(pipe: Connection) -> None:
    hand = Hand()
    with contextlib.suppress(EOFError):
        while True:
            name, arguments, options = pipe.recv()
            try:
                answer = (None, getattr(hand, name)(*arguments, **options))
            except Exception as error:
                answer = (error, traceback.format_exc())
            pipe.send(answer)
