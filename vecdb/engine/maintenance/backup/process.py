"""Starts the child process of a backup (``backup.py``), waits for it and reads its report.

The child ends at the end of its stdin, which also comes when this process is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from vecdb import checks
from vecdb.engine.runtime.runtime import Runtime
from vecdb.engine.system.atomic_folder import remove_stale
from vecdb.engine.system.child_task import ChildTask, raise_error
from vecdb.engine.system.deadline import Deadline
from vecdb.engine.system.files import os_errors_translated
from vecdb.errors import DataLossError, InvalidArgumentError, UnavailableError
from vecdb.reasons import Reason
from vecdb.types import BackupReport

__all__ = ["back_up", "run_backup"]

_MEMORY_FAULTS: Final = (-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT)


def back_up(
    runtime: Runtime,
    path: str | os.PathLike[str],
    deadline: Deadline,
    *,
    include_segments: bool,
) -> BackupReport:
    """Back up an open folder, as ``Database.backup``, with a deadline that can be cancelled."""
    runtime.check_usable()
    runtime.catalog.environment.check_in_place()
    include_segments = checks.check_flag("include_segments", include_segments)
    target = checks.check_local_path(path).absolute()
    if Path(os.path.realpath(target)).is_relative_to(runtime.path):
        raise InvalidArgumentError(
            f"{target} is inside the data folder {runtime.path}", Reason.BAD_PATH
        )
    check = deadline.also(runtime.check_usable).check
    try:
        with os_errors_translated(str(target)):
            return run_backup(runtime.path, target, include_segments=include_segments, check=check)
    except BaseException:
        # The stale reader slot of a killed copy would keep LMDB from ever reusing a page.
        runtime.clear_stale_readers()
        raise


def run_backup(
    root: Path, target: Path, *, include_segments: bool, check: Callable[[], None]
) -> BackupReport:
    """Back up the data folder ``root`` in a child process and wait for it.

    Args:
        target: absolute path of the backup.
        check: called regularly; if it raises, the backup is stopped and its files are removed.

    Raises:
        VecdbError: the child's error. DataLossError (LMDB_CORRUPTED) if LMDB crashed in it,
            UnavailableError (BACKUP_ENDED) if it ended without a report.
    """
    options = [] if include_segments else ["--no-segments"]
    arguments = [*options, "--", os.fspath(root), os.fspath(target)]
    with ChildTask("vecdb.engine.maintenance.backup.backup", *arguments) as child:
        try:
            answers = list(child.answers(check))
            return _report(child, answers[-1] if answers else None)
        except BaseException:
            child.kill()
            with contextlib.suppress(OSError):
                remove_stale(target)
            raise


def _report(child: ChildTask, answer: dict[str, Any] | None) -> BackupReport:
    """Return the report of the child's last answer, or raise its error or the reason of its end."""
    if answer is not None and "report" in answer:
        return BackupReport(**answer["report"])
    if answer is not None and "error" in answer:
        raise_error(answer)
    status, output = child.ended()
    if status in _MEMORY_FAULTS:
        raise DataLossError(
            f"LMDB crashed while copying a store (status {status}), so the store's file is damaged "
            f"({output}); run vecdb check",
            Reason.LMDB_CORRUPTED,
        )
    raise UnavailableError(
        f"the process that writes the backup ended with status {status}: {output}",
        Reason.BACKUP_ENDED,
    )
