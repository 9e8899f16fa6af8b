"""A raw stub of the contract, and requests for it."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.waiting import HANG_S
from vecdb.engine.testing import open_runtimes
from vecdb_proto import vecdb_pb2 as wire
from vecdb_proto.codec import encode_matrix
from vecdb_proto.vecdb_pb2_grpc import VecdbStub

DIM = 4
Code = grpc.StatusCode


class Wire:
    """A raw stub, and how a call on it failed."""

    def __init__(self, address: str, **options: int) -> None:
        limit = ("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)
        self.channel = grpc.insecure_channel(address, options=limit)
        self.stub: Any = VecdbStub(self.channel)

    def failure(self, method: str, request: Any, **options: Any) -> tuple[Code, str, str]:
        """Status, reason and message."""
        with pytest.raises(grpc.RpcError) as caught:
            getattr(self.stub, method)(request, timeout=HANG_S, **options)
        return failure_of(caught.value)

    def health(self, service: str = "") -> int:
        stub = health_pb2_grpc.HealthStub(self.channel)
        return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=HANG_S).status


def failure_of(error: Any) -> tuple[Code, str, str]:
    reasons = [value for key, value in error.trailing_metadata() if key == "vecdb-reason"]
    return error.code(), reasons[0] if reasons else "", error.details()


def creation(name: str, dim: int = DIM, metric: int = wire.METRIC_COSINE) -> Any:
    config = wire.CollectionConfig(dim=dim)
    config.metric = metric  # type: ignore[assignment]
    return wire.CreateCollectionRequest(collection=name, config=config)


VECTORS = np.eye(3, DIM, dtype=np.float32) + np.float32(0.1)


def upsert(**changes: Any) -> Any:
    """A good request for 3 rows, with changes."""
    fields: dict[str, Any] = {
        "collection": "docs",
        "ids": ["a", "b", "c"],
        "vectors": encode_matrix(VECTORS),
        "metadata": [b'{"n": 1}', b"", b'{"big": 9007199254740993}'],
    }
    return wire.UpsertRequest(**{**fields, **changes})


def search(**changes: Any) -> Any:
    fields: dict[str, Any] = {
        "collection": "docs",
        "queries": encode_matrix(VECTORS[:2]),
        "k": 2,
        "include_metadata": True,
    }
    return wire.SearchRequest(**{**fields, **changes})


def runtime_of(server: Wire) -> Any:
    (runtime,) = [r for r in open_runtimes() if r.list_collections()]
    return runtime
