"""The name of a collection as its own store knows it: a note, for when the catalogue is lost.

The catalogue decides what a collection is called. A store that was made before there was such a
note, or that could not be written during a renaming, says nothing or an earlier name.
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
    """Note the name, in a commit of its own."""
    value = layout.seal_value(NAME_KEY, name.encode())
    environment.transact(
        lambda transaction: transaction.put(NAME_KEY, value, db=environment.database(b"meta"))
    )


def read_name(environment: Environment, transaction: Transaction) -> str | None:
    """The name that was noted last, or None."""
    value = transaction.get(NAME_KEY, db=environment.database(b"meta"))
    if value is None:
        return None
    try:
        return bytes(layout.open_value(NAME_KEY, memoryview(value), "meta")).decode()
    except (DataLossError, UnicodeDecodeError):
        return None
