"""An embedded database: the façade of the public surface on a ``Runtime``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vecdb import checks
from vecdb.database_surface import DatabaseSurface
from vecdb.engine.api.collection import Collection
from vecdb.engine.interchange.importing.import_file import ImportRequest, import_file
from vecdb.engine.maintenance.backup.process import back_up
from vecdb.engine.runtime.options import Options
from vecdb.engine.runtime.runtime import Runtime
from vecdb.engine.system.deadline import Deadline
from vecdb.types import BackupReport, CollectionDescription, ImportReport

__all__ = ["Database"]


class Database(DatabaseSurface[Collection]):
    """An open database. Made by ``vecdb.open``; safe to use from many threads; a context
    manager."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @classmethod
    def open(cls, path: str | os.PathLike[str], **options: Any) -> Database:
        """Open the folder, made if it is not there; the same object if it is open already.

        Raises:
            FailedPreconditionError: no vecdb folder, or one of a newer format.
            NotFoundError: NO_FOLDER: it can't be made there.
            InvalidArgumentError: an option is wrong, or differs from those it is open with.
        """
        return Runtime.open(path, **options).facade(cls)

    @property
    def path(self) -> Path:
        """The folder, without symbolic links."""
        return self._runtime.path

    @property
    def options(self) -> Options:
        """What it was opened with."""
        return self._runtime.options

    def check_usable(self) -> None:
        """Raise if the database was closed or this is a forked child."""
        self._runtime.check_usable()

    def create_collection(
        self,
        name: str,
        dim: int,
        metric: str = "cosine",
        *,
        M: int = 16,
        ef_construction: int = 128,
    ) -> Collection:
        """Make a collection; on disk when this returns.

        Args:
            name: letters, digits, "_" and "-", 1 to 64.
            dim: components of each vector, 1 to 16,384.
            metric: "cosine", "euclidean" or "dot".
            M, ef_construction: of the graph; see ``CollectionConfig``.

        Raises:
            AlreadyExistsError: the name is taken.
            InvalidArgumentError: one of the arguments is wrong.
        """
        self.check_usable()
        config = checks.check_config(dim, metric, M, ef_construction)
        opened = self._runtime.create_collection(checks.check_name(name), config)
        return Collection(self._runtime, name, opened)

    def collection(self, name: str) -> Collection:
        """A handle on a collection.

        Raises:
            NotFoundError: there is none of that name.
        """
        return Collection(self._runtime, name, self._runtime.collection(name))

    def list_collections(self) -> list[CollectionDescription]:
        """All collections, by name."""
        return self._runtime.list_collections()

    def rename_collection(self, old: str, new: str) -> None:
        """Give a collection another name, in one step for every process. Handles are bound to the
        collection and go on working; their ``name`` stays what they were opened by.

        Raises:
            NotFoundError: there is none of the name ``old``.
            AlreadyExistsError: the name ``new`` is taken, be it by the collection itself.
        """
        self._runtime.rename_collection(old, new)

    def drop_collection(self, name: str) -> None:
        """Drop a collection with all that is in it, for every process that has it open.

        If it fails half way, the name stays taken until it is dropped again or the folder opened.

        Raises:
            NotFoundError: there is none of that name.
        """
        self._runtime.drop_collection(name)

    def backup(
        self, path: str | os.PathLike[str], *, include_segments: bool = True
    ) -> BackupReport:
        """Make a backup, to be turned into a data folder by ``vecdb.restore``; writes and searches
        of all processes go on.

        It holds the collections that are there when it begins, each in one committed state of its
        own: every batch up to some seq and nothing of those after it. It is fsynced and was read
        back when this returns; until then there is nothing at ``path``. While a store is copied,
        space that writers free in it is not used again, so its file may grow by what is written
        meanwhile.

        Args:
            path: a folder that is not there yet, in one that is, outside of the data folder.
            include_segments: False saves their space; after restoring, they are built again.

        Raises:
            AlreadyExistsError: something is at ``path``.
            NotFoundError: the folder that it should lie in is not there.
            DataLossError: stored bytes fail their checksum, so that no good backup can be made.
            ResourceExhaustedError: the disk is full. Nothing is left of the backup.
            InvalidArgumentError: the path is none, or lies in the data folder.
        """
        return back_up(self._runtime, path, Deadline(), include_segments=include_segments)

    def import_faiss(
        self,
        path: str | os.PathLike[str],
        collection: str,
        *,
        metric: str | None = None,
        meta: str | os.PathLike[str] | bool | None = None,
        timeout_s: float | None = None,
    ) -> ImportReport:
        """Bring in a FAISS index file: IndexFlat or IndexHNSWFlat, in IndexIDMap(2) or after a
        normalisation or not. ``importing/import_file.py`` says what becomes of its graph.

        Args:
            path: the file. It is not trusted: all of it is checked before anything is written.
            collection: made if it is not there, with the dim, M and metric of file and sidecar.
            metric: None for that of collection, sidecar or file: L2 is "euclidean", inner product
                "dot", after a normalisation "cosine". "cosine": all vectors have length 1.
            meta: JSON Lines or Parquet of ``faiss_id``, ``id`` and ``metadata``; None for what is
                there of ``<path>.meta.parquet`` and ``.jsonl``, False for none. Without it the
                FAISS ids, or the row numbers, become ids by their decimal text.
            timeout_s: seconds, None for no end; what was written when they are over stays.

        Raises:
            InvalidArgumentError: BAD_FILE, with byte and field; FAISS_INDEX: of a kind that can't
                be taken; DIM_MISMATCH, METRIC_MISMATCH, CONFIG_MISMATCH: two say different things.
            NotFoundError: NO_FILE. Otherwise as for ``upsert``: run it again to go on.
        """
        return import_file(
            self._runtime, path, ImportRequest("faiss", collection, metric), meta, timeout_s
        )

    def import_hnswlib(
        self,
        path: str | os.PathLike[str],
        collection: str,
        *,
        dim: int,
        metric: str,
        meta: str | os.PathLike[str] | bool | None = None,
        timeout_s: float | None = None,
    ) -> ImportReport:
        """Bring in a file of ``hnswlib.Index.save_index``; everything else as ``import_faiss``.

        Args:
            dim, metric: what the file does not say. "euclidean" is hnswlib's l2, "dot" its ip.
        """
        request = ImportRequest("hnswlib", collection, metric, dim)
        return import_file(self._runtime, path, request, meta, timeout_s)

    def close(self) -> None:
        """Close it once for each time it was opened; the last one waits for batches at hand.

        If that is interrupted, closing again goes on with it.
        """
        self._runtime.close()

    def __repr__(self) -> str:
        return f"Database({str(self.path)!r})"
