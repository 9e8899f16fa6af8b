"""The README: its Python blocks run as they stand, but for the server's address; its links hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.serving import running_server

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
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
        exec(compile(block, "README.md", "exec"), {})
        return
    with running_server(tmp_path / "served") as address:
        exec(compile(block.replace(ADDRESS, address), "README.md", "exec"), {})
    assert "expected 3 dimensions, got 2" in capsys.readouterr().out


def test_links_lead_to_files() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert "://" in target or (ROOT / target).exists(), target
