"""Ctrl-C in the middle of a call, and what of gRPC is not to be touched after it.

It raises KeyboardInterrupt between any two steps of the main thread. Within gRPC that may leave a
lock taken that gRPC's own threads need, or a call whose events none of them reads. From then on
calls of that channel may wait without end, and so may cancelling them, and closing the channel,
which collecting it does, too.
"""

from __future__ import annotations

import _thread
import ctypes
from collections.abc import Callable

import grpc

__all__ = ["in_background", "interrupt_in", "keep_until_ended", "never_collect"]


def interrupt_in(error: BaseException, handled: BaseException | None) -> BaseException | None:
    """The interrupt that an error is, or that led to it; None if there was none.

    Args:
        handled: what the caller was handling already when it called gRPC: that led to nothing here.
    """
    while isinstance(error, RuntimeError):
        # It may have come between two steps of a lock, which then could not be released.
        if error.__context__ is None or error.__context__ is handled:
            return None
        error = error.__context__
    # An iterator that is closed early is no interrupt.
    return None if isinstance(error, Exception | GeneratorExit) else error


def never_collect(thing: object) -> None:
    """Keep an object for ever, also while the interpreter ends and lets go of everything."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def keep_until_ended(call: grpc.Future) -> None:
    """Have gRPC hold a call that was begun until it has ended.

    Collecting it before that would cancel it, in whatever thread that comes about; and Python drops
    an interrupt that comes in a ``__del__``, so that nobody would hear of the lock that is left.
    """
    call.add_done_callback(_do_nothing)


def _do_nothing(call: grpc.Future) -> None:
    pass


def in_background(end: Callable[[], object]) -> None:
    """Run a cancel or close that may never return, in a thread that nobody waits for."""
    # Not a threading.Thread, whose start waits for locks of its own.
    _thread.start_new_thread(end, ())
