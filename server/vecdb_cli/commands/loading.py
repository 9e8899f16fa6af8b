"""``vecdb load``: load a file of vectors into a collection, in blocks, so that memory is bounded.

The whole file is read and checked before anything is written. A pipe can be read only once: if it
has a bad row, a collection that was created for it is dropped again. A bad row (a malformed line, a
vector or id that the engine refuses) ends the load, or is skipped with ``--on-bad-row skip``.

Rows are upserted in the order of the file. Of duplicate ids the last row wins, as if the rows were
written one by one; the number of replaced rows is printed at the end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console

from vecdb import checks, limits
from vecdb.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError, VecdbError
from vecdb.reasons import Reason
from vecdb.surface import CollectionSurface
from vecdb.types import IngestProgress, Metric
from vecdb_cli.commands.answers import counted, print_unindexed
from vecdb_cli.commands.console import output
from vecdb_cli.commands.optimizing import wait_for_graphs
from vecdb_cli.commands.progress import Rows, Status
from vecdb_cli.sidecars import wrong
from vecdb_cli.vector_files import Block, OnBad, VectorFile

if TYPE_CHECKING:
    from vecdb_cli.commands.target import Target

__all__ = [
    "LoadOptions",
    "LoadSummary",
    "batch_rows_for",
    "find_collection",
    "load",
    "run_load",
]

_BLOCK_BYTES = 8 * 1024**2
_BATCH_BYTES = 4 * 1024**2
_BAD_ROWS_SHOWN = 5
_ROW_0 = re.compile(r"^(?:(?:vectors|metadata): row 0|id .* at position 0:) ")


@dataclass(frozen=True)
class LoadOptions:
    """The options of the command; its help describes them."""

    metric: str | None = None
    M: int | None = None
    ef_construction: int | None = None
    index_fields: list[str] | None = None
    target_recall: float | None = None
    limit: int | None = None
    batch_rows: int | None = None
    skip_bad_rows: bool = False
    optimize: bool = False

    @property
    def config(self) -> dict[str, Any]:
        """What was given of the configuration of the collection, except the metric."""
        return {
            name: getattr(self, name)
            for name in ("M", "ef_construction", "index_fields", "target_recall")
            if getattr(self, name) is not None
        }


@dataclass(frozen=True)
class LoadSummary:
    """The result of a load.

    Attributes:
        rows: rows of the file that were acknowledged.
        replaced: of those, rows whose id was in the collection already or occurs again in the file.
            Inexact if others write to the collection at the same time.
        skipped: number of bad rows.
        elapsed_s: seconds spent on writing.
    """

    rows: int
    replaced: int
    skipped: int
    elapsed_s: float


def run_load(
    target: Target, name: str, file: VectorFile, options: LoadOptions, place: str | None
) -> None:
    """Load a file and print the result.

    Args:
        place: the option that names the target, for the hint on indexing; None for no hint.
    """
    console = Console(stderr=True)

    def say_where(found: CollectionSurface, created: bool) -> None:
        verb = "created" if created else "found"
        print(f"{verb} collection {name}: dim {found.dim}, {found.metric}", flush=True)

    summary = load(target, name, file, options, console, say_where)
    _print_summary(summary)
    if options.optimize:
        with Status(console) as status:
            sentence = wait_for_graphs(status, target.collection(name), name)
        print(sentence, flush=True)
    elif place is not None:
        print_unindexed(output(), target, name, place)


def _print_summary(summary: LoadSummary) -> None:
    seconds = max(summary.elapsed_s, 1e-9)
    rate = f"{summary.rows / seconds:,.0f} rows/s"
    print(f"{summary.rows:,} rows in {seconds:.1f} s, {rate}, all on disk", flush=True)
    if summary.replaced:
        print(f"{summary.replaced:,} of them replaced rows with the same id")
    if summary.skipped:
        print(f"{counted(summary.skipped, 'bad row')} skipped")


class _BadRows:
    """Counts bad rows and prints the first of them; raises the first if none may be skipped."""

    def __init__(self, console: Console, skip: bool) -> None:
        self._console = console
        self._skip = skip
        self.count = 0
        self.first: InvalidArgumentError | None = None

    def __call__(self, error: InvalidArgumentError) -> None:
        if not self._skip:
            what = "; --on-bad-row skip leaves such rows out"
            raise InvalidArgumentError(error.message + what, error.reason)
        self.count += 1
        self.first = self.first or error
        if self.count <= _BAD_ROWS_SHOWN:
            _say(self._console, f"skipped {error.message}")
        elif self.count == _BAD_ROWS_SHOWN + 1:
            _say(self._console, "more bad rows are skipped without a message")


def _say(console: Console, text: str) -> None:
    console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)


def find_collection(
    target: Target, name: str, file: VectorFile, options: LoadOptions
) -> CollectionSurface | None:
    """Return the collection, or None if it has to be created.

    Raises:
        InvalidArgumentError: it exists with another dimension, or is another than the options say,
            or can't be created with them.
    """
    defaults = {"M": limits.M.default, "ef_construction": limits.EF_CONSTRUCTION.default}
    wanted = checks.check_config(
        file.dim, options.metric or Metric.COSINE, **{**defaults, **options.config}
    )
    try:
        collection = target.collection(name)
    except NotFoundError:
        return None
    config = collection.config
    if config.dim != file.dim:
        raise InvalidArgumentError(
            f"collection {name!r} exists with dim {config.dim}, {file.path} has dim {file.dim}",
            Reason.CONFIG_MISMATCH,
        )
    for what in ("metric",) * (options.metric is not None) + tuple(options.config):
        there, value = getattr(config, what), getattr(wanted, what)
        if value != there:
            raise InvalidArgumentError(
                f"collection {name!r} exists with {what} {there}, got {value}",
                Reason.CONFIG_MISMATCH,
            )
    return collection


def load(
    target: Target,
    name: str,
    file: VectorFile,
    options: LoadOptions,
    console: Console,
    on_found: Callable[[CollectionSurface, bool], None],
) -> LoadSummary:
    """Check a file and upsert its rows.

    Args:
        console: for progress and for skipped rows.
        on_found: called with the collection, and whether it was created.

    Raises:
        InvalidArgumentError: the file is malformed, or a row is refused. Nothing was written,
            unless the file is a pipe or was changed after the check.
    """
    found = find_collection(target, name, file, options)
    metric = Metric(options.metric or Metric.COSINE) if found is None else found.config.metric
    bad = _BadRows(console, options.skip_bad_rows)
    total = file.rows
    if options.limit is not None:
        total = options.limit if total is None else min(options.limit, total)
    try:
        if not file.is_pipe:
            bar = Rows(console, f"checking {file.path.name}", total)
            _check_all(file, metric, options, bad, bar)
            # The same rows are bad the second time; print them once.
            bad = _BadRows(Console(quiet=True), options.skip_bad_rows)
        blocks = _acceptable(file, metric, options, bad)
        first = next(blocks, None)
    except KeyboardInterrupt:
        _say(console, "interrupted: nothing was written")
        raise
    if first is None:
        _check_some_are_good(0, bad)
    collection, created = found, False
    if collection is None:
        collection, created = _create(target, name, file, options)
    on_found(collection, created)
    with Rows(console, f"loading {file.path.name}", total) as bar:
        writing = _Writing(collection, file, options, bar)
        try:
            rows, replaced = writing.write(first, blocks)
        except (InvalidArgumentError, OSError):
            if created and writing.is_alone():
                target.drop_collection(name)
                _say(console, f"collection {name} was created for this file and is dropped again")
            raise
        except KeyboardInterrupt:
            of = "" if total is None else f" of {total:,}"
            _say(
                console,
                f"interrupted: at least {bar.rows:,}{of} rows are on disk in collection {name}; "
                "load the file again to replace them and continue",
            )
            raise
    return LoadSummary(rows, replaced, bad.count, bar.elapsed_s)


def _check_all(
    file: VectorFile, metric: Metric, options: LoadOptions, bad: _BadRows, bar: Rows
) -> None:
    """Read a file to its end and check its rows."""
    good = 0
    with bar:
        for block in _acceptable(file, metric, options, bad):
            good += len(block.ids)
            bar.count(block.numbers[-1] + 1)
    _check_some_are_good(good, bad)


def _check_some_are_good(good: int, bad: _BadRows) -> None:
    if good == 0 and bad.first is not None:
        what = f"none of {bad.count:,} rows is good; the first: {bad.first.message}"
        raise InvalidArgumentError(what, bad.first.reason)


def _create(
    target: Target, name: str, file: VectorFile, options: LoadOptions
) -> tuple[CollectionSurface, bool]:
    try:
        metric = options.metric or Metric.COSINE.value
        return target.create_collection(name, file.dim, metric, **options.config), True
    except AlreadyExistsError:  # Another process created it during the check.
        found = find_collection(target, name, file, options)
        if found is None:
            raise
        return found, False


class _Writing:
    """Writes the rows of one load."""

    def __init__(
        self, collection: CollectionSurface, file: VectorFile, options: LoadOptions, bar: Rows
    ) -> None:
        self._collection = collection
        self._batch = options.batch_rows or batch_rows_for(file.dim)
        self._bar = bar
        self._batches = 0

    def write(self, first: Block | None, others: Iterator[Block]) -> tuple[int, int]:
        """Write all blocks; return the number of rows, and of those that replaced others."""
        live_before: int = self._collection.count()
        rows, block = 0, first
        while block is not None:
            kept, start = _without_duplicates(block), block.numbers[0]
            self._batches += -(-len(kept.ids) // self._batch)
            self._collection.upsert_many(
                kept.ids,
                kept.vectors,
                kept.metadata,
                batch_rows=self._batch,
                progress=partial(self._show, start),
            )
            rows += len(block.ids)
            self._bar.count(block.numbers[-1] + 1)
            block = next(others, None)
        grown: int = self._collection.count() - live_before
        return rows, max(0, rows - grown)

    def _show(self, start: int, done: IngestProgress) -> None:
        self._bar.count(start + done.rows)

    def is_alone(self) -> bool:
        """Return whether the collection, which was empty, holds only batches of this load."""
        try:
            return bool(self._collection.stats().seq <= self._batches)
        except VecdbError:
            return False


def _acceptable(
    file: VectorFile, metric: Metric, options: LoadOptions, on_bad: OnBad
) -> Iterator[Block]:
    """Yield the rows of a file that the engine accepts."""
    batch = options.batch_rows or batch_rows_for(file.dim)
    block_rows = batch * max(1, _BLOCK_BYTES // (4 * file.dim * batch))
    for block in file.blocks(block_rows, options.limit, on_bad):
        bad = set()
        for first in range(0, len(block.ids), limits.BATCH_ROWS.maximum):
            rows = range(first, min(first + limits.BATCH_ROWS.maximum, len(block.ids)))
            if _refusal(block, rows, metric) is None:
                continue
            for row in rows:
                error = _refusal(block, range(row, row + 1), metric)
                if error is not None:
                    place = file.place(block.numbers[row])
                    # It was checked on its own, so the message calls it row 0.
                    reason = _ROW_0.sub("", error.message)
                    what = f"{place}, id {str(block.ids[row])[:40]!r}: {reason}"
                    on_bad(wrong(file.path, what))
                    bad.add(row)
        good = [row for row in range(len(block.ids)) if row not in bad]
        if good:
            yield block if not bad else block.only(good)


def _refusal(block: Block, rows: range, metric: Metric) -> InvalidArgumentError | None:
    """Return the error with which the engine would refuse these rows, if any."""
    try:
        checks.check_ids(block.ids[rows.start : rows.stop], unique=False)
        vectors = block.vectors[rows.start : rows.stop]
        checks.check_vectors(vectors, vectors.shape[1], metric)
        if block.metadata is not None:
            # The database may allow less; then it refuses the batch.
            most = limits.METADATA_BYTES.maximum
            checks.check_metadata(block.metadata[rows.start : rows.stop], len(rows), bytes_max=most)
    except InvalidArgumentError as error:
        return error
    return None


def batch_rows_for(dim: int) -> int:
    """Return the number of rows that fit a few megabytes, at most the default batch."""
    assert limits.BATCH_ROWS.default is not None
    return max(1, min(limits.BATCH_ROWS.default, _BATCH_BYTES // (4 * dim)))


def _without_duplicates(block: Block) -> Block:
    """Return the block without duplicate ids, which a batch must not have; the last row wins."""
    last = {str(name): row for row, name in enumerate(block.ids)}
    return block if len(last) == len(block.ids) else block.only(sorted(last.values()))
