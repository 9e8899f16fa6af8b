"""Handles of LMDB's named databases, for classes that read and write an environment."""

from __future__ import annotations

from typing import Protocol

from vecdb.engine.kv.environment import Environment
from vecdb.engine.kv.transaction import DatabaseHandle

__all__ = ["NamedDatabase"]


class _HasEnvironment(Protocol):
    environment: Environment


class NamedDatabase:
    """A descriptor for classes with an ``environment``: the current handle of a named database,
    which changes when the environment is reopened."""

    def __init__(self, name: bytes) -> None:
        self._name = name

    def __get__(self, owner: _HasEnvironment, kind: type) -> DatabaseHandle:
        return owner.environment.database(self._name)
