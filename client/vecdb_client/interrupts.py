"""Recovering from KeyboardInterrupt inside gRPC.

Ctrl-C raises KeyboardInterrupt between any two bytecodes of the main thread. Inside gRPC this may
leave a lock held that gRPC's own threads need, or a call whose events no thread reads. From then on
calls on that channel may block forever, and so may cancelling them and closing the channel. Garbage
collection of a channel closes it, too.
"""

from __future__ import annotations

import _thread
import ctypes
from collections.abc import Callable

import grpc

__all__ = ["in_background", "interrupt_in", "keep_until_ended", "never_collect"]


def interrupt_in(error: BaseException, handled: BaseException | None) -> BaseException | None:
    """Return the interrupt that an error is or was caused by; None if there was none.

    Args:
        error: the error raised by gRPC.
        handled: the exception that the caller was already handling when it called gRPC; it is not
            a cause.
    """
    while isinstance(error, RuntimeError):
        # An interrupt within a lock's operations can make releasing the lock raise RuntimeError.
        if error.__context__ is None or error.__context__ is handled:
            return None
        error = error.__context__
    # GeneratorExit, from closing an iterator early, is not an interrupt.
    return None if isinstance(error, Exception | GeneratorExit) else error


def never_collect(thing: object) -> None:
    """Leak an object on purpose, so that not even the interpreter's shutdown collects it."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def keep_until_ended(call: grpc.Future) -> None:
    """Make gRPC reference a call until the call has ended.

    Collecting it earlier would cancel it, in an arbitrary thread. Also, Python discards an
    interrupt that occurs in a ``__del__``, so that a lock left held would go unnoticed.
    """
    call.add_done_callback(_do_nothing)


def _do_nothing(call: grpc.Future) -> None:
    pass


def in_background(end: Callable[[], object]) -> None:
    """Run a cancel or a close that may never return, in a thread that is not joined."""
    # Not a threading.Thread: its start waits on locks.
    _thread.start_new_thread(end, ())
