"""Constants and functions behind the public interface that tests replace or call, by name.

The ``testing`` modules of the product list them in ``PLACES``. A name of the engine is found
without importing gRPC, so child processes may use this as well.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest

TESTING_MODULES = (
    "vecdb.engine.testing",
    "vecdb_client.testing",
    "vecdb_server.testing",
    "vecdb_cli.testing",
    "vecdb_bench.testing",
)


def owner_of(name: str) -> tuple[Any, str]:
    """Return the module or class of a place, and its attribute there."""
    for module in TESTING_MODULES:
        if (place := importlib.import_module(module).PLACES.get(name)) is not None:
            home, _, path = place.partition(":")
            *outer, attribute = path.split(".")
            owner = importlib.import_module(home)
            for each in outer:
                owner = getattr(owner, each)
            return owner, attribute
    raise KeyError(name)


def value_of(name: str) -> Any:
    """Return the constant or function at a place."""
    return getattr(*owner_of(name))


def override(patch: pytest.MonkeyPatch, name: str, value: Any) -> None:
    """Replace what is at a place until the patch is undone."""
    patch.setattr(*owner_of(name), value)


def override_for_good(name: str, value: Any) -> None:
    """Replace what is at a place in this process, which ends soon."""
    setattr(*owner_of(name), value)
