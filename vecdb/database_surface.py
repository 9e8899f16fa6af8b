"""What an embedded database and a client share word for word: their common base class.

It stands on the public methods of either, so that it needs neither engine nor gRPC.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from vecdb import checks, limits
from vecdb.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from vecdb.reasons import Reason
from vecdb.types import CollectionConfig

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["DatabaseSurface"]

_ATTEMPTS: Final = 3
"""Another process may create or drop the collection between two steps; rarely twice in a row."""


class _Configured(Protocol):
    @property
    def config(self) -> CollectionConfig: ...


CollectionT = TypeVar("CollectionT", bound=_Configured)


class DatabaseSurface(ABC, Generic[CollectionT]):
    """Base of ``Database`` and ``Client``; a context manager that closes it."""

    @abstractmethod
    def create_collection(
        self,
        name: str,
        dim: int,
        metric: str = "cosine",
        *,
        M: int = 16,
        ef_construction: int = 128,
    ) -> CollectionT:
        """Create a collection."""

    @abstractmethod
    def collection(self, name: str) -> CollectionT:
        """Return a handle on a collection."""

    @abstractmethod
    def close(self) -> None:
        """Close it."""

    def get_or_create_collection(
        self,
        name: str,
        dim: int,
        metric: str = "cosine",
        *,
        M: int | None = None,
        ef_construction: int | None = None,
    ) -> CollectionT:
        """Return the collection of a name, created if there is none. Any number of processes may
        do so at once: one creates it, all get the same collection.

        Args:
            name, dim, metric: as for ``create_collection``.
            M, ef_construction: as for ``create_collection``. None: those of the collection that is
                there, or the defaults for a new one.

        Raises:
            InvalidArgumentError: CONFIG_MISMATCH: the collection has another dim or metric, or
                another M or ef_construction where these were given. Or an argument is wrong.
            AlreadyExistsError: the name belongs to a collection whose drop has not finished.
        """
        given = {"M": M, "ef_construction": ef_construction}
        graph: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        defaults = {"M": limits.M.default, "ef_construction": limits.EF_CONSTRUCTION.default}
        wanted = checks.check_config(dim, metric, **{**defaults, **graph})
        checks.check_name(name)
        attempt = 1
        while True:
            try:
                found = self.collection(name)
                break
            except NotFoundError:
                pass
            try:
                return self.create_collection(name, dim, metric, **graph)
            except AlreadyExistsError:
                if attempt == _ATTEMPTS:
                    raise
                attempt += 1
        _check_same_config(name, found.config, wanted, ("dim", "metric", *graph))
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _check_same_config(
    name: str, there: CollectionConfig, wanted: CollectionConfig, compared: tuple[str, ...]
) -> None:
    other = [what for what in compared if getattr(there, what) != getattr(wanted, what)]
    if other:
        has = " and ".join(f"{what} {getattr(there, what)}" for what in other)
        asked = " and ".join(f"{what} {getattr(wanted, what)}" for what in other)
        raise InvalidArgumentError(
            f"collection {name!r} exists with {has}, expected {asked}; use another name, or drop "
            "the collection first",
            Reason.CONFIG_MISMATCH,
        )
