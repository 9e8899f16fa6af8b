"""The suite's side of a worker: starts it, calls it, ends it.

A call waits at most so long; a worker that dies or is late is killed, and the error says what it
last wrote to stderr.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vecdb.errors import UnsupportedError, VecdbError
from vecdb_bench.targets.base import descendants
from vecdb_bench.targets.environments import Environment
from vecdb_bench.targets.registry import describe

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TargetFailedError", "WorkerProcess"]

_CALL_TIMEOUT_S = 3_600.0
_END_TIMEOUT_S = 60.0


class TargetFailedError(VecdbError):
    """A target raised, died or took too long; the message is its own."""

    code = "INTERNAL"


class WorkerProcess:
    """A worker of one target; a context manager that ends it.

    Args:
        name: in ``registry.TARGETS``. cache: where environments are kept.

    Raises:
        UnavailableError: its environment could not be made.
    """

    def __init__(self, name: str, cache: Path) -> None:
        self.name = name
        description = describe(name)
        python, path = sys.executable, os.pathsep.join(part for part in sys.path if part)
        if not (description.library and importlib.util.find_spec(description.library)):
            environment = Environment(name, description.requirements, cache)
            python, path = environment.python(), environment.package_path()
        # Not inherited by pipes: the file is read only when something went wrong.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(
            [python, "-m", "vecdb_bench.targets.worker", description.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"},
            # Its whole group can be ended, servers that it started too.
            start_new_session=True,
        )
        self._buffer = b""
        self._watched: dict[int, str] = {}

    @property
    def pid(self) -> int:
        """Of the worker."""
        return self._process.pid

    def call(self, do: str, timeout_s: float = _CALL_TIMEOUT_S, **arguments: Any) -> Any:
        """Have a command done; its result.

        Raises:
            UnsupportedError: the target can't do that; the message is the reason.
            TargetFailedError: it raised, died or is late.
        """
        self.start(do, **arguments)
        return self.result(timeout_s)

    def start(self, do: str, **arguments: Any) -> None:
        """Begin a command; ``result`` waits for it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise TargetFailedError(self._output_tail("ended"), "TARGET_FAILED") from None

    def result(self, timeout_s: float = _CALL_TIMEOUT_S) -> Any:
        """What the command that was begun has given; raises as ``call`` does."""
        answer = json.loads(self._line(timeout_s))
        if "cannot" in answer:
            raise UnsupportedError(f"{self.name}: {answer['cannot']}", "TARGET_CANNOT")
        if "error" in answer:
            raise TargetFailedError(f"{self.name}: {answer['error']}", "TARGET_FAILED")
        return answer["ok"]

    def watch(self, pids: Iterable[int]) -> None:
        """Have these end with the worker: what a target runs in may have left the worker's group,
        as PostgreSQL does."""
        self._watched.update((pid, _began(pid)) for pid in pids if pid != self.pid)

    def kill(self) -> None:
        """SIGKILL to the worker and to all that the target runs in; none is left afterwards.

        Raises:
            TargetFailedError: one does not end.
        """
        roots = [pid for pid, began in self._watched.items() if began and _began(pid) == began]
        if self._process.poll() is None:
            roots.append(self._process.pid)
        doomed = {each: _began(each) for root in roots for each in (root, *descendants(root))}
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for pid, began in doomed.items():
            if began and _began(pid) == began:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()
        ends = time.monotonic() + _END_TIMEOUT_S
        while any(began and _began(pid) == began for pid, began in doomed.items()):
            if time.monotonic() > ends:
                raise TargetFailedError(f"{self.name}: it outlives SIGKILL", "TARGET_FAILED")
            time.sleep(0.005)

    def stop(self) -> None:
        """End it in good order, and see to it that it was.

        Raises:
            TargetFailedError: it had to be killed, or ended with an error.
        """
        self._end_input()
        try:
            status = self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise TargetFailedError(
                self._output_tail(f"did not end within {_END_TIMEOUT_S:.0f} s"), "TARGET_FAILED"
            ) from None
        if status:
            raise TargetFailedError(self._output_tail("failed as it ended"), "TARGET_FAILED")

    def close(self) -> None:
        """End it in good order, by force if it takes too long."""
        self._end_input()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        self.kill()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _end_input(self) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass

    def _line(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        ends = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, ends - time.monotonic())):
                    self.kill()
                    raise TargetFailedError(
                        self._output_tail(f"gave no answer for {timeout_s:.0f} s"), "TARGET_FAILED"
                    )
                part = os.read(self._process.stdout.fileno(), 1 << 16)
                if not part:
                    self._process.wait()
                    raise TargetFailedError(self._output_tail("ended"), "TARGET_FAILED")
                self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _output_tail(self, what: str) -> str:
        status = self._process.poll()
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 1500))
        said = self._errors.read().decode("utf-8", "replace").strip()
        return f"{self.name}: the worker {what}, status {status}; it last said:\n{said}"


def _began(pid: int) -> str:
    """When a process was started, which tells it from a later one of its number; empty text if it
    is gone. One that has ended and that somebody else has not reaped is there: PostgreSQL's package
    takes it for a server that runs."""
    try:
        state, parent, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state == "Z" and int(parent) == os.getpid() else fields[17]
