"""One line an event, to stderr:

    2026-11-23T19:14:05.123Z INFO ready address=127.0.0.1:7801 data=/srv/data collections=2 rows=100

The time is UTC. A value with a space in it stands in quotes, with line ends escaped, so that a
line is one event whatever was in it. A defect is followed by its traceback.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TextIO

__all__ = ["configure", "event", "failure"]

_LOGGER = logging.getLogger("vecdb.server")


class _Lines(logging.Formatter):
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{seconds}.{int(record.msecs):03d}Z"


def configure(stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Send this process's events, and what libraries log from WARNING on, to a stream (stderr)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Lines("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    _LOGGER.setLevel(level)


def event(name: str, level: int = logging.INFO, /, **fields: object) -> None:
    """Log one event with its fields."""
    if _LOGGER.isEnabledFor(level):
        _LOGGER.log(level, "%s", _line(name, fields))


def failure(name: str, error: BaseException, /, **fields: object) -> None:
    """Log a defect with its traceback."""
    _LOGGER.error("%s", _line(name, fields), exc_info=error)


def _line(name: str, fields: dict[str, object]) -> str:
    return " ".join([name, *(f"{key}={_shown(value)}" for key, value in fields.items())])


def _shown(value: object) -> str:
    text = str(value)
    if text and text.isprintable() and not set(text) & {" ", '"', "="}:
        return text
    return json.dumps(text, ensure_ascii=False)
