"""One budget for the memory of all calls under way: what a call may take is known before it is
taken, and what does not fit is refused instead of ending the process.

    budget     bytes that the calls of a database may take together (option ``call_bytes_max``)
    call       says what it is about to take: what is sure of an answer before anything is read, and
               the metadata, whose size nobody knows, in slices as they are read

Nearly all calls take little, and are neither counted nor refused. A served call's answer must fit
into a message besides: one that can't is refused before its rows are read.

The C library keeps what is freed for what comes next, for as long as the process lives; after a
call that took much it is asked to give that back to the machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections.abc import Iterator
from typing import Final

from vecdb.errors import ResourceExhaustedError
from vecdb.reasons import Reason

__all__ = ["CallMemory", "MemoryBudget", "out_of_memory"]

_LITTLE_BYTES: Final = 256 * 1024
"""What every call may take."""

_REQUEST_COPIES, _ANSWER_COPIES, _SENT_COPIES = 3, 5, 2
"""Of a request: as gRPC has it, as bytes, in a message. Of an answer: as it was read, as bytes, in
a message, as that message's bytes, and as gRPC has them; while it is sent, the last two."""

_MUCH_BYTES: Final = 32 * 1024**2
"""After a call that took so much, or calls that did together, memory is given back."""

_GIVE_BACK_AFTER_S: Final = 0.05
"""The last of it is let go by whoever ends the call."""


_at = threading.local()
"""The call that a thread is at."""


class MemoryBudget:
    """The memory of the calls of a database. For many threads."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._used = self._peak = 0
        self._lock = threading.Lock()

    @property
    def bytes_used(self) -> int:
        """What calls that take more than a little have said that they take."""
        return self._used

    def call(self, message_bytes: int | None = None) -> CallMemory:
        """For a call that begins, a context manager or to be closed.

        Args:
            message_bytes: what its answer must fit into, which is built and sent as a message.
        """
        return CallMemory(self, message_bytes)

    @contextlib.contextmanager
    def of_call(self) -> Iterator[CallMemory]:
        """That of the call that this thread is at, or of one that begins here."""
        memory: CallMemory | None = getattr(_at, "memory", None)
        if memory is not None and memory.budget is self:
            yield memory
            return
        with self.call() as own:
            yield own

    def add(self, count: int, wanted: int) -> None:
        """A call takes ``count`` bytes more, ``wanted`` in all; or gives them back, below 0.

        Raises:
            ResourceExhaustedError: CALL_MEMORY: they are not free.
        """
        with self._lock:
            if count > 0 and self._used + count > self.bytes_max:
                raise ResourceExhaustedError(
                    f"the call takes about {wanted} bytes of memory, of the {self.bytes_max} for "
                    f"all calls {max(0, self.bytes_max - self._used + wanted - count)} are free; "
                    "ask for fewer rows, or without vectors or metadata, or try again later",
                    Reason.CALL_MEMORY,
                )
            self._used += count
            self._peak = max(self._used, self._peak)

    def ends_much(self) -> bool:
        """Calls have taken much together, and none of them is left; told once."""
        with self._lock:
            much = self._used == 0 and self._peak >= _MUCH_BYTES
            if self._used == 0:
                self._peak = 0
        return much


class CallMemory:
    """What one call takes. For one thread at a time."""

    def __init__(self, budget: MemoryBudget, message_bytes: int | None) -> None:
        self.budget = budget
        self._message_bytes = message_bytes
        self._answer_copies = 1 if message_bytes is None else _ANSWER_COPIES
        self._request = self._answer = 0
        self._taken = self._counted = self._most = 0
        self._outlives = False

    def request(self, count: int) -> None:
        """It came with a message of so many bytes.

        Raises:
            ResourceExhaustedError: CALL_MEMORY.
        """
        self._request = _REQUEST_COPIES * count
        self.take(self._request)

    def take(self, count: int) -> None:
        """It is about to take so many bytes.

        Raises:
            ResourceExhaustedError: CALL_MEMORY.
        """
        taken = self._taken + count
        if taken > _LITTLE_BYTES:
            self.budget.add(taken - self._counted, taken)
            self._counted, self._most = taken, max(taken, self._most)
        self._taken = taken

    def answer(self, count: int) -> None:
        """Its answer is about to have so many bytes more.

        Raises:
            ResourceExhaustedError: MESSAGE_TOO_LARGE or CALL_MEMORY.
        """
        answer = self._answer + count
        if self._message_bytes is not None and answer > self._message_bytes:
            raise ResourceExhaustedError(
                f"the answer has at least {answer} bytes, a message may have "
                f"{self._message_bytes}; ask for fewer rows, or without vectors or metadata",
                Reason.MESSAGE_TOO_LARGE,
            )
        self.take(count * self._answer_copies)
        self._answer = answer

    def begin_again(self) -> None:
        """What its work has taken so far is given back, as it is done once more."""
        self.shrink(self._request)
        self._answer = 0

    def shrink(self, count: int) -> None:
        """No more than so many bytes are left of it."""
        self._taken = min(self._taken, count)
        counted = self._taken if self._taken > _LITTLE_BYTES else 0
        if counted < self._counted:
            self.budget.add(counted - self._counted, counted)
            self._counted = counted

    def outlive(self, answer_bytes: int) -> None:
        """Its answer is on its way: what that takes is given back by ``close`` and not at the end
        of the context. It is counted however little it is, as callers may leave any number of
        answers on their way.

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
        """It has ended; closing twice is fine."""
        counted = self._counted
        self.shrink(0)
        if self._most >= _MUCH_BYTES or (counted and self.budget.ends_much()):
            self._most = 0
            with contextlib.suppress(RuntimeError):  # No thread to be had: another time.
                threading.Thread(target=_give_back, name="vecdb-memory", daemon=True).start()

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
    """What a caller is told of one; numpy's say how much was asked for."""
    why = f": {error}" if str(error) else ""
    return ResourceExhaustedError(
        f"the machine has too little memory for the call{why}", Reason.OUT_OF_MEMORY
    )


def _give_back() -> None:
    time.sleep(_GIVE_BACK_AFTER_S)
    with contextlib.suppress(AttributeError, OSError):  # Another C library has no such function.
        ctypes.CDLL(None).malloc_trim(0)
