"""The gRPC channel of a client, and what to do with one in which a call was interrupted.

Ctrl-C raises KeyboardInterrupt between any two steps of the main thread. Within gRPC that may leave
a lock taken that gRPC's own threads need, or a call whose events none of them reads. From then on
calls of that channel may wait without end, and so may closing it, which collecting it does, too.
So a channel in which the main thread was interrupted is neither used nor closed any more: its
client takes a new one, which shares the connection if that is sound.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable

import grpc

import vecdb
from vecdb import limits

__all__ = ["UseOfChannel", "in_background", "interrupt_in", "leave_channel", "new_channel"]


def new_channel(address: str) -> grpc.Channel:
    """A channel to host:port; it connects with its first call."""
    # The server's limit on messages decides; ours is the greatest that it may have.
    size = limits.MESSAGE_BYTES.maximum
    return grpc.insecure_channel(
        address,
        options=(
            ("grpc.max_send_message_length", size),
            ("grpc.max_receive_message_length", size),
            ("grpc.enable_http_proxy", 0),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2_000),
            ("grpc.primary_user_agent", f"vecdb-client/{vecdb.__version__}"),
        ),
    )


class UseOfChannel:
    """Around each use of a channel; ``on_interrupt`` is called if one ends it."""

    __slots__ = ("_on_interrupt",)

    def __init__(self, on_interrupt: Callable[[], None]) -> None:
        self._on_interrupt = on_interrupt

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None and (interrupt := interrupt_in(error)) is not None:
            self._on_interrupt()
            if interrupt is not error:
                raise interrupt


def interrupt_in(error: BaseException) -> BaseException | None:
    """The interrupt that this is or hides, None if it is another error."""
    if isinstance(error, RuntimeError):
        # It came between two steps of a lock, which then could not be released.
        return error.__context__ and interrupt_in(error.__context__)
    # An iterator that is closed early is no interrupt.
    return None if isinstance(error, Exception | GeneratorExit) else error


def leave_channel(channel: grpc.Channel) -> None:
    """See to it that a channel is never collected, not even when the interpreter ends."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(channel))


def in_background(end: Callable[[], object]) -> None:
    """Cancel or close what an interrupted channel may make wait without end."""
    threading.Thread(target=end, name="vecdb-client-end", daemon=True).start()
