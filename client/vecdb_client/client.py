"""A connection to a server, and the way of every call out and back.

Calls have a deadline. Reads may be repeated by whoever likes; a write is sent once, and again only
if the server said that it did nothing of it because too many were under way, or if its answer was
lost and it has a request id, so that being applied twice is not possible.
"""

from __future__ import annotations

import os
import random
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Final

import grpc

from vecdb import checks, limits
from vecdb.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    OutcomeUnknownError,
    ResourceExhaustedError,
    UnavailableError,
    VecdbError,
)
from vecdb.types import BackupReport, CollectionDescription, ImportReport
from vecdb_client import translation
from vecdb_client.channel import UseOfChannel, in_background, leave_channel, new_channel
from vecdb_client.collection import Collection
from vecdb_client.imports import send_import
from vecdb_client.streams import SearchStreams
from vecdb_proto import vecdb_pb2 as wire
from vecdb_proto.vecdb_pb2_grpc import VecdbStub

__all__ = ["Client"]

_BACK_OFF_FIRST_S: Final = 0.002
_BACK_OFF_MAX_S: Final = 0.1

_SERVER_AWAY: Final = frozenset({"CONNECTION", "STARTING", "DRAINING"})
"""Reasons that end with a server that starts again."""


class Client:
    """Collections of a server, by name; the same interface as an embedded database.

    Connecting happens with the first call. Safe to use from many threads, which share one
    connection; not after a fork, where every call raises FailedPreconditionError: make a new client
    in the child. After Ctrl-C in the middle of a call it goes on working. A context manager:
    leaving it closes the connection.

    Args:
        address: host:port of the server.
        timeout_s: seconds that a call may take, None for no end. ``search``, ``optimize`` and
            imports take their own; the last two have no end by default, and ``backup`` has none.

    Raises:
        InvalidArgumentError: the address is not host:port, or timeout_s is not above 0.
    """

    def __init__(self, address: str = "127.0.0.1:7801", *, timeout_s: float | None = 60.0) -> None:
        host, _, port = str(address).rpartition(":")
        if not (host and port.isascii() and port.isdigit()):
            raise InvalidArgumentError(
                f"address must be host:port, as in 127.0.0.1:7801, got {address!r}", "BAD_ADDRESS"
            )
        self._address = address
        self._timeout_s = _checked_timeout(timeout_s)
        self._pid = os.getpid()
        self._unusable: str | None = None
        self._connect()
        self._message_bytes: int | None = None

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
        made = self._write(self._stub.CreateCollection, request).collection
        return self._handle(made)

    def collection(self, name: str) -> Collection:
        """A handle on a collection. It is bound to the name: each call goes to what has it then.

        Raises:
            NotFoundError: there is none of that name.
        """
        request = wire.GetCollectionRequest(collection=checks.check_name(name))
        return self._handle(self._read(self._stub.GetCollection, request).collection)

    def list_collections(self) -> list[CollectionDescription]:
        """All collections, by name."""
        response = self._read(self._stub.ListCollections, wire.ListCollectionsRequest())
        return [translation.description_of(each) for each in response.collections]

    def rename_collection(self, old: str, new: str) -> None:
        """Give a collection another name, in one step for everyone. Handles are bound to the name:
        those made by the old one raise NotFoundError from then on.

        Raises:
            NotFoundError: there is none of the name ``old``.
            AlreadyExistsError: the name ``new`` is taken, be it by the collection itself.
        """
        request = wire.RenameCollectionRequest(
            collection=checks.check_name(old), new_name=checks.check_name(new)
        )
        self._write(self._stub.RenameCollection, request)

    def drop_collection(self, name: str) -> None:
        """Drop a collection with all that is in it, for everyone.

        Raises:
            NotFoundError: there is none of that name.
        """
        request = wire.DropCollectionRequest(collection=checks.check_name(name))
        self._write(self._stub.DropCollection, request)

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
            path: absolute, on the server's machine: a folder that is not there yet, in one that
                is, outside of the data folder.
            include_segments: False saves their space; after restoring, they are built again.

        Raises:
            AlreadyExistsError: something is at ``path``.
            NotFoundError: the folder that it should lie in is not there.
            DataLossError: stored bytes fail their checksum, so that no good backup can be made.
            ResourceExhaustedError: the disk is full, or the server has too many of these already.
                Nothing is left of the backup.
            InvalidArgumentError: the path is none, not absolute, or lies in the data folder.
        """
        request = wire.BackupRequest(
            path=checks.check_path(path, absolute=True), include_segments=bool(include_segments)
        )
        return translation.report_of(self._wait(self._stub.Backup, request, None).report)

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
            collection: made if it is not there, with the file's dim, M and metric.
            metric: None for that of the collection, or the file's: L2 is "euclidean", inner product
                "dot", after a normalisation "cosine". "cosine": all vectors have length 1.
            meta: JSON Lines or Parquet of ``faiss_id``, ``id`` and ``metadata``; None for what is
                there of ``<path>.meta.parquet`` and ``.jsonl``, False for none. Without it the
                FAISS ids, or the row numbers, become ids by their decimal text.
            timeout_s: seconds, None for no end; what was written when they are over stays.

        Raises:
            InvalidArgumentError: BAD_FILE, with byte and field; FAISS_INDEX: of a kind that can't
                be taken; DIM_MISMATCH, METRIC_MISMATCH: not what the collection has; BAD_META;
                TRANSFER_DAMAGED: bytes were changed on the way.
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
        if self._unusable is None:
            self._unusable = f"the client of {self._address} is closed"
            if os.getpid() == self._pid:
                self._let_go()
                self._channel.close()
            else:
                self._let_go.detach()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._address!r})"

    def _handle(self, made: wire.CollectionDescription) -> Collection:
        description = translation.description_of(made)
        return Collection(self, description.name, description.config)

    def _connect(self) -> None:
        self._channel = new_channel(self._address)
        self._stub: Any = VecdbStub(self._channel)
        self._streams = SearchStreams(self._stub.SearchStream)
        # A client that is let go unclosed takes its streams with it.
        self._let_go = weakref.finalize(self, self._streams.close)

    def _connect_anew(self) -> None:
        """After an interrupt, see ``UseOfChannel``."""
        if self._unusable is None:
            leave_channel(self._channel)
            in_background(self._let_go)
            self._connect()

    def _check_usable(self) -> None:
        # Asking for the pid takes 0.1 µs; gRPC in a forked child may hang without end.
        if os.getpid() != self._pid:
            raise FailedPreconditionError(
                f"the client of {self._address} was made before a fork; make one in the child",
                "FORKED",
            )
        if self._unusable is not None:
            raise FailedPreconditionError(self._unusable, "CLOSED")

    def _read(
        self,
        method: Callable[..., Any],
        request: Any,
        timeout_s: float | None = None,
    ) -> Any:
        """Send a request that changes nothing; ``timeout_s`` None for the client's."""
        limit_s = self._timeout_s if timeout_s is None else _checked_timeout(timeout_s)
        return self._send(method, request, limit_s, is_write=False)

    def _start_read(self, method: Any, request: Any) -> Callable[[], Any]:
        """Like ``_read``, but only begun: the function that is returned waits for the answer."""
        self._check_usable()
        try:
            with UseOfChannel(self._connect_anew):
                future = method.future(request, timeout=self._timeout_s)
        except ValueError as error:
            raise FailedPreconditionError(f"the client is closed: {error}", "CLOSED") from None

        def wait() -> Any:
            try:
                with UseOfChannel(self._connect_anew):
                    return future.result()
            except grpc.RpcError as error:
                raise translation.error_of(error, self._address, is_write=False) from None
            except grpc.FutureCancelledError:
                raise FailedPreconditionError("the client was closed", "CLOSED") from None

        return wait

    def _search(self, request: wire.SearchRequest, timeout_s: float | None) -> wire.SearchResponse:
        """Send a search: in an open stream, or as a call of its own if there is none to be had."""
        limit_s = self._timeout_s if timeout_s is None else _checked_timeout(timeout_s)
        self._check_usable()
        began = time.monotonic()
        with UseOfChannel(self._connect_anew):
            answer: wire.SearchResponse | None = self._streams.ask(request, limit_s)
        if answer is None:
            request.timeout_us = 0
            left_s = None if limit_s is None else max(1e-3, limit_s - (time.monotonic() - began))
            response: wire.SearchResponse = self._send(
                self._stub.Search, request, left_s, is_write=False
            )
            return response
        if answer.HasField("failure"):
            raise translation.error_of_failure(answer.failure)
        return answer

    def _wait(self, method: Callable[..., Any], request: Any, timeout_s: float | None) -> Any:
        """Like ``_read`` for work that may take hours: without a timeout it has no end."""
        return self._send(method, request, _checked_timeout(timeout_s), is_write=False)

    def _stream(
        self, method: Callable[..., Any], request: Any, timeout_s: float | None
    ) -> Iterator[Any]:
        """The answers to a request that changes nothing; without a timeout it has no end. If the
        iterator is closed before that, so is the call."""
        limit_s = _checked_timeout(timeout_s)
        self._check_usable()
        try:
            with UseOfChannel(self._connect_anew):
                call = method(request, timeout=limit_s)
        except ValueError as error:
            raise FailedPreconditionError(f"the client is closed: {error}", "CLOSED") from None
        try:
            with UseOfChannel(self._connect_anew):
                yield from call
        except grpc.RpcError as error:
            raise translation.error_of(error, self._address, is_write=False) from None
        finally:
            in_background(call.cancel)

    def _upload(self, method: Any, messages: Iterator[Any], timeout_s: float | None) -> Any:
        """The answer to many messages that change something; without a timeout it has no end."""
        limit_s = _checked_timeout(timeout_s)
        self._check_usable()
        try:
            with UseOfChannel(self._connect_anew):
                future = method.future(messages, timeout=limit_s)
        except ValueError as error:
            raise FailedPreconditionError(f"the client is closed: {error}", "CLOSED") from None
        try:
            with UseOfChannel(self._connect_anew):
                return future.result()
        except grpc.RpcError as error:
            raise translation.error_of(error, self._address, is_write=True) from None
        except grpc.FutureCancelledError:
            raise FailedPreconditionError("the client was closed", "CLOSED") from None
        finally:
            in_background(future.cancel)  # Who is interrupted sends no more.

    def _start_write(self, method: Any, request: Any) -> Any:
        """Send a write and return its gRPC future, to be given to ``_finish_write``."""
        self._check_usable()
        try:
            with UseOfChannel(self._connect_anew):
                return method.future(request, timeout=self._timeout_s)
        except ValueError as error:
            raise FailedPreconditionError(f"the client is closed: {error}", "CLOSED") from None

    def _finish_write(self, method: Callable[..., Any], request: Any, future: Any) -> Any:
        """The answer to a write that was started; what ``_write`` would send again is given to
        it."""
        try:
            with UseOfChannel(self._connect_anew):
                return future.result()
        except grpc.RpcError as error:
            translated = translation.error_of(error, self._address, is_write=True)
        attempts = _Attempts(request)
        attempts.failed(translated)
        return self._write(method, request, attempts)

    def _write(
        self, method: Callable[..., Any], request: Any, attempts: _Attempts | None = None
    ) -> Any:
        """Send a request that changes something, in the end once, within the client's timeout."""
        ends = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        pause_s = _BACK_OFF_FIRST_S
        attempts = attempts or _Attempts(request)
        while True:
            left_s = None if ends is None else max(1e-3, ends - time.monotonic())
            try:
                return self._send(method, request, left_s, is_write=True)
            except VecdbError as error:
                attempts.failed(error)
                if ends is not None and time.monotonic() + pause_s >= ends:
                    raise attempts.doubt or error from None
            # Random, so that clients which were refused together don't come back together.
            time.sleep(pause_s * random.uniform(0.5, 1.5))
            pause_s = min(2 * pause_s, _BACK_OFF_MAX_S)

    def _send(
        self,
        method: Callable[..., Any],
        request: Any,
        timeout_s: float | None,
        *,
        is_write: bool,
    ) -> Any:
        self._check_usable()
        try:
            with UseOfChannel(self._connect_anew):
                return method(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise translation.error_of(error, self._address, is_write=is_write) from None
        except ValueError as error:
            # Closed by another thread between the check and the call.
            raise FailedPreconditionError(f"the client is closed: {error}", "CLOSED") from None

    def _server_message_bytes(self) -> int:
        """The server's limit on messages, asked for once."""
        if self._message_bytes is None:
            response = self._read(self._stub.ServerInfo, wire.ServerInfoRequest())
            self._message_bytes = min(response.limits.message_bytes, limits.MESSAGE_BYTES.maximum)
        return self._message_bytes


class _Attempts:
    """What is known of a write after each attempt that failed.

    Once an answer was lost, only one that tells of this batch settles its fate; that an attempt
    after it wrote nothing says nothing of those before it.

    Attributes:
        doubt: the first error that left it open, None if there was none.
    """

    def __init__(self, request: Any) -> None:
        self._repeatable = bool(getattr(request, "request_id", ""))
        self.doubt: OutcomeUnknownError | None = None

    def failed(self, error: VecdbError) -> None:
        """Return if it may be sent again, and raise what the caller is to be told if not."""
        if isinstance(error, OutcomeUnknownError) and self._repeatable:
            self.doubt = self.doubt or error
            return
        if error.reason == "TOO_MANY_WRITES":
            return
        if self.doubt is None:
            raise error
        if error.reason in _SERVER_AWAY:
            return
        if isinstance(error, UnavailableError | ResourceExhaustedError):
            raise self.doubt
        raise error


def _checked_timeout(timeout_s: float | None) -> float | None:
    if timeout_s is not None and not timeout_s > 0:
        raise InvalidArgumentError(
            f"timeout_s must be above 0 or None, got {timeout_s!r}", "OUT_OF_RANGE"
        )
    return timeout_s
