"""The client beside the lowest and the newest releases of what it requires, talking to a server.

    old          every requirement of the client at its floor
    new          every one as new as there is
    old grpcio   at its floor, the others new
    old protobuf at its floor, the others new
    python 3.10  the lowest Python, with every requirement at its floor; skipped without one

The server runs beside the same lowest releases, and the lowest one of its health messages.

Each is an environment of its own into which the wheel is installed by pip, so that what the wheel
requires, what the generated code refuses and what the client calls are tried together.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import tomllib
from grpc_health.v1 import health_pb2

from tests.project.installed import environment, run
from tests.serving import running_server
from tests.waiting import HANG_S

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow

CLIENT = """
import sys
import tempfile
from pathlib import Path

import numpy as np

import vecdb
import vecdb_client

folder, address = Path(tempfile.mkdtemp()), sys.argv[1]
vectors = np.eye(8, dtype=np.float32)
with vecdb_client.Client(address) as client:
    docs = client.create_collection("docs", dim=8)
    docs.upsert(["a", "b"], vectors[:2], [{"n": 1}, None])
    report = docs.upsert_many([str(row) for row in range(8)], vectors, batch_rows=3)
    hits = docs.search(vectors[1], k=2, exact=True)
    assert sorted(hits.ids) == ["1", "b"], hits.ids
    assert [one.ids[0] for one in docs.search(vectors[2:5], k=1)] == ["2", "3", "4"]
    found = docs.get(["a", "absent"])
    assert found.metadata == [{"n": 1}] and found.missing == ["absent"]
    assert np.array_equal(found.vectors, vectors[:1])
    assert sum(len(page.ids) for page in docs.scroll(batch=4)) == 10
    docs.delete(["b"])
    docs.export_faiss(folder / "docs.faiss")
    print(docs.count(), client.import_faiss(folder / "docs.faiss", "back").rows)
    try:
        docs.upsert(["c"], vectors[:1, :4])
    except vecdb.InvalidArgumentError as error:
        print(error.reason)
    try:
        client.collection("none").count()
    except vecdb.NotFoundError as error:
        print(error.reason)
    try:
        docs.upsert(["a"], vectors[:1], if_seq=0)
    except vecdb.ConditionFailedError as error:
        print(error.reason)
"""

ANSWERS = "9 9 DIM_MISMATCH NO_COLLECTION CONDITION_CHANGED"


SERVER = """
import sys

from vecdb_server.process import Server

server = Server(sys.argv[1], "127.0.0.1:0")
server.start()
print(server.address, flush=True)
sys.stdin.read()
server.drain()
"""


def project() -> dict[str, Any]:
    """The table of that name in pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def floors(lines: Sequence[str] | None = None) -> dict[str, str]:
    """The lowest release allowed of each library; by default of those that the client requires."""
    named = [line.split(",")[0].partition(">=") for line in lines or project()["dependencies"]]
    return {name: floor for name, _, floor in named}


def environment_with(python: Path, wheel: Path, pinned: Mapping[str, str]) -> dict[str, str]:
    """Install the wheel beside libraries of given releases; the releases that are there then."""
    pins = [f"{name}=={release}" for name, release in pinned.items()]
    pip = [sys.executable, "-m", "pip", "--python", python]
    run(*pip, "install", "--quiet", "--no-compile", "--only-binary", ":all:", wheel, *pins)
    listed = run(*pip, "list", "--format", "freeze").stdout.split()
    return dict(line.split("==") for line in listed if "==" in line)


def check_a_client(python: Path, tmp_path: Path) -> None:
    """Every kind of call, with warnings as errors."""
    with running_server(tmp_path / "data") as address:
        answers = run(python, "-W", "error", "-c", CLIENT, address).stdout
    assert answers.split() == ANSWERS.split()


@pytest.mark.parametrize(
    "old", [("grpcio", "numpy", "protobuf"), ("grpcio",), ("protobuf",), ()], ids="+".join
)
def test_client_beside_oldest_and_newest_libraries_talks_to_a_server(
    wheel: Path, tmp_path: Path, old: tuple[str, ...]
) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv/bin/python"
    pinned = {name: floors()[name] for name in old}
    installed = environment_with(python, wheel, pinned)
    for name, floor in floors().items():
        assert installed[name].startswith(floor) is (name in old), installed
    check_a_client(python, tmp_path)


def python_of(release: str) -> Path | None:
    """A Python of this release: on the PATH, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [shutil.which(f"python{release}"), *pyenv.glob(f"versions/{release}.*/bin/python")]
    for found in filter(None, candidates):
        # One on the PATH may be a stand-in that says how to choose a release.
        if subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
            return Path(found)
    return None


def test_client_on_the_oldest_python_talks_to_a_server(wheel: Path, tmp_path: Path) -> None:
    release = project()["requires-python"].removeprefix(">=")
    found = python_of(release)
    if found is None:
        pytest.skip(f"there is no Python {release} on this machine")
    run(found, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    environment_with(python, wheel, floors())
    check_a_client(python, tmp_path)


def test_server_beside_the_oldest_libraries_answers(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv/bin/python"
    of_server = floors(project()["optional-dependencies"]["server"])
    lowest = {name: of_server[name] for name in ("grpcio-health-checking", "prometheus-client")}
    environment_with(python, wheel, {**floors(), **lowest})
    share_compiled_libraries(python)
    with server_of(python, tmp_path / "data") as address:
        answers = run(python, "-c", CLIENT, address).stdout
        check_health(address)
    assert answers.split() == ANSWERS.split()


def share_compiled_libraries(python: Path) -> None:
    """Lend it what the engine needs and what would have to be compiled or is large."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run(python, "-c", code).stdout.strip())
    for name in ("hnswlib", "llvmlite", "lmdb", "numba"):
        for found in Path(sysconfig.get_path("platlib")).glob(f"{name}*"):
            (packages / found.name).symlink_to(found)


@contextmanager
def server_of(python: Path, data: Path) -> Iterator[str]:
    """A server in a process of another Python; yields its address."""
    with subprocess.Popen(
        [python, "-c", SERVER, data],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        env=environment(),
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()
            assert process.wait(HANG_S) == 0


def check_health(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        response = health_pb2.HealthCheckResponse.FromString(check(b"", timeout=HANG_S))
    assert response.status == health_pb2.HealthCheckResponse.SERVING
