"""What may be set when a folder is opened in process; everything has a default that suits most."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import Any, Final

from vecdb import checks
from vecdb.errors import InvalidArgumentError
from vecdb.limits import Limit
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
    """Options of ``vecdb.open``. Bytes and seconds, all checked when the folder is opened.

    Attributes:
        threads: kernels that run at once in this process, and threads of a graph build.
        seal_bytes: fresh rows are sealed into a segment once they are this large, or a quarter of
            it where nothing was sealed for a second. Smaller means cheaper searches beside writes
            and more, smaller files.
        segment_bytes_max: a graph segment grows no larger than this; building one takes about as
            much memory again. Default: a quarter of the machine's memory.
        queue_bytes_max: batches that may wait for the writer; past it writes are refused with
            RESOURCE_EXHAUSTED.
        backlog_bytes_max: bytes of rows in no graph past which each upsert is delayed, by at most
            a second, so that the indexer can follow.
        fresh_bytes_max: a collection's rows that are in no segment yet are held in memory up to
            this; a search reads those beyond from the store, which is slower. Only if sealing falls
            behind are there so many. The same bound holds for rows of segments whose files are
            lost, until they are built again.
        view_bytes_max: memory for what searches hold of all collections beside mapped files; past
            it, what is held of those searched least recently is let go. One collection takes at
            most half of it for its fresh rows.
        call_bytes_max: memory that searches and look-ups under way may take together for what they
            bring; what does not fit is refused with RESOURCE_EXHAUSTED. Default: a quarter of the
            machine's memory.
        map_bytes: address space reserved for a store at first; doubled when it is full.
        open_collections_max: collections whose files are held open at once; further ones are opened
            for a use and those least recently used let go. Each takes some ten files.
        group_access: make a new folder for all users of its group, mode 0770 and files 0660, where
            without it the user alone may open what is in it. A folder that is there keeps its mode,
            and what is made in it goes by that.
        indexer: run a child process that builds graphs. Without it everything stays correct, but
            searches scan what no graph covers.
        indexer_outlives_parent: finish the job at hand when this process ends (an embedded
            database), or stop with it (a server).
        optimize: when the database is closed, a process of its own brings all rows of the
            collections that were used into graphs, as ``Collection.optimize`` does, and ends. It
            goes on when this process ends or its terminal is closed, lets others open the folder,
            keeps a compaction waiting, and tells what it does in the folder's file indexer.log.
            For programs that write and end at once; one that is killed begins at the next closing.
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
    indexer: bool = True
    indexer_outlives_parent: bool = True
    optimize: bool = False

    @classmethod
    def of(cls, given: dict[str, Any]) -> Options:
        """Options by name; an unknown one is refused."""
        checks.check_options(given, (each.name for each in fields(cls)), "vecdb.open")
        return cls(**given)

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            try:
                if isinstance(option.default, bool):
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
