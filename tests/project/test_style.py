"""The written style, as far as a machine can see it; ruff sees the rest."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("vecdb", "proto", "client", "server", "benchmarks", "tests")
TEXT_SUFFIXES = {".md", ".toml", ".proto", ".py", ".pyi", ""}
LINE_MAX = 100
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 500

GENERATED = re.compile(r"_pb2(_grpc)?\.pyi?$")
MODULES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if not GENERATED.search(path.name)
)
TEXTS = sorted(
    {
        *MODULES,
        *(path for path in (ROOT / "proto").rglob("*.proto")),
        *(path for path in (ROOT / "docs").glob("*.md")),
        *(path for path in ROOT.glob("*") if path.is_file() and path.suffix in TEXT_SUFFIXES),
    }
)

# Places on somebody's machine, and numbers of a tracker that a reader of the code can't open.
FORBIDDEN = re.compile(
    r"/(home|root|Users|work)/\w|\bissue\s+#|\bTO[D]O\b|\bFIXM[E]\b", re.IGNORECASE
)
FREE_OF_RULES = {"LICENSE", ".git"}  # In a linked worktree .git is a file.


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def faults_of_module(path: Path) -> list[str]:
    text = path.read_text()
    tree = ast.parse(text)
    count = len(text.splitlines())
    faults = []
    if count > FILE_LINES_MAX and path.relative_to(ROOT).parts[0] != "tests":
        faults.append(f"{count} lines")
    if path.stat().st_size and not ast.get_docstring(tree):
        faults.append("no docstring: what the module is and how it works")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                faults.append(f"{node.name} has {lines} lines")
    return [f"{name_of(path)}: {fault}" for fault in faults]


def faults_of_text(path: Path) -> list[str]:
    if path.name in FREE_OF_RULES:
        return []
    wrong = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        # Python's lines are ruff's matter; a table of Markdown and an address can't be broken.
        breakable = path.suffix in {".proto", ".toml"} or (
            path.suffix == ".md" and not line.startswith("|") and "://" not in line
        )
        if len(line) > LINE_MAX and breakable:
            wrong.append(f"{name_of(path)}:{number}: {len(line)} characters")
        if found := FORBIDDEN.search(line):
            wrong.append(f"{name_of(path)}:{number}: {found[0]!r}")
        if line != line.rstrip():
            wrong.append(f"{name_of(path)}:{number}: space at the end")
    return wrong


@pytest.mark.slow
def test_modules_have_docstrings_and_bounded_lengths() -> None:
    assert len(MODULES) > 300
    assert [fault for path in MODULES for fault in faults_of_module(path)] == []


def test_lines_are_short_and_name_nothing_private() -> None:
    assert len(TEXTS) > 300
    assert [fault for path in TEXTS for fault in faults_of_text(path)] == []


def test_faults_are_found(tmp_path: Path) -> None:
    code = "def f():\n" + "    pass\n" * FUNCTION_LINES_MAX
    page = tmp_path / "page.md"
    page.write_text("x" * (LINE_MAX + 1) + "\n" + "TO" + "DO \n")
    module = tmp_path / "bad.py"
    module.write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.project.test_style.ROOT", tmp_path)
        assert len(faults_of_text(page)) == 3
        assert len(faults_of_module(module)) == 2
