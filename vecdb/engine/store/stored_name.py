"""A copy of the collection's name in its own store, used to rebuild a lost catalogue.

The catalogue's name is authoritative. The copy is missing in stores of earlier versions, and out of
date if the store could not be written during a rename.
"""

from __future__ import annotations

from typing import Final

from vecdb.engine.kv.environment import Environment
from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.store import layout
from vecdb.errors import DataLossError

__all__ = ["NAME_KEY", "read_name", "write_name"]

NAME_KEY: Final = b"name"


def write_name(environment: Environment, name: str) -> None:
    """Store the name, in a transaction of its own."""
    value = layout.seal_value(NAME_KEY, name.encode())
    environment.transact(
        lambda transaction: transaction.put(NAME_KEY, value, db=environment.handles.meta)
    )


def read_name(environment: Environment, transaction: Transaction) -> str | None:
    """Return the stored name; None if there is none or it is damaged."""
    value = transaction.get(NAME_KEY, db=environment.handles.meta)
    if value is None:
        return None
    try:
        return bytes(layout.open_value(NAME_KEY, memoryview(value), "meta")).decode()
    except (DataLossError, UnicodeDecodeError):
        return None
