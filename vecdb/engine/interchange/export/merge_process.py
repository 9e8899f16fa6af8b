"""Starts the child process that merges a collection for an export (``merge.py``) and takes over its
draft.

The draft's files are mapped and then unlinked at once; they use disk space until the export closes
them. An unfinished draft of a child that was killed is removed here, or by the next process that
holds ``graph.lock``.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vecdb import errors
from vecdb.engine.segments.lifecycle import remove_drafts
from vecdb.engine.segments.segment import Segment
from vecdb.engine.store.segment_table import SegmentEntry
from vecdb.engine.system.child_process import start_child
from vecdb.engine.system.files import file_lock
from vecdb.errors import UnavailableError, VecdbError
from vecdb.reasons import Reason

if TYPE_CHECKING:
    from vecdb.engine.interchange.export.lease import ExportLease
    from vecdb.engine.runtime.open_collection import OpenCollection
    from vecdb.engine.runtime.runtime import Runtime
    from vecdb.engine.system.deadline import Deadline

__all__ = ["Merged", "run_merge"]

_POLL_S: Final = 0.05
_END_S: Final = 5.0
"""Time limit for a child to end after it has closed its output."""


@dataclass(frozen=True)
class Merged:
    """The result. segment: a graph of all rows live at its seq. work: description for people."""

    segment: Segment
    work: str


def run_merge(
    runtime: Runtime, opened: OpenCollection, lease: ExportLease, deadline: Deadline
) -> Merged:
    """Merge all live rows into one graph, and move the lease to the graph's seq.

    Args:
        lease: a lease that was taken; it is renewed while the child works.

    Raises:
        VecdbError: the child's error; UnavailableError (EXPORT_ENDED) if the child ended without
            an answer.
    """
    child = _start(runtime, opened)
    answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    output: deque[str] = deque(maxlen=20)
    reader = threading.Thread(
        target=_listen, args=(child, answers, output), name="vecdb-export-reader", daemon=True
    )
    reader.start()
    try:
        while True:
            deadline.check()
            runtime.check_usable()
            lease.renew()
            with contextlib.suppress(queue.Empty):
                answer = answers.get(timeout=_POLL_S)
                break
        if answer is None:
            raise _ended(opened, child, output)
        return _take_over(opened, lease, answer)
    finally:
        child.kill()
        child.wait()
        reader.join()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()
        _clean_up(opened)


def _clean_up(opened: OpenCollection) -> None:
    """Remove the draft, unless another process holds the lock; that process removes it then."""
    with contextlib.suppress(OSError):  # The collection may have been dropped with its folder.
        if any(opened.folder.glob("export-*")):
            with file_lock(opened.folder / "graph.lock", wait=False) as held:
                if held:
                    remove_drafts(opened.folder)


def _start(runtime: Runtime, opened: OpenCollection) -> subprocess.Popen[str]:
    options = runtime.options
    return start_child(
        "vecdb.engine.interchange.export.merge",
        os.fspath(runtime.path),
        opened.id,
        f"--threads={options.threads}",
        f"--map-bytes={options.map_bytes}",
        own_session=True,
    )


def _listen(
    child: subprocess.Popen[str],
    answers: queue.SimpleQueue[dict[str, Any] | None],
    output: deque[str],
) -> None:
    """Queue the child's answers, and None at the end of its output; keep other lines."""
    assert child.stdout is not None
    for line in child.stdout:
        try:
            answers.put(dict(json.loads(line)))
        except (ValueError, TypeError):
            output.append(line.strip())
    answers.put(None)


def _ended(
    opened: OpenCollection, child: subprocess.Popen[str], output: deque[str]
) -> UnavailableError:
    opened.store.current_state()  # If the collection was dropped, this raises DROPPED instead.
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_END_S)
    status, last = child.returncode, output[-1] if output else "no output"
    how = f"was killed by signal {-status}" if status and status < 0 else f"ended with {status}"
    return UnavailableError(
        f"the process that merges for an export {how} ({last}); try again", Reason.EXPORT_ENDED
    )


def _take_over(opened: OpenCollection, lease: ExportLease, answer: dict[str, Any]) -> Merged:
    if "error" in answer:
        kind: type[VecdbError] = getattr(errors, answer["error"], errors.DataLossError)
        raise kind(answer["message"], answer["reason"])
    merged = answer["merged"]
    folder = opened.folder / merged["draft"]
    try:
        segment = Segment(folder, 0, opened.id, SegmentEntry.from_json(merged["entry"]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    lease.move_to(segment.seq, merged["next_row"])
    return Merged(segment, merged["work"])
