"""Waiting for graphs: ``vecdb optimize``, ``vecdb load --optimize`` and the demo."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from vecdb.types import CollectionStats
from vecdb_cli.commands.answers import counted

if TYPE_CHECKING:
    from vecdb.surface import CollectionSurface
    from vecdb_cli.commands.progress import Status

__all__ = ["wait_for_graphs"]

_POLL_S: Final = 0.5


def wait_for_graphs(status: Status, collection: CollectionSurface, name: str) -> str:
    """Optimize a collection, show the progress, and return a sentence with the result.

    Args:
        status: the line of progress, which is entered already.
        name: the collection, for messages.

    Raises:
        VecdbError: as ``Collection.optimize``.
        KeyboardInterrupt: after a line on how many rows are in graphs.
    """
    failure: list[BaseException] = []

    def optimize() -> None:
        try:
            collection.optimize()
        except BaseException as error:
            failure.append(error)

    # In a second thread, so that this one can poll the progress and receive Ctrl-C.
    waiter = threading.Thread(target=optimize, name="vecdb-optimize", daemon=True)
    began = time.monotonic()
    stats, step = collection.stats(), f"indexing {name}"
    status.begin(f"{step}: {_in_graphs(stats)}", short=f"{step}: {_counts(stats)}")
    try:
        waiter.start()
        while waiter.is_alive():
            waiter.join(_POLL_S)
            stats = collection.stats()
            # No bar: rows count when their graph is published, and one graph may hold all rows.
            status.update(
                f"{step}: {_in_graphs(stats)}",
                f"indexer {stats.indexer}",
                short=f"{step}: {_counts(stats)}",
            )
    except KeyboardInterrupt:
        status.say(
            f"interrupted: {_in_graphs(stats)} of {name}; vecdb optimize continues from there"
        )
        raise
    if failure:
        raise failure[0]
    stats = collection.stats()
    graphs = sum(segment.kind == "graph" for segment in stats.segments)
    return (
        f"{name}: {_in_graphs(stats)} after {time.monotonic() - began:.1f} s, "
        f"{counted(graphs, 'graph')}"
    )


def _in_graphs(stats: CollectionStats) -> str:
    return f"{_counts(stats)} in graphs"


def _counts(stats: CollectionStats) -> str:
    return f"{stats.live_count - stats.unindexed_rows:,} of {stats.live_count:,} rows"
