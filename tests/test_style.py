"""The written style, as far as a machine can see it; ruff sees the rest."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("vecdb", "proto", "client", "server", "benchmarks", "tests")
TEXT_SUFFIXES = {".md", ".toml", ".proto", ".py", ".pyi", ""}
LINE_MAX = 100
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 500
# All kernels lie in one file, as numba's cache does not see changes in another.
FILE_LINES_MAX_OF = {"kernels.py": 800}

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
        *(path for path in ROOT.glob("*") if path.is_file() and path.suffix in TEXT_SUFFIXES),
    }
)

# Places on somebody's machine, and numbers of a tracker that a reader of the code can't open.
FORBIDDEN = re.compile(
    r"/(home|root|Users|work)/\w|\bissue\s+#|\bTO[D]O\b|\bFIXM[E]\b", re.IGNORECASE
)
FREE_OF_RULES = {"LICENSE", ".git"}  # In a linked worktree .git is a file.


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module(path: Path) -> None:
    text = path.read_text()
    lines = text.splitlines()
    if "tests" not in path.parts[len(ROOT.parts) :]:
        assert len(lines) <= FILE_LINES_MAX_OF.get(path.name, FILE_LINES_MAX)
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module opens with what it is and how it works"
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    }
    assert {name: count for name, count in long.items() if count > FUNCTION_LINES_MAX} == {}


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_lines(path: Path) -> None:
    if path.name in FREE_OF_RULES:
        return
    wrong = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        # Python's lines are ruff's matter; a table of Markdown and an address can't be broken.
        breakable = path.suffix in {".proto", ".toml"} or (
            path.suffix == ".md" and not line.startswith("|") and "://" not in line
        )
        if len(line) > LINE_MAX and breakable:
            wrong.append(f"{number}: {len(line)} characters")
        if found := FORBIDDEN.search(line):
            wrong.append(f"{number}: {found[0]!r}")
        if line != line.rstrip():
            wrong.append(f"{number}: space at the end")
    assert wrong == []
