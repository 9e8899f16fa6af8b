"""vecdb: a vector database in one folder, embedded or served.

    db = vecdb.open("data")                   # in this process; needs the extra [server]
    db = vecdb.connect("127.0.0.1:7801")      # over gRPC; the bare install is enough

    docs = db.create_collection("docs", dim=384, metric="cosine")
    docs.upsert(["a", "b"], vectors, [{"year": 2020}, None])
    hits = docs.search(vector, k=10)

This package holds the vocabulary that engine and client share (numpy only) and, in
``vecdb.engine``, the database itself. Importing it loads no engine and no gRPC.

surface           the public interface as typed protocols, with the docstrings
types             arguments and results; collection_stats, facet_types: some of them
errors, reasons   the errors, and their reasons for programs
limits            each limit with minimum, default and maximum
checks            validation of arguments; also scalar_checks, write_checks, vector_arrays,
                  metadata_checks, json_objects, index_fields
metadata_patches  changes of metadata: checking and applying them
filters           conditions on metadata; also filter_nodes, filter_canonical, filter_limits,
                  filter_predicates, filter_shortcuts, filter_hints
row_names         names of rows and short forms of values in messages; one_line: escaping
os_errors         translation of OSError
batching          splits an input into batches, for upsert_many
scrolling         the iterator of scroll
search_types      results of searches; search_variants: queries by example, hits in groups
export_files      the file and the sidecar of an export; sidecar_header: the sidecar's header
import_files      the file and the sidecar of an import
checking          the report of a check of a data folder
_version          the version
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
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
    VecdbError,
)
from vecdb.filters import Filter, parse_filter
from vecdb.reasons import Reason
from vecdb.scrolling import Scroll
from vecdb.types import (
    BackupReport,
    CollectionConfig,
    CollectionDescription,
    CollectionStats,
    CompactionReport,
    ExportReport,
    Facet,
    FacetValue,
    FieldInfo,
    Hit,
    HitGroup,
    Hits,
    ImportReport,
    IngestProgress,
    MeasuredRecall,
    Metric,
    RecallInfo,
    Receipt,
    Records,
    ScrollPage,
    SearchInfo,
    SegmentPlan,
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
    "Facet",
    "FacetValue",
    "FailedPreconditionError",
    "FieldInfo",
    "Filter",
    "Hit",
    "HitGroup",
    "Hits",
    "ImportReport",
    "IngestProgress",
    "InternalError",
    "InvalidArgumentError",
    "MeasuredRecall",
    "Metric",
    "MissingExtraError",
    "NotFoundError",
    "OutcomeUnknownError",
    "PermissionDeniedError",
    "Problem",
    "Reason",
    "RecallInfo",
    "Receipt",
    "Records",
    "ResourceExhaustedError",
    "Scroll",
    "ScrollPage",
    "SearchInfo",
    "SegmentPlan",
    "SegmentStats",
    "UnauthenticatedError",
    "UnavailableError",
    "UnsupportedError",
    "VecdbError",
    "__version__",
    "check",
    "compact",
    "connect",
    "open",
    "parse_filter",
    "restore",
]

_ENGINE_NEEDS = ("lmdb", "hnswlib", "numba")


def open(path: str | os.PathLike[str], **options: object) -> Database:
    """Open the database in a folder, in this process. Create the folder if it does not exist.

    Args:
        path: the folder. Opening it twice in a process returns the same database.
        options: fields of ``vecdb.engine.runtime.options.Options``.

    Raises:
        MissingExtraError: the engine is not installed.
        FailedPreconditionError: the folder was written by a newer version, is not a vecdb folder,
            or is not writable.
        NotFoundError: the folder does not exist and cannot be created.
        InvalidArgumentError: the path is not valid, or an option is unknown or out of range.
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
    """Restore a backup to a new data folder. Never overwrite existing files.

    Each file is compared with its checksum in the backup twice: while it is copied, and again as
    read back from the disk. The folder appears complete or not at all.

    Args:
        backup: a folder written by ``Database.backup`` or ``Client.backup``.
        path: the new folder. It must not exist, or be empty; its parent must exist.
        include_segments: False omits the segments; they are rebuilt from the store when the
            folder is opened. Use it to restore a backup in which only segments are damaged.

    Raises:
        MissingExtraError: the engine is not installed.
        NotFoundError: the backup, or the parent of the new folder, does not exist.
        AlreadyExistsError: ``path`` exists and is not empty.
        DataLossError: a file of the backup is missing or has changed; the message names it.
        FailedPreconditionError: the backup was written by a newer version.
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
    """Check a data folder: every checksum, and the consistency of all parts with each other.

    Ids, records, vectors, tombstones, log, segments and counters of each collection must agree.
    Segments must equal the store bit for bit. Every live row must be reachable in its graph. The
    check runs in a child process: if LMDB crashes on a store, that collection is reported and the
    others are still checked.

    Other processes may use the folder during the check. Each collection is checked at one
    committed state; while that state is read, LMDB cannot reuse its pages, so concurrent writes
    make the store's file grow. Nothing is changed, except that LMDB writes to its lock file.

    Args:
        path: the folder.
        repair: rebuild caches (segments, graphs, counters), remove leftovers, and check again.
            Stored rows are never changed: damaged values are reported, and the rest stays
            readable. Other processes may use the folder; the repair waits for their locks.
        findable: also measure self-recall: search for rows by their own vector, at the default
            ef. A share found below this value, 0 to 1, is a problem.
        sample: number of live rows to search for; the same rows each time.
        progress: called from time to time with a sentence on the step that is running.

    Raises:
        MissingExtraError: the engine is not installed.
        InvalidArgumentError: ``findable`` or ``sample`` is out of range.
        NotFoundError: the folder does not exist.
        FailedPreconditionError: the folder is not a data folder, or has a newer format.
        UnavailableError: the child process returned no report.
    """
    _check_engine("vecdb.check")
    from vecdb.engine.maintenance.checking.process import check as run

    return run(path, repair=repair, findable=findable, sample=sample, progress=progress)


def compact(path: str | os.PathLike[str]) -> CompactionReport:
    """Compact a data folder to the size of a fresh load; no process may have it open.

    Deleted rows are purged, graphs are optimized, and the stores are rewritten, since the file of
    an LMDB store never shrinks. The disk needs free space for a second copy of the largest store.
    If compaction is interrupted, the folder stays valid, and compaction can be repeated.

    Raises:
        MissingExtraError: the engine is not installed.
        NotFoundError: the folder does not hold a database.
        FailedPreconditionError: IN_USE, a process has the folder open.
        DataLossError: stored bytes fail their checksum; that collection is left unchanged.
        ResourceExhaustedError: the disk is full; that collection is left unchanged.
    """
    _check_engine("vecdb.compact")
    from vecdb.engine.maintenance.compaction import compact as run

    return run(path)


def _check_engine(what: str) -> None:
    if any(importlib.util.find_spec(name) is None for name in _ENGINE_NEEDS):
        raise MissingExtraError(what, "server")


_CONNECT_OPTIONS = (*("timeout_s", "token", "tls", "tls_ca", "tls_cert", "tls_key", "insecure"),)


def connect(address: str = "127.0.0.1:7801", **options: Any) -> Client:
    """Return a client of the server at ``host:port`` or ``unix:/path``, as
    ``vecdb_client.Client(address, **options)`` does.

    Raises:
        InvalidArgumentError: the address is not host:port, or an option is unknown or out of range.
    """
    from vecdb_client import Client

    checks.check_options(options, _CONNECT_OPTIONS, "vecdb.connect")
    return Client(address, **options)
