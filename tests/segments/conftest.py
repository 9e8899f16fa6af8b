"""Fixtures of the tests of segments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vecdb
from tests.model import Model
from tests.segments.damage import DIM, fill, rows
from tests.segments.norm_parts import NORMS, TALLEST, Filled, Norms, register
from vecdb.engine.segments.part_kind import PartKind
from vecdb.engine.testing import opened_of


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Model]:
    """A closed folder, the id of its collection "docs", and a model of that."""
    folder = tmp_path_factory.mktemp("pristine") / "data"
    with vecdb.open(folder, indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        model = fill(docs)
        docs.scroll_page(batch=5)  # Its lease stays.
        database.create_collection("other", DIM).upsert(["own"], rows(1))
        return folder, opened_of(docs).id, model


@pytest.fixture
def norms(monkeypatch: pytest.MonkeyPatch) -> PartKind[Norms]:
    register(monkeypatch, NORMS)
    return NORMS


@pytest.fixture
def tallest(monkeypatch: pytest.MonkeyPatch, norms: PartKind[Norms]) -> PartKind[Norms]:
    register(monkeypatch, TALLEST)
    return TALLEST


@pytest.fixture
def filled(norms: PartKind[Norms], tmp_path: Path) -> Filled:
    return Filled(tmp_path / "data")


@pytest.fixture
def docs(filled: Filled) -> Iterator[Any]:
    with vecdb.open(filled.folder, indexer=False) as database:
        yield database.collection("docs")
