"""Access for tests to the internals of an embedded database."""

from __future__ import annotations

from concurrent.futures import Future

from vecdb.engine.api.collection import Collection
from vecdb.engine.api.database import Database
from vecdb.engine.runtime.open_collection import OpenCollection
from vecdb.engine.runtime.runtime import Runtime
from vecdb.engine.store.batch import DeleteBatch, UpsertBatch
from vecdb.types import Receipt

__all__ = ["opened_of", "runtime_of", "submit"]


def runtime_of(database: Database) -> Runtime:
    """Return the runtime of an embedded database."""
    return database._runtime


def opened_of(collection: Collection) -> OpenCollection:
    """Return the process's objects for a collection: store, segments, searcher."""
    return collection._opened


def submit(collection: Collection, batch: UpsertBatch | DeleteBatch) -> Future[Receipt]:
    """Queue a checked batch as ``upsert`` does, without waiting for it."""
    return collection._runtime.submit_delayed(collection._opened, batch)
