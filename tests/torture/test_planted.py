"""The checkers are checked: each planted defect is detected; see planted.py.

``test_fsync.py`` tests the defects of syncing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.torture.history import Batch, History
from tests.torture.planted import PLANTED
from tests.torture.requirements import needs_strace
from tests.torture.syscall_faults import Run, check, run
from tests.torture.workload import Manner


def test_every_planted_defect_is_used() -> None:
    texts = "".join(p.read_text() for p in Path(__file__).parent.glob("test_*.py"))
    assert [name for name in PLANTED if f'"{name}"' not in texts] == []


def outcome(scratch: Path, plant: str | None, *, failpoints: str = "", looks: bool = True) -> Run:
    scratch.mkdir()
    return run(scratch, manner=Manner(plant, failpoints, looks))


@pytest.mark.slow
def test_early_acknowledgement_is_detected_by_a_kill_at_the_commit(tmp_path: Path) -> None:
    needs_strace()
    # Three commits create the collection; this is the commit of the second batch.
    crash = "commit.begin=crash:5"
    sound = outcome(tmp_path / "sound", None, failpoints=crash, looks=False)
    assert sound.exit_code == -9 and sound.messages[-1]["event"] == "begin"
    check(tmp_path / "sound" / "data", sound.messages)
    planted = outcome(tmp_path / "planted", "early acknowledgement", failpoints=crash, looks=False)
    assert planted.exit_code == -9
    with pytest.raises(AssertionError, match="possible"):
        check(tmp_path / "planted" / "data", planted.messages)


@pytest.mark.slow
def test_snapshot_that_skips_a_log_entry_is_detected_by_reading_own_writes(
    tmp_path: Path,
) -> None:
    needs_strace()
    assert outcome(tmp_path / "sound", None).events("done")
    defects = outcome(tmp_path / "planted", "skipped log entry").events("defect")
    assert "AssertionError" in defects[0]["why"]


def test_forgotten_tombstone_is_detected_by_exact_search(tmp_path: Path) -> None:
    needs_strace()
    sound = outcome(tmp_path / "sound", None)
    check(tmp_path / "sound" / "data", sound.messages)
    planted = outcome(tmp_path / "planted", "forgotten tombstone")
    defects = planted.events("defect")
    assert "check_hits" in defects[0]["why"]
    with pytest.raises(AssertionError):
        check(tmp_path / "planted" / "data", planted.messages)


class Shelf:
    """A read-only collection that returns prepared results."""

    def __init__(self, held: dict[str, np.ndarray]) -> None:
        self.held = held

    def get(self, ids: list[str]) -> Shelf:
        self.ids = [name for name in ids if name in self.held]
        self.vectors = [self.held[name] for name in self.ids]
        self.metadata: list[dict[str, int]] = [{} for _ in self.ids]
        return self


def history_of(acknowledged: bool) -> tuple[History, Batch]:
    history, batch = History(2, "dot"), Batch(["a", "b"], np.ones((2, 2), np.float32))
    if acknowledged:
        history.acknowledged(batch)
    else:
        history.unknown(batch)
    return history, batch


ONE, OTHER = np.ones(2, np.float32), np.array([1, 2], np.float32)


@pytest.mark.parametrize(
    ("held", "acknowledged", "fine"),
    [
        ({"a": ONE, "b": ONE}, True, True),
        ({}, True, False),  # Lost.
        ({"a": ONE, "b": ONE}, False, True),
        ({}, False, True),
        ({"a": ONE}, False, False),  # Half of a batch.
        ({"a": ONE, "b": OTHER}, True, False),  # Not what was written.
    ],
)
def test_history_allows_only_possible_states(
    held: dict[str, np.ndarray], acknowledged: bool, fine: bool
) -> None:
    history, _ = history_of(acknowledged)
    if fine:
        assert set(history.settle(Shelf(held)).model.rows) == set(held)
    else:
        with pytest.raises(AssertionError, match="possible"):
            history.settle(Shelf(held))


def test_refused_write_must_be_absent() -> None:
    history, batch = history_of(acknowledged=False)
    history.possible = history.possible[:1]  # As if the batch had been refused.
    with pytest.raises(AssertionError, match="not expected"):
        history.settle(Shelf(dict.fromkeys(batch.ids, ONE)))


def test_acknowledgement_with_a_wrong_seq_is_detected() -> None:
    history, batch = history_of(acknowledged=True)
    with pytest.raises(AssertionError, match="acknowledged at seq 3"):
        history.acknowledged(batch, seq=3)
