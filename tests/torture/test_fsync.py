"""Traces of system calls show that acknowledged and published data is on disk before."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture import workload
from tests.torture.requirements import needs_strace
from tests.torture.syscall_faults import run
from tests.torture.trace import TRACED, Disk, calls_of


def follow(scratch: Path, plant: str | None = None) -> Disk:
    """Trace the workload and check the rules against the trace."""
    result = run(
        scratch,
        trace=TRACED,
        manner=workload.Manner(plant, hands_over=True),
        whole=True,
        fd_paths=True,
    )
    assert result.events("done"), result.messages[-3:]
    disk = Disk(str(scratch / "data"))
    disk.follow(result.log)
    return disk


@pytest.mark.slow
def test_acknowledged_data_is_synced_before(tmp_path: Path) -> None:
    needs_strace()
    disk = follow(tmp_path)
    # Opening is acknowledged too; every batch, reservation and publication has a commit, and a
    # new store has three, with those of the catalogue.
    assert disk.seen["acknowledgement"] == len(workload.STEPS) + 1
    assert disk.seen["commit"] > 1.75 * len(workload.STEPS)
    assert disk.seen["folder"] > 10


@pytest.mark.parametrize("plant", ["no sync", "publication before sync"])
def test_planted_sync_defect_is_detected(tmp_path: Path, plant: str) -> None:
    needs_strace()
    caught = {"no sync": "acknowledged, and not on disk", "publication before sync": "a commit bef"}
    with pytest.raises(AssertionError, match=caught[plant]):
        follow(tmp_path, plant)


META = 'pwrite64(8</d/store/data.mdb>, "m"..., 120, 0) = 120'
TRACE = [
    '1 openat(AT_FDCWD</>, "/d/store/data.mdb", O_RDWR|O_CREAT, 0644) = 7</d/store/data.mdb>',
    '1 openat(AT_FDCWD</>, "/d/store/data.mdb", O_WRONLY|O_DSYNC) = 8</d/store/data.mdb>',
    "1 fsync(9</d/store>) = 0",
    '1 pwrite64(7</d/store/data.mdb>, "x"..., 4096, 0) = 4096',
    "1 fdatasync(7</d/store/data.mdb>) = 0",
    f"1 {META}",
    r'2 sendto(3<socket:[1]>, "{\"event\": \"acknowledged\"}", 26, 0, NULL, 0) = 26',
]


def test_correct_trace_passes() -> None:
    disk = Disk("/d")
    disk.follow(TRACE)
    assert disk.seen == {"folder": 1, "commit": 1, "acknowledgement": 1}


@pytest.mark.parametrize("missing", [2, 4])
def test_trace_without_a_sync_is_rejected(missing: int) -> None:
    with pytest.raises(AssertionError, match=r"data\.mdb"):
        Disk("/d").follow(TRACE[:missing] + TRACE[missing + 1 :])


def test_sync_must_end_before_the_acknowledgement_begins() -> None:
    sync, send = TRACE[4], TRACE[6]
    torn = [
        *TRACE[:4],
        sync.split(")")[0] + " <unfinished ...>",
        send.split(", 26")[0] + " <unfinished ...>",
        "1 <... fdatasync resumed>) = 0",
        "2 <... sendto resumed>, 26, 0, NULL, 0) = 26",
    ]
    assert [c.name for c in calls_of(torn)][-2:] == ["sendto", "fdatasync"]
    with pytest.raises(AssertionError, match="acknowledged, and not on disk"):
        Disk("/d").follow(torn)


def test_failed_call_is_ignored() -> None:
    failed = TRACE[4].replace("= 0", "= -1 EIO (Input/output error) (INJECTED)")
    with pytest.raises(AssertionError, match="a meta page before the data"):
        Disk("/d").follow([*TRACE[:4], failed, *TRACE[5:]])
