"""Collects the findings of a check.

Many findings of the same kind become one problem, with their number and the first few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from vecdb.checking import ERROR, KINDS, Problem

__all__ = ["EXAMPLES_MAX", "Examples", "Findings", "shown_id"]

EXAMPLES_MAX: Final = 5
_ID_CHARACTERS_MAX: Final = 60
_DETAIL_CHARACTERS_MAX: Final = 1_000


class Findings:
    """Problems of one collection, reported as they are found.

    Args:
        collection: the name for ``Problem.collection``.
        report: called with each problem.

    Attributes:
        count: number of problems so far.
    """

    def __init__(self, collection: str, report: Callable[[Problem], None]) -> None:
        self._collection = collection
        self._report = report
        self.count = 0

    def add(
        self, kind: str, detail: str, severity: str = ERROR, *, segment: int | None = None
    ) -> None:
        """Report one problem; ``detail`` is a sentence."""
        assert kind in KINDS, kind
        self.count += 1
        detail = detail[:_DETAIL_CHARACTERS_MAX]
        self._report(Problem(self._collection, kind, detail, severity, segment))

    def many(
        self,
        kind: str,
        what: str,
        examples: Iterable[object],
        severity: str = ERROR,
        *,
        count: int | None = None,
        segment: int | None = None,
    ) -> None:
        """Report one problem for several findings, unless there are none.

        Args:
            what: the plural that follows the number, like "live rows without an id".
            examples: the findings, or the first few of them.
            count: number of findings if ``examples`` has only the first few.
        """
        few = list(examples)
        if not few:
            return
        count = len(few) if count is None else count
        shown = ", ".join(str(each) for each in few[:EXAMPLES_MAX])
        dots = ", …" if count > EXAMPLES_MAX else ""
        self.add(kind, f"{count:,} {what}: {shown}{dots}", severity, segment=segment)


class Examples:
    """Counts findings and keeps the first few."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def add(self, text: str) -> None:
        """Count a finding."""
        self.count += 1
        if len(self.first) < EXAMPLES_MAX:
            self.first.append(text)

    def report(self, findings: Findings, kind: str, what: str, severity: str = ERROR) -> None:
        """Report the findings as one problem, unless there are none."""
        findings.many(kind, what, self.first, severity, count=self.count)


def shown_id(encoded: bytes) -> str:
    """Return an id as shown in problems, shortened."""
    text = encoded.decode(errors="replace")
    short = text if len(text) <= _ID_CHARACTERS_MAX else text[:_ID_CHARACTERS_MAX] + "…"
    return repr(short)
