"""A terminal's screen for tests: what is on it after a program has written to it.

It knows line ends, wrapping, and the control sequences that a line of progress needs: erase a line,
move the cursor up, hide it, set colours. Others fail the test.
"""

from __future__ import annotations

import re

__all__ = ["Screen"]

_TOKEN = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|[\r\n]|[^\x1b\r\n]")


class Screen:
    """Attributes:
    lines: text on the screen, by line. styles: parameters of all colour and style sequences.
    wrapped: lines that were wider than the screen. cursor_hidden: as left by the program.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.lines = [""]
        self.styles: set[str] = set()
        self.wrapped: list[str] = []
        self.cursor_hidden = False
        self._row = self._column = 0

    def feed(self, text: str) -> None:
        """Write text to the screen; a sequence must not be cut in two."""
        end = 0
        for token in _TOKEN.finditer(text):
            assert token.start() == end, f"unknown sequence in {text[end : end + 20]!r}"
            end = token.end()
            if token[2]:
                self._control(token[1], token[2])
            elif token[0] == "\r":
                self._column = 0
            elif token[0] == "\n":
                self._down()
            else:
                self._put(token[0])
        assert end == len(text), f"unknown sequence in {text[end : end + 20]!r}"

    def _control(self, parameters: str, kind: str) -> None:
        if kind == "K":
            assert parameters == "2"
            self.lines[self._row] = ""
        elif kind == "A":
            self._row -= int(parameters or 1)
            assert self._row >= 0
        elif kind == "m":
            self.styles.update(parameters.split(";"))
        else:
            assert (parameters, kind) in {("?25", "l"), ("?25", "h")}, (parameters, kind)
            self.cursor_hidden = kind == "l"

    def _down(self) -> None:
        self._row, self._column = self._row + 1, 0
        if self._row == len(self.lines):
            self.lines.append("")

    def _put(self, character: str) -> None:
        if self._column == self.width:
            self.wrapped.append(self.lines[self._row])
            self._down()
        line = self.lines[self._row].ljust(self._column)
        self.lines[self._row] = line[: self._column] + character + line[self._column + 1 :]
        self._column += 1
