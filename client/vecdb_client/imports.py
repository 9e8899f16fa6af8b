"""Sending an index file: sizes first, then the bytes in chunks, then the checksums.

A thread of gRPC takes the messages one by one, as fast as the server receives them, so memory stays
bounded. An error in that thread is stored and raised in the thread of the call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from vecdb import checks
from vecdb.errors import InvalidArgumentError
from vecdb.import_files import open_regular, sidecar_lines
from vecdb.os_errors import os_errors_translated
from vecdb.reasons import Reason
from vecdb.types import ImportReport
from vecdb_client import translation
from vecdb_proto import vecdb_pb2 as wire

if TYPE_CHECKING:
    from vecdb_client.calls import Calls

__all__ = ["send_import"]

_CHUNK_BYTES: Final = 1024**2
_MESSAGE_MARGIN_BYTES: Final = 1_024


def send_import(
    calls: Calls,
    begin: wire.ImportBegin,
    path: object,
    meta: object,
    timeout_s: float | None,
    progress: Callable[[int, int], None] = lambda sent, total: None,
) -> ImportReport:
    """Send an index file and its sidecar; for ``Client.import_faiss`` and ``import_hnswlib``.

    Args:
        calls: the client's calls.
        begin: the message of ``translation.import_begin``; sizes and names of the files are set
            here.
        path: the index file.
        meta: see ``vecdb.import_files.sidecar_lines``.
        timeout_s: timeout of the import in seconds; None for none.
        progress: called by another thread with the bytes sent so far and in total.
    """
    began = time.monotonic()
    file_path = checks.check_local_path(path)
    with os_errors_translated(str(file_path)), contextlib.ExitStack() as stack:
        files = [_Outgoing(stack, file_path, str(file_path))]
        begin.bytes, begin.file_name = files[0].size, files[0].called
        side = stack.enter_context(sidecar_lines(file_path, meta))
        if side is not None:
            files.append(_Outgoing(stack, side.path, side.called))
            begin.side_bytes, begin.side_name = files[1].size, files[1].called
        chunk_bytes = min(_CHUNK_BYTES, calls.server_message_bytes() - _MESSAGE_MARGIN_BYTES)
        messages = _Messages(begin, files, chunk_bytes, progress)
        try:
            response = calls.upload("Import", iter(messages), timeout_s)
        except Exception:
            if messages.failure is not None:
                raise messages.failure from None
            raise
    report = translation.import_report_of(response.report)
    return dataclasses.replace(report, elapsed_s=time.monotonic() - began)


class _Outgoing:
    """A file to send, with its size at opening; the stack closes it."""

    def __init__(self, stack: contextlib.ExitStack, path: Path, called: str) -> None:
        self.called = called
        # Buffered, since closing a buffered file waits for a read in another thread.
        self._stream: IO[bytes] = stack.enter_context(os.fdopen(open_regular(path, called), "rb"))
        self.size = os.fstat(self._stream.fileno()).st_size
        self.digest = hashlib.sha256()

    def chunks(self, chunk_bytes: int) -> Iterator[bytes]:
        left = self.size
        while left:
            data = self._stream.read(min(chunk_bytes, left))
            if not data:
                raise InvalidArgumentError(
                    f"{self.called}: expected {self.size} bytes, got {self.size - left}: the file "
                    "was truncated during the import",
                    Reason.BAD_FILE,
                )
            left -= len(data)
            self.digest.update(data)
            yield data


class _Messages:
    """The messages of an import; iterate once.

    Attributes:
        failure: the error that ended the iteration early, after which the server reports an
            incomplete transfer; None without one.
    """

    def __init__(
        self,
        begin: wire.ImportBegin,
        files: list[_Outgoing],
        chunk_bytes: int,
        progress: Callable[[int, int], None],
    ) -> None:
        self._begin, self._files, self._chunk_bytes = begin, files, chunk_bytes
        self._progress = progress
        self.failure: Exception | None = None

    def __iter__(self) -> Iterator[wire.ImportRequest]:
        try:
            yield from self._all()
        except Exception as error:
            self.failure = error

    def _all(self) -> Iterator[wire.ImportRequest]:
        sent, total = 0, sum(file.size for file in self._files)
        yield wire.ImportRequest(begin=self._begin)
        for number, file in enumerate(self._files):
            for data in file.chunks(self._chunk_bytes):
                yield (
                    wire.ImportRequest(side_chunk=data)
                    if number
                    else wire.ImportRequest(chunk=data)
                )
                sent += len(data)
                self._progress(sent, total)
        names = ("sha256", "side_sha256")
        end = {n: file.digest.hexdigest() for n, file in zip(names, self._files, strict=False)}
        yield wire.ImportRequest(end=wire.ImportEnd(**end))
