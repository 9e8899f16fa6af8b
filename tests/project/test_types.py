"""Signatures have types: mypy sees nothing of what is ``Any``."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("vecdb", "server", "client", "proto")
ANY_PER_1000_LINES_BELOW = 3.0


def annotations_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.expr]:
    """The annotations of its parameters and of what it returns."""
    given = function.args
    parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    found = [each.annotation for each in parameters if each is not None]
    return [each for each in (*found, function.returns) if each is not None]


def any_in_signatures(text: str) -> int:
    """How often ``Any`` is in the signatures of a module."""
    return sum(
        (isinstance(node, ast.Name) and node.id == "Any")
        or (isinstance(node, ast.Attribute) and node.attr == "Any")
        for function in ast.walk(ast.parse(text))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for annotation in annotations_of(function)
        for node in ast.walk(annotation)
    )


def test_any_in_signatures_is_rare() -> None:
    counts: Counter[str] = Counter()
    lines = 0
    for part in PARTS:
        for path in (ROOT / part).rglob("*.py"):
            if "_pb2" not in path.name:
                text = path.read_text(encoding="utf-8")
                counts[str(path.relative_to(ROOT))] = any_in_signatures(text)
                lines += len(text.splitlines())
    per_1000 = 1000 * counts.total() / lines
    worst = "\n".join(f"{count:4} {name}" for name, count in counts.most_common(10))
    assert per_1000 < ANY_PER_1000_LINES_BELOW, f"{per_1000:.1f} per 1,000 lines, most in\n{worst}"


def test_any_is_counted_in_parameters_and_returns() -> None:
    text = "def f(a: Any, *b: dict[str, Any], c: int = 0) -> typing.Any:\n    d: Any = a\n"
    assert any_in_signatures(text) == 3
