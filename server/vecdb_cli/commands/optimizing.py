"""Waiting for graphs: ``vecdb optimize``, ``vecdb load --optimize`` and the demo."""

from __future__ import annotations

import threading
import time

from rich.console import Console

from vecdb.surface import CollectionSurface
from vecdb.types import CollectionStats
from vecdb_cli.commands.progress import Status

__all__ = ["wait_for_graphs"]


def wait_for_graphs(console: Console, collection: CollectionSurface, name: str) -> str:
    """Have a collection optimised and say how far it is; a sentence on what is there then.

    It is waited for in a second thread, so that this one can tell how it goes and hear Ctrl-C.

    Raises:
        VecdbError: as ``Collection.optimize``.
        KeyboardInterrupt: after it was said how far it got.
    """
    failure: list[BaseException] = []

    def optimize() -> None:
        try:
            collection.optimize()
        except BaseException as error:
            failure.append(error)

    waiter = threading.Thread(target=optimize, name="vecdb-optimize", daemon=True)
    began = time.monotonic()
    stats = collection.stats()
    try:
        with Status(console, f"indexing {name}: {_progress(stats)}") as status:
            waiter.start()
            while waiter.is_alive():
                waiter.join(0.5)
                stats = collection.stats()
                passed_s = time.monotonic() - began
                status.update(
                    f"indexing {name} for {passed_s:.0f} s: {_progress(stats)}, "
                    f"indexer {stats.indexer}"
                )
    except KeyboardInterrupt:
        console.print(
            f"interrupted: {_progress(stats)} of {name}; vecdb optimize goes on from there",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
        raise
    if failure:
        raise failure[0]
    stats = collection.stats()
    graphs = sum(segment.kind == "graph" for segment in stats.segments)
    return (
        f"{name}: {_progress(stats)} after {time.monotonic() - began:.1f} s, "
        f"{graphs} graph{'' if graphs == 1 else 's'}"
    )


def _progress(stats: CollectionStats) -> str:
    return f"{stats.live_count - stats.unindexed_rows:,} of {stats.live_count:,} rows in graphs"
