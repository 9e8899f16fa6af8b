"""Random operations by two processes agree with a model, and show planted defects.

The operations and the model: ``collection_machine.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis.errors import Flaky
from hypothesis.stateful import (
    run_state_machine_as_test,
)

import vecdb
from tests.places import override
from tests.runtime.collection_machine import CollectionMachine
from tests.second_process import SecondProcess
from vecdb.engine.store import conditions, layout, leases
from vecdb.engine.store import store as store_module
from vecdb.engine.store.changed_rows import ChangedRows
from vecdb.engine.store.requests import Requests


@pytest.fixture(scope="module")
def second() -> Iterator[SecondProcess]:
    with SecondProcess() as process:
        yield process


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot"])
def test_random_operations_agree_with_the_model(
    metric: str, second: SecondProcess, caplog: pytest.LogCaptureFixture
) -> None:
    machine = type(f"Machine_{metric}", (CollectionMachine,), {"metric": metric, "second": second})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )
    # No fault occurred, so nothing is logged.
    assert [r.getMessage() for r in caplog.records if r.name.startswith("vecdb")] == []


def plant_compaction_that_forgets_requests(patch: pytest.MonkeyPatch) -> None:
    override(patch, "copy_requests", lambda source, target: None)


def plant_purging_under_a_scroll(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(leases, "oldest_leased_seq", lambda store, transaction: None)


def plant_any_batch_under_a_used_id(patch: pytest.MonkeyPatch) -> None:
    answered = Requests.answered

    def careless(self: Any, transaction: Any, request_id: bytes, digest: bytes) -> Any:
        known = self._known(transaction, request_id)
        return answered(self, transaction, request_id, known.digest if known else digest)

    patch.setattr(Requests, "answered", careless)


def plant_a_condition_on_the_first_id_alone(patch: pytest.MonkeyPatch) -> None:
    check = conditions.check_condition
    patch.setattr(
        store_module,
        "check_condition",
        lambda rows, t, ids, order, seq, **terms: check(rows, t, ids[:1], [0], seq, **terms),
    )


def plant_requests_without_age(patch: pytest.MonkeyPatch) -> None:
    """Only a check detects these requests: they would never expire."""
    patch.setattr(layout, "request_age_key", lambda seq: layout.REQUEST_AGES + layout.row_key(0))


def plant_matches_of_a_filter_that_stay(patch: pytest.MonkeyPatch) -> None:
    override(patch, "changed_nodes", lambda *_: np.zeros(0, np.int64))


def plant_columns_that_stay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ChangedRows, "since", lambda *_, **__: np.zeros(0, np.int64))


PLANTS = [each for name, each in list(globals().items()) if name.startswith("plant_")]


@pytest.mark.slow
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__[6:])
def test_planted_defect_is_detected(
    plant: Callable[[pytest.MonkeyPatch], None],
    second: SecondProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The defect is planted in this process only; the second process is correct."""
    plant(monkeypatch)
    kinds = (AssertionError, vecdb.VecdbError, pytest.fail.Exception)
    caught: list[BaseException] = []

    class Planted(CollectionMachine):
        def teardown(self) -> None:
            error = sys.exc_info()[1]  # The error that ended the steps early, if any.
            try:
                super().teardown()
            except kinds as found:
                error = found
                raise
            finally:
                if isinstance(error, kinds):
                    caught.append(error)

    Planted.second = second
    chosen = settings(
        max_examples=200,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
    )
    # A fault of a background thread shows up at another step when hypothesis repeats the run,
    # which hypothesis reports as flaky.
    with pytest.raises((*kinds, Flaky)):
        run_state_machine_as_test(Planted, settings=chosen)
    assert caught
