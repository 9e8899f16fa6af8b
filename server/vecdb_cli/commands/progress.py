"""Progress of long commands: one line that updates in place on a terminal, few lines elsewhere.

    with Status(console, "starting the server") as status:
        status.begin("indexing")                       # the next step
        status.update("indexing: 3 of 5 rows", "indexer building", share=0.6)
        status.say("a line that stays")

``Status`` shows a sentence with a bar where a share is known, details, and the seconds of the step.
On a narrow terminal bar and details are left out; the line is never wrapped, as a wrapped line
can't be drawn over. ``Rows`` and ``Bytes`` count what is done, with rate and time left.

A file, a pipe or a terminal that can't move its cursor (TERM=dumb) gets a plain line for each step,
and within a step after 10, 20, 40 … seconds, so that the log of a long run stays short.

Commands give a console on stderr, so that stdout holds results only.
"""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.text import Text

from vecdb.one_line import one_line

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Bytes", "Rows", "Status"]

_FIRST_LINE_S: Final = 10.0
_LINE_GAP_MAX_S: Final = 600.0
_DRAWN_PER_S: Final = 4.0
_BAR_CELLS_MIN: Final = 8
_BAR_CELLS_MAX: Final = 20


class _Shown(NamedTuple):
    sentence: str
    detail: str = ""
    share: float | None = None
    short: str = ""


class Status:
    """A context manager: one line on what is being waited for, updated in place on a terminal.

    Args:
        console: where it is drawn.
        sentence: the first step; None if the first ``begin`` comes later.
    """

    def __init__(self, console: Console, sentence: str | None = None) -> None:
        self._console = console
        # Replaced as a whole, as another thread draws it.
        self._shown = _Shown(sentence or "")
        self._began = time.monotonic()
        self._next_line_s = _FIRST_LINE_S
        self._drawing = threading.Lock()
        self._live: Live | None = None
        if console.is_terminal and console.is_interactive:
            self._live = Live(
                console=console,
                get_renderable=self._drawn,
                refresh_per_second=_DRAWN_PER_S,
                transient=True,
                redirect_stdout=False,
            )

    @property
    def elapsed_s(self) -> float:
        """Seconds since the step began."""
        return time.monotonic() - self._began

    def begin(self, sentence: str, *, short: str = "") -> None:
        """Begin a step: show it at once, and count its seconds from now; see ``update``."""
        self._shown = _Shown(sentence, short=short)
        self._began = time.monotonic()
        self._next_line_s = _FIRST_LINE_S
        if self._live is not None:
            self._live.refresh()
        else:
            self.say(sentence)

    def update(
        self, sentence: str, detail: str = "", share: float | None = None, *, short: str = ""
    ) -> None:
        """Show how far the step is; plain output gets it at growing intervals only.

        Args:
            sentence: the most important part.
            detail: shown behind it if there is room.
            share: of the step that is done, 0 to 1; drawn as a bar if there is room.
            short: replaces the sentence on a terminal that is too narrow for it.
        """
        self._shown = _Shown(sentence, detail, share, short)
        if self._live is None and (elapsed_s := self.elapsed_s) >= self._next_line_s:
            self._next_line_s = elapsed_s + min(elapsed_s, _LINE_GAP_MAX_S)
            self.say(", ".join(filter(None, (sentence, detail, self._tail()))))

    def say(self, text: str) -> None:
        """Print a line that stays, as it is: not wrapped, nothing in it taken for markup."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def undrawn(self) -> AbstractContextManager[object]:
        """Return a context in which the line is not drawn, as drawing takes time from what is
        measured. Only ``update`` may be called in it."""
        return self._drawing

    def _tail(self) -> str:
        """Return what stands last in the line: the seconds of the step."""
        return _duration(self.elapsed_s)

    def _drawn(self) -> Text:
        """Return the line as wide as the terminal is now."""
        with self._drawing:
            if not self._shown.sentence:
                return Text("")
            sentence, detail, share, short = self._shown
            sentence, detail, tail = one_line(sentence), one_line(detail), f", {self._tail()}"
            short = one_line(short) or sentence
            # Terminals differ in what they do after a character in the last column.
            room = self._console.width - 1
            words = ", ".join(filter(None, (sentence, detail))) + tail
            for text in (words, sentence + tail, short + tail):
                if cell_len(text) <= room:
                    bar = _bar(share, room - cell_len(text) - 1, self._console.options.ascii_only)
                    return Text(bar + text, no_wrap=True)
            cut = Text(short, no_wrap=True)
            cut.truncate(max(1, room - cell_len(tail)), overflow="ellipsis")
            cut.append(tail)
            cut.truncate(max(1, room))
            return cut

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        if self._live is not None:
            self._live.start(refresh=True)
        elif self._shown[0]:
            self.say(self._shown[0])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()


class Rows(Status):
    """A context manager that counts rows: ``count(rows)`` says how many are done.

    Args:
        what: names the step.
        total: number of rows, None if it is not known.

    Attributes:
        rows: rows done.
    """

    _unit, _unit_size, _form = "rows", 1, ",.0f"

    def __init__(self, console: Console, what: str, total: int | None) -> None:
        self._what, self._total = what, total
        self.rows = 0
        self._ended_s: float | None = None
        of_total = "" if total is None else f": {self._text(total, self._unit)}"
        super().__init__(console, what + of_total)

    @property
    def elapsed_s(self) -> float:
        """Seconds from entering to leaving the context, or until now."""
        return super().elapsed_s if self._ended_s is None else self._ended_s

    def count(self, rows: int) -> None:
        """Set the number of rows that are done, counted from the first."""
        self.rows = rows
        rate = self._text(rows / max(self.elapsed_s, 1e-9), f"{self._unit}/s")
        share = None if not self._total else min(1.0, rows / self._total)
        short = "" if share is None else f"{self._what}: {int(share * 100)} %"
        self.update(f"{self._what}: {self._done()}", rate, share, short=short)

    def _tail(self) -> str:
        if self._total is None or not self.rows:
            return super()._tail()
        left_s = self.elapsed_s / self.rows * max(0, self._total - self.rows)
        return f"about {_duration(left_s)} left"

    def _done(self) -> str:
        if self._total is None:
            return self._text(self.rows, self._unit)
        return f"{self._text(self.rows)} of {self._text(self._total, self._unit)}"

    def _text(self, count: float, unit: str = "") -> str:
        return f"{count / self._unit_size:{self._form}} {unit}".rstrip()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended_s = self.elapsed_s
        super().__exit__(kind, error, traceback)
        if error is not None:
            self.say(f"{self._what}: stopped after {self._done()}")


class Bytes(Rows):
    """The same for bytes that are sent, shown in megabytes."""

    _unit, _unit_size, _form = "MB", 1_000_000, ",.1f"

    def sent(self, count: int, total: int) -> None:
        """Set the number of bytes sent, and of all bytes as far as it is known by now."""
        self._total = total
        self.count(count)


def _bar(share: float | None, room: int, ascii_only: bool) -> str:
    """Return a bar and a space, or nothing if the share is not known or there is no room."""
    cells = min(room, _BAR_CELLS_MAX)
    if share is None or cells < _BAR_CELLS_MIN:
        return ""
    full, rest = ("#", "-") if ascii_only else ("━", "─")  # They differ without colour, too.
    done = int(share * cells)
    return full * done + rest * (cells - done) + " "


def _duration(seconds: float) -> str:
    whole = int(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
