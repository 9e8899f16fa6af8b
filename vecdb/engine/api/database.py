"""An embedded database: the façade of the public surface on a ``Runtime``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from vecdb import checks
from vecdb.engine.api.collection import Collection
from vecdb.engine.interchange.importing.import_file import ImportRequest, import_file
from vecdb.engine.maintenance.backup.process import back_up
from vecdb.engine.runtime.options import Options
from vecdb.engine.runtime.runtime import Runtime
from vecdb.engine.system.deadline import Deadline
from vecdb.surface import DatabaseSurface
from vecdb.surface.arguments import MetadataEntry, StrPath
from vecdb.types import BackupReport, CollectionDescription, ImportReport

__all__ = ["Database"]


class Database(DatabaseSurface[Collection]):
    """An open database, returned by ``vecdb.open``. Safe to use from many threads; a context
    manager."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @classmethod
    def open(cls, path: str | os.PathLike[str], **options: object) -> Database:
        """Open the folder; create it if it does not exist.

        Raises:
            FailedPreconditionError: the folder is not a vecdb folder, or has a newer format.
            NotFoundError: NO_FOLDER: its parent does not exist.
            InvalidArgumentError: an option is invalid, or the folder is open in this process with
                other options.
        """
        return Runtime.open(path, **options).facade(cls)

    @property
    def path(self) -> Path:
        """The folder, with symbolic links resolved."""
        return self._runtime.path

    @property
    def options(self) -> Options:
        """The options that the folder was opened with."""
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
        index_fields: Iterable[str] | None = None,
        metadata: MetadataEntry = None,
    ) -> Collection:
        self.check_usable()
        config = checks.check_config(dim, metric, M, ef_construction, index_fields)
        raw = checks.check_collection_metadata(metadata)
        opened = self._runtime.create_collection(checks.check_name(name), config, raw)
        return Collection(self._runtime, name, opened)

    def collection(self, name: str) -> Collection:
        return Collection(self._runtime, name, self._runtime.collection(name))

    def list_collections(self) -> list[CollectionDescription]:
        return self._runtime.list_collections()

    def rename_collection(self, old: str, new: str) -> None:
        self._runtime.rename_collection(old, new)

    def drop_collection(self, name: str) -> None:
        self._runtime.drop_collection(name)

    def backup(self, path: StrPath, *, include_segments: bool = True) -> BackupReport:
        return back_up(self._runtime, path, Deadline(), include_segments=include_segments)

    def import_faiss(
        self,
        path: StrPath,
        collection: str,
        *,
        metric: str | None = None,
        meta: StrPath | bool | None = None,
        timeout_s: float | None = None,
    ) -> ImportReport:
        return import_file(
            self._runtime, path, ImportRequest("faiss", collection, metric), meta, timeout_s
        )

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
        request = ImportRequest("hnswlib", collection, metric, dim)
        return import_file(self._runtime, path, request, meta, timeout_s)

    def close(self) -> None:
        self._runtime.close()

    def __repr__(self) -> str:
        return f"Database({str(self.path)!r})"
