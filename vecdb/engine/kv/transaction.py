"""The part of LMDB's transactions and cursors that the engine uses, as types.

Every key and value that comes from one is a buffer that ends with the transaction; or bytes, if the
transaction was asked for copies. What reads by both kinds makes no difference between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, TypedDict, overload

if TYPE_CHECKING:
    from lmdb import _Database as DatabaseHandle
    from typing_extensions import Self
else:
    DatabaseHandle = object  # Opaque: it is only handed back to LMDB.

__all__ = ["Cursor", "DatabaseHandle", "Handles", "Transaction"]

Bytes: TypeAlias = bytes | memoryview
Pair: TypeAlias = tuple[memoryview, memoryview]


class Handles:
    """The handles of an environment's databases, as attributes: ``handles.records``.

    The environment sets them whenever it is opened. So get one inside the transaction that uses it.
    """

    def replace(self, databases: dict[bytes, DatabaseHandle]) -> None:
        """Set all of them."""
        self.__dict__.update((name.decode(), handle) for name, handle in databases.items())

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> DatabaseHandle: ...


class Cursor(Protocol):
    """A position in one database. The moves return whether they found an entry."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *args: object) -> None: ...
    def key(self) -> memoryview: ...
    def value(self) -> memoryview: ...
    def item(self) -> Pair: ...
    def first(self) -> bool: ...
    def last(self) -> bool: ...
    def next(self) -> bool: ...
    def prev(self) -> bool: ...
    def set_key(self, key: Bytes, /) -> bool: ...
    def set_range(self, key: Bytes, /) -> bool: ...
    def getmulti(self, keys: Iterable[Bytes]) -> Sequence[Pair]: ...
    def putmulti(
        self, items: Iterable[tuple[Bytes, Bytes]], *, append: bool = False
    ) -> tuple[int, int]: ...
    def delete(self) -> bool: ...
    @overload
    def iternext(
        self, keys: Literal[True] = True, values: Literal[True] = True
    ) -> Iterator[Pair]: ...
    @overload
    def iternext(
        self, keys: Literal[True] = True, *, values: Literal[False]
    ) -> Iterator[memoryview]: ...


class Stat(TypedDict):
    """What LMDB counts in one database."""

    entries: int


class Transaction(Protocol):
    """A read or write transaction of one environment."""

    def id(self) -> int: ...
    def stat(self, db: DatabaseHandle) -> Stat: ...
    def get(self, key: Bytes, *, db: DatabaseHandle) -> memoryview | None: ...
    def put(
        self, key: Bytes, value: Bytes, *, append: bool = False, db: DatabaseHandle
    ) -> bool: ...
    def delete(self, key: Bytes, *, db: DatabaseHandle) -> bool: ...
    def drop(self, db: DatabaseHandle, *, delete: bool = True) -> None: ...
    def cursor(self, db: DatabaseHandle) -> Cursor: ...
