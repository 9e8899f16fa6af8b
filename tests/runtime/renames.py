"""What tests of renamed and dropped collections share: rows, answers, and a second process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.waiting import HANG_S

DIM = 4


def rows(count: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def in_another_process(data: Path, statements: str) -> None:
    """Run statements in another process, with ``db`` open."""
    code = f"import sys, vecdb\nwith vecdb.open(sys.argv[1], indexer=False) as db:\n {statements}"
    done = subprocess.run(
        [sys.executable, "-c", code, str(data)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stderr


def all_ids(collection: Any) -> list[str]:
    return [name for page in collection.scroll(include_vectors=False) for name in page.ids]


def reason_of(call: Any) -> str:
    with pytest.raises(vecdb.NotFoundError) as caught:
        call()
    return caught.value.reason
