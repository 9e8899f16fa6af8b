"""A server for tests of raw calls."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.raw_calls import Wire, creation, upsert
from tests.serving import running_server


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("server") / "data", indexer=False) as address:
        yield address


@pytest.fixture(scope="module")
def server(address: str) -> Iterator[Wire]:
    """A server with a collection "docs" of 3 rows; tests that write use others."""
    raw = Wire(address)
    raw.stub.CreateCollection(creation("docs"))
    raw.stub.Upsert(upsert(collection="docs"))
    yield raw
    raw.channel.close()
