"""vecdb: a vector database in one folder, embedded or served.

    db = vecdb.open("data")                   # in this process; needs the extra [server]
    db = vecdb.connect("127.0.0.1:7801")      # over gRPC; the bare install is enough

    docs = db.create_collection("docs", dim=384, metric="cosine")
    docs.upsert(["a", "b"], vectors, [{"year": 2020}, None])
    hits = docs.search(vector, k=10)

This package holds the vocabulary that engine and client share (errors, types, limits, checks; numpy
only) and, in ``vecdb.engine``, the database itself. Importing it loads no engine and no gRPC.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vecdb import checks
from vecdb._version import __version__
from vecdb.checking import CheckedCollection, CheckReport, Problem
from vecdb.errors import (
    AlreadyExistsError,
    CancelledError,
    ConditionFailedError,
    DataLossError,
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    MissingExtraError,
    NotFoundError,
    OutcomeUnknownError,
    ResourceExhaustedError,
    UnavailableError,
    UnsupportedError,
    VecdbError,
)
from vecdb.reasons import Reason
from vecdb.scrolling import Scroll
from vecdb.types import (
    BackupReport,
    CollectionConfig,
    CollectionDescription,
    CollectionStats,
    CompactionReport,
    ExportReport,
    Hit,
    Hits,
    ImportReport,
    IngestProgress,
    Metric,
    Receipt,
    Records,
    ScrollPage,
    SearchInfo,
    SegmentStats,
)

if TYPE_CHECKING:
    from vecdb.engine.api.database import Database
    from vecdb_client import Client


__all__ = [
    "AlreadyExistsError",
    "BackupReport",
    "CancelledError",
    "CheckReport",
    "CheckedCollection",
    "CollectionConfig",
    "CollectionDescription",
    "CollectionStats",
    "CompactionReport",
    "ConditionFailedError",
    "DataLossError",
    "DeadlineExceededError",
    "ExportReport",
    "FailedPreconditionError",
    "Hit",
    "Hits",
    "ImportReport",
    "IngestProgress",
    "InternalError",
    "InvalidArgumentError",
    "Metric",
    "MissingExtraError",
    "NotFoundError",
    "OutcomeUnknownError",
    "Problem",
    "Reason",
    "Receipt",
    "Records",
    "ResourceExhaustedError",
    "Scroll",
    "ScrollPage",
    "SearchInfo",
    "SegmentStats",
    "UnavailableError",
    "UnsupportedError",
    "VecdbError",
    "__version__",
    "check",
    "compact",
    "connect",
    "open",
    "restore",
]

_ENGINE_NEEDS = ("lmdb", "hnswlib", "numba")


def open(path: str | os.PathLike[str], **options: Any) -> Database:
    """Open the database in a folder, in this process; made if it is not there.

    Args:
        path: the folder. Opening it twice in a process gives the same database.
        options: fields of ``vecdb.engine.runtime.options.Options``.

    Raises:
        MissingExtraError: the engine is not installed here.
        FailedPreconditionError: the folder was written by a newer version, is no vecdb folder, or
            may not be written to.
        NotFoundError: the folder is not there and can't be made.
        InvalidArgumentError: the path is none, or an option is unknown or wrong.
    """
    _check_engine("vecdb.open")
    from vecdb.engine.api.database import Database

    return Database.open(path, **options)


def restore(
    backup: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    include_segments: bool = True,
) -> BackupReport:
    """Make a data folder of a backup, to be opened like any other; nothing is overwritten.

    Every file is compared with the checksum that the backup has of it, on its way and once more on
    disk. The folder appears whole or not at all.

    Args:
        backup: a folder made by ``Database.backup`` or ``Client.backup``.
        path: the new folder. It must not be there, or be empty; its parent must be there.
        include_segments: False leaves the segments out, which are rebuilt from the rest once the
            folder is opened: the way around a backup in which only segments have gone bad.

    Raises:
        MissingExtraError: the engine is not installed here.
        NotFoundError: there is no backup, or no folder for the new one to lie in.
        AlreadyExistsError: ``path`` is there and not empty.
        DataLossError: a file of the backup is gone or has changed; the message names it.
        FailedPreconditionError: the backup is of a newer version.
        ResourceExhaustedError: the disk is full.
    """
    _check_engine("vecdb.restore")
    from vecdb.engine.maintenance.backup.restore import restore as run

    return run(backup, path, include_segments=include_segments)


def check(
    path: str | os.PathLike[str],
    *,
    repair: bool = False,
    findable: float | None = None,
    sample: int = 1_000,
    progress: Callable[[str], None] | None = None,
) -> CheckReport:
    """Check a data folder: every checksum, and everything against everything else.

    Ids, records, vectors, deaths, log, segments and counters of each collection must fit each
    other; segments must hold what the store holds, bit for bit; every live row must be reachable in
    its graph. It is all read in a process of its own: a store on which LMDB crashes is a problem of
    that collection, and the others are checked all the same.

    Others may go on using the folder, each collection being judged by one committed state. For as
    long as that is read the file of the store grows by what is written meanwhile. Nothing is
    changed, but LMDB needs to write into its file for locks.

    Args:
        path: the folder.
        repair: build again what is only a cache (segments, graphs, sums), remove leftovers, and
            check once more. What was stored is never changed: if it is damaged it is told which,
            and the rest stays readable. Others may go on meanwhile; it waits for them.
        findable: also search for rows by their own vector, at the usual effort: a smaller share
            found than this, 0 to 1, is a problem.
        sample: of how many live rows, the same ones each time.
        progress: called with a sentence now and then.

    Raises:
        MissingExtraError: the engine is not installed here.
        InvalidArgumentError: ``findable`` or ``sample`` can't be.
        NotFoundError: there is no such folder.
        FailedPreconditionError: it is no data folder, or one of a newer format.
        UnavailableError: the process that checks could not be heard.
    """
    _check_engine("vecdb.check")
    from vecdb.engine.maintenance.checking.process import check as run

    return run(path, repair=repair, findable=findable, sample=sample, progress=progress)


def compact(path: str | os.PathLike[str]) -> CompactionReport:
    """Bring a data folder that nobody has open to the size that a fresh load would have.

    What has died goes, graphs are brought to their end state, and the stores are written anew: a
    store's file never shrinks by itself. There must be room for the largest of them a second time.
    If it is cut short, the folder is as good as before, and compacting can be repeated.

    Raises:
        MissingExtraError: the engine is not installed here.
        NotFoundError: there is no database in the folder.
        FailedPreconditionError: IN_USE, a process has the folder open.
        DataLossError: stored bytes fail their checksum; that collection stays as it was.
        ResourceExhaustedError: the disk is full; that collection stays as it was.
    """
    _check_engine("vecdb.compact")
    from vecdb.engine.maintenance.compaction import compact as run

    return run(path)


def _check_engine(what: str) -> None:
    if any(importlib.util.find_spec(name) is None for name in _ENGINE_NEEDS):
        raise MissingExtraError(what, "server")


def connect(address: str = "127.0.0.1:7801", **options: Any) -> Client:
    """A client of the server at ``host:port``; the same as ``vecdb_client.Client(address,
    **options)``.

    Raises:
        InvalidArgumentError: the address is not host:port, or an option is unknown or wrong.
    """
    from vecdb_client import Client

    checks.check_options(options, ("timeout_s",), "vecdb.connect")
    return Client(address, **options)
