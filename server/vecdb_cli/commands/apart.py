"""Work in a thread of its own, while the main thread does nothing but hear signals.

A handler that raises does so in the main thread, whatever that is about: in a ``__del__``, where
Python drops it, or in gRPC, which is left in a state that it may never leave.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue

__all__ = ["run_apart"]

_GIVE_UP_S = 10.0


def run_apart(work: Callable[[], None], give_up: Callable[[], object]) -> None:
    """Do ``work`` and raise what it raises.

    Args:
        give_up: called if a signal handler raises meanwhile; ends what ``work`` waits for. The
            handler's exception is raised when ``work`` has ended, at most 10 s later.
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
        with contextlib.suppress(RuntimeError):  # It is not known to have started yet.
            thread.join(_GIVE_UP_S)
        raise
    if error is not None:
        raise error
