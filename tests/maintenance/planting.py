"""Faults to plant into a closed folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vecdb.engine.store import layout

Plant = Callable[[Path], object]


def row(number: int) -> bytes:
    return layout.row_key(number)


def u64(number: int) -> bytes:
    return number.to_bytes(8, "little")
