"""Tests reach what the product keeps private only through its ``testing`` modules.

A private name is one with a leading underscore: as an attribute of anything but ``self`` and
``cls``, in an import, as the name of an attribute to set or get, or in the text of a script.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.places import TESTING_MODULES, owner_of

TESTS = Path(__file__).resolve().parents[1]
ALLOWED = {
    "_exit": "os._exit ends a forked child",
    "_fields": "named tuples publish it",
    "_replace": "named tuples publish it",
}
SETTERS = {"getattr", "setattr", "hasattr", "delattr"}
IN_SCRIPTS = re.compile(r"(?<=[\w)\]])\._(?!_)\w+|\bimport _(?!_)\w+")


def is_private(name: str) -> bool:
    return (
        name.startswith("_") and not name.startswith("__") and name not in ALLOWED and name != "_"
    )


def privates_of(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and name of each private name that a module reaches for."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from ((node.lineno, name) for name in names if is_private(name))
        elif isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            words = [each.value for each in node.args if isinstance(each, ast.Constant)]
            if name in SETTERS:
                for word in words:
                    if isinstance(word, str) and any(map(is_private, word.split("."))):
                        yield node.lineno, word
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            for found in IN_SCRIPTS.findall(node.value):
                if is_private(found[found.index("_") :]):
                    yield node.lineno, found


def test_tests_do_not_reach_for_private_names() -> None:
    paths = sorted(path for path in TESTS.rglob("*.py") if path != Path(__file__).resolve())
    assert len(paths) > 100
    found = [
        f"{path.relative_to(TESTS)}:{line}: {name}"
        for path in paths
        for line, name in privates_of(path.read_text())
    ]
    assert found == []


def test_private_names_are_found() -> None:
    text = (
        "from a._b import _c\nd._e = 1\nmonkeypatch.setattr(f, '_g', 2)\ngetattr(h, '_i')\n"
        "code = 'import _j; k()._l = 1; self._m'\nself._n = os._exit\no.__p__ = '_q'\n"
    )
    names = [name for _, name in privates_of(text)]
    expected = {"_b", "_c", "_e", "_g", "_i", "import _j", "._l", "._m"}
    assert set(names) == expected and len(names) == len(expected)


def test_places_exist_and_are_used() -> None:
    texts = "".join(path.read_text() for path in TESTS.rglob("*.py"))
    for module in TESTING_MODULES:
        places = __import__(module, fromlist=["PLACES"]).PLACES
        for name in places:
            owner, attribute = owner_of(name)
            assert hasattr(owner, attribute), name
            ping = name.removeprefix("client_").removeprefix("server_")  # Of either side.
            assert f'"{name}"' in texts or f"'{name}'" in texts or f"}}_{ping}" in texts, name
