"""Starts the child process that merges a collection for an export (``merge.py``) and takes over its
draft.

The draft's files are mapped and then unlinked at once; they use disk space until the export closes
them. An unfinished draft of a child that was killed is removed here, or by the next process that
holds ``graph.lock``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vecdb.engine.segments.lifecycle import remove_drafts
from vecdb.engine.segments.segment import Segment
from vecdb.engine.store.segment_table import SegmentEntry
from vecdb.engine.system.child_task import ChildTask, raise_error
from vecdb.engine.system.files import file_lock
from vecdb.errors import UnavailableError
from vecdb.reasons import Reason

if TYPE_CHECKING:
    from vecdb.engine.interchange.export.lease import ExportLease
    from vecdb.engine.runtime.open_collection import OpenCollection
    from vecdb.engine.runtime.runtime import Runtime
    from vecdb.engine.system.deadline import Deadline

__all__ = ["Merged", "run_merge"]


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
    options = runtime.options
    arguments = [
        os.fspath(runtime.path),
        opened.id,
        f"--threads={options.threads}",
        f"--map-bytes={options.map_bytes}",
    ]

    def check() -> None:
        deadline.check()
        runtime.check_usable()
        lease.renew()

    try:
        with ChildTask("vecdb.engine.interchange.export.merge", *arguments) as child:
            answer = next(child.answers(check), None)
            if answer is None:
                raise _ended(opened, child)
            return _take_over(opened, lease, answer)
    finally:
        _clean_up(opened)


def _clean_up(opened: OpenCollection) -> None:
    """Remove the draft, unless another process holds the lock; that process removes it then."""
    with contextlib.suppress(OSError):  # The collection may have been dropped with its folder.
        if any(opened.folder.glob("export-*")):
            with file_lock(opened.folder / "graph.lock", wait=False) as held:
                if held:
                    remove_drafts(opened.folder)


def _ended(opened: OpenCollection, child: ChildTask) -> UnavailableError:
    opened.store.current_state()  # If the collection was dropped, this raises DROPPED instead.
    status, output = child.ended()
    how = f"was killed by signal {-status}" if status < 0 else f"ended with {status}"
    return UnavailableError(
        f"the process that merges for an export {how} ({output}); try again", Reason.EXPORT_ENDED
    )


def _take_over(opened: OpenCollection, lease: ExportLease, answer: dict[str, Any]) -> Merged:
    if "error" in answer:
        raise_error(answer)
    merged = answer["merged"]
    folder = opened.folder / merged["draft"]
    try:
        segment = Segment(folder, 0, opened.id, SegmentEntry.from_json(merged["entry"]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    lease.move_to(segment.seq, merged["next_row"])
    return Merged(segment, merged["work"])
