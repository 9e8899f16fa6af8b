"""The folder of the kernel cache: when another one is used, and who can use it."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from numba import config, njit

from tests.waiting import HANG_S
from vecdb.engine.kernels import cache_folder
from vecdb.engine.kernels import compiled as kernels
from vecdb.engine.kernels.cache_folder import (
    PACKAGE,
    folder_name,
    is_complete,
    mark_complete,
    remove_older,
)
from vecdb.engine.kernels.cache_locator import KernelCacheLocator, located

MODULES = sorted(path.name for path in PACKAGE.glob("*.py"))
KERNEL_MODULES = sorted(
    set(MODULES) - {"__init__.py", "cache.py", "cache_folder.py", "loading.py", "pool.py"}
)

PROGRAM = """
import ctypes
import numpy as np
from vecdb.engine.kernels.loading import load_kernels
# Without CAP_DAC_OVERRIDE even root cannot write to a folder that is read-only for its owner.
header, capabilities = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
libc = ctypes.CDLL(None)
assert libc.capget(header, capabilities) == 0
for kind in (0, 1, 2):
    capabilities[kind] &= ~(1 << 1)
assert libc.capset(header, capabilities) == 0
kernels = load_kernels()
rows = np.ones((1, 16), np.float32)
found = np.zeros((1, 1), np.float32), np.zeros((1, 1), np.int64), np.zeros(1, np.int64)
kernels.scan_rows(rows, np.zeros(0, np.uint8), 0, 1, rows, 0, 1, kernels.INNER, 1, *found)
print(sum(sum(each.stats.cache_hits.values()) for each in kernels.KERNELS), found[0][0, 0])
"""
WARM = [str(len(kernels.KERNELS)), "-16.0"]


def loaded(root: Path) -> list[str]:
    """Load the kernels of a copy of vecdb; return the number read from the cache, and the score of
    two rows of ones. There is no cache folder but the one beside the sources."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        env={
            **os.environ, "PYTHONPATH": str(root), "NUMBA_CACHE_DIR": "", "HOME": "/dev/null",
            "XDG_CACHE_HOME": "/dev/null", "PYTHONDONTWRITEBYTECODE": "1",
        },
        cwd=root, check=True, text=True, timeout=HANG_S, stdout=subprocess.PIPE,
    ).stdout.split()  # fmt: skip


def kernels_of(root: Path) -> Path:
    return root / "vecdb" / "engine" / "kernels"


def cache_folders(root: Path) -> list[Path]:
    return sorted((kernels_of(root) / "__pycache__").glob("vecdb-*"))


@pytest.fixture(scope="module")
def warmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of vecdb whose kernels are cached beside its sources."""
    root = tmp_path_factory.mktemp("warmed")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE.parents[1], root / "vecdb", ignore=ignored)
    assert loaded(root) == ["0", "-16.0"]
    assert loaded(root) == WARM
    return root


@pytest.fixture
def copy(warmed: Path, tmp_path: Path) -> Path:
    shutil.copytree(warmed, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.mark.slow
def test_changed_function_of_another_module_is_compiled_again(copy: Path) -> None:
    (before,) = cache_folders(copy)
    other = kernels_of(copy) / "__pycache__" / "vecdb-other"
    other.mkdir()
    source = kernels_of(copy) / "distance.py"
    text = source.read_text()
    assert text.count("np.float32(0) - inner_product") == 1
    source.write_text(text.replace("np.float32(0) - inner", "np.float32(1) - inner"))
    assert loaded(copy) == ["0", "-15.0"]
    (after,) = set(cache_folders(copy)) - {other}
    assert after.name != before.name, "the folder for the old sources is removed"
    assert loaded(copy) == [WARM[0], "-15.0"]


@pytest.mark.slow
def test_unchanged_sources_of_other_times_and_places_stay_warm(copy: Path) -> None:
    for path in kernels_of(copy).glob("*.py"):
        os.utime(path, ns=(0, 1_000_000_000))
    assert loaded(copy) == WARM


@pytest.mark.slow
def test_read_only_installation_with_all_kernels_is_warm(copy: Path) -> None:
    (cache,) = cache_folders(copy)
    for folder in (cache, cache.parent):
        folder.chmod(0o555)
    try:
        assert loaded(copy) == WARM
    finally:
        for folder in (cache, cache.parent):
            folder.chmod(0o755)


@pytest.mark.parametrize("name", MODULES)
def test_folder_depends_on_the_contents_of_each_module(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = folder_name()
    same = shutil.copytree(PACKAGE, tmp_path / "kernels")
    monkeypatch.setattr(cache_folder, "PACKAGE", same)
    os.utime(same / name, ns=(0, 1_000_000_000))
    assert folder_name() == expected
    with (same / name).open("a") as file:
        file.write("# another\n")
    assert folder_name() != expected
    (same / name).unlink()
    assert folder_name() != expected


@pytest.mark.parametrize("name", KERNEL_MODULES)
def test_kernels_import_nothing_that_their_cache_does_not_see(name: str) -> None:
    """Code of another package that is compiled into a kernel could change unnoticed."""
    for node in ast.walk(ast.parse((PACKAGE / name).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("vecdb"):
            assert node.module.startswith("vecdb.engine.kernels.")
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("vecdb") for alias in node.names)


def test_folder_is_complete_only_with_all_files(tmp_path: Path) -> None:
    assert not is_complete(tmp_path)
    mark_complete(tmp_path, ["a.nbi", "b.nbi"])
    assert not is_complete(tmp_path)
    for name in ("a.nbi", "b.nbi"):
        (tmp_path / name).touch()
    assert is_complete(tmp_path)
    (tmp_path / "a.nbi").unlink()
    assert not is_complete(tmp_path)


def test_folder_of_another_machine_is_not_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.nbi").touch()
    mark_complete(tmp_path, ["a.nbi"])
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    assert not is_complete(tmp_path)


def test_only_folders_of_our_name_are_removed(tmp_path: Path) -> None:
    names = ("vecdb-0123456789abcdef", "vecdb-0123456789abcdeX", "vecdb", "numba")
    for name in (*names, "vecdb-fedcba9876543210"):
        (tmp_path / name / "inside").mkdir(parents=True)
    remove_older(tmp_path / "vecdb-fedcba9876543210")
    assert {path.name for path in tmp_path.iterdir()} == {*names[1:], "vecdb-fedcba9876543210"}


def test_folder_is_where_numba_would_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    function = kernels.scan_rows.py_func
    source = function.__code__.co_filename
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))

    def base() -> Path:
        with located():
            found = KernelCacheLocator.from_function(function, source)
        assert found is not None
        folder = Path(found.get_cache_path())
        assert folder.name == folder_name()
        return folder.parent

    monkeypatch.setattr(config, "CACHE_LOCATOR_CLASSES", "")
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "given"))
    assert base().parent == tmp_path / "given"
    monkeypatch.setattr(config, "CACHE_DIR", "")
    assert base() == PACKAGE / "__pycache__"
    monkeypatch.setattr(config, "CACHE_LOCATOR_CLASSES", "UserWideCacheLocator")
    assert base().parent == tmp_path / "user" / "numba"
    assert config.CACHE_LOCATOR_CLASSES == "UserWideCacheLocator"


def test_other_functions_are_cached_as_without_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "CACHE_LOCATOR_CLASSES", "")
    monkeypatch.setattr(config, "CACHE_DIR", "")
    source = tmp_path / "theirs.py"
    source.write_text("def one():\n    return 1\n")
    spec = importlib.util.spec_from_file_location("theirs", source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with located():
        compiled = njit(cache=True)(module.one)
    assert compiled() == 1
    assert Path(compiled.stats.cache_path) == tmp_path / "__pycache__"
    assert list((tmp_path / "__pycache__").glob("theirs.one-*.nbi"))
    assert config.CACHE_LOCATOR_CLASSES == ""
