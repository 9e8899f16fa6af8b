"""A client of a server: collections by name, and operations on the whole database."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from vecdb import checks, limits
from vecdb.surface import DatabaseSurface
from vecdb.surface.arguments import MetadataEntry, StrPath
from vecdb.types import BackupReport, CollectionDescription, ImportReport
from vecdb_client import translation
from vecdb_client.address import check_address
from vecdb_client.calls import Calls
from vecdb_client.collection import Collection
from vecdb_client.credentials import Credentials
from vecdb_client.imports import send_import
from vecdb_proto import vecdb_pb2 as wire

__all__ = ["Client"]

_COLLECTIONS_AT_ONCE: Final = 1_000


class Client(DatabaseSurface[Collection]):
    """Collections of a server, by name; the same interface as an embedded database.

    A context manager; leaving it closes the connection, which is established at the first call.

    Thread-safe; all threads share one connection. After a fork every call raises
    FailedPreconditionError: create a new client in the child. After Ctrl-C during a call the client
    stays usable, over a new connection. In rare cases running calls of other threads then block
    forever; in ``upsert_many``, imports and scrolls, until their timeout.

    Args:
        address: host:port of the server, or unix: and the path of its socket.
        timeout_s: timeout of a call in seconds; None for none. ``search``, ``optimize`` and imports
            have their own; for the last two the default is none. ``backup`` has no timeout.
        token: access token, if the server asks for one.
        tls: encrypt the connection; implied by the following files.
        tls_ca: PEM file with the issuers of the server's certificate; default: those that come
            with grpcio.
        tls_cert, tls_key: PEM files with the client's certificate and its key, if the server asks
            for them.
        insecure: allow sending a token without TLS to another machine.

    Raises:
        InvalidArgumentError: the address is not host:port, timeout_s is not above 0, the token is
            not printable, or a file cannot be read.
        FailedPreconditionError: UNPROTECTED_TOKEN.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:7801",
        *,
        timeout_s: float | None = 60.0,
        token: str | None = None,
        tls: bool = False,
        tls_ca: StrPath | None = None,
        tls_cert: StrPath | None = None,
        tls_key: StrPath | None = None,
        insecure: bool = False,
    ) -> None:
        self._address = check_address(address)
        credentials = Credentials(
            address,
            token,
            tls=tls,
            tls_ca=tls_ca,
            tls_cert=tls_cert,
            tls_key=tls_key,
            insecure=insecure,
        )
        self._calls = Calls(address, credentials, timeout_s)

    def create_collection(
        self,
        name: str,
        dim: int,
        metric: str = "cosine",
        *,
        M: int = 16,
        ef_construction: int = 128,
        index_fields: Iterable[str] | None = None,
        target_recall: float = limits.TARGET_RECALL,
        metadata: MetadataEntry = None,
    ) -> Collection:
        config = checks.check_config(dim, metric, M, ef_construction, index_fields, target_recall)
        raw = checks.check_collection_metadata(metadata)
        if raw:
            self._calls.require("collection_metadata")
        if config.index_fields is not None:
            self._calls.require("index_fields")
        if config.target_recall != limits.TARGET_RECALL:
            self._calls.require("collection_target_recall")
        request = wire.CreateCollectionRequest(
            collection=checks.check_name(name),
            config=translation.config_message(config),
            metadata=raw,
        )
        created = self._calls.write("CreateCollection", request).collection
        return self._handle(created)

    def collection(self, name: str) -> Collection:
        request = wire.GetCollectionRequest(collection=checks.check_name(name))
        return self._handle(self._calls.read("GetCollection", request).collection)

    def list_collections(self) -> list[CollectionDescription]:
        found, after, has_more = [], "", True
        while has_more:
            asked = wire.ListCollectionsRequest(page_size=_COLLECTIONS_AT_ONCE, after=after)
            response = self._calls.read("ListCollections", asked)
            found += [translation.description_of(each) for each in response.collections]
            after = response.next
            has_more = bool(after)
        return found

    def rename_collection(self, old: str, new: str) -> None:
        request = wire.RenameCollectionRequest(
            collection=checks.check_name(old), new_name=checks.check_name(new)
        )
        self._calls.write("RenameCollection", request)

    def drop_collection(self, name: str) -> None:
        request = wire.DropCollectionRequest(collection=checks.check_name(name))
        self._calls.write("DropCollection", request)

    def backup(self, path: StrPath, *, include_segments: bool = True) -> BackupReport:
        request = wire.BackupRequest(
            path=checks.check_path(path),
            include_segments=checks.check_flag("include_segments", include_segments),
        )
        return translation.report_of(self._calls.wait("Backup", request, None).report)

    def import_faiss(
        self,
        path: StrPath,
        collection: str,
        *,
        metric: str | None = None,
        meta: StrPath | bool | None = None,
        timeout_s: float | None = None,
    ) -> ImportReport:
        begin = translation.import_begin("faiss", collection, metric)
        return send_import(self._calls, begin, path, meta, timeout_s)

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
        begin = translation.import_begin("hnswlib", collection, metric, dim)
        return send_import(self._calls, begin, path, meta, timeout_s)

    def close(self) -> None:
        self._calls.close()

    def __repr__(self) -> str:
        return f"Client({self._address!r})"

    def _handle(self, found: wire.CollectionDescription) -> Collection:
        description = translation.description_of(found)
        return Collection(self._calls, description.name, description.config, found.id)
