"""Cost of the transport: encoding and decoding, an empty call, bytes per vector.

Encoding and bytes are those of vecdb's wire contract, the empty call is one to the bare echo. The
cost of other targets' transports is part of their latency.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import grpc
import numpy as np

from vecdb_bench.common import echoing
from vecdb_bench.echo import METHOD
from vecdb_bench.figures import percentile, summary
from vecdb_bench.scenarios.context import Context
from vecdb_proto import codec, vecdb_pb2

__all__ = ["TITLE", "run"]

TITLE = "The wire"
_SMALL, _LARGE = 1, 1_000
_CALLS = 200


def run(context: Context) -> None:
    """Measure the transport unless the results have it."""
    point = {"what": "wire"}
    target = "vecdb-served"
    if target not in context.targets or context.known(target, **point) is not None:
        return
    context.say("encoding and decoding matrices")
    base = np.ascontiguousarray(context.dataset.base[:_LARGE])
    rounds = context.scale.rounds
    figures: dict[str, object] = {}
    for name, rows in (("one", base[:_SMALL]), ("many", base)):
        message = vecdb_pb2.SearchRequest(collection="c", queries=codec.encode_matrix(rows))
        sent = message.SerializeToString()

        def encode(rows: np.ndarray = rows) -> bytes:
            request = vecdb_pb2.SearchRequest(collection="c", queries=codec.encode_matrix(rows))
            return bytes(request.SerializeToString())

        def decode(sent: bytes = sent) -> np.ndarray:
            request = vecdb_pb2.SearchRequest.FromString(sent)
            return codec.decode_matrix(request.queries)

        if decode().tobytes() != rows.tobytes() or encode() != sent:
            raise AssertionError(f"the codec does not round-trip {len(rows)} rows")
        figures[f"encode_{name}_us"] = summary([_p50_us(encode) for _ in range(rounds)])
        figures[f"decode_{name}_us"] = summary([_p50_us(decode) for _ in range(rounds)])
        figures[f"rows_{name}"] = len(rows)
        figures[f"bytes_a_vector_{name}"] = len(sent) / len(rows)
    figures["bytes_a_vector_bare"] = 4 * base.shape[1]
    with echoing() as address, grpc.insecure_channel(address) as channel:
        echo = channel.unary_unary(METHOD)
        echo(b"")
        figures["empty_call_us"] = summary([_p50_us(lambda: echo(b"")) for _ in range(rounds)])
    context.record(target, point, figures)


def _p50_us(call: Callable[[], object]) -> float:
    took = np.empty(_CALLS)
    for at in range(_CALLS):
        before = time.perf_counter()
        call()
        took[at] = time.perf_counter() - before
    return 1e6 * percentile(took, 50)
