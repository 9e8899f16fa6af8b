"""A client of a server: collections by name, and operations on the whole database."""

from __future__ import annotations

import os

from vecdb import checks
from vecdb.database_surface import DatabaseSurface
from vecdb.types import BackupReport, CollectionDescription, ImportReport
from vecdb_client import translation
from vecdb_client.address import check_address
from vecdb_client.calls import Calls
from vecdb_client.collection import Collection
from vecdb_client.imports import send_import
from vecdb_proto import vecdb_pb2 as wire

__all__ = ["Client"]


class Client(DatabaseSurface[Collection]):
    """Collections of a server, by name; the same interface as an embedded database.

    A context manager; leaving it closes the connection, which is established at the first call.

    Thread-safe; all threads share one connection. After a fork every call raises
    FailedPreconditionError: create a new client in the child. After Ctrl-C during a call the client
    stays usable, over a new connection. In rare cases running calls of other threads then block
    forever; in ``upsert_many``, imports and scrolls, until their timeout.

    Args:
        address: host:port of the server.
        timeout_s: timeout of a call in seconds; None for none. ``search``, ``optimize`` and imports
            have their own; for the last two the default is none. ``backup`` has no timeout.

    Raises:
        InvalidArgumentError: the address is not host:port, or timeout_s is not above 0.
    """

    def __init__(self, address: str = "127.0.0.1:7801", *, timeout_s: float | None = 60.0) -> None:
        self._address = check_address(address)
        self._calls = Calls(address, timeout_s)

    def create_collection(
        self,
        name: str,
        dim: int,
        metric: str = "cosine",
        *,
        M: int = 16,
        ef_construction: int = 128,
    ) -> Collection:
        """Make a collection; on the server's disk when this returns.

        Args:
            name: letters, digits, "_" and "-", 1 to 64.
            dim: components of each vector, 1 to 16,384.
            metric: "cosine", "euclidean" or "dot".
            M, ef_construction: of the graph; see ``CollectionConfig``.

        Raises:
            AlreadyExistsError: the name is taken.
            InvalidArgumentError: one of the arguments is wrong.
        """
        config = checks.check_config(dim, metric, M, ef_construction)
        request = wire.CreateCollectionRequest(
            collection=checks.check_name(name), config=translation.config_message(config)
        )
        created = self._calls.write("CreateCollection", request).collection
        return self._handle(created)

    def collection(self, name: str) -> Collection:
        """A handle on a collection.

        Raises:
            NotFoundError: there is none of that name.
        """
        request = wire.GetCollectionRequest(collection=checks.check_name(name))
        return self._handle(self._calls.read("GetCollection", request).collection)

    def list_collections(self) -> list[CollectionDescription]:
        """All collections, by name."""
        response = self._calls.read("ListCollections", wire.ListCollectionsRequest())
        return [translation.description_of(each) for each in response.collections]

    def rename_collection(self, old: str, new: str) -> None:
        """Give a collection another name, in one step for everyone. Handles are bound to the
        collection and go on working; their ``name`` stays what they were opened by.

        Raises:
            NotFoundError: there is none of the name ``old``.
            AlreadyExistsError: the name ``new`` is taken, be it by the collection itself.
        """
        request = wire.RenameCollectionRequest(
            collection=checks.check_name(old), new_name=checks.check_name(new)
        )
        self._calls.write("RenameCollection", request)

    def drop_collection(self, name: str) -> None:
        """Drop a collection with all that is in it, for everyone.

        Raises:
            NotFoundError: there is none of that name.
        """
        request = wire.DropCollectionRequest(collection=checks.check_name(name))
        self._calls.write("DropCollection", request)

    def backup(
        self, path: str | os.PathLike[str], *, include_segments: bool = True
    ) -> BackupReport:
        """Have the server make a backup on its machine, to be turned into a data folder by
        ``vecdb.restore``; writes and searches go on.

        It holds the collections that are there when it begins, each in one committed state of its
        own: every batch up to some seq and nothing of those after it. It is fsynced and was read
        back when this returns; until then there is nothing at ``path``. It may take as long as it
        takes: the client's timeout is not its.

        Args:
            path: a folder that is not there yet, in the server's folder for backups (``vecdb serve
                --backup-dir``): relative to it, or absolute and inside it.
            include_segments: False saves their space; after restoring, they are built again.

        Raises:
            AlreadyExistsError: something is at ``path``.
            NotFoundError: the folder that it should lie in is not there.
            DataLossError: stored bytes fail their checksum, so that no good backup can be made.
            ResourceExhaustedError: the disk is full, or the server has too many of these already.
                Nothing is left of the backup.
            InvalidArgumentError: BAD_PATH: the path is none, or leads elsewhere.
            FailedPreconditionError: NO_BACKUP_DIR: the server was given no folder for backups.
        """
        request = wire.BackupRequest(
            path=checks.check_path(path),
            include_segments=checks.check_flag("include_segments", include_segments),
        )
        return translation.report_of(self._calls.wait("Backup", request, None).report)

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
        normalisation or not, and its graph without building it where that can be.

        The file is sent to the server, which keeps it in its data folder until the call ends.

        Args:
            path: the file, on this machine. The server checks all of it before anything is written.
            collection: made if it is not there, with the dim, M and metric of file and sidecar.
            metric: None for that of collection, sidecar or file: L2 is "euclidean", inner product
                "dot", after a normalisation "cosine". "cosine": all vectors have length 1.
            meta: JSON Lines or Parquet of ``faiss_id``, ``id`` and ``metadata``; None for what is
                there of ``<path>.meta.parquet`` and ``.jsonl``, False for none. Without it the
                FAISS ids, or the row numbers, become ids by their decimal text.
            timeout_s: seconds, None for no end; what was written when they are over stays.

        Raises:
            InvalidArgumentError: BAD_FILE, with byte and field; FAISS_INDEX: of a kind that can't
                be taken; DIM_MISMATCH, METRIC_MISMATCH, CONFIG_MISMATCH: two say different things;
                BAD_META; TRANSFER_DAMAGED: bytes were changed on the way.
            NotFoundError: NO_FILE.
            ResourceExhaustedError: the server has too little disk for it (DISK_FULL), or too many
                of these already.
            DeadlineExceededError, OutcomeUnknownError: some rows may be there: run it again to go
                on. Otherwise as for ``upsert``.
        """
        begin = translation.import_begin("faiss", collection, metric)
        return send_import(self, begin, path, meta, timeout_s)

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
        begin = translation.import_begin("hnswlib", collection, metric, dim)
        return send_import(self, begin, path, meta, timeout_s)

    def close(self) -> None:
        """Close the connection; calls under way in other threads end with an error."""
        self._calls.close()

    def __repr__(self) -> str:
        return f"Client({self._address!r})"

    def _handle(self, found: wire.CollectionDescription) -> Collection:
        description = translation.description_of(found)
        return Collection(self._calls, description.name, description.config, found.id)
