"""tests/README.md names, for each invariant, tests that exist, and the tier that they run in."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROWS = re.findall(
    r"^\| (.+?) \| (.*?) \| (.*?) \|$", (TESTS / "README.md").read_text(), re.MULTILINE
)[2:]


def tier_of(files: list[str]) -> str:
    """The tiers that the tests of some files are in."""
    marks = set()
    for file in files:
        text = (TESTS / file).read_text()
        whole = bool(re.search(r"^pytestmark\b.*\bslow\b", text, re.MULTILINE))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                marked = any("mark.slow" in ast.unparse(each) for each in node.decorator_list)
                marks.add("slow" if whole or marked else "fast")
    return " and ".join(sorted(marks))


def test_every_invariant_names_its_tests_and_their_tier() -> None:
    assert len(ROWS) > 30
    wrong = []
    for invariant, cell, tier in ROWS:
        files = re.findall(r"`([^`]+)`", cell)
        missing = [file for file in files if not (TESTS / file).is_file()]
        if not files or missing or tier != tier_of(files):
            wrong.append((invariant[:60], missing, tier, [] if missing else tier_of(files)))
    assert wrong == []
