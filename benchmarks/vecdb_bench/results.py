"""Results: JSON lines, one measurement a line, each whole by itself; the file is what is resumed.

    {"format": 1, "scenario": "search", "target": "faiss",
     "dataset": "glove-50:20000", "data": "glove-50-20000-6cb15426ff-0c53c1f5a2",
     "settings": {…}, "point": {"mode": "one query, one caller", "k": 10, "effort": 64},
     "status": "measured", "figures": {…}, "provenance": {…}}

Scenario, target, data set (as asked for, and by checksums), settings and point are a measurement's
**key**: what has a line with status "measured" or "cannot" is not measured again. "failed" has the
error, and is tried again.
Lines are only ever added; of several with one key the last one counts. A line cut short by a crash
is passed over, being the last one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vecdb.errors import DataLossError, FailedPreconditionError

__all__ = ["Results", "key_of", "read_results"]

FORMAT = 1
_KEY = ("scenario", "target", "dataset", "data", "settings", "point")


def key_of(line: dict[str, Any]) -> str:
    """What tells a measurement from others."""
    return json.dumps([line.get(part) for part in _KEY], sort_keys=True)


def read_results(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, the last one of each key, in the order of the keys' first lines.

    Raises:
        DataLossError: a line that is not the last one is no JSON.
        FailedPreconditionError: a line is of a newer format.
    """
    latest: dict[str, dict[str, Any]] = {}
    for line in _lines(path):
        if line["format"] > FORMAT:
            raise FailedPreconditionError(
                f"{path} has lines of format {line['format']}, this version reads up to {FORMAT}",
                "NEWER_FORMAT",
            )
        latest[key_of(line)] = line
    return list(latest.values())


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    texts = path.read_text(encoding="utf-8").split("\n")
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            yield json.loads(text)
        except json.JSONDecodeError:
            if number == len(texts):
                return  # It has no end: the process was killed while it wrote it.
            raise DataLossError(f"{path}, line {number} is no JSON", "BAD_RESULTS") from None


class Results:
    """A file that results are added to.

    Args:
        again: measure what is there already once more; old lines stay and no longer count.
    """

    def __init__(self, path: Path, *, again: bool = False) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        known = read_results(path)
        self._done = {
            key_of(line): line
            for line in known
            if line["status"] in ("measured", "cannot") and not again
        }
        self._cut_unfinished_line()

    def known(self, **key: Any) -> dict[str, Any] | None:
        """The line of that key, if it needs no measuring."""
        return self._done.get(key_of(key))

    def add(self, *, status: str, provenance: dict[str, Any], **line: Any) -> dict[str, Any]:
        """Write a line: on disk when this returns.

        Args:
            status: "measured", "cannot" (the target has no such thing) or "failed".
            line: the key, and figures or error.
        """
        whole = {"format": FORMAT, **line, "status": status, "provenance": provenance}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(whole) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if status != "failed":
            self._done[key_of(whole)] = whole
        return whole

    def _cut_unfinished_line(self) -> None:
        if self.path.exists():
            content = self.path.read_bytes()
            if content and not content.endswith(b"\n"):
                os.truncate(self.path, content.rfind(b"\n") + 1)
