"""Every error has a status, and its reason and message reach the caller unless it is a defect."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.server.raw_calls import Code, Wire
from vecdb import errors
from vecdb.engine.runtime.open_collection import OpenCollection
from vecdb_proto import vecdb_pb2 as wire
from vecdb_server.translation import statuses


def test_every_error_has_a_status() -> None:
    public = {getattr(errors, name) for name in errors.__all__} - {errors.VecdbError}
    assert set(statuses.STATUS_OF_ERROR) == public
    for kind, status in statuses.STATUS_OF_ERROR.items():
        assert status.name == kind.code


def test_every_error_is_in_the_table() -> None:
    """A class that a part keeps for itself is one of those in the table, and goes out as such."""
    left = [errors.VecdbError]
    while left:
        for child in left.pop().__subclasses__():
            left.append(child)
            if child.__module__.partition(".")[0] in ("vecdb", "vecdb_server", "vecdb_client"):
                assert any(base in statuses.STATUS_OF_ERROR for base in child.__mro__), child
                assert statuses.status_of(_made(child)).code.name == child.code


def _made(kind: Any) -> errors.VecdbError:
    error: errors.VecdbError
    error = kind("x", "server") if kind is errors.MissingExtraError else kind("x")
    return error


def test_only_messages_made_for_callers_reach_them() -> None:
    class Foreign(errors.VecdbError):
        """Not in the table, so it is a defect."""

    for error in (
        RuntimeError("password"),
        KeyError("password"),
        errors.InternalError("password"),
        Foreign("password"),
    ):
        status = statuses.status_of(error)
        assert status == (Code.INTERNAL, "INTERNAL", statuses.GENERIC_MESSAGE)
    assert statuses.status_of(errors.NotFoundError("no 'x'", "NO_X")) == (
        Code.NOT_FOUND,
        "NO_X",
        "no 'x'",
    )
    unknown = statuses.status_of(errors.OutcomeUnknownError("?", "COMMIT_FAILED"))
    assert unknown == (Code.UNKNOWN, "OUTCOME_UNKNOWN", "?")


def test_a_long_message_fits_into_headers() -> None:
    status = statuses.status_of(errors.InvalidArgumentError("ž" * 100_000))
    assert 900 < len(status.message.encode()) <= 1_000


def test_defect_is_reported_to_the_log_only(
    server: Wire, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: Any) -> int:
        raise RuntimeError("the secret path /srv/secret")

    monkeypatch.setattr(OpenCollection, "count", broken)
    with caplog.at_level(logging.ERROR, "vecdb.server"):
        code, reason, message = server.failure("Count", wire.CountRequest(collection="docs"))
    assert (code, reason) == (Code.INTERNAL, "INTERNAL")
    assert message == statuses.GENERIC_MESSAGE
    (record,) = caplog.records
    assert "defect call=Count" in record.getMessage()
    assert record.exc_info is not None
    assert "the secret path" in str(record.exc_info[1])


def test_reasons_and_messages_arrive_whatever_is_in_them(
    server: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, status in statuses.STATUS_OF_ERROR.items():
        if kind in (errors.InternalError, errors.MissingExtraError):
            continue

        def failing(self: Any, kind: Any = kind) -> int:
            raise kind('žluťoučký\nkůň "%41"', "SOME_REASON")

        monkeypatch.setattr(OpenCollection, "count", failing)
        expected = "OUTCOME_UNKNOWN" if status is Code.UNKNOWN else "SOME_REASON"
        failure = server.failure("Count", wire.CountRequest(collection="docs"))
        assert failure == (status, expected, 'žluťoučký\nkůň "%41"')
