"""Run work in a second thread, while the main thread only waits for signals.

Python runs signal handlers in the main thread, between any two instructions. A handler that raises
there may interrupt a ``__del__``, which drops the exception, or gRPC, which can hang afterwards.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue

__all__ = ["run_apart"]

_GIVE_UP_S = 10.0


def run_apart(work: Callable[[], None], give_up: Callable[[], object]) -> None:
    """Run ``work`` in a thread and wait for it; raise what it raises.

    Args:
        give_up: called if a signal handler raises during the wait; must end what ``work`` waits
            for. The handler's exception is raised when ``work`` has ended, at most 10 s later.
    """
    ended: SimpleQueue[BaseException | None] = SimpleQueue()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            ended.put(error)
        else:
            ended.put(None)

    thread = threading.Thread(target=run, name="vecdb-work", daemon=True)
    try:
        thread.start()
        error = ended.get()
    except BaseException:
        give_up()
        with contextlib.suppress(RuntimeError):  # The thread may not have started.
            thread.join(_GIVE_UP_S)
        raise
    if error is not None:
        raise error
