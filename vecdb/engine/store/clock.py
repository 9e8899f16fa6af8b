"""The clock of a store, by which windows of requests, leases of pins and ages of deaths end.

It counts nanoseconds in which time has certainly passed, and no jump of the wall clock moves it:
neither forward, which would forget requests and end leases early, nor back, which would keep them.
It is a record in ``meta``, written with each batch and each lease, and read without writing:

    b"clock"    u64 time, u64 boot time, u64 wall clock (ns; all at the moment of writing), 16 bytes
                of the boot's identity

The time now is that of the record and what has passed since:

    in the same boot        the difference in boot time (CLOCK_BOOTTIME), which all processes of a
                            boot share and which goes on while the machine is suspended
    in another boot         what both other clocks agree on: the boot time, as the record is older
                            than the boot, but no more than the wall clock has gone on since
    without a record        nothing, from the last stamp that there is (log, else requests) until
                            the next write; where there is none, from the wall clock

What follows from it:

- Time in which a machine was off, or what passed from the last write before a reboot to that, is
  not counted: requests are recognised for longer then, never for less than their window, and a
  lease that a reboot interrupted ends within its length afterwards.
- A wall clock that jumps across a reboot can add no more than the uptime, which has passed anyway.
- A boot is told by ``boot_id`` and the time namespace, as containers may have a boot time of their
  own. Containers, or sandboxed kernels, that share a folder at once are several boots to it, and
  alternate by the second rule: only then is a jump between two of their writes believed, up to the
  uptime.
- A folder that was copied, or restored from a backup, goes on by the second rule on another
  machine. Only there could something end early: by as much as the wall clocks of the two differ.
- In a virtual machine that was set back to a snapshot the boot time may be less than the record's:
  then nothing has passed, and the next write begins from there.
- The time is near the wall clock when a store is made, and falls behind it later. It means nothing
  outside of the store.
- Where there is no ``boot_id`` (no /proc, not Linux) each process is a boot of its own, with its
  monotonic clock.

A damaged record is none. Stamps that lie ahead of the clock are from versions that went by the wall
clock; who uses them says how they end.
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
from vecdb.engine.kv.named_database import NamedDatabase
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
    """Nanoseconds since the machine was started, suspended or not."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic_ns() if clock is None else time.clock_gettime_ns(clock)


def wall_clock_ns() -> int:
    """Nanoseconds since 1970, as far as the machine knows."""
    return time.time_ns()


@functools.cache
def boot_identity() -> bytes:
    """16 bytes that processes have in common if they share a boot time."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return os.urandom(16)
    with contextlib.suppress(OSError):  # Older kernels have no time namespaces.
        text += str(Path("/proc/self/ns/time").readlink())
    return hashlib.sha256(text.encode()).digest()[:16]


class StoreClock:
    """The clock of one store. Keeps nothing between calls."""

    _meta, _log = NamedDatabase(b"meta"), NamedDatabase(b"log")
    _requests = NamedDatabase(b"requests")

    def __init__(self, environment: Environment) -> None:
        self.environment = environment

    def read(self, transaction: Transaction) -> int:
        """The time now, in nanoseconds; not before any that a transaction has written."""
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
        """The time now, written down: from here on it goes by the boot time."""
        now_ns = self.read(transaction)
        record = _RECORD.pack(now_ns, boot_time_ns(), wall_clock_ns(), boot_identity())
        transaction.put(CLOCK_KEY, layout.seal_value(CLOCK_KEY, record), db=self._meta)
        return now_ns

    def _record(self, transaction: Transaction) -> _Record | None:
        value = transaction.get(CLOCK_KEY, db=self._meta)
        if value is None:
            return None
        with contextlib.suppress(DataLossError, struct.error):
            return _Record(*_RECORD.unpack(layout.open_value(CLOCK_KEY, value, "meta")))
        return None

    def _last_stamp(self, transaction: Transaction) -> int | None:
        """When the last batch was written of which that is still known."""
        with contextlib.suppress(DataLossError), transaction.cursor(self._log) as cursor:
            if cursor.last():
                return layout.unpack_log(cursor.key(), cursor.value()).time_ns
        with contextlib.suppress(DataLossError), transaction.cursor(self._requests) as cursor:
            if cursor.last() and bytes(cursor.key()).startswith(layout.REQUEST_AGES):
                request_id = bytes(layout.open_value(cursor.key(), cursor.value(), "request"))
                value = transaction.get(request_id, db=self._requests)
                if value is not None:
                    return layout.unpack_request(request_id, value).time_ns
        return None
