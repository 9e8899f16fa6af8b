"""Collects what a check finds, so that a million of the same fault are one problem and not a
million: a count and the first few."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from vecdb.checking import ERROR, KINDS, Problem

__all__ = ["EXAMPLES_MAX", "Few", "Findings", "shown_id"]

EXAMPLES_MAX: Final = 5
_ID_CHARACTERS_MAX: Final = 60
_DETAIL_CHARACTERS_MAX: Final = 1_000


class Findings:
    """Problems of one collection, handed on as they are found.

    Args:
        collection: what the problems name.
        tell: called with each problem.
    """

    def __init__(self, collection: str, tell: Callable[[Problem], None]) -> None:
        self._collection = collection
        self._tell = tell
        self.count = 0

    def add(
        self, kind: str, detail: str, severity: str = ERROR, *, segment: int | None = None
    ) -> None:
        """One problem, as a sentence."""
        assert kind in KINDS, kind
        self.count += 1
        detail = detail[:_DETAIL_CHARACTERS_MAX]
        self._tell(Problem(self._collection, kind, detail, severity, segment))

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
        """Nothing if there are no examples, else one problem: how many, what, and the first few.

        what: what there are so many of: "live rows that no id names".
        count: how many there are, if ``examples`` are only the first.
        """
        few = list(examples)
        if not few:
            return
        count = len(few) if count is None else count
        shown = ", ".join(str(each) for each in few[:EXAMPLES_MAX])
        dots = ", …" if count > EXAMPLES_MAX else ""
        self.add(kind, f"{count:,} {what}: {shown}{dots}", severity, segment=segment)


class Few:
    """The first few of many, and how many there were."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def add(self, text: str) -> None:
        """One more."""
        self.count += 1
        if len(self.first) < EXAMPLES_MAX:
            self.first.append(text)

    def tell(self, findings: Findings, kind: str, what: str, severity: str = ERROR) -> None:
        """As a problem, if there are any."""
        findings.many(kind, what, self.first, severity, count=self.count)


def shown_id(encoded: bytes) -> str:
    """An id as a problem shows it."""
    text = encoded.decode(errors="replace")
    short = text if len(text) <= _ID_CHARACTERS_MAX else text[:_ID_CHARACTERS_MAX] + "…"
    return repr(short)
