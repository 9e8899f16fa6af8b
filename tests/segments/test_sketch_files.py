"""Sketches over the life of a folder: damaged files, earlier versions, copies, other processes, and
the option that does without them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.checking import checked, rewrite_segment
from tests.checking import segments_of as entries_on_disk
from tests.model import Model, flush_now, index_now
from tests.second_process import SecondProcess
from tests.segments.codecs.hostile import clusters, low_rank
from tests.serving import running_server
from tests.waiting import HANG_S
from vecdb.engine.hnsw.graph import Graph
from vecdb.engine.segments import parts
from vecdb.engine.segments.codecs.sketch import Sketch
from vecdb.engine.segments.codecs.sketch_part import SKETCH
from vecdb.engine.segments.part_kind import PartSource
from vecdb.engine.testing import opened_of

DIM, IN_GRAPH, FLAT, FRESH = 50, 1_100, 40, 10
ROWS = low_rank(np.random.default_rng(5), IN_GRAPH + FLAT + FRESH, DIM)
QUERIES = (ROWS[:40:8] + ROWS[1:41:8]) / 2
Damage = Callable[[Path], object]


def names(first: int, count: int) -> list[str]:
    return [f"row-{i}" for i in range(first, first + count)]


def written(folder: Path, **options: Any) -> Model:
    """Write a folder with a graph, a flat segment and a memtable, rows of each deleted."""
    model = Model(DIM, "euclidean")
    with vecdb.open(folder, indexer=False, **options) as database:
        docs = database.create_collection("docs", DIM, "euclidean")
        first = 0
        for count, finish in ((IN_GRAPH, index_now), (FLAT, flush_now), (FRESH, None)):
            ids, rows = names(first, count), ROWS[first : first + count]
            docs.upsert_many(ids, rows)
            model.upsert(ids, rows, None)
            first += count
            if finish is not None:
                flush_now(docs)
                finish(docs)
        docs.delete(names(3, 4) + names(IN_GRAPH + 2, 1))
        model.delete(names(3, 4) + names(IN_GRAPH + 2, 1))
    return model


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model]:
    folder = tmp_path_factory.mktemp("sketches") / "data"
    return folder, written(folder)


@pytest.fixture
def filled(pristine: tuple[Path, Model], tmp_path: Path) -> tuple[Path, Model]:
    shutil.copytree(pristine[0], tmp_path / "data")
    return tmp_path / "data", pristine[1]


def check_searches(docs: Any, model: Model) -> None:
    """Distances are true, and there are k hits, whatever the sketches are like."""
    for query in QUERIES:
        for k in (1, 10, 2_000):
            model.check_hits(docs.search(query, k=k), query, k, exact=False)


def verify_all(docs: Any) -> None:
    while not opened_of(docs).snapshots.verify(lambda: None):
        pass


def graph_stats(docs: Any) -> Any:
    (graph,) = [s for s in docs.stats().segments if s.kind == "graph"]
    return graph


def visited_of(docs: Any) -> list[int]:
    return [docs.search(query).info.visited for query in QUERIES]


def files_of(folder: Path, array: str = "sketch*") -> list[Path]:
    return sorted(folder.glob(f"collections/*/segments/*/{array}.npy"))


def with_random_bytes(path: Path) -> None:
    raw = np.fromfile(path, np.uint8)
    raw[128:] = np.random.default_rng(len(raw)).integers(0, 256, len(raw) - 128)
    path.write_bytes(raw.tobytes())


def with_a_bad_header(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[60] ^= 0x11
    path.write_bytes(raw)


DAMAGES: dict[str, Damage] = {
    "removed": Path.unlink,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "emptied": lambda path: path.write_bytes(b""),
    "header": with_a_bad_header,
}
CASES = [
    *(
        (kind.name, array, with_random_bytes)
        for kind in parts.PART_KINDS
        if not kind.needed
        for array in kind.arrays
    ),
    *((SKETCH.name, "sketches", damage) for damage in DAMAGES.values()),
]


@pytest.mark.parametrize(("part", "array", "damage"), CASES)
def test_damaged_optional_parts_never_change_what_is_true_and_are_rebuilt(
    filled: tuple[Path, Model], part: str, array: str, damage: Damage
) -> None:
    folder, model = filled
    if part != SKETCH.name and not files_of(folder, array):
        pytest.skip(f"a segment of these rows has no part {part}")
    (path,) = files_of(folder, array)
    damage(path)
    with vecdb.open(folder, indexer=False) as database:
        docs = database.collection("docs")
        check_searches(docs, model)
        verify_all(docs)
        with_sketches = part != SKETCH.name
        assert bool(graph_stats(docs).codes) == with_sketches
        assert graph_stats(docs).codes_left_out.startswith("damaged") != with_sketches
        segment = opened_of(docs).snapshots.snapshot().segments[0].segment
        assert segment is not None and part not in segment.parts.names
        assert docs.search(QUERIES[0]).info.verified
        check_searches(docs, model)
        index_now(docs)
        verify_all(docs)
        assert graph_stats(docs).codes.startswith("sketch, 1 line, ")
        segment = opened_of(docs).snapshots.snapshot().segments[0].segment
        assert segment is not None and part in segment.parts.names
        check_searches(docs, model)
    assert checked(folder)[0] == []


@pytest.mark.slow
def test_all_sketch_files_damaged_together(filled: tuple[Path, Model]) -> None:
    folder, model = filled
    for path in files_of(folder):
        with_random_bytes(path)
    with vecdb.open(folder) as database:
        docs = database.collection("docs")
        check_searches(docs, model)
        docs.optimize(timeout_s=HANG_S)
        assert graph_stats(docs).codes.startswith("sketch")
        check_searches(docs, model)


# ---------------------------------------------------------------------------------------- checking


def swapped(sketch: Sketch) -> Sketch:
    codes = sketch.codes.copy()
    codes[[17, 1_018]] = codes[[1_018, 17]]
    return replace(sketch, codes=codes, hub_codes=codes[sketch.hubs])


def with_other_hub_codes(sketch: Sketch) -> Sketch:
    return replace(sketch, hub_codes=np.roll(sketch.hub_codes, 1, axis=0))


def with_a_hub_outside(sketch: Sketch) -> Sketch:
    hubs = sketch.hubs.copy()
    hubs[-1] = len(sketch.codes)
    return replace(sketch, hubs=hubs)


def without_hub_of_lonely(sketch: Sketch) -> Sketch:
    kept = sketch.hubs != LONELY
    return replace(sketch, hubs=sketch.hubs[kept], hub_codes=sketch.hub_codes[kept])


LONELY = 700


def lonely(graph: Graph) -> Graph:
    """Take a node out of all lists of level 0; a walk in float32 reaches it from above."""
    links = graph.links.copy()
    for row in np.flatnonzero((links == LONELY).any(axis=1)):
        kept = links[row][links[row] != LONELY]
        links[row] = -1
        links[row, : len(kept)] = kept
    return replace(graph, links=links)


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (swapped, "2 rows of segment"),
        (with_other_hub_codes, "sketches of hubs differ"),
        (with_a_hub_outside, "a hub is not one of the rows"),
        (without_hub_of_lonely, "1 rows of segment"),
    ],
)
def test_check_finds_planted_sketches(
    filled: tuple[Path, Model],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Sketch], Sketch],
    detail: str,
) -> None:
    folder, model = filled
    plant(folder, monkeypatch, change)
    found = [p.detail for p in checked(folder)[0] if p.kind == "SKETCH"]
    assert len(found) == 1 and detail in found[0], found
    with vecdb.open(folder, indexer=False) as database:
        check_searches(database.collection("docs"), model)


@pytest.mark.slow
@pytest.mark.parametrize("change", [swapped, with_a_hub_outside])
def test_repair_replaces_planted_sketches(
    filled: tuple[Path, Model],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Sketch], Sketch],
) -> None:
    folder, model = filled
    plant(folder, monkeypatch, change)
    problems = vecdb.check(folder, repair=True).problems
    assert {p.kind for p in problems} >= {"SKETCH"} and all(p.repaired for p in problems)
    assert checked(folder)[0] == []
    with vecdb.open(folder, indexer=False) as database:
        check_searches(database.collection("docs"), model)
        assert graph_stats(database.collection("docs")).codes.startswith("sketch")


def plant(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Sketch], Sketch]
) -> None:
    """Write the graph segment again with other sketches, as a defect of their writer would."""
    derive = type(SKETCH).derive

    def planted(self: Any, source: PartSource) -> Any:
        sketch = derive(self, source)
        assert isinstance(sketch, Sketch)
        return change(sketch)

    ((number, _),) = [each for each in entries_on_disk(folder) if each[1].has_graph]
    with monkeypatch.context() as patch:
        patch.setattr(type(SKETCH), "derive", planted)
        as_it_is: Callable[[Graph], Graph] = lambda graph: graph  # noqa: E731
        rewrite_segment(
            folder, number, graph=lonely if change is without_hub_of_lonely else as_it_is
        )


# ------------------------------------------------------------------------ earlier versions, copies


@pytest.fixture
def earlier(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Path, Model]:
    """A folder as a version without sketches writes it."""
    with monkeypatch.context() as patch:
        kinds = tuple(kind for kind in parts.PART_KINDS if not kind.codes)
        patch.setattr(parts, "PART_KINDS", kinds)
        model = written(tmp_path / "earlier")
    assert files_of(tmp_path / "earlier") == []
    return tmp_path / "earlier", model


def test_folder_of_a_version_without_sketches_gets_them_when_it_is_optimized(
    earlier: tuple[Path, Model],
) -> None:
    folder, model = earlier
    with vecdb.open(folder, indexer=False) as database:
        docs = database.collection("docs")
        check_searches(docs, model)
        assert graph_stats(docs).codes_left_out.startswith("written by an earlier version")
        index_now(docs)
        assert graph_stats(docs).codes.startswith("sketch")
        check_searches(docs, model)


@pytest.mark.slow
def test_optimize_gives_an_earlier_graph_sketches_though_it_is_whole(
    earlier: tuple[Path, Model],
) -> None:
    folder, model = earlier
    with vecdb.open(folder, codes="none") as database:
        database.collection("docs").optimize(timeout_s=HANG_S)
        assert graph_stats(database.collection("docs")).codes == ""
    with vecdb.open(folder) as database:
        docs = database.collection("docs")
        before = docs.stats()
        assert before.unindexed_rows == 0 and len(before.segments) == 1
        docs.optimize(timeout_s=HANG_S)
        assert graph_stats(docs).codes.startswith("sketch")
        check_searches(docs, model)
        again = docs.stats().segments
        docs.optimize(timeout_s=HANG_S)
        assert docs.stats().segments == again  # Nothing is written twice.


@pytest.mark.slow
def test_backup_and_compaction_carry_sketches(filled: tuple[Path, Model], tmp_path: Path) -> None:
    folder, model = filled
    with vecdb.open(folder, indexer=False) as database:
        codes = graph_stats(database.collection("docs")).codes
        database.backup(tmp_path / "backup")
    vecdb.restore(tmp_path / "backup", tmp_path / "restored")
    vecdb.restore(tmp_path / "backup", tmp_path / "bare", include_segments=False)
    vecdb.compact(folder)
    for place in (folder, tmp_path / "restored", tmp_path / "bare"):
        with vecdb.open(place, indexer=False) as database:
            docs = database.collection("docs")
            if place.name == "bare":
                assert files_of(place) == []
                flush_now(docs)
                index_now(docs)
            assert graph_stats(docs).codes.startswith("sketch")
            assert place.name != "restored" or graph_stats(docs).codes == codes
            check_searches(docs, model)
        assert checked(place)[0] == []


@pytest.mark.slow
@pytest.mark.parametrize("codes", ["auto", "none"])
def test_imported_graph_gets_sketches(
    filled: tuple[Path, Model], tmp_path: Path, codes: str
) -> None:
    folder, _ = filled
    with vecdb.open(folder, indexer=False) as database:
        database.collection("docs").export_faiss(tmp_path / "docs.faiss")
    with vecdb.open(tmp_path / "other", indexer=False, codes=codes) as database:
        report = database.import_faiss(tmp_path / "docs.faiss", "docs")
        assert report.graph == "taken over"
        docs = database.collection("docs")
        assert graph_stats(docs).codes.startswith("sketch") == (codes == "auto")
        assert len(docs.search(QUERIES[0], k=10)) == 10


def test_two_processes_lose_and_rebuild_sketches_together(filled: tuple[Path, Model]) -> None:
    folder, model = filled
    with SecondProcess() as other, vecdb.open(folder, indexer=False) as database:
        docs = database.collection("docs")
        other.open(folder)
        other.take("docs")
        ours = [docs.search(query, k=10).ids for query in QUERIES]
        assert [other.call("search", query, k=10).ids for query in QUERIES] == ours
        with_random_bytes(files_of(folder, "sketches")[0])  # Under the maps of both.
        check_searches(docs, model)
        other.close()
        other.open(folder)
        other.take("docs")
        verify_all(docs)
        assert graph_stats(docs).codes == ""
        other.index(1 << 40)
        assert graph_stats(docs).codes.startswith("sketch")
        assert other.call("stats").segments == docs.stats().segments
        verify_all(docs)
        check_searches(docs, model)
        other.close()


# --------------------------------------------------------------------------- the option, and stats


def test_codes_none_writes_none_and_uses_none(filled: tuple[Path, Model], tmp_path: Path) -> None:
    folder, _ = filled
    without = tmp_path / "without"
    shutil.copytree(folder, without)
    for path in files_of(without):
        path.unlink()
    with vecdb.open(without, indexer=False) as database:
        in_float = visited_of(database.collection("docs"))
    with vecdb.open(folder, indexer=False) as database:
        assert visited_of(database.collection("docs")) != in_float
    with vecdb.open(folder, indexer=False, codes="none") as database:
        docs = database.collection("docs")
        assert graph_stats(docs).codes  # They are there,
        assert visited_of(docs) == in_float  # and not used.
    fresh = written(tmp_path / "fresh", codes="none")
    assert files_of(tmp_path / "fresh") == []
    with vecdb.open(tmp_path / "fresh", indexer=False) as database:
        docs = database.collection("docs")
        assert graph_stats(docs).codes_left_out == 'written with the option codes "none"'
        check_searches(docs, fresh)
        index_now(docs)
        assert graph_stats(docs).codes


@pytest.mark.slow
def test_option_codes_reaches_the_indexer(tmp_path: Path) -> None:
    for codes, wanted in (("none", False), ("auto", True)):
        with vecdb.open(tmp_path / codes, codes=codes) as database:
            docs = database.create_collection("docs", DIM, "euclidean")
            docs.upsert_many(names(0, IN_GRAPH), ROWS[:IN_GRAPH])
            docs.optimize(timeout_s=HANG_S)
            assert bool(graph_stats(docs).codes) == wanted
        assert bool(files_of(tmp_path / codes)) == wanted


@pytest.mark.parametrize("value", ["None", "", 0, None, "sketch"])
def test_option_codes_is_checked(tmp_path: Path, value: Any) -> None:
    with pytest.raises(vecdb.InvalidArgumentError, match="option codes must be one of auto, none"):
        vecdb.open(tmp_path / "data", codes=value)


def test_stats_say_which_codes_and_why_not(filled: tuple[Path, Model]) -> None:
    folder, _ = filled
    with vecdb.open(folder, indexer=False) as database:
        docs = database.collection("docs")
        graph, flat = docs.stats().segments
        assert graph.codes.startswith("sketch, 1 line, ") and graph.codes_left_out == ""
        assert (flat.codes, flat.codes_left_out) == ("", "")
        small = database.create_collection("small", DIM)
        small.upsert(names(0, 100), ROWS[:100])
        hard = database.create_collection("hard", DIM, "euclidean")
        hard.upsert_many(names(0, 1_000), clusters(np.random.default_rng(5), 1_000, DIM))
        for each in (small, hard):
            flush_now(each)
            index_now(each)
        assert graph_stats(small).codes_left_out == "too small to need any"
        assert "too many candidates" in graph_stats(hard).codes_left_out
        embedded = {name: database.collection(name).stats() for name in ("docs", "hard")}
    with running_server(folder, indexer=False) as address, vecdb.connect(address) as client:
        for name, stats in embedded.items():
            assert client.collection(name).stats().segments == stats.segments
