"""Waiting for events: no test proves anything by a time.

``HANG_S`` is the one limit, of what would otherwise hang; pytest's own limit of a test is longer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

HANG_S = 300.0
"""Seconds that nothing takes, on however busy a machine."""

NEVER_S = 100 * HANG_S
"""A limit that ends no test: what would wait for it fails by pytest's limit of a test."""


def eventually(condition: Callable[[], Any], otherwise: Callable[[], object] | str = "") -> Any:
    """Wait until a condition holds, and return its value. otherwise: what to report if not."""
    ends = time.monotonic() + HANG_S
    while not (found := condition()):
        if time.monotonic() > ends:
            raise AssertionError(otherwise() if callable(otherwise) else otherwise or "a hang")
        time.sleep(0.005)
    return found
