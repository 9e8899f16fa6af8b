"""Fixtures of the tests of segments."""

from __future__ import annotations

from pathlib import Path

import pytest

import vecdb
from tests.model import Model
from tests.segments.damage import DIM, fill, rows
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
