"""The picture in the README is what the suite draws from the committed results."""

from __future__ import annotations

import xml.etree.ElementTree
from pathlib import Path

import pytest

from vecdb.errors import InvalidArgumentError
from vecdb_bench.report.picture import picture
from vecdb_bench.results import read_results
from vecdb_cli.command_line import run

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks/results/recall.jsonl"
BYTES_MAX = 60_000


def test_the_committed_picture_is_drawn_from_the_committed_results() -> None:
    committed = (ROOT / "docs/recall.svg").read_text(encoding="utf-8")
    lines = read_results(RESULTS)
    assert committed == picture(lines), "run: vecdb bench report --picture docs/recall.svg"
    assert len(committed.encode()) <= BYTES_MAX
    targets = {line["target"] for line in lines if line["scenario"] == "search"}
    tree = xml.etree.ElementTree.fromstring(committed)
    assert len(tree.findall(".//{*}polyline")) == len(targets) > 10


def test_a_picture_of_no_results_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="no searches"):
        picture([])


def test_the_command_writes_the_picture(tmp_path: Path) -> None:
    page, svg = tmp_path / "page.html", tmp_path / "recall.svg"
    command = ["bench", "report", "--results", str(RESULTS), "--html", str(page)]
    assert run([*command, "--picture", str(svg)]) == 0
    assert svg.read_bytes() == (ROOT / "docs/recall.svg").read_bytes()
    assert page.exists()
