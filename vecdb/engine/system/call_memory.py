"""A common memory budget for all concurrent calls, so that a large call is rejected instead of
exhausting the memory of the process.

    budget     bytes that all calls of a database may use together (option ``call_bytes_max``)
    call       reserves memory before it allocates: the known part of its answer before it reads
               anything; metadata, whose size is not known in advance, slice by slice

Most calls need little memory; below 256 KiB a call is neither counted nor rejected. The answer of a
call to a server must also fit into a message; if it cannot, the call is rejected before it reads
rows.

The C library keeps freed memory for reuse. After a call that used much memory, ``malloc_trim``
returns it to the system.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from typing import Final

from vecdb.errors import ResourceExhaustedError
from vecdb.reasons import Reason

__all__ = ["CallMemory", "MemoryBudget", "out_of_memory"]

_LITTLE_BYTES: Final = 256 * 1024
"""Memory that each call may use without being counted."""

_REQUEST_COPIES, _ANSWER_COPIES, _SENT_COPIES = 3, 5, 2
"""Copies of the data that exist at the same time. Of a request: in gRPC, as bytes, in a message. Of
an answer: as read, as bytes, in a message, as the serialized message, in gRPC; while the answer is
sent, only the last two."""

_MUCH_BYTES: Final = 32 * 1024**2
"""After a call, or concurrent calls together, that used this much, freed memory is returned to the
system."""

_TRIM_AFTER_S: Final = (0.05, 0.5, 5.0)
"""Pauses before each ``malloc_trim``, in seconds: the threads of a call and those of gRPC free its
last buffers only after ``close``, on a busy machine much later."""


_at = threading.local()
"""``memory``: the CallMemory of the call that this thread executes."""


class MemoryBudget:
    """The memory budget of the calls of a database. Thread-safe."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._used = self._peak = 0
        self._lock = threading.Lock()

    @property
    def bytes_used(self) -> int:
        """Bytes reserved by all calls that are large enough to be counted."""
        return self._used

    def call(self, message_bytes: int | None = None) -> CallMemory:
        """Return the account of a new call: a context manager; or call its ``close``.

        Args:
            message_bytes: maximum size of its answer in bytes, if that is sent as a message.
        """
        return CallMemory(self, message_bytes)

    def of_call(self) -> contextlib.AbstractContextManager[CallMemory]:
        """Return the account of the call that this thread executes, or that of a new call."""
        memory: CallMemory | None = getattr(_at, "memory", None)
        if memory is not None and memory.budget is self:
            return contextlib.nullcontext(memory)
        return self.call()

    def add(self, count: int, wanted: int) -> None:
        """Reserve ``count`` more bytes for a call; release them if ``count`` is negative.

        Args:
            count: change in bytes.
            wanted: bytes of the call in total, for the message.

        Raises:
            ResourceExhaustedError: CALL_MEMORY: fewer bytes are free.
        """
        with self._lock:
            if count > 0 and self._used + count > self.bytes_max:
                raise ResourceExhaustedError(
                    f"the call needs about {wanted} bytes of memory; of the {self.bytes_max} for "
                    f"all calls {max(0, self.bytes_max - self._used + wanted - count)} are free; "
                    "request fewer rows, or no vectors or metadata, or retry later",
                    Reason.CALL_MEMORY,
                )
            self._used += count
            self._peak = max(self._used, self._peak)

    def ends_much(self) -> bool:
        """Return whether calls together used much memory and all of them have ended. Then reset
        the peak, so that it is True once."""
        with self._lock:
            much = self._used == 0 and self._peak >= _MUCH_BYTES
            if self._used == 0:
                self._peak = 0
        return much


class CallMemory:
    """The memory account of one call. Not thread-safe."""

    def __init__(self, budget: MemoryBudget, message_bytes: int | None) -> None:
        self.budget = budget
        self._message_bytes = message_bytes
        self._answer_copies = 1 if message_bytes is None else _ANSWER_COPIES
        self._request = self._answer = 0
        self._taken = self._counted = self._most = 0
        self._outlives = False

    def request(self, count: int) -> None:
        """Reserve the memory of the request, a message of ``count`` bytes.

        Raises:
            ResourceExhaustedError: CALL_MEMORY.
        """
        self._request = _REQUEST_COPIES * count
        self.take(self._request)

    def take(self, count: int) -> None:
        """Reserve ``count`` more bytes.

        Raises:
            ResourceExhaustedError: CALL_MEMORY.
        """
        taken = self._taken + count
        if taken > _LITTLE_BYTES:
            self.budget.add(taken - self._counted, taken)
            self._counted, self._most = taken, max(taken, self._most)
        self._taken = taken

    def answer(self, count: int) -> None:
        """Reserve memory for ``count`` more bytes of the answer.

        Raises:
            ResourceExhaustedError: MESSAGE_TOO_LARGE or CALL_MEMORY.
        """
        answer = self._answer + count
        if self._message_bytes is not None and answer > self._message_bytes:
            raise ResourceExhaustedError(
                f"the answer has at least {answer} bytes, the maximum of a message is "
                f"{self._message_bytes}; request fewer rows, or no vectors or metadata",
                Reason.MESSAGE_TOO_LARGE,
            )
        self.take(count * self._answer_copies)
        self._answer = answer

    def release(self, count: int) -> None:
        """Release bytes that were reserved by ``take``."""
        self.shrink(max(0, self._taken - count))

    def begin_again(self) -> None:
        """Release all but the memory of the request, since the work is repeated."""
        self.shrink(self._request)
        self._answer = 0

    def shrink(self, count: int) -> None:
        """Reduce the reservation to at most ``count`` bytes."""
        self._taken = min(self._taken, count)
        counted = self._taken if self._taken > _LITTLE_BYTES else 0
        if counted < self._counted:
            self.budget.add(counted - self._counted, counted)
            self._counted = counted

    def outlive(self, answer_bytes: int) -> None:
        """Keep the memory of the answer reserved after the end of the context, while the answer is
        sent, until ``close``. Count it even if it is small, since any number of answers may be
        waiting to be sent.

        Raises:
            ResourceExhaustedError: CALL_MEMORY.
        """
        taken = _SENT_COPIES * answer_bytes
        self.shrink(taken)
        if self._counted < taken:
            self.budget.add(taken - self._counted, taken)
            self._taken = self._counted = taken
        self._outlives = True

    def close(self) -> None:
        """Release all memory of the call. Idempotent."""
        counted = self._counted
        self.shrink(0)
        if self._most >= _MUCH_BYTES or (counted and self.budget.ends_much()):
            self._most = 0
            with contextlib.suppress(RuntimeError):  # No thread available: a later call will do it.
                threading.Thread(target=_trim_heap, name="vecdb-memory", daemon=True).start()

    def __enter__(self) -> CallMemory:
        _at.memory = self
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        _at.memory = None
        if not self._outlives:
            self.close()
        if isinstance(error, MemoryError):
            raise out_of_memory(error) from error


def out_of_memory(error: MemoryError) -> ResourceExhaustedError:
    """Return the error for a MemoryError; numpy's messages have the size of the allocation."""
    why = f": {error}" if str(error) else ""
    return ResourceExhaustedError(f"out of memory during the call{why}", Reason.OUT_OF_MEMORY)


def _trim_heap() -> None:
    for pause_s in _TRIM_AFTER_S:
        time.sleep(pause_s)
        with contextlib.suppress(AttributeError, OSError):  # Only glibc has this function.
            ctypes.CDLL(None).malloc_trim(0)
