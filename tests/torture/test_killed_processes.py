"""Many processes on one folder, killed and stopped at random: the data agrees with their logs.

VECDB_TORTURE_SEED chooses the disturbances, VECDB_TORTURE_SECONDS the duration.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest

import vecdb
from tests.torture.clients import COLLECTION, DIM, METRIC, Place, batch_of, history_of, marks_of
from tests.torture.controller import Controller, torture
from tests.torture.history import History

SEED = int(os.environ.get("VECDB_TORTURE_SEED", "0")) or random.randrange(1, 1_000_000)
SECONDS = float(os.environ.get("VECDB_TORTURE_SECONDS", "40"))


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 240)
def test_many_processes_lose_no_acknowledged_write(tmp_path: Path) -> None:
    print(f"VECDB_TORTURE_SEED={SEED}")
    try:
        done = torture(tmp_path, SEED, SECONDS)
    except AssertionError as error:
        raise AssertionError(f"VECDB_TORTURE_SEED={SEED}: {error}") from error
    print(dict(done))
    assert done["rounds"] >= 1 and done["ack"] > 20 * done["rounds"], done


def test_nth_batch_of_a_writer_is_deterministic() -> None:
    for number in range(8):
        one, other = batch_of(5, 1, number), batch_of(5, 1, number)
        assert one.ids == other.ids
        if one.vectors is not None and other.vectors is not None:
            np.testing.assert_array_equal(one.vectors, other.vectors)
            assert set(marks_of(1)) <= set(one.ids)
    assert batch_of(5, 1, 3).vectors is None


@pytest.mark.parametrize(
    ("text", "seqs"),
    [
        ("begin 0\nack 0 1\nbegin 1\nack 1 5\n", {2}),
        ("begin 0\nack 0 1\nbegin 1\nrefused 1 UNAVAILABLE\n", {1}),
        ("begin 0\nunknown 0\nbegin 1\nack 1 2\n", {1, 2}),
        ("begin 0\nack 0 1\nbegin 1\n", {1, 2}),  # It was killed.
        ("begin 0\nbegin 1\nack 1 1\n", {1, 2}),  # Killed, and another went on.
        ("begin 0\nack 0 1\nbegi", {1}),
    ],
)
def test_log_is_parsed(tmp_path: Path, text: str, seqs: set[int]) -> None:
    place = Place(tmp_path, 7, "")
    place.file("writer-0").write_text(text)
    history = History(DIM, METRIC)
    assert history_of(place, 0, history, 0) == (1 if text.endswith("begi") else 2)
    assert {each.seq for each in history.possible} == seqs


def test_decreasing_seqs_are_detected(tmp_path: Path) -> None:
    place = Place(tmp_path, 7, "")
    place.file("writer-0").write_text("begin 0\nack 0 6\nbegin 1\nack 1 5\n")
    with pytest.raises(AssertionError, match="seq 5 after 6"):
        history_of(place, 0, History(DIM, METRIC), 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("begin 0\nack 0 1\nbegin 1\nack 1 2\n", None),
        ("begin 0\nack 0 1\nbegin 1\n", None),
        ("begin 0\nack 0 1\nbegin 1\nack 1 2\nbegin 2\nack 2 3\n", "lost"),
        ("begin 0\nack 0 1\nbegin 1\nrefused 1 UNAVAILABLE\n", "not expected"),
    ],
)
def test_false_log_is_detected(tmp_path: Path, text: str, why: str | None) -> None:
    with Controller(tmp_path, 7) as controller:
        with vecdb.open(controller.place.data, indexer=False) as database:
            for number in range(2):
                batch_of(7, 0, number).send(database.collection(COLLECTION))
        controller.place.file("writer-0").write_text(text)
        if why is None:
            controller.compare()
        else:
            with pytest.raises(AssertionError, match=why):
                controller.compare()


def test_defect_noted_by_a_process_is_raised(tmp_path: Path) -> None:
    with Controller(tmp_path, 7) as controller:
        controller.place.file("reader-1").write_text("read 1\ndefect 'seq 4 after 5'\n")
        with pytest.raises(AssertionError, match="seq 4 after 5"):
            controller.raise_defects()
