"""The common base class of the embedded database and the client, with the methods that both share.

It calls only public methods of its subclasses, so that it needs neither engine nor gRPC.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final, Generic, Protocol, Self, TypeVar

from vecdb import checks, limits
from vecdb.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from vecdb.reasons import Reason
from vecdb.types import CollectionConfig

__all__ = ["DatabaseSurface"]

_ATTEMPTS: Final = 3
"""Another process may create or drop the collection between the two calls; rarely twice in a
row."""


class _Configured(Protocol):
    @property
    def config(self) -> CollectionConfig: ...


CollectionT = TypeVar("CollectionT", bound=_Configured)


class DatabaseSurface(ABC, Generic[CollectionT]):
    """Base class of ``Database`` and ``Client``; a context manager that calls ``close``."""

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
        """Close the database or the client."""

    def get_or_create_collection(
        self,
        name: str,
        dim: int,
        metric: str = "cosine",
        *,
        M: int | None = None,
        ef_construction: int | None = None,
    ) -> CollectionT:
        """Return the collection of a name; create it if it does not exist. Safe to call from
        several processes at once: one creates the collection, all get the same one.

        Args:
            name, dim, metric: as for ``create_collection``.
            M, ef_construction: as for ``create_collection``. None accepts those of an existing
                collection, or uses the defaults for a new one.

        Raises:
            InvalidArgumentError: CONFIG_MISMATCH: the collection has another dim or metric, or
                another M or ef_construction than given. Or an argument is invalid.
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
