"""Starts the process that merges a collection into one graph for an export (``merge.py``),
waits for it, and takes over what it made.

The draft's files are mapped and unlinked at once: they take their space until the export lets them
go. One that was not finished, whatever ended its process, is removed here, or by whoever holds
``graph.lock`` next.
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
"""So long a process that has closed its output may take to end."""


@dataclass(frozen=True)
class Merged:
    """What was made. segment: a graph of all that was live at its seq. work: in words."""

    segment: Segment
    work: str


def run_merge(
    runtime: Runtime, opened: OpenCollection, lease: ExportLease, deadline: Deadline
) -> Merged:
    """Have all that is live merged into one graph, and move the pin to the seq of that.

    Args:
        lease: held; it is renewed meanwhile.

    Raises:
        VecdbError: as the child says, or because it died.
    """
    child = _start(runtime, opened)
    said: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    words: deque[str] = deque(maxlen=20)
    reader = threading.Thread(
        target=_listen, args=(child, said, words), name="vecdb-export-reader", daemon=True
    )
    reader.start()
    try:
        while True:
            deadline.check()
            runtime.check_usable()
            lease.renew()
            with contextlib.suppress(queue.Empty):
                answer = said.get(timeout=_POLL_S)
                break
        if answer is None:
            raise _died(opened, child, words)
        return _taken_over(opened, lease, answer)
    finally:
        child.kill()
        child.wait()
        reader.join()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()
        _clean_up(opened)


def _clean_up(opened: OpenCollection) -> None:
    """Remove what is left of the draft, unless others have taken up graph work, who then do."""
    with contextlib.suppress(OSError):  # The folder may be gone, with its collection.
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
    said: queue.SimpleQueue[dict[str, Any] | None],
    words: deque[str],
) -> None:
    """The first line that is an answer of the child, or None at its end."""
    assert child.stdout is not None
    for line in child.stdout:
        try:
            said.put(dict(json.loads(line)))
        except (ValueError, TypeError):
            words.append(line.strip())
    said.put(None)


def _died(
    opened: OpenCollection, child: subprocess.Popen[str], words: deque[str]
) -> UnavailableError:
    opened.store.current_state()  # If the collection was dropped, that is what is told.
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_END_S)
    status, last = child.returncode, words[-1] if words else "it said nothing"
    how = f"was killed by signal {-status}" if status and status < 0 else f"ended with {status}"
    return UnavailableError(
        f"the process that merged for an export {how} ({last}): try again", Reason.EXPORT_ENDED
    )


def _taken_over(opened: OpenCollection, lease: ExportLease, answer: dict[str, Any]) -> Merged:
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
