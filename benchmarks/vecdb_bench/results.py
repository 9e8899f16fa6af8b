"""Results: JSON lines, one self-contained measurement per line; a run resumes from the file.

    {"format": 1, "scenario": "search", "target": "faiss",
     "dataset": "glove-50:20000", "data": "glove-50-20000-6cb15426ff-0c53c1f5a2",
     "settings": {…}, "point": {"mode": "one query, one caller", "k": 10, "effort": 64},
     "status": "measured", "figures": {…}, "provenance": {…}}

Scenario, target, data set (by name and by checksums), settings and point are a measurement's
**key**. A key that has a line with status "measured" or "cannot" is not measured again. A line with
status "failed" has the error, and its key is measured again.

The file is append-only; of several lines with one key the last one counts. A last line truncated by
a crash is ignored.
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
    """Return the key of a line as text; lines of the same measurement have equal keys."""
    return json.dumps([line.get(part) for part in _KEY], sort_keys=True)


def read_results(path: Path) -> list[dict[str, Any]]:
    """Return the last line of each key, in the order of the keys' first lines.

    Raises:
        DataLossError: a line other than the last one is not valid JSON.
        FailedPreconditionError: a line has a newer format.
    """
    latest: dict[str, dict[str, Any]] = {}
    for line in _lines(path):
        if line["format"] > FORMAT:
            raise FailedPreconditionError(
                f"{path}: expected lines of format {FORMAT} or earlier, got {line['format']}; "
                "read it with a newer version of vecdb",
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
                return  # Truncated: the process was killed while writing it.
            raise DataLossError(f"{path}, line {number}: not valid JSON", "BAD_RESULTS") from None


class Results:
    """A file that results are appended to.

    Args:
        again: measure all keys again; old lines stay in the file and no longer count.
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
        """Return the line of a key that needs no measuring, or None."""
        return self._done.get(key_of(key))

    def add(self, *, status: str, provenance: dict[str, Any], **line: Any) -> dict[str, Any]:
        """Append a line and fsync it; return the line.

        Args:
            status: "measured", "cannot" (unsupported by the target) or "failed".
            line: the members of the key, and figures or error.
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
