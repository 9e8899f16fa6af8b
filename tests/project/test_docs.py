"""The pages in docs/ name everything public: commands, options, names, methods and error reasons.

A page that lags behind fails here with what it lacks.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

import vecdb
import vecdb_client
from tests.places import value_of
from vecdb import checking, errors, limits
from vecdb.engine.api.collection import Collection
from vecdb.engine.api.database import Database
from vecdb.metadata_checks import DEFAULT_BYTES
from vecdb_cli.command_line import app
from vecdb_server import process

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PRODUCT = ("vecdb", "proto/vecdb_proto", "client/vecdb_client", "server")
REASON = re.compile(r"[A-Z]+(_[A-Z0-9]+)*")


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def section(name: str, heading: str) -> str:
    """The text below a heading, up to the next one of its level or above."""
    level = heading.split(" ")[0]
    lines = page(name).splitlines()
    start = lines.index(heading)
    ends = (
        number
        for number in range(start + 1, len(lines))
        if re.match(rf"#{{1,{len(level)}}} ", lines[number])
    )
    return "\n".join(lines[start : next(ends, len(lines))])


def code_in(text: str) -> set[str]:
    """Everything that stands in backticks."""
    return set(re.findall(r"`([^`\n]+)`", text))


def words_in(text: str) -> set[str]:
    """The words inside backticks: of ``--M N`` both ``--M`` and ``N``."""
    return {word for code in code_in(text) for word in re.split(r"[\s,]+", code)}


# ---------------------------------------------------------------------------------- command line


def commands(command: Any = None, path: str = "vecdb") -> Iterator[tuple[str, Any]]:
    command = typer.main.get_command(app) if command is None else command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{path} {name}")
    if not hasattr(command, "commands"):
        yield path, command


def options_of(command: Any) -> set[str]:
    found: set[str] = set()
    for each in command.params:
        if each.param_type_name == "option":
            found |= {*each.opts, *each.secondary_opts}
    return found - {"--help"}


def test_every_command_has_a_section_with_its_options() -> None:
    found = {path: options_of(command) for path, command in commands()}
    existing = set().union(*found.values())
    faults = []
    for path, options in found.items():
        words = words_in(section("command-line.md", f"### {path}"))
        named = {word for word in words if re.fullmatch(r"--?[A-Za-z][\w-]*", word)}
        # A section may speak of another command's options, but only of ones that exist.
        faults += [f"{path} {option}: not documented" for option in options - words]
        faults += [f"{path} {option}: does not exist" for option in named - existing]
    assert faults == []
    assert len(found) > 20


def test_every_section_of_the_command_line_is_a_command() -> None:
    headings = re.findall(r"^### (.+)$", page("command-line.md"), re.MULTILINE)
    assert set(headings) == {path for path, _ in commands()}
    assert "--version" in page("command-line.md")


# ------------------------------------------------------------------------------------ public names


def signature_of(method: Any) -> str:
    """As the page writes it: without self and annotations."""
    found = inspect.signature(method)
    parameters = [
        each.replace(annotation=inspect.Parameter.empty)
        for each in found.parameters.values()
        if each.name != "self"
    ]
    return str(found.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def undocumented(kind: type, text: str) -> list[str]:
    missing = []
    for name in dir(kind):
        if name.startswith("_"):
            continue
        static = inspect.getattr_static(kind, name)
        is_method = callable(getattr(kind, name)) and not isinstance(static, property)
        wanted = f"{name}{signature_of(getattr(kind, name))}" if is_method else name
        if wanted not in code_in(text):
            missing.append(wanted)
    return missing


@pytest.mark.parametrize("kind", [Database, vecdb_client.Client], ids=["Database", "Client"])
def test_methods_of_a_database_are_documented(kind: type) -> None:
    assert undocumented(kind, section("api.md", "## Database")) == []


@pytest.mark.parametrize("kind", [Collection, vecdb_client.Collection], ids=["embedded", "remote"])
def test_methods_of_a_collection_are_documented(kind: type) -> None:
    assert undocumented(kind, section("api.md", "## Collection")) == []


@pytest.mark.parametrize("package", [vecdb, vecdb_client])
def test_public_names_are_documented(package: Any) -> None:
    code = code_in(page("api.md")) | code_in(page("errors.md"))
    names = {re.split(r"[(. ]", each.removeprefix("vecdb."))[0] for each in code}
    assert set(package.__all__) - names == set()


def test_fields_of_public_types_are_documented() -> None:
    rows = {
        found[1]: words_in(found[2])
        for found in re.finditer(r"^\| `(\w+)` \| (.*)$", section("api.md", "## Types"), re.M)
    }
    for name in vecdb.__all__:
        kind = getattr(vecdb, name)
        if dataclasses.is_dataclass(kind):
            fields = {each.name for each in dataclasses.fields(kind)}
        else:
            fields = set(getattr(kind, "_fields", ()))
        assert fields - rows.get(name, set()) == set(), name


def test_options_of_open_are_documented(tmp_path: Path) -> None:
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        options = {each.name for each in dataclasses.fields(database.options)}
    rows = re.findall(r"^\| `(\w+)` \|", section("api.md", "## Options of vecdb.open"), re.M)
    assert set(rows) == options


# ---------------------------------------------------------------------------------------- errors


def takers_of(tree: ast.AST) -> dict[str, int]:
    """Functions and classes of a module that have a parameter ``reason``, and its place."""
    places: dict[str, int] = {}
    for node in ast.walk(tree):
        for function in [node, *(node.body if isinstance(node, ast.ClassDef) else ())]:
            if isinstance(function, ast.FunctionDef):
                names = [each.arg for each in function.args.args if each.arg != "self"]
                made = isinstance(node, ast.ClassDef) and function.name == "__init__"
                if "reason" in names:
                    places[node.name if made else function.name] = names.index("reason")
    return places


def reasons_in(tree: ast.AST, classes: dict[str, int] | None = None) -> set[str]:
    """The reasons that a module gives to errors, as text or as members of ``Reason``.

    A reason is an argument of a class ``*Error``, or of a function or class that has a parameter
    ``reason``; or what is assigned to ``.reason``; or the value of a key "reason".

    Args:
        classes: classes of other modules that have such a parameter.
    """
    places = {**(classes or {}), **takers_of(tree)}
    values: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            place = places.get(name, 1 if name.endswith("Error") else None)
            if place is None or name == "MissingExtraError":
                continue
            values += node.args[place : place + 1]
            values += [each.value for each in node.keywords if each.arg == "reason"]
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "attr", "") == "reason":
            values.append(node.value)
        elif isinstance(node, ast.Dict):
            values += [
                value
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant) and key.value == "reason"
            ]
    return {text for value in values for text in _constants(value)}


def _constants(value: ast.expr) -> Iterator[str]:
    for node in ast.walk(value):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if REASON.fullmatch(node.value):
                yield node.value
        elif isinstance(node, ast.Attribute) and "Reason" in (
            getattr(node.value, "attr", ""),
            getattr(node.value, "id", ""),
        ):
            yield node.attr


@cache
def reasons_raised(*folders: str) -> set[str]:
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    classes = {
        name: place
        for tree in trees
        for name, place in takers_of(tree).items()
        if name[0].isupper() and name != "MissingExtraError"
    }
    return {reason for tree in trees for reason in reasons_in(tree, classes)}


def documented_reasons() -> set[str]:
    rows = re.findall(r"^\| `(\w+)` \|", page("errors.md"), re.MULTILINE)
    return {row for row in rows if REASON.fullmatch(row)}


def error_classes() -> list[type[errors.VecdbError]]:
    return [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]


@pytest.mark.slow
def test_every_error_reason_is_documented_and_no_other() -> None:
    enum: type[Enum] | None = getattr(errors, "Reason", None)
    raised = reasons_raised(*PRODUCT)
    known = raised if enum is None else {str(each.value) for each in enum}
    codes = {each.code for each in error_classes()}
    assert known - documented_reasons() - codes == set()
    assert documented_reasons() - known - reasons_raised("benchmarks") == set()
    assert reasons_raised("benchmarks") - documented_reasons() == set()


def test_the_scan_for_reasons_finds_all_forms() -> None:
    source = """
raise InvalidArgumentError("text", "AS_TEXT")
raise errors.DataLossError("text", reason=Reason.AS_MEMBER)
raise NotFoundError("text", "ONE" if x else "OTHER")
def refuse(self, reason, what): ...
refuse("THROUGH_A_FUNCTION", "what")
class Places:
    def __init__(self, reason): ...
Places("THROUGH_A_CLASS")
self.reason = "ASSIGNED"
{"reason": "IN_A_DICT", "other": "NOT_THIS"}
print("text", "NOR_THIS")
"""
    wanted = "AS_TEXT AS_MEMBER ONE OTHER THROUGH_A_FUNCTION THROUGH_A_CLASS ASSIGNED IN_A_DICT"
    assert reasons_in(ast.parse(source)) == set(wanted.split())
    assert len(reasons_raised(*PRODUCT)) > 100


def test_every_error_class_is_documented_with_its_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", section("errors.md", "## Classes"), re.M)
    assert dict(rows) == {each.__name__: each.code for each in error_classes()}


def test_every_kind_of_problem_is_documented() -> None:
    text = section("operations.md", "## Kinds of problems")
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.*) \|$", text, re.MULTILINE)
    assert {kind: meaning.replace("`", "") for kind, meaning in rows} == checking.KINDS


@pytest.mark.parametrize("folder", PRODUCT)
def test_the_docstring_of_a_package_lists_its_modules(folder: str) -> None:
    missing = []
    for init in (ROOT / folder).rglob("__init__.py"):
        listed = set(re.findall(r"\w+", ast.get_docstring(ast.parse(init.read_text())) or ""))
        modules = {path.stem for path in init.parent.glob("*.py") if not is_own_name(path.stem)}
        packages = {path.parent.name for path in init.parent.glob("*/__init__.py")}
        missing += [f"{init}: {name}" for name in sorted((modules | packages) - listed)]
    assert missing == []


def is_own_name(module: str) -> bool:
    """Whether the docstring of a package may leave the module out."""
    return module in {"__init__", "__main__"} or "_pb2" in module


# ---------------------------------------------------------------------------------------- limits


def bounds(limit: limits.Limit) -> tuple[int, int]:
    return limit.minimum, limit.maximum


def limits_in(page_name: str, heading: str) -> dict[str, set[float]]:
    """What the rows of a table of limits are about, and the numbers of each."""
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", section(page_name, heading), re.MULTILINE)
    return {
        what: {float(text.replace(",", "")) for text in re.findall(r"\d[\d,]*", value)}
        for what, value in rows
        if what != "Limit"
    }


def test_limits_of_requests_are_documented() -> None:
    mebibyte = 1024**2
    message = limits.MESSAGE_BYTES
    assert message.default is not None
    known: dict[str, set[float]] = {
        "components of a vector": {*bounds(limits.DIM)},
        "k": {*bounds(limits.K), limits.RESULTS_PER_CALL_MAX},
        "ef": {*bounds(limits.EF)},
        "M, ef_construction": {*bounds(limits.M), *bounds(limits.EF_CONSTRUCTION)},
        "rows of a batch": {limits.BATCH_ROWS.maximum},
        "metadata of a row": {
            DEFAULT_BYTES / 1024,
            limits.METADATA_BYTES.maximum / mebibyte,
            limits.METADATA_DEPTH.maximum,
        },
        "filter": {
            limits.FILTER_DEPTH_MAX,
            limits.FILTER_TERMS_MAX,
            limits.FILTER_OPERANDS_MAX,
        },
        "request id": {
            limits.REQUEST_ID_BYTES.maximum,
            limits.REQUEST_PREFIX_BYTES.maximum,
            limits.REQUEST_WINDOW_S / 3600,
        },
        "message over gRPC": {message.default / mebibyte, message.maximum / mebibyte},
        "scrolls of a collection": {
            limits.LEASES_MAX,
            limits.LEASE_S,
            limits.SCROLL_PAGE_BYTES_MAX / mebibyte,
        },
    }
    found = limits_in("guide.md", "## Limits")
    assert {what: found[what] for what in known} == known
    assert max(found["id"]) == limits.ID_BYTES.maximum


def test_limits_of_a_server_are_documented() -> None:
    share = process.DEFAULT_THREADS // 4
    known = {
        "calls executed at once": {process.DEFAULT_THREADS},
        "concurrent writes": {share},
        "concurrent Optimize, Backup, Export and Import calls": {share},
        "open search streams": {share},
        "open calls": {value_of("calls_max")},
        "open calls of a connection": {value_of("calls_of_connection_max")},
        "connections": {value_of("connections_max"), value_of("idle_connection_s")},
        "health calls": {value_of("health_checks_max"), value_of("health_watchers_max")},
    }
    found = limits_in("operations.md", "## Limits of a server")
    assert {what: found[what] for what in known} == known
    slow = found["open calls that have waited more than 1 s for their message"]
    assert value_of("slow_calls_max") in slow


# --------------------------------------------------------------------------------------- promises


def test_every_promise_names_a_test_that_exists() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = re.search(r"^\| Promise \|.*\n\|[-|]+\n((?:\|.*\n)+)", readme, re.MULTILINE)
    assert table is not None
    rows = table[1].splitlines()
    assert len(rows) > 10
    for row in rows:
        assert re.search(r"`tests/[\w/]+\.py`", row), row


PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md")])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_paths_named_in_a_page_exist(path: Path) -> None:
    named = re.findall(
        r"`((?:tests|vecdb|benchmarks|server|client|proto|docs)/[\w./-]+)`", path.read_text()
    )
    # The page of the architecture names test files by their place below tests/.
    places = (ROOT, ROOT / "tests")
    assert [each for each in named if not any((at / each).exists() for at in places)] == []
