"""The store's clock: it decides when request ids, leases and the purge delay expire.

The clock counts only nanoseconds that have certainly elapsed, and wall-clock jumps do not affect
it. A jump forward would forget requests and end leases early; a jump back would keep them too long.
The clock is a record in ``meta``, written with each batch and each lease. Reading it writes
nothing:

    b"clock"    u64 time, u64 boot time, u64 wall clock (ns; all at the moment of writing), 16 bytes
                of the boot's identity

The current time is the record's time plus the elapsed time, computed as follows:

    same boot               the difference in boot time (CLOCK_BOOTTIME). All processes of a boot
                            share it, and it includes the time that the machine was suspended.
    another boot            the smaller of the uptime (the record is older than the boot) and the
                            wall-clock difference
    no record               zero: the time stays at the newest timestamp of the log, else of the
                            requests, until the next write; with no timestamp, the wall clock

Consequences:

- The time that the machine was off, and the time between the last write and a reboot, do not count.
  After a reboot, request ids are recognised for longer than their window, never for less, and a
  lease ends at most one full lease period after the reboot.
- A wall clock that jumps during a reboot adds at most the uptime, which has elapsed anyway.
- A boot is identified by ``boot_id`` and the time namespace, since a container may have its own
  boot time. Containers or sandboxed kernels that use one folder at the same time count as
  different boots, and the second rule applies between their writes: a wall-clock jump between two
  writes then counts, up to the uptime.
- The second rule also applies to a folder that was copied or restored to another machine. Only
  there can leases and windows end early, by the difference between the two wall clocks.
- If a virtual machine is reset to a snapshot, its boot time may be less than the record's. Then the
  elapsed time is zero, and the next write starts a new record.
- The time is close to the wall clock when a store is created and falls behind later. It has no
  meaning outside the store.
- Without ``boot_id`` (no /proc, not Linux) each process counts as a boot of its own, with its
  monotonic clock.

A damaged record counts as no record. Timestamps ahead of this clock come from earlier versions,
which used the wall clock; each module that reads timestamps documents how it treats those.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import struct
import time
from pathlib import Path
from typing import Final, NamedTuple

from vecdb.engine.kv.environment import Environment
from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.store import layout
from vecdb.errors import DataLossError

__all__ = ["CLOCK_KEY", "StoreClock", "boot_identity", "boot_time_ns", "wall_clock_ns"]

CLOCK_KEY: Final = b"clock"
_RECORD = struct.Struct("<QQQ16s")


class _Record(NamedTuple):
    time_ns: int
    boot_ns: int
    wall_ns: int
    boot: bytes


def boot_time_ns() -> int:
    """Return nanoseconds since the machine booted, including suspended time."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic_ns() if clock is None else time.clock_gettime_ns(clock)


def wall_clock_ns() -> int:
    """Return nanoseconds since 1970 by the machine's wall clock."""
    return time.time_ns()


@functools.cache
def boot_identity() -> bytes:
    """Return 16 bytes that are equal in two processes only if they share a boot time."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return os.urandom(16)
    with contextlib.suppress(OSError):  # Older kernels have no time namespaces.
        text += str(Path("/proc/self/ns/time").readlink())
    return hashlib.sha256(text.encode()).digest()[:16]


class StoreClock:
    """The clock of one store. Holds no state between calls; thread-safe."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self._handles = environment.handles

    def read(self, transaction: Transaction) -> int:
        """Return the current time in nanoseconds, never less than the last time written."""
        record = self._record(transaction)
        if record is None:
            last = self._last_stamp(transaction)
            return wall_clock_ns() if last is None else last
        boot_ns = boot_time_ns()
        if record.boot == boot_identity():
            passed_ns = boot_ns - record.boot_ns
        else:
            passed_ns = min(boot_ns, wall_clock_ns() - record.wall_ns)
        return record.time_ns + max(0, passed_ns)

    def advance(self, transaction: Transaction) -> int:
        """Write the current time to the store and return it, in nanoseconds.

        Later reads in the same boot then use the boot time, whatever the wall clock does.
        """
        now_ns = self.read(transaction)
        record = _RECORD.pack(now_ns, boot_time_ns(), wall_clock_ns(), boot_identity())
        transaction.put(CLOCK_KEY, layout.pack_value(CLOCK_KEY, record), db=self._handles.meta)
        return now_ns

    def _record(self, transaction: Transaction) -> _Record | None:
        value = transaction.get(CLOCK_KEY, db=self._handles.meta)
        if value is None:
            return None
        with contextlib.suppress(DataLossError, struct.error):
            return _Record(*_RECORD.unpack(layout.unpack_value(CLOCK_KEY, value, "meta")))
        return None

    def _last_stamp(self, transaction: Transaction) -> int | None:
        """Return the time of the newest batch in the log, else in the requests, else None."""
        with contextlib.suppress(DataLossError), transaction.cursor(self._handles.log) as cursor:
            if cursor.last():
                return layout.unpack_log(cursor.key(), cursor.value()).time_ns
        with (
            contextlib.suppress(DataLossError),
            transaction.cursor(self._handles.requests) as cursor,
        ):
            if cursor.last() and bytes(cursor.key()).startswith(layout.REQUEST_AGES):
                request_id = bytes(layout.unpack_value(cursor.key(), cursor.value(), "request"))
                value = transaction.get(request_id, db=self._handles.requests)
                if value is not None:
                    return layout.unpack_request(request_id, value).time_ns
        return None
