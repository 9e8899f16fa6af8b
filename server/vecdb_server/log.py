"""The server's log on stderr, one line per event:

    2026-11-23T19:14:05.123Z INFO ready address=127.0.0.1:7801 data=/srv/data collections=2 rows=100

The time is UTC. A value with a space is quoted, characters that are not printable are escaped (line
ends, control characters, changes of text direction), and a long value is truncated. So each event
is one line, whatever text it contains; this also holds for messages of libraries. A defect is
followed by its traceback, whose lines begin with a space.

As JSON each line is an object: time, level, event, and the fields of the event under their names
(see ``configure``); a defect has its traceback in the field ``traceback``.

gRPC's core logs to stderr in a format of its own and with text from its peers unescaped (such as
that of a GOAWAY). So its log level is set to errors (``vecdb_server/__init__.py``).
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import TextIO

from vecdb.one_line import cut, one_line

__all__ = ["configure", "event", "failure"]

_LOGGER = logging.getLogger("vecdb.server")
_GRPC_LOGGER = logging.getLogger("grpc._cython.cygrpc")


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.name != _LOGGER.name:  # Values of the server's own events are escaped already.
            message = one_line(message)
        line = f"{self.formatTime(record)} {record.levelname} {message}"
        error = record.exc_info[1] if record.exc_info else None
        return line if error is None else "\n".join([line, *_traceback(error)])

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{seconds}.{int(record.msecs):03d}Z"


class _JsonLines(_Lines):
    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", None)
        line: dict[str, object] = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "event": "message" if fields is None else record.event,  # type: ignore[attr-defined]
        }
        if fields is None:
            line |= {"logger": record.name, "message": record.getMessage()}
        else:
            line |= {key: _json_value(value) for key, value in fields.items()}
        if record.exc_info:
            line["traceback"] = "\n".join(_traceback(record.exc_info[1]))
        return json.dumps(line, ensure_ascii=True)


def configure(
    stream: TextIO | None = None, level: int = logging.INFO, *, as_json: bool = False
) -> None:
    """Log this process's events, and messages of libraries from WARNING on, to a stream; by default
    stderr."""
    _GRPC_LOGGER.addFilter(_without_metadata)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonLines() if as_json else _Lines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    _LOGGER.setLevel(level)


def _without_metadata(record: logging.LogRecord) -> bool:
    """Leave out what grpcio adds if the metadata of a call is not text: it may be a token."""
    if record.getMessage().startswith("Invalid encoding"):
        record.msg, record.args = "the metadata of a call is not text; the call was refused", ()
        record.exc_info = record.exc_text = None
    return True


def event(name: str, level: int = logging.INFO, /, **fields: object) -> None:
    """Log one event with its fields."""
    if _LOGGER.isEnabledFor(level):
        _LOGGER.log(level, "%s", _line(name, fields), extra={"event": name, "fields": fields})


def failure(name: str, error: BaseException, /, **fields: object) -> None:
    """Log a defect with its traceback."""
    extra = {"event": name, "fields": fields}
    _LOGGER.error("%s", _line(name, fields), exc_info=error, extra=extra)


def _line(name: str, fields: dict[str, object]) -> str:
    return " ".join([name, *(f"{key}={_shown(value)}" for key, value in fields.items())])


def _json_value(value: object) -> object:
    return value if isinstance(value, bool | int | float) else cut(str(value))


def _shown(value: object) -> str:
    text = cut(str(value))
    if text and text.isprintable() and not set(text) & {" ", '"', "="}:
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _traceback(error: BaseException | None) -> list[str]:
    """Return the lines of an error's traceback and of its causes'. Only the messages of the errors
    are foreign text, so only these are escaped."""
    lines: list[str] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        own = ["Traceback (most recent call last):"]
        for frame in traceback.extract_tb(error.__traceback__):
            own.append(f"  {frame.filename}:{frame.lineno} in {frame.name}")
            own += [f"    {frame.line}"] if frame.line else []
        own.append(f"{type(error).__qualname__}: {one_line(_message_of(error))}")
        lines = own + (["Which led to:"] if lines else []) + lines
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return [" " + line for line in lines]


def _message_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(str() of the error failed)"
