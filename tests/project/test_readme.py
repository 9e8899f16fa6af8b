"""README and docs: their Python blocks run as they stand, but for the server's address; their links
hold."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import running_server

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
ADDRESS = "127.0.0.1:7801"


def blocks_of(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


WITH_CODE = [page for page in PAGES if blocks_of(page.read_text())]


@contextlib.contextmanager
def address_for(blocks: list[str], folder: Path) -> Iterator[str]:
    """The address of a server if one of the blocks needs one."""
    if not any(ADDRESS in block for block in blocks):
        yield ADDRESS
        return
    with running_server(folder) as address:
        yield address


def run(page: Path, folder: Path) -> None:
    """Run the blocks of a page from top to bottom, with one set of names."""
    blocks = blocks_of(page.read_text())
    names: dict[str, object] = {}
    with address_for(blocks, folder / "served") as address:
        for block in blocks:
            exec(compile(block.replace(ADDRESS, address), page.name, "exec"), names)


def test_pages_hold_code() -> None:
    names = {page.name for page in WITH_CODE}
    assert {"README.md", "guide.md", "errors.md", "faiss.md"} <= names
    guide = (ROOT / "docs/guide.md").read_text()
    assert "vecdb.open(" in guide and f'vecdb.connect("{ADDRESS}")' in guide


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_a_page_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(page, tmp_path)


def test_the_example_of_the_readme_can_be_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # As a script that is started again, over the data of the first time.
        run(ROOT / "README.md", tmp_path)
    assert capsys.readouterr().out.count("'a'") == 2


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        path = page.parent / target if target else page
        assert path.exists(), link
        assert not anchor or anchor in anchors_of(path), link
