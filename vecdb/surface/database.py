"""Methods of a database, embedded and remote."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from vecdb import checks, limits
from vecdb.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from vecdb.reasons import Reason
from vecdb.surface.arguments import MetadataEntry, StrPath
from vecdb.surface.collection import CollectionSurface
from vecdb.types import BackupReport, CollectionConfig, CollectionDescription, ImportReport

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["DatabaseSurface"]

_ATTEMPTS: Final = 3
"""Attempts of ``get_or_create_collection``: another process may create or drop the collection
between its two steps."""

CollectionT_co = TypeVar("CollectionT_co", bound=CollectionSurface, covariant=True)


class DatabaseSurface(Protocol[CollectionT_co]):
    """Collections by name. A context manager that closes it; safe to use from many threads."""

    def create_collection(
        self,
        name: str,
        dim: int,
        metric: str = "cosine",
        *,
        M: int = 16,
        ef_construction: int = 128,
        index_fields: Iterable[str] | None = None,
        metadata: MetadataEntry = None,
    ) -> CollectionT_co:
        """Create a collection; it is on disk when this returns.

        Args:
            name: letters, digits, "_" and "-", 1 to 64.
            dim: components of each vector, 1 to 16,384.
            metric: "cosine", "euclidean" or "dot".
            M, ef_construction: of the graph; see ``CollectionConfig``.
            index_fields: fields of the metadata that are indexed, as paths of filters, such as
                ["lang", "author.name"], 256 at most. None for all within limits. Filters on other
                fields find the same, by reading the records of rows. Ids are always indexed.
            metadata: JSON of the collection itself, see ``set_collection_metadata``.

        Raises:
            AlreadyExistsError: the name is taken.
            InvalidArgumentError: an argument is invalid.
        """

    def collection(self, name: str) -> CollectionT_co:
        """Return a handle on a collection.

        Raises:
            NotFoundError: no collection has the name.
        """

    def get_or_create_collection(
        self,
        name: str,
        dim: int,
        metric: str = "cosine",
        *,
        M: int | None = None,
        ef_construction: int | None = None,
        index_fields: Iterable[str] | None = None,
        metadata: MetadataEntry = None,
    ) -> CollectionT_co:
        """Return the collection with this name, created if there is none.

        Any number of processes may call this at once: one creates the collection, all get it.

        Args:
            name, dim, metric: as for ``create_collection``.
            M, ef_construction, index_fields: as for ``create_collection``. None: those of the
                existing collection, or the defaults for a new one.
            metadata: of a new collection; an existing one keeps its own.

        Raises:
            InvalidArgumentError: CONFIG_MISMATCH: the collection has another dim or metric, or
                another M, ef_construction or index_fields where these were given. Or an argument is
                invalid.
            AlreadyExistsError: the name belongs to a collection whose drop has not finished.
        """
        fields = checks.check_index_fields(index_fields)
        given = {"M": M, "ef_construction": ef_construction, "index_fields": fields}
        chosen: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        defaults = {"M": limits.M.default, "ef_construction": limits.EF_CONSTRUCTION.default}
        wanted = checks.check_config(dim, metric, **{**defaults, **chosen})
        checks.check_name(name)
        checks.check_collection_metadata(metadata)
        attempt = 1
        while True:
            try:
                found = self.collection(name)
                break
            except NotFoundError:
                pass
            try:
                return self.create_collection(name, dim, metric, **chosen, metadata=metadata)
            except AlreadyExistsError:
                if attempt == _ATTEMPTS:
                    raise
                attempt += 1
        _check_same_config(name, found.config, wanted, ("dim", "metric", *chosen))
        return found

    def list_collections(self) -> list[CollectionDescription]:
        """Return all collections, sorted by name."""

    def rename_collection(self, old: str, new: str) -> None:
        """Rename a collection, in one step for every process.

        Handles are bound to the collection and keep working; their ``name`` does not change.

        Raises:
            NotFoundError: no collection has the name ``old``.
            AlreadyExistsError: the name ``new`` is taken, or equals ``old``.
        """

    def drop_collection(self, name: str) -> None:
        """Drop a collection with all of its rows, for every process that has it open.

        If it fails half way, the name stays taken until it is dropped again or the folder opened.

        Raises:
            NotFoundError: no collection has the name.
        """

    def backup(self, path: StrPath, *, include_segments: bool = True) -> BackupReport:
        """Write a backup, from which ``vecdb.restore`` creates a data folder.

        Writes and searches of all processes continue. The backup holds the collections that exist
        when it begins, each in one committed state of its own: every batch up to some seq and none
        after it. It has been fsynced and read back when this returns; until then nothing is at
        ``path``. While a store is copied, space that writers free in it is not reused, so its file
        may grow by what is written during the copy.

        Args:
            path: a new folder in an existing one, outside of the data folder.
            include_segments: False leaves the segments out; they are rebuilt after restoring.

        Raises:
            AlreadyExistsError: ``path`` exists.
            NotFoundError: the parent folder does not exist.
            DataLossError: stored bytes fail their checksum, so no good backup can be made.
            ResourceExhaustedError: the disk is full. Nothing is left of the backup.
            InvalidArgumentError: BAD_PATH: not a path, or one in the data folder.

        Remote: the server writes it on its machine. ``path`` is in the server's folder for backups
            (``vecdb serve --backup-dir``), relative to it, or absolute and inside it. The client's
            timeout does not apply. FailedPreconditionError: NO_BACKUP_DIR: the server has no such
            folder. ResourceExhaustedError: too many of these calls are waiting.
        """

    def import_faiss(
        self,
        path: StrPath,
        collection: str,
        *,
        metric: str | None = None,
        meta: StrPath | bool | None = None,
        timeout_s: float | None = None,
    ) -> ImportReport:
        """Import a FAISS index file, and where possible its graph without building it again.

        Accepted are IndexFlat and IndexHNSWFlat, also inside an IndexIDMap or IndexIDMap2 and after
        a normalization.

        Args:
            path: the file. It is not trusted: all of it is checked before anything is written.
            collection: created if needed, with the dim, M and metric of file and sidecar.
            metric: None for that of collection, sidecar or file: L2 is "euclidean", inner product
                "dot", after a normalization "cosine". "cosine": all vectors have length 1.
            meta: JSON Lines or Parquet of ``faiss_id``, ``id`` and ``metadata``; None for
                ``<path>.meta.parquet`` or ``.jsonl`` if one exists, False for none. Without it the
                FAISS ids, or the row numbers, become ids by their decimal text.
            timeout_s: seconds, None for no limit; rows written until then stay.

        Raises:
            InvalidArgumentError: BAD_FILE, with byte and field; FAISS_INDEX: an unsupported kind;
                DIM_MISMATCH, METRIC_MISMATCH, CONFIG_MISMATCH: two sources disagree; BAD_META.
            NotFoundError: NO_FILE.
            VecdbError: as for ``upsert``; run the import again to resume it.

        Remote: the file, on this machine, is sent to the server, which keeps it in its data folder
            until the call ends. InvalidArgumentError: TRANSFER_DAMAGED: bytes changed on the way.
            ResourceExhaustedError: DISK_FULL: the server's disk has no room for it; or too many of
            these calls are waiting. After DeadlineExceededError or OutcomeUnknownError some rows
            may be stored: run it again.
        """

    def import_hnswlib(
        self,
        path: StrPath,
        collection: str,
        *,
        dim: int,
        metric: str,
        meta: StrPath | bool | None = None,
        timeout_s: float | None = None,
    ) -> ImportReport:
        """Import a file of ``hnswlib.Index.save_index``; everything else as ``import_faiss``.

        Args:
            dim, metric: what the file does not contain. "euclidean" is hnswlib's l2, "dot" its ip.
        """

    def close(self) -> None:
        """Close the database.

        Embedded: call it once for each ``vecdb.open`` of the folder in this process; the last call
            waits for batches in progress. If it is interrupted, call it again to finish.

        Remote: calls in progress in other threads end with an error.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _check_same_config(
    name: str, there: CollectionConfig, wanted: CollectionConfig, compared: tuple[str, ...]
) -> None:
    other = [what for what in compared if getattr(there, what) != getattr(wanted, what)]
    if other:
        has = " and ".join(f"{what} {getattr(there, what)}" for what in other)
        asked = " and ".join(f"{what} {getattr(wanted, what)}" for what in other)
        raise InvalidArgumentError(
            f"collection {name!r} exists with {has}, expected {asked}; use another name, or drop "
            "the collection first",
            Reason.CONFIG_MISMATCH,
        )
