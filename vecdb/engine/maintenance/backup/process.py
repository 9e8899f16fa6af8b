"""Starts the process that makes a backup (``backup.py``), waits for it and hears it out.

The child is told to stop by the end of its input, which also comes when this process is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from vecdb import checks, errors
from vecdb.engine.runtime.runtime import Runtime
from vecdb.engine.system.atomic_folder import remove_stale
from vecdb.engine.system.child_process import start_child
from vecdb.engine.system.deadline import Deadline
from vecdb.engine.system.files import os_errors_translated
from vecdb.errors import DataLossError, InvalidArgumentError, UnavailableError, VecdbError
from vecdb.reasons import Reason
from vecdb.types import BackupReport

__all__ = ["back_up", "run_backup"]

_POLL_S: Final = 0.05
_MEMORY_FAULTS: Final = (-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT)


def back_up(
    runtime: Runtime,
    path: str | os.PathLike[str],
    deadline: Deadline,
    *,
    include_segments: bool,
) -> BackupReport:
    """``Database.backup`` of an open folder, with a deadline that can be cancelled."""
    runtime.check_usable()
    runtime.catalog.environment.check_in_place()
    include_segments = checks.check_flag("include_segments", include_segments)
    target = checks.check_local_path(path).absolute()
    if Path(os.path.realpath(target)).is_relative_to(runtime.path):
        raise InvalidArgumentError(
            f"{target} lies in the data folder {runtime.path}", Reason.BAD_PATH
        )
    check = deadline.also(runtime.check_usable).check
    try:
        with os_errors_translated(str(target)):
            return run_backup(runtime.path, target, include_segments=include_segments, check=check)
    except BaseException:
        # If it was killed while it copied a store, that store would never use a page again.
        runtime.clear_stale_readers()
        raise


def run_backup(
    root: Path, target: Path, *, include_segments: bool, check: Callable[[], None]
) -> BackupReport:
    """Have a backup made of the data folder ``root`` and wait for it.

    Args:
        target: absolute.
        check: called now and then; what it raises ends the backup, and nothing is left of it.

    Raises:
        VecdbError: as the child says, or because it died.
    """
    child = _start(root, target, include_segments)
    lines: deque[str] = deque(maxlen=20)
    reader = threading.Thread(
        target=_listen, args=(child, lines), name="vecdb-backup-reader", daemon=True
    )
    reader.start()
    try:
        while reader.is_alive():
            check()
            reader.join(_POLL_S)
        return _report(lines, child.wait())
    except BaseException:
        child.kill()
        child.wait()
        with contextlib.suppress(OSError):
            remove_stale(target)
        raise
    finally:
        reader.join()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()


def _start(root: Path, target: Path, include_segments: bool) -> subprocess.Popen[str]:
    options = [] if include_segments else ["--no-segments"]
    paths = os.fspath(root), os.fspath(target)
    module = "vecdb.engine.maintenance.backup.backup"
    return start_child(module, *options, "--", *paths, own_session=True)


def _listen(child: subprocess.Popen[str], lines: deque[str]) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        lines.append(line.strip())


def _report(lines: deque[str], status: int) -> BackupReport:
    """What the child's last line says, or what to make of its silence."""
    answer: dict[str, Any] = {}
    with contextlib.suppress(ValueError, IndexError):
        answer = json.loads(lines[-1])
    if "report" in answer:
        return BackupReport(**answer["report"])
    if "error" in answer:
        kind: type[VecdbError] = getattr(errors, answer["error"], errors.DataLossError)
        raise kind(answer["message"], answer["reason"])
    output_tail = lines[-1] if lines else "without a word"
    if status in _MEMORY_FAULTS:
        raise DataLossError(
            f"LMDB crashed on a store's file while it was copied (status {status}): the file is "
            f"damaged ({output_tail})",
            Reason.LMDB_CORRUPTED,
        )
    raise UnavailableError(
        f"the process that made the backup ended with status {status}: {output_tail}",
        Reason.BACKUP_ENDED,
    )
