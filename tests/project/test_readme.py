"""README and docs: their Python blocks run as they stand, but for the server's address; their links
hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.serving import running_server

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks_of(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


WITH_CODE = [page for page in PAGES[1:] if blocks_of(page.read_text())]
BLOCKS = blocks_of(PAGES[0].read_text())
ADDRESS = "127.0.0.1:7801"


def test_there_are_an_embedded_and_a_remote_example() -> None:
    assert [("vecdb.open" in block, "vecdb.connect" in block) for block in BLOCKS] == [
        (True, False),
        (False, True),
    ]


@pytest.mark.parametrize("block", BLOCKS, ids=["embedded", "remote"])
def test_examples_run(
    block: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if ADDRESS not in block:
        for _ in range(2):  # As a script that is started again, over the data of the first time.
            exec(compile(block, "README.md", "exec"), {})
        return
    with running_server(tmp_path / "served") as address:
        exec(compile(block.replace(ADDRESS, address), "README.md", "exec"), {})
    assert "expected 3 dimensions, got 2" in capsys.readouterr().out


def test_pages_hold_code() -> None:
    assert "faiss.md" in {page.name for page in WITH_CODE}


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_a_page_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks_of(page.read_text()):
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target
