"""Starting while a stopped process holds the lock of the kernel cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.places import value_of
from tests.serving import stop
from tests.waiting import HANG_S
from vecdb.engine.kernels import cache as kernel_cache
from vecdb.engine.kernels import cache_folder
from vecdb.engine.kernels.loading import load_kernels

LOADS = """
from vecdb.engine.kernels.loading import load_kernels
load_kernels(print)
print("loaded")
"""

HOLDER = """
import os, sys
from pathlib import Path
from vecdb.engine.system.files import file_lock
with file_lock(Path(sys.argv[1]), wait=True):
    Path(sys.argv[1]).write_text(str(os.getpid()))
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of note and lock, both missing; numba's own cache is warm."""
    load_kernels()
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path))
    return tmp_path / "vecdb"


@pytest.fixture
def holder(cache: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock."""
    cache.mkdir(parents=True)
    command = [sys.executable, "-c", HOLDER, os.fspath(cache / "kernels.lock")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == "held\n"
        yield child
        child.kill()


def started(**environment: str) -> str:
    """Return the output of a process that loads the kernels; it must end."""
    return subprocess.run(
        [sys.executable, "-c", LOADS],
        capture_output=True,
        text=True,
        check=True,
        timeout=HANG_S,
        env={**os.environ, **environment},
    ).stdout


def test_start_with_a_warm_cache_waits_for_no_lock(
    cache: Path, holder: subprocess.Popen[str]
) -> None:
    kernel_cache.note_warm(load_kernels())
    assert kernel_cache.is_warm()
    assert "waiting" not in started()
    assert holder.poll() is None


def test_start_with_a_cold_cache_does_not_wait_for_a_stopped_process(
    cache: Path, holder: subprocess.Popen[str]
) -> None:
    stop(holder)
    assert not kernel_cache.is_warm()
    assert "loaded" in started()
    assert kernel_cache.is_warm()  # So that the next start skips the lock.


def test_wait_for_a_compiling_process_ends_with_a_warm_cache_or_timeout(
    cache: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = kernel_cache.is_warm

    def warm_at_last() -> bool:
        asked.append(real())
        if len(asked) == 3:
            kernel_cache.note_warm(load_kernels())
        return asked[-1]

    monkeypatch.setattr(kernel_cache, "is_warm", warm_at_last)
    with kernel_cache.compiling():
        assert asked == [False, False, False, True]
    (cache / "kernels.json").unlink()
    monkeypatch.setattr(kernel_cache, "is_warm", real)
    monkeypatch.setattr(kernel_cache, "PATIENCE_S", 0.3)
    with kernel_cache.compiling():
        assert holder.poll() is None


def test_lock_of_a_cold_cache_blocks_other_processes(cache: Path) -> None:
    with kernel_cache.compiling():
        assert (cache / "kernels.lock").read_text() == str(os.getpid())
        assert not value_of("is_lock_holder_stopped")(cache / "kernels.lock")


@pytest.mark.parametrize("note", ["", "{}", "[]", '{"key": 1, "files": 2}', "gone", "other files"])
def test_invalid_note_is_a_cold_cache(cache: Path, note: str) -> None:
    kernel_cache.note_warm(load_kernels())
    file = cache / "kernels.json"
    content = json.loads(file.read_text())
    assert kernel_cache.is_warm() and len(content["files"]) > 1
    if note == "gone":
        file.unlink()
    elif note == "other files":
        file.write_text(json.dumps({**content, "files": [*content["files"], "/nowhere.nbi"]}))
    else:
        file.write_text(note)
    assert not kernel_cache.is_warm()


def test_note_of_other_settings_or_sources_is_a_cold_cache(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel_cache.note_warm(load_kernels())
    with monkeypatch.context() as patch:
        patch.setenv("NUMBA_CPU_NAME", "generic")
        assert not kernel_cache.is_warm()
    same = shutil.copytree(cache_folder.PACKAGE, cache / "kernels")
    monkeypatch.setattr(cache_folder, "PACKAGE", same)
    assert kernel_cache.is_warm()
    (same / "new.py").touch()
    assert not kernel_cache.is_warm()


def test_kernels_that_numba_does_not_compile_are_loaded(cache: Path) -> None:
    assert "loaded" in started(NUMBA_DISABLE_JIT="1")
    assert json.loads((cache / "kernels.json").read_text())["files"] == []
