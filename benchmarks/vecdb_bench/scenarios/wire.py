"""Cost of the transport: encoding and decoding, an empty call, bytes per vector, a query's parts.

Encoding and bytes are those of vecdb's wire contract, the empty call is one to the bare echo. The
cost of other targets' transports is part of their latency.

The parts of a query are the p50 of an echo, of a search in this process, and of the same search
through a server; ``added_us`` is what the last takes beyond the other two. All three are called in
turn for each query, so that each finds the processor's caches in the same state. In a tight loop
(``tight_``) a search finds its code and data cached, which a search triggered by a message does
not, embedded or served.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np

import vecdb
from vecdb_bench.figures import percentile, summary
from vecdb_bench.scenarios.context import Bench, Context
from vecdb_bench.targets.grpc_echo import METHOD, echo_process
from vecdb_bench.targets.served import served_process
from vecdb_proto import codec, vecdb_pb2

__all__ = ["TITLE", "run"]

TITLE = "The wire"
_SMALL, _LARGE = 1, 1_000
_CALLS = 200
TARGET = "vecdb-served"
EFFORT = 128
K = 10


def run(context: Context) -> None:
    """Measure the transport unless the results have it."""
    for what, measure in (("wire", _wire), ("one query", _one_query)):
        if TARGET in context.targets and context.known(TARGET, what=what) is None:
            context.say(f"the transport: {what}")
            with context.attempt(TARGET, what=what):
                context.record(TARGET, {"what": what}, measure(context))


def _wire(context: Context) -> dict[str, Any]:
    base = np.ascontiguousarray(context.dataset.base[:_LARGE])
    rounds = context.scale.rounds
    figures: dict[str, Any] = {}
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
    with echo_process() as (_, address), grpc.insecure_channel(address) as channel:
        echo = channel.unary_unary(METHOD)
        echo(b"")
        figures["empty_call_us"] = summary([_p50_us(lambda: echo(b"")) for _ in range(rounds)])
    return figures


def _one_query(context: Context) -> dict[str, Any]:
    base, queries = context.dataset.base, np.array(context.dataset.queries)
    with Bench(context) as bench:
        folder = bench.folder / "data"
        with vecdb.open(folder) as database:
            docs = database.create_collection("docs", context.dataset.dim, context.dataset.metric)
            docs.upsert_many(map(str, range(len(base))), base)
            docs.optimize()
        with (
            served_process(folder) as (_, address),
            echo_process() as (_, echo_address),
            vecdb.open(folder, indexer=False) as database,
            vecdb.connect(address) as client,
            grpc.insecure_channel(echo_address) as channel,
        ):
            here, there = database.collection("docs"), client.collection("docs")
            echo, message = channel.unary_unary(METHOD), queries[0].tobytes() + bytes(16)
            calls: dict[str, Callable[[Any], Any]] = {
                "echo": lambda _: echo(message),
                "in_process": lambda query: here.search(query, K, ef=EFFORT),
                "over_grpc": lambda query: there.search(query, K, ef=EFFORT),
            }
            found = [calls["in_process"](query).ids for query in queries]
            if found != [calls["over_grpc"](query).ids for query in queries]:
                raise AssertionError("the server's answers differ from those in process")
            rounds: dict[str, list[float]] = {}
            for _ in range(context.scale.rounds):
                tight: dict[str, float] = {}
                for name, call in calls.items():
                    tight |= _p50s_us({name: call}, queries)
                for prefix, took in (("", _p50s_us(calls, queries)), ("tight_", tight)):
                    took["added"] = took["over_grpc"] - took["echo"] - took["in_process"]
                    for name, us in took.items():
                        rounds.setdefault(f"{prefix}{name}_us", []).append(us)
    recall = context.dataset.recall(np.array([list(map(int, ids)) for ids in found]), K)
    return {**{name: summary(values) for name, values in rounds.items()}, "recall_10": recall}


def _p50s_us(calls: dict[str, Callable[[Any], Any]], queries: np.ndarray) -> dict[str, float]:
    """Return the p50 of each call in microseconds; for each query all calls are made in turn."""
    took = {name: np.empty(len(queries)) for name in calls}
    for at, query in enumerate(queries):
        for name, call in calls.items():
            began = time.perf_counter()
            call(query)
            took[name][at] = time.perf_counter() - began
    return {name: 1e6 * percentile(times, 50) for name, times in took.items()}


def _p50_us(call: Callable[[], object]) -> float:
    took = np.empty(_CALLS)
    for at in range(_CALLS):
        before = time.perf_counter()
        call()
        took[at] = time.perf_counter() - before
    return 1e6 * percentile(took, 50)
