"""``vecdb load``: a file of vectors into a collection, in blocks, so that memory stays bounded.

Rows are upserted in the order of the file. An id that stands twice in it ends with its last row, as
if the rows had been written one by one; how many rows gave way to others is told at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vecdb import limits
from vecdb.errors import InvalidArgumentError, NotFoundError
from vecdb.types import Metric
from vecdb_server.vector_files import Block, VectorFile

if TYPE_CHECKING:
    from vecdb_server.commands.target import Target

__all__ = ["LoadSummary", "batch_rows_for", "find_or_create", "load"]

_BLOCK_BYTES = 8 * 1024**2
_BATCH_BYTES = 4 * 1024**2


@dataclass(frozen=True)
class LoadSummary:
    """What a load did.

    Attributes:
        rows: rows of the file that were read and acknowledged.
        replaced: of those, rows whose id was in the collection already or stands again in the file.
            Rows that others write at the same time blur this number.
    """

    rows: int
    replaced: int


def find_or_create(
    target: Target, name: str, dim: int, metric: str | None, M: int | None, ef: int | None
) -> tuple[Any, bool]:
    """The collection, and whether it was made now. What is asked for must agree with what is there.

    Raises:
        InvalidArgumentError: it exists with another dimension, metric, M or ef_construction.
    """
    chosen = {"M": M, "ef_construction": ef}
    try:
        collection = target.collection(name)
    except NotFoundError:
        options = {key: value for key, value in chosen.items() if value is not None}
        made = target.create_collection(name, dim, metric or Metric.COSINE.value, **options)
        return made, True
    config = collection.config
    for what, wanted in {"dim": dim, "metric": metric, **chosen}.items():
        there = getattr(config, what)
        if wanted is not None and wanted != there:
            raise InvalidArgumentError(
                f"collection {name} exists with {what} {there}, got {wanted}", "CONFIG_MISMATCH"
            )
    return collection, False


def load(
    collection: Any,
    file: VectorFile,
    *,
    limit: int | None = None,
    batch_rows: int | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> LoadSummary:
    """Upsert the file's rows.

    Args:
        limit: stop after so many rows.
        batch_rows: rows a batch; None for as many as a few megabytes hold.
        progress: told the number of rows acknowledged so far.

    Raises:
        InvalidArgumentError: the file is broken, or a row is refused; what came before is stored.
    """
    batch = batch_rows or batch_rows_for(file.dim)
    block_rows = batch * max(1, _BLOCK_BYTES // (4 * file.dim * batch))
    live_before: int = collection.count()
    read = 0
    for block in file.blocks(block_rows, limit):
        kept = _without_repeats(block)
        start = read
        collection.upsert_many(
            kept.ids,
            kept.vectors,
            kept.metadata,
            batch_rows=batch,
            progress=lambda done, start=start: progress(start + done.rows),
        )
        read += len(block.ids)
        progress(read)
    grown: int = collection.count() - live_before
    return LoadSummary(read, max(0, read - grown))


def batch_rows_for(dim: int) -> int:
    """As many rows as fit a few megabytes, at most the usual batch."""
    assert limits.BATCH_ROWS.default is not None
    return max(1, min(limits.BATCH_ROWS.default, _BATCH_BYTES // (4 * dim)))


def _without_repeats(block: Block) -> Block:
    """A batch must not hold an id twice: the last row stays, as the later batch would win."""
    last = {str(name): row for row, name in enumerate(block.ids)}
    if len(last) == len(block.ids):
        return block
    rows = sorted(last.values())
    metadata = None if block.metadata is None else [block.metadata[row] for row in rows]
    return Block([block.ids[row] for row in rows], block.vectors[rows], metadata)
