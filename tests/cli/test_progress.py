"""The line of progress: in place on a terminal of any width, few lines elsewhere."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from tests.cli.screen import Screen
from tests.places import value_of
from vecdb_cli.commands import progress
from vecdb_cli.commands.child import ServerProcess
from vecdb_cli.commands.progress import Bytes, Rows, Status
from vecdb_cli.testing import redraw


class Clock:
    """The clock of the module under test, moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw when a test says so, not a few times a second."""
    real = progress.Live
    monkeypatch.setattr(progress, "Live", lambda **named: real(**named, auto_refresh=False))


class Terminal:
    """A console on a terminal, and the screen that its user sees."""

    def __init__(self, width: int) -> None:
        self._written = io.StringIO()
        self.screen = Screen(width)
        # Size and environment are given, so that nothing is looked up where the tests run.
        self.console = Console(
            file=self._written, force_terminal=True, force_interactive=True, width=width, height=24,
            color_system=None, legacy_windows=False, _environ={"TERM": "xterm-256color"},
        )  # fmt: skip

    def lines(self) -> list[str]:
        """Show what was written since the last call; return the lines that are not empty."""
        self.screen.feed(self._written.getvalue())
        self._written.seek(0)
        self._written.truncate()
        return [line for line in self.screen.lines if line]

    def drawn(self, status: Status) -> str:
        """Draw the line of progress and return it."""
        redraw(status)
        return self.lines()[-1]


def plain_console() -> tuple[Console, io.StringIO]:
    written = io.StringIO()
    return Console(file=written, force_terminal=False, width=40), written


@pytest.mark.usefixtures("still")
def test_terminal_shows_one_line_that_updates_in_place(clock: Clock) -> None:
    terminal = Terminal(80)
    with Status(terminal.console, "starting") as status:
        assert terminal.lines() == ["starting, 0 s"]
        clock.now_s += 3
        status.update("starting", "nearly")
        assert terminal.drawn(status) == "starting, nearly, 3 s"
        status.say("a line that stays [b]")
        assert terminal.lines() == ["a line that stays [b]", "starting, nearly, 3 s"]
        status.begin("indexing")
        assert terminal.lines() == ["a line that stays [b]", "indexing, 0 s"]
        clock.now_s += 200
        status.update("indexing", share=0.5)
        assert terminal.drawn(status) == "━" * 10 + "─" * 10 + " indexing, 3 min 20 s"
        assert terminal.screen.cursor_hidden
    assert terminal.lines() == ["a line that stays [b]"]
    assert not terminal.screen.cursor_hidden and not terminal.screen.wrapped


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("width", [1, 8, 20, 39, 40, 41, 60, 80, 200])
def test_line_fits_a_terminal_of_any_width(width: int, clock: Clock) -> None:
    terminal = Terminal(width)
    with Status(terminal.console, "indexing words: 0 of 399,000 rows in graphs") as status:
        clock.now_s += 23
        for sentence in ("short", "indexing words: 0 of 399,000 rows in graphs", "日本語" * 30):
            for detail in ("", "indexer building (150000 rows)", "two\nlines"):
                for share in (None, 0.0, 1.0):
                    status.update(sentence, detail, share)
                    drawn = terminal.drawn(status)
                    assert cell_len(drawn) < max(2, width)
                    if width >= 40:
                        assert drawn.endswith(", 23 s")
    assert terminal.lines() == [] and not terminal.screen.wrapped


@pytest.mark.usefixtures("still")
def test_narrow_terminal_loses_bar_and_details(clock: Clock) -> None:
    shown = {}
    for width in (120, 80, 50, 40, 20):
        terminal = Terminal(width)
        with Rows(terminal.console, "loading", 400_000) as rows:
            clock.now_s += 4
            rows.count(100_000)
            shown[width] = terminal.drawn(rows)
    full = "loading: 100,000 of 400,000 rows, 25,000 rows/s, about 12 s left"
    assert shown == {
        120: "━━━━━─────────────── " + full,
        80: "━━━─────────── " + full,
        50: "loading: 100,000 of 400,000 rows, about 12 s left",
        40: "━━────── loading: 25 %, about 12 s left",
        20: "l…, about 12 s left",
    }


def test_plain_output_has_a_line_per_step_and_fewer_within_a_step(clock: Clock) -> None:
    console, written = plain_console()
    with Status(console, "starting") as status:
        status.begin("indexing")
        for second in range(1, 3_601):
            clock.now_s += 1
            status.update(f"indexing: {second} of 3600", "[b]")
    lines = written.getvalue().splitlines()
    assert lines[:4] == [
        "starting",
        "indexing",
        "indexing: 10 of 3600, [b], 10 s",
        "indexing: 20 of 3600, [b], 20 s",
    ]
    assert [line.split()[1] for line in lines[4:]] == [
        *("40", "80", "160", "320", "640", "1240", "1840", "2440", "3040")
    ]
    assert "\x1b" not in written.getvalue()


def test_rows_and_bytes_say_total_rate_and_where_they_stopped(clock: Clock) -> None:
    console, written = plain_console()
    with Rows(console, "loading", 50) as rows:
        clock.now_s += 10
        rows.count(20)
    clock.now_s += 5
    assert (rows.rows, rows.elapsed_s) == (20, 10)
    with contextlib.suppress(KeyError), Rows(console, "reading", None) as rows:
        clock.now_s += 20
        rows.count(1_000)
        raise KeyError
    with Bytes(console, "importing", 3_000_000) as sent:
        clock.now_s += 10
        sent.sent(1_000_000, 5_000_000)
    assert written.getvalue().splitlines() == [
        "loading: 50 rows",
        "loading: 20 of 50 rows, 2 rows/s, about 15 s left",
        "reading",
        "reading: 1,000 rows, 50 rows/s, 20 s",
        "reading: stopped after 1,000 rows",
        "importing: 3.0 MB",
        "importing: 1.0 of 5.0 MB, 0.1 MB/s, about 40 s left",
    ]


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_dumb_terminal_gets_plain_lines(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", term)
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=40)
    with Status(console, "starting") as status:
        status.begin("indexing")
    assert written.getvalue() == "starting\nindexing\n"


def test_bar_is_ascii_where_the_terminal_is() -> None:
    assert value_of("progress_bar")(0.25, 60, ascii_only=True) == "#####--------------- "


def test_second_interrupt_kills_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ServerProcess(tmp_path / "data")
    server.wait_ready()
    pids, real = [], subprocess.Popen.wait

    def ignored(process: subprocess.Popen[str]) -> None:
        pids.append(process.pid)

    def interrupted(process: subprocess.Popen[str], timeout: float | None = None) -> int:
        if timeout is not None:
            raise KeyboardInterrupt
        return real(process)

    monkeypatch.setattr(subprocess.Popen, "terminate", ignored)
    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    monkeypatch.undo()
    assert server.stop() == -9
