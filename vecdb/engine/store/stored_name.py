"""A copy of the collection's name and metadata in its own store, used to rebuild a lost catalogue.

What the catalogue has is authoritative. The copy is missing in stores of earlier versions, and out
of date if the store could not be written during a change.
"""

from __future__ import annotations

from typing import Final

from vecdb.engine.kv.environment import Environment
from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.store import layout
from vecdb.errors import DataLossError

__all__ = [
    "METADATA_KEY",
    "NAME_KEY",
    "read_metadata",
    "read_name",
    "write_metadata",
    "write_name",
]

NAME_KEY: Final = b"name"
METADATA_KEY: Final = b"metadata"


def write_name(environment: Environment, name: str) -> None:
    """Store the name, in a transaction of its own."""
    value = layout.pack_value(NAME_KEY, name.encode())
    environment.transact(
        lambda transaction: transaction.put(NAME_KEY, value, db=environment.handles.meta)
    )


def read_name(environment: Environment, transaction: Transaction) -> str | None:
    """Return the stored name; None if there is none or it is damaged."""
    value = transaction.get(NAME_KEY, db=environment.handles.meta)
    if value is None:
        return None
    try:
        return bytes(layout.unpack_value(NAME_KEY, memoryview(value), "meta")).decode()
    except (DataLossError, UnicodeDecodeError):
        return None


def write_metadata(environment: Environment, metadata: bytes) -> None:
    """Store the metadata of the collection, in a transaction of its own."""
    value = layout.pack_value(METADATA_KEY, metadata)
    environment.transact(
        lambda transaction: transaction.put(METADATA_KEY, value, db=environment.handles.meta)
    )


def read_metadata(environment: Environment, transaction: Transaction) -> bytes:
    """Return the stored metadata of the collection; empty if there are none or they are damaged."""
    value = transaction.get(METADATA_KEY, db=environment.handles.meta)
    if value is None:
        return b""
    try:
        return bytes(layout.unpack_value(METADATA_KEY, memoryview(value), "meta"))
    except DataLossError:
        return b""
