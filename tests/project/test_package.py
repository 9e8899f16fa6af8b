"""The wheel: built, installed bare into an empty environment, and used there as the thin client.

What the bare environment can't do it must say in one line, with the command to type.
"""

from __future__ import annotations

import venv
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.project.installed import run
from tests.serving import running_server

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = [
    ROOT / "vecdb",
    ROOT / "proto/vecdb_proto",
    ROOT / "client/vecdb_client",
    ROOT / "server/vecdb_cli",
    ROOT / "server/vecdb_server",
    ROOT / "benchmarks/vecdb_bench",
]
HINT = "pip install 'vecdb-grpc[server]'"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel and what it depends on, nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=True)
    python = folder / "bin/python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    return python


def python_says(python: Path, code: str) -> str:
    return run(python, "-W", "error", "-c", code).stdout


def names_in(wheel: Path) -> Sequence[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    names = names_in(wheel)
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {path.name for path in PACKAGES}
    for top in tops:
        assert f"{top}/py.typed" in names
    assert "vecdb_proto/vecdb.proto" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    parts = {part for name in names for part in name.split("/")}
    assert not [part for part in parts if part.startswith(("test_", "tests", "__pycache__"))]


def test_every_source_file_is_in_the_wheel(wheel: Path) -> None:
    names = set(names_in(wheel))
    for base in PACKAGES:
        for path in base.rglob("*.py"):
            assert f"{base.name}/{path.relative_to(base)}" in names


def test_bare_install_brings_three_libraries(bare: Path) -> None:
    listed = run(bare, "-m", "pip", "list", "--format", "freeze").stdout.split()
    found = {line.partition("==")[0].lower() for line in listed}
    tools = {"pip", "setuptools", "wheel", "typing_extensions", "typing-extensions"}
    assert found - tools == {"vecdb-grpc", "numpy", "grpcio", "protobuf"}


def test_bare_client_talks_to_a_server(bare: Path, tmp_path: Path) -> None:
    code = """
import sys
import numpy as np
import vecdb, vecdb_client
with vecdb_client.Client({address!r}) as client:
    docs = client.create_collection("docs", dim=8)
    docs.upsert(["a", "b"], np.eye(8, dtype=np.float32)[:2], [{{"n": 1}}, None])
    hits = docs.search(np.eye(8, dtype=np.float32)[1], k=1)
    print(hits.ids, hits.metadata, docs.count())
print(sorted({{"lmdb", "hnswlib", "numba", "typer"}} & set(sys.modules)))
"""
    with running_server(tmp_path / "data") as address:
        said = python_says(bare, code.format(address=address))
    assert said.split("\n")[:2] == ["['b'] [{}] 2", "[]"]


def test_opening_a_folder_names_the_package_to_install(bare: Path, tmp_path: Path) -> None:
    code = f"""
import vecdb
try:
    vecdb.open({str(tmp_path / "data")!r})
except ImportError as error:
    print(type(error).__name__, error)
"""
    said = python_says(bare, code)
    assert said.startswith("MissingExtraError") and HINT in said
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", [["vecdb"], ["python", "-m", "vecdb_server"]])
def test_the_command_names_the_package_to_install(bare: Path, command: list[str]) -> None:
    done = run(bare.with_name(command[0]), *command[1:], "--help", check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert HINT in done.stderr and done.stderr.count("\n") == 1


def test_distribution_and_package_agree_on_the_version(bare: Path) -> None:
    code = "import vecdb; from importlib.metadata import version; "
    said = python_says(bare, code + "print(version('vecdb-grpc'), vecdb.__version__)").split()
    assert said[0] == said[1]


def test_editable_install_finds_all_packages() -> None:
    """The environment that runs the tests is one."""
    for package in PACKAGES:
        spec = find_spec(package.name)
        assert spec is not None
        places = list(spec.submodule_search_locations or ())
        assert all(Path(place).is_relative_to(ROOT) for place in places), places
