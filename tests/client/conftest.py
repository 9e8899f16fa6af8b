"""A server for a module, a client of it for a test, and an empty collection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.client.rows import DIM
from tests.serving import running_server
from tests.waiting import HANG_S
from vecdb_client import Client


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("client") / "data", indexer=False) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address, timeout_s=HANG_S) as client:
        yield client
        for description in client.list_collections():
            client.drop_collection(description.name)


@pytest.fixture
def docs(client: Client) -> Any:
    return client.create_collection("docs", DIM)
