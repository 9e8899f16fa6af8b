"""The benchmark suite runs, tiny: scenarios check their answers, results resume, reports parse."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vecdb.errors import (
    FailedPreconditionError,
)
from vecdb_bench import suite
from vecdb_bench.data.dataset import prepare
from vecdb_bench.data.truth import true_neighbours
from vecdb_bench.report import table
from vecdb_bench.report.page import page
from vecdb_bench.results import read_results
from vecdb_bench.scenarios import SCENARIOS, filtered
from vecdb_cli import command_line

# The first test of each fixture waits for all of its scenarios.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache, so that the data set is prepared once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def lines(cache: Path) -> list[dict[str, Any]]:
    """What a tiny run of the scenarios that compare targets has found."""
    return measured(
        cache,
        "results.jsonl",
        replace(suite.TINY, targets=("hnswlib",)),
        replace(suite.TINY, targets=("vecdb",), scenarios=("search", "recovery")),
        replace(
            suite.TINY,
            targets=("vecdb-served", "echo"),
            scenarios=("search", "latency", "ingest"),
            scale=replace(suite.TINY.scale, clients=(1, 2)),
        ),
        replace(suite.TINY, targets=("faiss", "vecdb"), scenarios=("churn",)),
    )


@pytest.fixture(scope="module")
def parts(cache: Path) -> list[dict[str, Any]]:
    """What a tiny run of the scenarios of vecdb alone has found."""
    return measured(
        cache,
        "parts.jsonl",
        replace(suite.TINY, targets=("vecdb",), scenarios=("opening", "walk", "contract", "call")),
        replace(suite.TINY, targets=("vecdb",), scenarios=("memory", "metadata")),
        replace(suite.TINY, targets=("vecdb", "faiss"), scenarios=("filtered",)),
        replace(suite.TINY, targets=("vecdb-served",), scenarios=("wire", "exchange")),
        replace(suite.TINY, targets=("vecdb-served", "hnswlib"), scenarios=("beside",)),
        replace(suite.TINY, targets=("lmdb", "vecdb"), scenarios=("full_store",)),
    )


def measured(cache: Path, name: str, *plans: suite.Plan) -> list[dict[str, Any]]:
    prepare(suite.TINY.datasets[0], cache, queries=suite.TINY.queries)
    files = [cache / f"{at}-{name}" for at in range(len(plans))]
    # At once, since most of it is waiting for processes to start; no figure of speed counts here.
    with ThreadPoolExecutor() as pool:
        runs = [
            pool.submit(suite.run, plan, file, cache)
            for plan, file in zip(plans, files, strict=True)
        ]
        for run in runs:
            run.result()
    path = cache / name
    path.write_text("".join(file.read_text() for file in files))
    found = read_results(path)
    assert [line for line in found if line["status"] == "failed"] == []
    return found


def figures(lines: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    return [
        line["figures"]
        for line in lines
        if line["status"] == "measured"
        and all(line.get(name, line["point"].get(name)) == value for name, value in wanted.items())
    ]


@pytest.mark.slow
def test_recall_is_what_it_should_be(lines: list[dict[str, Any]]) -> None:
    for target in ("hnswlib", "vecdb", "vecdb-served"):
        found = figures(lines, scenario="search", target=target, effort=100, k=10)
        assert len(found) >= 3
        assert min(each["recall_10"] for each in found) > 0.95
        assert min(each["recall_1"] for each in found) > 0.95
        assert figures(lines, scenario="search", target=target, k=100)[0]["recall_100"] > 0.9
        assert min(each["queries_per_s"]["min"] for each in found) > 0
    # The check is checked: what finds nothing has no recall, however fast it is.
    nothing = figures(lines, scenario="search", target="echo", effort=100, k=10)
    assert nothing and max(each["recall_10"] for each in nothing) == 0.0


def test_churn_and_recovery_keep_their_promises(lines: list[dict[str, Any]]) -> None:
    for target in ("vecdb", "hnswlib"):
        churned = figures(lines, scenario="churn", target=target)
        assert len(churned) == 6
        assert min(each["recall_10"] for each in churned) > 0.95
        assert min(each["queries_per_s"]["min"] for each in churned) > 0
    assert all(
        each["answers_with_fewer"] == 0 for each in figures(lines, target="vecdb", effort=64)
    )
    (killed,) = figures(lines, scenario="recovery", target="vecdb")
    assert killed["rows_lost_in_all"] == 0
    assert killed["rows_acknowledged"]["min"] >= 400 // 3
    assert killed["recall_10"]["min"] > 0.95
    assert 0 < killed["restart_s"]["min"] <= killed["restart_s"]["median"]
    (told,) = (x for x in lines if x["scenario"] == "recovery" and x["target"] == "hnswlib")
    assert told["status"] == "cannot" and "memory" in told["error"]


def test_latency_ingest_size_and_wire(lines: list[dict[str, Any]]) -> None:
    loops = figures(lines, scenario="latency", target="hnswlib", clients=1)
    assert len(loops) == 3
    for each in loops:
        assert 0 < each["p50_ms"] <= each["p99_ms"] <= each["max_ms"]
        assert each["recall_10"] > 0.95
    assert figures(lines, scenario="latency", target="echo")
    served = figures(lines, scenario="latency", target="vecdb-served", clients=2)
    assert len(served) == 3
    assert min(each["recall_10"] for each in served) > 0.95
    for target, status in (("vecdb-served", "measured"), ("hnswlib", "cannot")):
        of_uuids = [line for line in lines if line["point"].get("ids") == "uuid"]
        assert [x["status"] for x in of_uuids if x["target"] == target] == [status]
    written = figures(lines, scenario="ingest", target="hnswlib", batch=100)
    assert written and min(each["rows_per_s"]["min"] for each in written) > 0
    (fitted,) = figures(lines, scenario="size", what="exponents")
    assert "search_p50_ms" in fitted


def test_searches_beside_writes_and_writes_into_a_full_store(parts: list[dict[str, Any]]) -> None:
    for state in ("filling", "idle", "half", "full", "before", "bulk", "indexing"):
        (beside,) = figures(parts, scenario="beside", target="vecdb-served", state=state)
        assert beside["calls"] > 0
        assert (beside["rows_per_s"] > 0) == (state in ("filling", "half", "full", "bulk"))
        assert ("seconds" in beside) == (state not in ("idle", "before"))
        assert 0 <= beside["unindexed_bytes"]["median"] <= 400 * 200
    (refused,) = (x for x in parts if x["scenario"] == "beside" and x["target"] == "hnswlib")
    assert refused["status"] == "cannot"
    for target in ("lmdb", "vecdb"):
        (written,) = figures(parts, scenario="full_store", target=target, rows_before=300)
        assert written["rows_per_s"]["min"] > 0


def test_recall_asked_for_beside_hnswlib_and_by_rows(parts: list[dict[str, Any]]) -> None:
    (ours,) = figures(parts, scenario="contract", target="vecdb", asked=0.95, rows=None)
    assert ours["recall_10"] > 0.9 and ours["expected"] >= 0.95
    assert min(ours[name]["min"] for name in ("mean_us", "batch_us")) > 0
    (theirs,) = figures(parts, scenario="contract", target="hnswlib", effort=100)
    assert theirs["recall_10"] > 0.9 and theirs["batch_us"]["min"] > 0
    for rows in (200, 400):
        (grown,) = figures(parts, scenario="contract", rows=rows)
        assert grown["recall_10"] > 0.9 and grown["visited"] > 0
    (fitted,) = figures(parts, scenario="contract", what="exponents")
    assert set(fitted) == {"mean_us", "visited"}


def test_searches_with_a_filter_find_what_matches(
    lines: list[dict[str, Any]], parts: list[dict[str, Any]]
) -> None:
    for target, ways in (("vecdb", ("cold", "warm", "scan")), ("faiss", ("cold", "warm"))):
        for way in ways:
            found = figures(parts, scenario="filtered", target=target, way=way)
            assert len(found) == 2 * 2 + (way == "warm")
            assert max(each["rows_that_do_not_match"] for each in found) == 0
            assert min(each["queries_per_s"]["min"] for each in found) > 0
            assert all(0 < each["p50_ms"] <= each["p99_ms"] for each in found)
    # A target that aims at a recall is asked with its own effort; the others' is looked for.
    ours = figures(parts, scenario="filtered", target="vecdb", way="cold")
    assert {each["effort"] for each in ours} == {0}
    assert min(each["recall_10"] for each in ours) > 0.95
    exact = figures(parts, scenario="filtered", target="vecdb", way="scan")
    assert min(each["recall_10"] for each in exact) == 1.0
    theirs = figures(
        parts, scenario="filtered", target="faiss", way="cold", condition="independent"
    )
    assert max(each["recall_10"] for each in theirs) > 0.95
    (refused,) = (x for x in lines if x["scenario"] == "filtered" and x["target"] == "hnswlib")
    assert refused["status"] == "cannot" and "no fields" in refused["error"]


def test_conditions_select_the_share_of_rows_that_they_say(cache: Path) -> None:
    """The truth of a condition is that of a comparison of all rows that match."""
    dataset = prepare(suite.TINY.datasets[0], cache, queries=suite.TINY.queries)
    rows = filtered.Rows(dataset)
    base, queries = np.asarray(dataset.base), np.asarray(dataset.queries)
    for condition in filtered.CONDITIONS:
        for share in (50.0, 5.0, 0.1):
            point = filtered.Point(condition, share)
            bounds = rows.bounds(point, 0, repeated=False)
            again = rows.bounds(point, 1, repeated=False)
            assert len({tuple(pair) for pair in bounds.tolist()}) == len(queries)
            assert not (bounds == again).all(axis=1).any()
            assert len(np.unique(rows.bounds(point, 0, repeated=True), axis=0)) <= 2
            values = rows.fields[condition]
            found = np.full((len(queries), filtered.K), -1)
            wrong = found.copy()
            for at, (low, high) in enumerate(bounds.tolist()):
                matching = np.flatnonzero((values >= low) & (values < high))
                assert abs(len(matching) - share * 10) < 60
                others = np.flatnonzero((values < low) | (values >= high))
                wrong[at] = others[: filtered.K]
                if not len(matching):
                    continue
                nearest = true_neighbours(base[matching], queries[at : at + 1], "cosine", 10)[0][0]
                found[at, : len(nearest)] = matching[nearest]
            assert rows.recall(point, (0, False), bounds, found) == (1.0, 0)
            assert rows.recall(point, (0, False), bounds, wrong)[1] == wrong.size
    near = rows.bounds(filtered.Point("correlated", 1.0), 0, repeated=False)
    matching = (rows.fields["correlated"] >= near[0, 0]) & (rows.fields["correlated"] < near[0, 1])
    assert (base[matching] @ queries[0]).mean() < (base @ queries[0]).mean()


def test_rows_with_metadata_are_written_counted_and_changed(parts: list[dict[str, Any]]) -> None:
    (written,) = figures(parts, scenario="metadata", what="ingest")
    assert min(each["min"] for each in written.values()) > 0
    (read,) = figures(parts, scenario="metadata", what="reads")
    assert {"count_us", "search_us", "fields_us"} <= set(read)
    (changed,) = figures(parts, scenario="metadata", what="changes")
    assert 80 <= changed["rows_changed"] <= 120  # A quarter of 400 rows, by a random number.
    assert changed["delete_rows_per_s"]["min"] > 0 < changed["set_metadata_rows_per_s"]["min"]


def test_memory_is_limited_to_a_quarter_or_the_reason_is_given(
    parts: list[dict[str, Any]],
) -> None:
    """The tiny collection is too small for a limit; without one both ways are measured."""
    for codes in ("auto", "none"):
        (free,) = figures(parts, scenario="memory", codes=codes, limited=False)
        assert free["recall_10"] > 0.9 and free["queries_per_s"]["min"] > 0
    refused = [x for x in parts if x["scenario"] == "memory" and x["point"]["limited"]]
    assert [x["status"] for x in refused] == ["cannot", "cannot"]
    assert all("less than" in x["error"] for x in refused)


def test_vecdb_beside_its_parts(parts: list[dict[str, Any]]) -> None:
    ours, theirs = (
        figures(parts, scenario="walk", target=name, effort=100) for name in ("vecdb", "hnswlib")
    )
    assert ours[0]["recall_10"] == pytest.approx(theirs[0]["recall_10"], abs=0.01)
    assert min(each[0]["queries_per_s"]["min"] for each in (ours, theirs)) > 0
    for with_metadata in (False, True):
        (call,) = figures(parts, scenario="call", metadata=with_metadata)
        assert call["recall_10"] > 0.8 and call["python_calls"] > 0 < call["kernel_us"]["min"]
        assert call["outside_us"]["min"] > 0
    (threads,) = figures(parts, scenario="call", threads=4)
    assert threads["times_one"]["min"] > 0
    for rows in (200, 400):
        assert figures(parts, scenario="opening", rows=rows)[0]["open_s"]["min"] > 0
    assert figures(parts, scenario="opening", what="snapshot")[0]["check_us"]["min"] > 0
    (wire,) = figures(parts, scenario="wire", what="wire")
    assert wire["bytes_a_vector_bare"] == 200 < wire["bytes_a_vector_many"] < 201
    (query,) = figures(parts, scenario="wire", what="one query")
    assert query["recall_10"] > 0.95
    assert query["over_grpc_us"]["min"] > query["in_process_us"]["min"] > 0
    assert {"echo_us", "added_us", "tight_echo_us", "tight_added_us"} <= set(query)
    (exchanged,) = figures(parts, scenario="exchange")
    assert exchanged["same_answers_as_faiss"] > 0.95
    assert min(exchanged[x]["min"] for x in ("export_s", "import_s", "faiss_build_s")) > 0


def test_a_line_says_all_that_repeating_needs(
    lines: list[dict[str, Any]], parts: list[dict[str, Any]]
) -> None:
    assert {line["scenario"] for line in [*lines, *parts]} == set(SCENARIOS)
    for line in [*lines, *parts]:
        told = line["provenance"]
        assert {"commit", "processor", "cores", "packages", "load_average", "time"} <= set(told)
        assert {"seed", "queries"} <= set(told)
        if line["status"] == "measured" and line["scenario"] in ("search", "latency"):
            assert told["target_version"]
        assert line["settings"]["M"] == 16 and line["settings"]["rounds"] == 1
        assert line["data"].startswith("glove-50")


def test_what_is_there_is_not_measured_again(
    lines: list[dict[str, Any]], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes((cache / "results.jsonl").read_bytes())
    before = path.read_bytes()

    def none(*arguments: Any) -> None:
        raise AssertionError("a worker was started")

    with monkeypatch.context() as patched:
        patched.setattr("vecdb_bench.scenarios.context.WorkerProcess", none)
        suite.run(replace(suite.TINY, targets=("hnswlib",)), path, cache)
        # FAISS can't replace rows: that it can't is known, too.
        suite.run(replace(suite.TINY, targets=("faiss",), scenarios=("churn",)), path, cache)
    assert path.read_bytes() == before
    plan = replace(suite.TINY, targets=("hnswlib",), scenarios=("size",))
    suite.run(plan, path, cache, again=True)
    # Two sizes and the exponents of growth.
    assert len(path.read_bytes().splitlines()) == len(before.splitlines()) + 3
    assert len(read_results(path)) == len(lines)


class _Page(HTMLParser):
    """Checks that elements close in order and that nothing comes from elsewhere."""

    void = frozenset({"meta", "path", "polyline", "!doctype"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        assert not {"src", "href"} & {name for name, _ in attrs}
        if tag not in {"meta"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_stands_alone(
    lines: list[dict[str, Any]], parts: list[dict[str, Any]]
) -> None:
    hostile = {**lines[0], "status": "failed", "error": "<script>x</script>", "point": {"n": 1}}
    html = page([*lines, *parts, hostile])
    parser = _Page()
    parser.feed(html)
    assert parser.open == []
    assert parser.counts["polyline"] > 10 and parser.counts["table"] >= 12
    assert "script" not in parser.counts and "&lt;script&gt;" in html
    assert "@import" not in html and "url(" not in html


def test_the_table_goes_between_its_markers(lines: list[dict[str, Any]], tmp_path: Path) -> None:
    text = table.markdown(lines)
    rows = [line for line in text.splitlines() if line.startswith("| vecdb, embedded")]
    assert len(rows) == 1 and rows[0].count("|") == 11
    (first, *_) = figures(lines, scenario="latency", target="hnswlib")
    assert f"({first['recall_10']:.3f})" in text
    failed = [{**x, "status": "failed"} if x["scenario"] == "recovery" else x for x in lines]
    assert table.markdown(failed).count("failed") == 4  # Two targets, two columns.
    path = tmp_path / "page.md"
    path.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.replace_between_markers(path, text)
    table.replace_between_markers(path, text)
    assert path.read_text() == f"before\n{table.BEGIN}\n{text}{table.END}\nafter\n"
    path.write_text("nothing")
    with pytest.raises(FailedPreconditionError, match="no lines"):
        table.replace_between_markers(path, text)


def test_the_tables_of_filters_go_between_markers_of_their_own(
    parts: list[dict[str, Any]], tmp_path: Path
) -> None:
    some = [line for line in parts if line["scenario"] == "filtered"]
    path = tmp_path / "page.md"
    begin, end = table.FILTERED
    path.write_text(f"{table.BEGIN}\nkept\n{table.END}\n{begin}\nold\n{end}\n")
    table.write_tables(path, some)
    text = path.read_text()
    assert "kept" in text and "old" not in text
    rows = [line for line in text.splitlines() if line.startswith("| vecdb, embedded")]
    assert len(rows) == 4 and all(row.count("|") == 5 for row in rows)
    (cold,) = figures(
        some, target="vecdb", way="cold", condition="correlated", passing_percent=50.0
    )
    assert f" {cold['queries_per_s']['median']:,.0f} |" in text
    assert text.count("times its speed without a filter") == 4
    path.write_text(f"{table.BEGIN}\nold\n{table.END}\n")
    table.write_tables(path, parts)
    assert "old" not in path.read_text() and "without a filter" not in path.read_text()


def test_the_commands(
    lines: list[dict[str, Any]], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = ["--results", str(cache / "results.jsonl")]
    assert command_line.run(["bench", "data", "glove-50:1000", "--cache", str(cache)]) == 0
    assert command_line.run(["bench", "report", *results]) == 0
    said = capsys.readouterr().out
    assert "1,000 × 50, cosine" in said
    assert (cache / "results.html").read_text() == page(lines)
    run = ["bench", "run", *results, "--plan", "tiny", "--target", "hnswlib"]
    assert command_line.run([*run, "--scenario", "size", "--cache", str(cache)]) == 0
    assert command_line.run(["bench", "run", "--plan", "none"]) == 1
    assert "none" in capsys.readouterr().err
