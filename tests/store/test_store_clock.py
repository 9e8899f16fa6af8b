"""The store's clock: wall-clock jumps neither end nor extend windows and leases, within a boot and
across reboots."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vecdb
from vecdb import limits
from vecdb.engine.store import clock as store_clock
from vecdb.engine.store import layout, leases
from vecdb.engine.store.clock import CLOCK_KEY
from vecdb.engine.store.purging import GRACE_S, purge_all
from vecdb.engine.testing import clock_record, opened_of

DIM = 4
SECOND = 10**9
HOUR, DAY, YEAR = 3_600 * SECOND, 86_400 * SECOND, 365 * 86_400 * SECOND
WINDOW, LEASE = int(limits.REQUEST_WINDOW_S * SECOND), int(limits.LEASE_S * SECOND)
JUMPS = {"25 h on": 25 * HOUR, "25 h back": -25 * HOUR, "years on": 5 * YEAR, "years back": -YEAR}


class Machine:
    """The clocks of a machine, which stand still unless the test moves them."""

    def __init__(self) -> None:
        self.boot_ns, self.wall_ns, self.boot = 10 * DAY, 60 * YEAR, b"b" * 16

    def passes(self, ns: int) -> None:
        self.boot_ns += ns
        self.wall_ns += ns

    def reboots(self, *, off_ns: int = HOUR, up_ns: int = 20 * SECOND) -> None:
        self.boot_ns, self.boot = up_ns, bytes([(self.boot[0] + 1) % 256]) * 16
        self.wall_ns += off_ns + up_ns


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine()
    monkeypatch.setattr(store_clock, "boot_time_ns", lambda: found.boot_ns)
    monkeypatch.setattr(store_clock, "wall_clock_ns", lambda: found.wall_ns)
    monkeypatch.setattr(store_clock, "boot_identity", lambda: found.boot)
    return found


@pytest.fixture
def docs(machine: Machine, database: Any) -> Any:
    return database.create_collection("docs", DIM)


def write(docs: Any, name: str, request_id: str | None = None) -> Any:
    return docs.upsert([name], np.ones((1, DIM), np.float32), request_id=request_id)


def transact(docs: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    store = opened_of(docs).store
    return store.environment.transact(lambda t: function(store, t, *arguments))


def now(docs: Any) -> int:
    store = opened_of(docs).store
    with store.environment.read() as transaction:
        time_ns: int = store.clock.read(transaction)
    return time_ns


def record(docs: Any) -> Any:
    store = opened_of(docs).store
    with store.environment.read() as transaction:
        return clock_record(store, transaction)


def put(docs: Any, database: bytes, key: bytes, value: bytes | None) -> None:
    environment = opened_of(docs).store.environment

    def change(transaction: Any) -> None:
        if value is None:
            transaction.delete(key, db=environment.database(database))
        else:
            transaction.put(key, value, db=environment.database(database))

    environment.transact(change)


# --------------------------------------------------------------------------------- within a boot


@pytest.mark.parametrize("jump", JUMPS)
def test_wall_clock_jump_does_not_change_the_request_window(
    docs: Any, machine: Machine, jump: str
) -> None:
    assert not write(docs, "a", "once").repeated
    machine.wall_ns += JUMPS[jump]
    assert write(docs, "a", "once").repeated
    machine.passes(WINDOW)
    assert write(docs, "a", "once").repeated
    machine.wall_ns -= JUMPS[jump]
    machine.passes(1)
    assert not write(docs, "a", "once").repeated


@pytest.mark.parametrize("jump", JUMPS)
def test_wall_clock_jump_does_not_change_the_lease_period(
    docs: Any, machine: Machine, jump: str
) -> None:
    write(docs, "a")
    write(docs, "b")
    token = docs.scroll_page(batch=1).next_token
    docs.delete(["a", "b"])
    machine.passes(LEASE - SECOND)
    machine.wall_ns += JUMPS[jump]
    assert docs.stats().oldest_pin_expires_s == 1.0
    store = opened_of(docs).store
    assert purge_all(store, grace_s=0.0) == 0
    assert docs.scroll_page(token).records.ids == ["b"]
    token = docs.scroll_page(batch=1).next_token
    assert token is None  # The scroll is complete and its lease released.
    lease = transact(docs, leases.take_lease)
    machine.wall_ns -= JUMPS[jump]
    machine.passes(LEASE - 1)
    assert transact(docs, leases.check_lease, lease.id) == lease
    machine.passes(1)
    with pytest.raises(vecdb.FailedPreconditionError):
        transact(docs, leases.check_lease, lease.id)
    assert docs.stats().oldest_pin_seq is None


@pytest.mark.parametrize("jump", JUMPS)
def test_wall_clock_jump_does_not_change_the_purge_delay(
    docs: Any, machine: Machine, jump: str
) -> None:
    write(docs, "a")
    docs.delete(["a"])
    machine.passes(int(GRACE_S * SECOND) - 1)
    machine.wall_ns += JUMPS[jump]
    assert purge_all(opened_of(docs).store) == 0
    machine.passes(1)
    assert purge_all(opened_of(docs).store) == 1


def test_read_in_any_boot_writes_nothing(docs: Any, machine: Machine) -> None:
    write(docs, "a")
    lease = transact(docs, leases.take_lease)
    before, commit = record(docs), opened_of(docs).store.environment.last_commit()
    for change in (lambda: machine.passes(SECOND), machine.reboots):
        change()
        docs.stats()
        docs.search(np.ones(DIM))
        store = opened_of(docs).store
        with store.environment.read() as transaction:
            assert leases.check_lease(store, transaction, lease.id) == lease
        assert (record(docs), store.environment.last_commit()) == (before, commit)


def test_processes_of_a_boot_share_one_clock() -> None:
    code = (
        "from vecdb.engine.store import clock\n"
        "print(clock.boot_identity().hex(), clock.boot_time_ns())"
    )
    before = store_clock.boot_time_ns()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    identity, theirs = done.stdout.split()
    assert identity == store_clock.boot_identity().hex()
    assert before <= int(theirs) <= store_clock.boot_time_ns()


def test_process_without_a_boot_id_is_a_boot_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_file(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(store_clock.Path, "read_text", no_file)
    store_clock.boot_identity.cache_clear()
    try:
        first = store_clock.boot_identity()
        assert store_clock.boot_identity() == first
        store_clock.boot_identity.cache_clear()
        assert store_clock.boot_identity() != first
    finally:
        store_clock.boot_identity.cache_clear()


# ---------------------------------------------------------------------------------- across boots


@pytest.mark.parametrize("jump", ["none", *JUMPS])
def test_wall_clock_jump_during_a_reboot_ends_nothing_early(
    docs: Any, machine: Machine, jump: str
) -> None:
    write(docs, "a", "once")
    lease = transact(docs, leases.take_lease)
    machine.reboots(off_ns=0, up_ns=20 * SECOND)
    machine.wall_ns += JUMPS.get(jump, 0)
    counted = 0 if "back" in jump else 20 * SECOND
    assert docs.stats().oldest_pin_expires_s == (LEASE - counted) / SECOND
    assert transact(docs, leases.check_lease, lease.id) == lease
    assert write(docs, "a", "once").repeated
    write(docs, "b")  # From here on the time of this boot counts.
    machine.passes(LEASE)
    with pytest.raises(vecdb.FailedPreconditionError):
        transact(docs, leases.check_lease, lease.id)
    machine.passes(WINDOW - LEASE - counted)
    assert write(docs, "a", "once").repeated
    machine.passes(1)
    assert not write(docs, "a", "once").repeated


def test_time_with_the_machine_off_does_not_count(docs: Any, machine: Machine) -> None:
    write(docs, "a", "once")
    machine.reboots(off_ns=30 * DAY, up_ns=20 * SECOND)
    assert write(docs, "a", "once").repeated
    assert now(docs) - record(docs).time_ns == 20 * SECOND


def test_clock_of_an_idle_collection_advances_after_a_reboot(docs: Any, machine: Machine) -> None:
    """All readers in a boot see the same time, whoever reads first and however late."""
    write(docs, "a")
    lease = transact(docs, leases.take_lease)
    machine.reboots(up_ns=0)
    machine.passes(LEASE - 1)
    assert docs.stats().oldest_pin_seq == lease.seq
    machine.passes(1)
    assert docs.stats().oldest_pin_seq is None


def test_copied_folder_uses_the_smaller_of_two_clocks(machine: Machine, tmp_path: Path) -> None:
    with vecdb.open(tmp_path / "one", indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        write(docs, "a", "once")
    machine.passes(HOUR)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    machine.boot, machine.boot_ns = b"o" * 16, 100 * DAY  # Another machine, booted long ago.
    with vecdb.open(tmp_path / "two", indexer=False) as database:
        docs = database.collection("docs")
        assert write(docs, "a", "once").repeated
        assert now(docs) - record(docs).time_ns == HOUR
        machine.wall_ns -= 2 * HOUR
        assert now(docs) == record(docs).time_ns
        write(docs, "b")
        machine.passes(WINDOW)
        assert write(docs, "a", "once").repeated
        machine.passes(1)
        assert not write(docs, "a", "once").repeated


def test_virtual_machine_reset_continues_from_the_record(docs: Any, machine: Machine) -> None:
    write(docs, "a", "once")
    machine.boot_ns -= 5 * DAY
    assert now(docs) == record(docs).time_ns
    write(docs, "b")
    machine.passes(WINDOW)
    assert write(docs, "a", "once").repeated
    machine.passes(1)
    assert not write(docs, "a", "once").repeated


def test_two_boots_at_once_share_one_time(docs: Any, machine: Machine) -> None:
    """Two containers with boot times of their own write alternately."""
    write(docs, "a", "once")
    began, boots = now(docs), {b"c" * 16: 40 * DAY, machine.boot: machine.boot_ns}
    lease = transact(docs, leases.take_lease)
    for turn in range(59):
        for boot in boots:
            boots[boot] += SECOND
        machine.wall_ns += SECOND
        machine.boot = list(boots)[turn % 2]
        machine.boot_ns = boots[machine.boot]
        write(docs, "b")
        assert now(docs) == began + (turn + 1) * SECOND
        assert transact(docs, leases.check_lease, lease.id) == lease
    machine.passes(SECOND)
    with pytest.raises(vecdb.FailedPreconditionError):
        transact(docs, leases.check_lease, lease.id)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["passes", "jumps", "reboots", "writes"]),
        st.integers(-2 * DAY, 2 * DAY),
        st.integers(0, 2 * DAY),
    ),
    max_size=12,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with vecdb.open(tmp_path_factory.mktemp("clock") / "data", indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        write(docs, "a")
        yield docs


@settings(max_examples=60)
@given(steps=STEPS)
def test_clock_in_random_events_never_exceeds_elapsed_time(
    steps: list[tuple[str, int, int]], shared: Any
) -> None:
    """After random events the clock never exceeds the elapsed time, and from the first write of a
    boot on it counts all of it."""
    machine = Machine()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_clock, "boot_time_ns", lambda: machine.boot_ns)
        patch.setattr(store_clock, "wall_clock_ns", lambda: machine.wall_ns)
        patch.setattr(store_clock, "boot_identity", lambda: machine.boot)
        put(shared, b"meta", CLOCK_KEY, None)
        write(shared, "a")
        began = written = now(shared)
        passed = passed_by_then = 0
        counts_all = True
        for step, signed_ns, ns in steps:
            if step == "passes":
                machine.passes(ns)
                passed += ns
            elif step == "jumps":
                machine.wall_ns += signed_ns
            elif step == "reboots":
                machine.reboots(off_ns=ns, up_ns=ns // 7)
                passed, counts_all = passed + ns + ns // 7, False
            else:
                write(shared, "a")
                assert now(shared) >= written
                written, passed_by_then, counts_all = now(shared), passed, True
            assert written <= now(shared) <= began + passed
            if counts_all:
                assert now(shared) == written + passed - passed_by_then


# ------------------------------------------------------------------------------ earlier versions


def as_earlier_versions(docs: Any) -> None:
    """Remove the clock record, which earlier versions did not write."""
    put(docs, b"meta", CLOCK_KEY, None)


@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.parametrize("log", [True, False])
def test_folder_without_a_clock_record_knows_its_requests(
    machine: Machine, tmp_path: Path, jump: str, log: bool
) -> None:
    with vecdb.open(tmp_path, indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        write(docs, "a", "once")
        if not log:
            purge_all(opened_of(docs).store, grace_s=0.0)
        as_earlier_versions(docs)
    machine.wall_ns += JUMPS[jump]
    machine.reboots(up_ns=20 * DAY)
    with vecdb.open(tmp_path, indexer=False) as database:
        docs = database.collection("docs")
        assert docs.get(["a"]).missing == [] and record(docs) is None
        assert write(docs, "a", "once").repeated
        write(docs, "b")
        machine.passes(WINDOW)
        assert write(docs, "a", "once").repeated
        machine.passes(1)
        assert not write(docs, "a", "once").repeated


def test_timestamps_ahead_of_the_clock_expire(docs: Any, machine: Machine) -> None:
    """An earlier version wrote them while the wall clock was years ahead."""
    for name in ("a", "b", "c"):
        write(docs, name, name)
    machine.passes(SECOND)
    write(docs, "d", "d")
    requests, store = b"requests", opened_of(docs).store
    for name in (b"a", b"c"):
        with store.environment.read() as transaction:
            value = transaction.get(name, db=store.environment.database(requests))
            request = layout.unpack_request(name, value)
        ahead = request._replace(time_ns=request.time_ns + 50 * YEAR)
        put(docs, requests, name, layout.pack_request(name, ahead))
    lease = layout.Lease(b"p" * 16, 1, 1, now(docs) + YEAR)
    put(docs, b"pins", lease.id, layout.pack_lease(lease))
    assert write(docs, "a", "a").repeated
    write(docs, "e", "e")  # Now the time of "a" is corrected, and "a" is the oldest.
    machine.passes(WINDOW)
    assert write(docs, "a", "a").repeated and write(docs, "c", "c").repeated
    machine.passes(1)
    for name in ("f", "g"):
        write(docs, name, name)
        machine.passes(WINDOW)
        machine.passes(1)
    assert not any(write(docs, name, name).repeated for name in ("a", "b", "c", "d"))
    docs.delete(["a"])
    transact(docs, leases.remove_expired_leases)
    assert docs.stats().oldest_pin_expires_s == limits.LEASE_S
    machine.passes(LEASE)
    assert docs.stats().oldest_pin_seq is None


def test_damaged_clock_is_reported_and_repaired_by_the_next_write(
    machine: Machine, tmp_path: Path
) -> None:
    with vecdb.open(tmp_path, indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        write(docs, "a", "once")
        store = opened_of(docs).store
        with store.environment.read() as transaction:
            value = bytearray(transaction.get(CLOCK_KEY, db=store.environment.database(b"meta")))
        value[3] ^= 1
        put(docs, b"meta", CLOCK_KEY, bytes(value))
        machine.wall_ns += 25 * HOUR
        assert write(docs, "a", "once").repeated and record(docs) is None
    (problem,) = vecdb.check(tmp_path).problems
    assert problem.kind == "CHECKSUM" and "clock" in problem.detail
    with vecdb.open(tmp_path, indexer=False) as database:
        docs = database.collection("docs")
        write(docs, "b")
        assert record(docs) is not None
        machine.passes(WINDOW + 1)
        assert not write(docs, "a", "once").repeated
    assert vecdb.check(tmp_path).problems == ()
