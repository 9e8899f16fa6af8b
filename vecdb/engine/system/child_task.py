"""One job in a child process: it gets a line of JSON at most and answers with lines of JSON.

Lines of its output that are not JSON objects (warnings, tracebacks) are kept as the output tail,
for the error if it ends without an answer. Leaving the context manager kills the child.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from vecdb import errors
from vecdb.engine.system.child_process import start_child
from vecdb.errors import VecdbError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ChildTask", "raise_error"]

Answer = dict[str, Any]

_POLL_S: Final = 0.05
_END_S: Final = 5.0
_TAIL_LINES: Final = 20


class ChildTask:
    """A child process with one job; a context manager.

    Args:
        module: run as ``python -m module arguments``, in a session of its own, so that Ctrl-C
            reaches this process alone.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._process = start_child(module, *arguments, own_session=True)
        self._answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._reader = threading.Thread(target=self._read, name="vecdb-child-reader", daemon=True)
        self._reader.start()

    def send(self, job: Answer) -> None:
        """Send the job; a child that has ended already is no error here."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()

    def answers(self, check: Callable[[], None] | None = None) -> Iterator[Answer]:
        """Yield the child's answers until its output ends.

        Args:
            check: called every 50 ms meanwhile; what it raises ends the wait.
        """
        while True:
            if check is not None:
                check()
            try:
                answer = self._answers.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if answer is None:
                return
            yield answer

    def ended(self) -> tuple[int, str]:
        """Wait for the child's end; return its exit status and the last line that is no answer."""
        try:
            status = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:  # It has closed its output and goes on: it was stopped.
            self.kill()
            status = self._process.returncode
        self._reader.join()
        return status, self._tail[-1] if self._tail else "no output"

    def kill(self) -> None:
        """Kill the child and wait for its end."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = None
            with contextlib.suppress(ValueError):
                answer = json.loads(line)
            if isinstance(answer, dict):
                self._answers.put(answer)
            else:
                self._tail.append(line.strip())
        self._answers.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def raise_error(answer: Answer) -> NoReturn:
    """Raise the error that a child reports as {"error": class, "message", "reason"}."""
    kind: type[VecdbError] = getattr(errors, answer["error"], errors.DataLossError)
    raise kind(answer["message"], answer["reason"])
