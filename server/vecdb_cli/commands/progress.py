"""Progress of long commands: a bar that moves on a terminal, a line now and then elsewhere.

``Rows`` counts rows with their rate and the time left, ``Bytes`` bytes, and ``Status`` tells in a
sentence what is being waited for. All write to stderr, so that a command's output stays its own; a
file, a pipe or a terminal that can't move its cursor (TERM=dumb) gets plain lines.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.status import Status as Spinner

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Bytes", "Rows", "Status", "is_live"]

_LINE_EVERY_S = 10.0


def is_live(console: Console) -> bool:
    """Whether lines on it can be drawn over."""
    return console.is_terminal and not console.is_dumb_terminal


class Rows:
    """A context manager: ``update`` is told how many rows are done.

    Args:
        total: how many there are, None if that is not known.

    Attributes:
        rows: how many are done. elapsed_s: seconds since it was entered, until it was left.
    """

    _unit, _unit_size, _form = "rows", 1, ",.0f"

    def __init__(self, console: Console, what: str, total: int | None) -> None:
        self._console, self._what, self._total = console, what, total
        self.rows = 0
        self._began = self._last_line = time.monotonic()
        self._ended: float | None = None
        self._bar: Progress | None = None
        if is_live(console):
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                TextColumn("{task.fields[amount]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(what, total=total, amount="starting")

    @property
    def elapsed_s(self) -> float:
        """Seconds since it was entered, until it was left."""
        return (self._ended or time.monotonic()) - self._began

    def update(self, rows: int) -> None:
        """``rows`` are done, counted from the first."""
        self.rows = rows
        elapsed = max(self.elapsed_s, 1e-9)
        amount = f"{self._done()}, "
        amount += self._text(rows / elapsed, f"{self._unit}/s")
        if self._bar is not None:
            self._bar.update(self._task, completed=rows, total=self._total, amount=amount)
        elif time.monotonic() - self._last_line >= _LINE_EVERY_S and rows:
            self._last_line = time.monotonic()
            if self._total is not None:
                left = elapsed / rows * (self._total - rows)
                amount += f", about {left:.0f} s left"
            _print_plain(self._console, f"{self._what}: {amount}")

    def _done(self) -> str:
        if self._total is None:
            return self._text(self.rows, self._unit)
        return f"{self._text(self.rows)} of {self._text(self._total, self._unit)}"

    def _text(self, count: float, unit: str = "") -> str:
        return f"{count / self._unit_size:{self._form}} {unit}".rstrip()

    def __enter__(self) -> Self:
        self._began = self._last_line = time.monotonic()
        if self._bar is not None:
            self._bar.start()
        else:
            total = "" if self._total is None else f": {self._text(self._total, self._unit)}"
            _print_plain(self._console, f"{self._what}{total}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended = time.monotonic()
        if self._bar is not None:
            self._bar.stop()
        if error is not None:
            _print_plain(self._console, f"{self._what}: stopped after {self._done()}")


class Bytes(Rows):
    """The same of bytes that are sent, shown as megabytes."""

    _unit, _unit_size, _form = "MB", 1_000_000, ",.1f"

    def sent(self, count: int, total: int) -> None:
        """So many are on their way, of as many as is known by now."""
        self._total = total
        self.update(count)


class Status:
    """A context manager: one sentence that may change while something is waited for."""

    def __init__(self, console: Console, sentence: str) -> None:
        self._console, self._sentence = console, sentence
        self._last_line = 0.0
        self._spinner: Spinner | None = None
        if is_live(console):
            self._spinner = Spinner(sentence, console=console)

    def update(self, sentence: str) -> None:
        """Say another one; away from a terminal at most every few seconds."""
        if self._spinner is not None:
            self._spinner.update(sentence)
        elif sentence != self._sentence and time.monotonic() - self._last_line >= _LINE_EVERY_S:
            self._last_line = time.monotonic()
            _print_plain(self._console, sentence)
        self._sentence = sentence

    def __enter__(self) -> Self:
        self._last_line = time.monotonic()
        if self._spinner is not None:
            self._spinner.start()
        else:
            _print_plain(self._console, self._sentence)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._spinner is not None:
            self._spinner.stop()


def _print_plain(console: Console, text: str) -> None:
    """A line as it is: not wrapped, and with nothing in it taken for markup."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
