"""The options of ``vecdb.open``."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import Any, Final

from vecdb import checks, limits
from vecdb.errors import InvalidArgumentError
from vecdb.limits import Limit
from vecdb.metadata_checks import DEFAULT_BYTES
from vecdb.reasons import Reason

__all__ = ["Options"]

MEBIBYTE = 1024**2
_THREADS_MAX: Final = 1_024
_NUMBER_MAX: Final = 2**60


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _core_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Options:
    """Options of ``vecdb.open``. Sizes are bytes; all values are checked on opening.

    Attributes:
        threads: kernels that run concurrently in this process, and threads of a graph build.
        seal_bytes: size of the memtable (rows not yet in a segment) that triggers a flush; a
            quarter of it if the last flush was at least a second ago. Smaller values make searches
            cheaper while writes come in, and create more and smaller files.
        segment_bytes_max: maximum size of a graph segment; building one takes about the same amount
            of memory again. Default: a quarter of the machine's memory.
        queue_bytes_max: maximum size of the batches that wait for the writer. Further writes fail
            with RESOURCE_EXHAUSTED.
        backlog_bytes_max: if the rows without a graph take more than this, each upsert is delayed
            by at most a second, so that the indexer can catch up.
        fresh_bytes_max: maximum memory for a collection's memtable. A search reads the rows beyond
            it from the store, which is slower; there are so many only if flushing falls behind. The
            same bound holds for rows of segments whose files are lost, until they are rebuilt.
        view_bytes_max: maximum memory of the snapshots of all collections, mapped files not
            counted. Beyond it the snapshots of the least recently searched collections are dropped.
            One collection takes at most half of it for its memtable.
        call_bytes_max: maximum memory for the results of all running searches and look-ups. A call
            that does not fit fails with RESOURCE_EXHAUSTED. Default: a quarter of the machine's
            memory.
        map_bytes: initial address space of a store's map; doubled when it is full.
        open_collections_max: maximum number of collections whose files are open at once; the least
            recently used ones are closed and reopened on use. Each takes about ten files.
        group_access: create a new folder for all users of its group (folders 0770, files 0660)
            instead of for the user alone. An existing folder keeps its mode, and what is created in
            it follows that mode.
        metadata_bytes_max: maximum size of a row's metadata as JSON, 1 KiB to 1 MiB, so that a text
            can be stored with its vector. Rows that are stored stay readable under any value.
        codes: "auto": segments get codes of their rows: graphs get sketches, so that a walk reads
            a few cache lines of a row instead of the whole; all get 8-bit codes, so that a scan
            reads a quarter of each. What is found is scored in float32.
            Where a trial shows that codes do not pay, a segment goes without. "none": segments are
            written without codes, and searched in float32 even if they have some.
        recall_meter: budget of CPU time for measuring recall: a sample of the real queries is also
            answered exactly in the background, in at most this share of one core, 0 to 1. ``stats``
            shows the result, and searches choose their effort by it. 0: measure nothing.
        indexer: run a child process that builds graphs. Without it all results stay correct, but
            searches scan the rows without a graph.
        indexer_outlives_parent: the indexer finishes its current job when this process ends (for an
            embedded database) instead of stopping with it (for a server).
        optimize: on close, start a process that brings all rows of the used collections into
            graphs, as ``Collection.optimize`` does, and then ends. It survives the end of this
            process and of its terminal, other processes may open the folder beside it, a compaction
            waits for it, and it writes its progress to the folder's file indexer.log. Meant for
            programs that write and exit. If it is killed, the next close starts it again.
    """

    threads: int = field(default_factory=_core_count)
    seal_bytes: int = 8 * MEBIBYTE
    segment_bytes_max: int = field(default_factory=lambda: _memory_bytes() // 4)
    queue_bytes_max: int = 256 * MEBIBYTE
    backlog_bytes_max: int = 1024 * MEBIBYTE
    fresh_bytes_max: int = 64 * MEBIBYTE
    view_bytes_max: int = 1024 * MEBIBYTE
    call_bytes_max: int = field(default_factory=lambda: _memory_bytes() // 4)
    map_bytes: int = 16 * 1024 * MEBIBYTE
    open_collections_max: int = 128
    group_access: bool = False
    metadata_bytes_max: int = DEFAULT_BYTES
    codes: str = "auto"
    recall_meter: float = 0.01
    indexer: bool = True
    indexer_outlives_parent: bool = True
    optimize: bool = False

    @classmethod
    def of(cls, given: dict[str, Any]) -> Options:
        """Return the options of a dict.

        Raises:
            InvalidArgumentError: BAD_OPTION: an unknown name or an invalid value.
        """
        checks.check_options(given, (each.name for each in fields(cls)), "vecdb.open")
        return cls(**given)

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            try:
                if option.name == "codes":
                    checks.check_codes(value)
                elif option.name == "recall_meter":
                    checks.check_share(f"option {option.name}", value)
                elif option.name == "metadata_bytes_max":
                    checks.check_limit(limits.METADATA_BYTES, value, f"option {option.name}")
                elif isinstance(option.default, bool):
                    checks.check_flag(f"option {option.name}", value)
                else:
                    most = _THREADS_MAX if option.name == "threads" else _NUMBER_MAX
                    limit = Limit(f"option {option.name}", 1, None, most)
                    checks.check_limit(limit, value)
            except InvalidArgumentError as error:
                raise InvalidArgumentError(error.message, Reason.BAD_OPTION) from None
        if self.optimize and not self.indexer:
            raise InvalidArgumentError(
                "option optimize needs the option indexer", Reason.BAD_OPTION
            )
