"""The suite's side of a worker: starts it, calls it, ends it.

Each call has a timeout. If a worker exits or exceeds the timeout, it is killed and the error has
the end of its stderr.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
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
    """A target raised, exited or exceeded a timeout; the message has its error or stderr."""

    code = "INTERNAL"


class WorkerProcess:
    """A worker of one target; a context manager that ends it.

    Args:
        name: a key of ``registry.TARGETS``.
        cache: folder of the environments.

    Raises:
        InvalidArgumentError: there is no such target.
        UnavailableError: its environment could not be created.
    """

    def __init__(self, name: str, cache: Path) -> None:
        self.name = name
        description = describe(name)
        python, path = sys.executable, os.pathsep.join(part for part in sys.path if part)
        if not (description.library and importlib.util.find_spec(description.library)):
            environment = Environment(name, description.requirements, cache)
            python, path = environment.python(), environment.package_path()
        # A file, since a pipe would block the worker when full: it is only read after a failure.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(
            [python, "-m", "vecdb_bench.targets.worker", description.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"},
            # So that the whole process group can be killed, including servers that it started.
            start_new_session=True,
        )
        self._buffer = b""
        self._watched: dict[int, str] = {}

    @property
    def pid(self) -> int:
        """Return the process id of the worker."""
        return self._process.pid

    def call(self, do: str, timeout_s: float = _CALL_TIMEOUT_S, **arguments: Any) -> Any:
        """Run a command in the worker and return its result.

        Args:
            do: name of the command, without "do_".
            timeout_s: seconds.
            arguments: of the command; must be JSON.

        Raises:
            UnsupportedError: the target does not support the command; the message has the reason.
            TargetFailedError: it raised, exited or exceeded the timeout.
        """
        self.start(do, **arguments)
        return self.result(timeout_s)

    def start(self, do: str, **arguments: Any) -> None:
        """Send a command; ``result`` waits for its result.

        Raises:
            TargetFailedError: the worker has exited.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise TargetFailedError(self._output_tail("ended"), "TARGET_FAILED") from None

    def result(self, timeout_s: float = _CALL_TIMEOUT_S) -> Any:
        """Return the result of the command sent last; raises like ``call``."""
        answer = json.loads(self._line(timeout_s))
        if "cannot" in answer:
            raise UnsupportedError(f"{self.name}: {answer['cannot']}", "TARGET_CANNOT")
        if "error" in answer:
            raise TargetFailedError(f"{self.name}: {answer['error']}", "TARGET_FAILED")
        return answer["ok"]

    def answered(self) -> bool:
        """Return whether ``result`` would return at once."""
        assert self._process.stdout is not None
        return b"\n" in self._buffer or bool(select.select([self._process.stdout], [], [], 0)[0])

    def watch(self, pids: Iterable[int]) -> None:
        """Kill these processes together with the worker.

        Needed for processes that leave the worker's process group, such as PostgreSQL.
        """
        self._watched.update((pid, _began(pid)) for pid in pids if pid != self.pid)

    def kill(self) -> None:
        """Kill the worker, watched processes and all descendants; wait until they have ended.

        Raises:
            TargetFailedError: a process did not end within the timeout.
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
                left = [pid for pid, began in doomed.items() if began and _began(pid) == began]
                raise TargetFailedError(
                    f"{self.name}: processes {left} still run {_END_TIMEOUT_S:.0f} s after SIGKILL",
                    "TARGET_FAILED",
                )
            time.sleep(0.005)

    def stop(self) -> None:
        """Stop the worker normally and check its exit status.

        Raises:
            TargetFailedError: it did not end within the timeout, or ended with an error.
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
        """Stop the worker normally; kill it if it exceeds the timeout, and kill what it leaves."""
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
                        self._output_tail(f"did not answer within {timeout_s:.0f} s"),
                        "TARGET_FAILED",
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
        tail = self._errors.read().decode("utf-8", "replace").strip()
        return f"{self.name}: the worker {what}, status {status}; the end of its output:\n{tail}"


def _began(pid: int) -> str:
    """Return the start time of a process in clock ticks, or "" if it has ended.

    The start time distinguishes a process from a later one with the same id. A zombie whose parent
    is another process counts as running, since PostgreSQL's package takes it for a live server.
    """
    try:
        state, parent, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state == "Z" and int(parent) == os.getpid() else fields[17]
