"""``vecdb search`` and ``vecdb stats``: print tables, or one JSON document for programs."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vecdb import checks, limits
from vecdb.errors import InvalidArgumentError, NotFoundError
from vecdb.filters import Filter
from vecdb.reasons import Reason
from vecdb.surface.collection import CollectionSurface
from vecdb.types import (
    CollectionConfig,
    CollectionStats,
    GroupValue,
    Hits,
    MeasuredRecall,
    SearchInfo,
    SegmentStats,
)
from vecdb_cli.sidecars import mapped
from vecdb_cli.vector_lines import is_number

if TYPE_CHECKING:
    from vecdb_cli.commands.target import Target

__all__ = [
    "SearchOptions",
    "bytes_text",
    "counted",
    "print_all_stats",
    "print_json",
    "print_search",
    "print_stats",
    "print_unindexed",
    "read_vector",
]


_UNINDEXED_ROWS_SAID = 4_000
"""Least number of rows in no graph for a hint: fewer are scanned as fast as a graph is walked."""


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """The options of a search: for the neighbours of a stored row (``id``), of a ``vector``, or of
    several stored rows (``near``). k: 0 for all within ``max_distance``."""

    id: str | None
    vector: str | None
    k: int
    ef: int | None
    recall: float | None
    exact: bool
    near: list[str] | None = None
    away: list[str] | None = None
    max_distance: float | None = None
    filter: Filter | None = None
    group_by: str | None = None
    group_size: int | None = None


def print_search(
    console: Console,
    target: Target,
    name: str,
    options: SearchOptions,
    *,
    as_json: bool,
    place: str = "",
) -> None:
    """Search and print the hits. The row given by ``id`` is not among them.

    Args:
        place: the option that names the target, as ``place_of`` gives it.
    """
    if [options.id, options.vector, options.near].count(None) != 2:
        raise InvalidArgumentError("give one of --id, --vector and --near")
    collection = target.collection(name)
    if options.id is not None and options.group_by is not None:
        options = dataclasses.replace(options, id=None, near=[options.id])
    if options.id is None:
        query = None if options.vector is None else read_vector(options.vector)
        hits = _searched(collection, query, options.k, options)
        chosen = list(range(len(hits)))
    else:
        found = collection.get([options.id])
        if found.missing:
            raise NotFoundError(
                f"collection {name!r} holds no id {options.id!r}", Reason.NO_SUCH_ID
            )
        # The row is a neighbour of itself, so ask for one more.
        everything = options.k == 0 and options.max_distance is not None
        k = limits.K.maximum if everything else checks.check_k(options.k, 1)
        more = 0 if everything else min(k + 1, limits.K.maximum)
        hits = _searched(collection, found.vectors[0].tolist(), more, options)
        chosen = [row for row, hit in enumerate(hits.ids) if hit != options.id][:k]
    if as_json:
        print_json(_search_document(name, hits, chosen))
    else:
        console.print(_search_table(hits, chosen))
        info = hits.info
        way = "exactly" if info.exact else _effort_of(info)
        passed = info.deleted_visited
        through = f"{passed:,} deleted rows visited; " if passed else ""
        compared = f"{info.visited:,} of {info.matches:,} vectors compared"
        if options.filter is not None:
            compared = f"{info.visited:,} vectors compared; {counted(info.matches, 'matching row')}"
        _say(console, f"{info.plan}, {way}; {compared}; {through}seq {info.seq}")
        if options.filter is None:
            _say_unindexed(console, place, name, info.unindexed_rows, info.matches)


def _searched(
    collection: CollectionSurface, query: Sequence[float] | None, k: int, options: SearchOptions
) -> Hits:
    everything = k == 0 and options.max_distance is not None
    arguments: dict[str, Any] = {
        "query": query,
        "k": None if everything else k,
        "ef": options.ef,
        "target_recall": options.recall,
        "exact": options.exact,
        "near": options.near,
        "away": options.away,
        "max_distance": options.max_distance,
        "group_by": options.group_by,
        "group_size": options.group_size,
        "filter": options.filter,
    }
    hits: Hits = collection.search(**arguments)
    return hits


def _effort_of(info: SearchInfo) -> str:
    """Return what the effort of graph walks rests on."""
    recall = info.recall
    if recall is None:
        return f"ef {info.ef}"
    return f"recall {recall.expected:.3f} expected, at least {recall.lower:.3f}"


def print_unindexed(console: Console, target: Target, name: str, place: str) -> None:
    """Print a hint after a load that left many rows in no graph."""
    stats = target.collection(name).stats()
    _say_unindexed(console, place, name, stats.unindexed_rows, stats.live_count)


def _say_unindexed(console: Console, place: str, name: str, unindexed: int, live: int) -> None:
    """Print a hint if so many rows are in no graph that searches take longer."""
    if unindexed >= _UNINDEXED_ROWS_SAID:
        _say(
            console,
            f"{unindexed:,} of {live:,} rows are in no graph yet, so each search scans them; "
            f"to index them now: vecdb optimize {name}{place}",
        )


def read_vector(text: str) -> list[float]:
    """Return a query from the command line: numbers with commas, or the name of an .npy file.

    Raises:
        InvalidArgumentError: the text is neither.
    """
    if text.endswith(".npy"):
        array = mapped(Path(text))
        if array.size != array.shape[-1]:
            raise InvalidArgumentError(f"{text}: expected one vector, got shape {array.shape}")
        numbers: list[float] = array.reshape(-1).tolist()
        return numbers
    parts = [part.strip() for part in text.split(",")]
    if not all(is_number(part) for part in parts):
        raise InvalidArgumentError(
            f'a vector is "0.1,0.2,..." or the name of an .npy file, got {text[:40]!r}'
        )
    return [float(part) for part in parts]


def _search_table(hits: Hits, chosen: list[int]) -> Table:
    metadata = hits.metadata
    groups = _group_of_each(hits)
    table = Table(*(["group"] if groups else []), "id", box=None, pad_edge=False)
    table.add_column("distance", justify="right")
    with_metadata = any(metadata[row] for row in chosen)
    if with_metadata:
        table.add_column("metadata", overflow="fold")
    for row in chosen:
        cells: list[str | Text] = [_literal(json.dumps(groups[row]))] if groups else []
        cells += [_literal(hits.ids[row]), f"{hits.distances[row]:.6f}"]
        if with_metadata:
            cells.append(_literal(json.dumps(metadata[row], ensure_ascii=False)))
        table.add_row(*cells)
    return table


def _group_of_each(hits: Hits) -> list[GroupValue]:
    """Return the value of the group of each hit; empty if hits are not grouped."""
    return [value for value, size in hits.group_sizes or () for _ in range(size)]


def _search_document(name: str, hits: Hits, chosen: list[int]) -> dict[str, object]:
    metadata, groups = hits.metadata, _group_of_each(hits)
    return {
        "collection": name,
        "hits": [
            {
                **({"group": groups[row]} if groups else {}),
                "id": hits.ids[row],
                "distance": float(hits.distances[row]),
                "metadata": metadata[row],
            }
            for row in chosen
        ],
        "info": hits.info._asdict(),
    }


def print_stats(
    console: Console, target: Target, name: str, *, as_json: bool, place: str = ""
) -> None:
    """Print one collection with its segments."""
    collection = target.collection(name)
    config, stats = collection.config, collection.stats()
    if as_json:
        print_json(_stats_document(name, config, stats))
        return
    facts = Table("", "", box=None, show_header=False, pad_edge=False)
    for what, value in (
        ("collection", name),
        ("rows", f"{stats.live_count:,}, dim {config.dim}, {config.metric}"),
        ("graph", f"M {config.M}, ef_construction {config.ef_construction}"),
        ("index fields", _index_fields_text(config)),
        (
            "in no graph yet",
            f"{counted(stats.unindexed_rows, 'row')}, {stats.fresh_rows:,} of them in the memtable",
        ),
        ("seq, generation", f"{stats.seq}, {stats.generation}"),
        ("rows ever added", f"{stats.next_row:,}, flushed up to {stats.sealed_to:,}"),
        (
            "on disk",
            f"store {bytes_text(stats.store_bytes)}, segments {bytes_text(stats.segment_bytes)}",
        ),
        ("indexer", stats.indexer),
        ("recall, last hour", _recall_text(stats.recall_hour)),
        ("recall, last day", _recall_text(stats.recall_day)),
        ("oldest scroll", _lease_text(stats)),
        ("readers", _readers_text(stats)),
    ):
        facts.add_row(what, _literal(value))
    console.print(facts)
    _say_unindexed(console, place, name, stats.unindexed_rows, stats.live_count)
    if stats.segments:
        table = Table("segment", "kind", box=None, pad_edge=False)
        for heading in ("first row", "end row", "rows", "deleted", "size"):
            table.add_column(heading, justify="right")
        table.add_column("codes")
        for segment in stats.segments:
            table.add_row(
                str(segment.number),
                segment.kind,
                *(
                    f"{number:,}"
                    for number in (
                        segment.first_row,
                        segment.end_row,
                        segment.rows,
                        segment.dead,
                    )
                ),
                bytes_text(segment.bytes),
                _codes_text(segment),
            )
        console.print()
        console.print(table)
        _print_columns(console, stats.segments)


def _print_columns(console: Console, segments: Sequence[SegmentStats]) -> None:
    """Print what of the metadata is indexed in each segment, and what is not and why."""
    table = Table("segment", box=None, pad_edge=False)
    table.add_column("indexed metadata", overflow="fold")
    table.add_column("not indexed", overflow="fold")
    for segment in segments:
        table.add_row(
            str(segment.number),
            _literal(segment.columns or "none"),
            _literal(segment.columns_left_out),
        )
    console.print()
    console.print(table)


def _index_fields_text(config: CollectionConfig) -> str:
    if config.index_fields is None:
        return "all within limits"
    return ", ".join(config.index_fields) or "none"


def _codes_text(segment: SegmentStats) -> str:
    if segment.codes and segment.codes_left_out:
        return f"{segment.codes}; {segment.codes_left_out}"
    if segment.codes_left_out:
        return f"none: {segment.codes_left_out}"
    return segment.codes or "none"


def _recall_text(recall: MeasuredRecall | None) -> str:
    if recall is None:
        return "not measured"
    return (
        f"{recall.measured:.3f} ({recall.low:.3f} to {recall.high:.3f}), promised "
        f"{recall.promised:.3f}, {recall.queries:,} quer{'y' if recall.queries == 1 else 'ies'}"
    )


def _lease_text(stats: CollectionStats) -> str:
    if stats.oldest_pin_seq is None or stats.oldest_pin_expires_s is None:
        return "none"
    left_s = max(0.0, stats.oldest_pin_expires_s)
    return f"at seq {stats.oldest_pin_seq}, expires in {left_s:.0f} s unless it is continued"


def _readers_text(stats: CollectionStats) -> str:
    if stats.readers == 0:
        return "none"
    return f"{stats.readers:,}, the oldest {stats.oldest_reader_lag:,} commits behind"


def print_all_stats(console: Console, target: Target, *, as_json: bool, place: str = "") -> None:
    """Print all collections, one per line."""
    collections = [target.collection(each.name) for each in target.list_collections()]
    if as_json:
        print_json([_stats_document(each.name, each.config, each.stats()) for each in collections])
        return
    if not collections:
        _say(console, "no collections")
        return
    table = Table("collection", "metric", box=None, pad_edge=False)
    for heading in ("dim", "rows", "in no graph yet", "seq", "on disk"):
        table.add_column(heading, justify="right")
    table.add_column("indexer")
    known = [(each, each.stats()) for each in collections]
    for each, stats in known:
        table.add_row(
            each.name,
            str(each.config.metric),
            str(each.dim),
            f"{stats.live_count:,}",
            f"{stats.unindexed_rows:,}",
            str(stats.seq),
            bytes_text(stats.store_bytes + stats.segment_bytes),
            _literal(stats.indexer),
        )
    console.print(table)
    for each, stats in known:
        _say_unindexed(console, place, each.name, stats.unindexed_rows, stats.live_count)


def _stats_document(
    name: str, config: CollectionConfig, stats: CollectionStats
) -> dict[str, object]:
    return {
        "collection": name,
        "config": dataclasses.asdict(config),
        "stats": dataclasses.asdict(stats),
    }


def counted(count: int, noun: str) -> str:
    """Return "1 row", or "1,234 rows"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def bytes_text(count: int) -> str:
    """Return a size with its unit."""
    if count < 1024:
        return f"{count} B"
    power = min((count.bit_length() - 1) // 10, 4)
    return f"{count / 1024**power:.1f} {'KMGT'[power - 1]}iB"


def print_json(document: object) -> None:
    """Print one document on stdout."""
    # Not through rich, which wraps and colours.
    json.dump(document, sys.stdout, ensure_ascii=False, indent=1)
    sys.stdout.write("\n")


def _say(console: Console, text: str) -> None:
    console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)


def _literal(text: str) -> Text:
    """Return text from users, in which nothing is markup."""
    return Text(text)
