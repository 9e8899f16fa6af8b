"""Fixtures of the tests of snapshots."""

from __future__ import annotations

import pytest

from tests.places import override
from tests.search.snapshots.bounded import DIM


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks and slices of few rows, so that few rows make many."""
    override(monkeypatch, "memtable_chunk_bytes", 64 * 4 * DIM)
    override(monkeypatch, "scan_slice_bytes", 37 * 4 * DIM)
    override(monkeypatch, "scan_slice_tombstones", 50)
    override(monkeypatch, "scan_counted_rows", 50)
