"""Fixtures of the tests of the command line."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture
def main_program() -> Iterator[None]:
    """For tests that run ``vecdb serve`` in this process: afterwards undo what it sets there.

    It logs to a stream that pytest closes, and handles SIGINT.
    """
    root, own = logging.getLogger(), logging.getLogger("vecdb.server")
    log = root.handlers[:], root.level, own.level
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    switch_s = sys.getswitchinterval()
    yield
    root.handlers[:], root.level, own.level = log
    for number, handler in handlers.items():
        signal.signal(number, handler)
    sys.setswitchinterval(switch_s)
