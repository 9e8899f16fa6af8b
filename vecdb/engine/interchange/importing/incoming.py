"""Spools the files of an import that arrive in parts (over gRPC), then imports them.

    data/incoming/import.partial-<12 hexadecimal digits>/index        the index file
                                                        /meta.jsonl   the sidecar, if any

The sender announces the sizes of the files first, and nothing is written beyond them. The import is
refused unless the file system has 2.5 times as much free, since the rows are written to the store
while the spool still exists. Size and SHA-256 of each file are checked before it is read.

The folder is removed when the import ends or fails. A file in it is locked while its process lives
(``atomic_folder.py``), so the folder of a killed process is recognised and removed when the data
folder is opened, or by the next import.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NamedTuple

from vecdb.engine.interchange.importing.import_file import ImportRequest, run_import
from vecdb.engine.interchange.untrusted_file import UntrustedFile
from vecdb.engine.runtime.data_folder import INCOMING
from vecdb.engine.runtime.runtime import Runtime
from vecdb.engine.system.atomic_folder import PartialFolder
from vecdb.engine.system.deadline import Deadline
from vecdb.engine.system.files import os_errors_translated
from vecdb.engine.system.modes import creating, make_folder
from vecdb.errors import InvalidArgumentError, ResourceExhaustedError
from vecdb.import_files import Sidecar
from vecdb.reasons import Reason
from vecdb.types import ImportReport

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Announced", "Chunk", "TransferEnd", "receive_import"]

_ROOM_FACTOR: Final = 2.5
"""Free space that an import needs, as a multiple of its files' size: the spool, the rows in the
store, a copy of their vectors in a segment, and LMDB's free pages."""


class Announced(NamedTuple):
    """The files that the sender announced.

    Attributes:
        file_bytes: size of the index file.
        side_bytes: size of the sidecar, None without one.
        file_name, side_name: the files' names in messages; never used as paths.
    """

    file_bytes: int
    side_bytes: int | None
    file_name: str
    side_name: str


class Chunk(NamedTuple):
    """The next bytes of the index file, or of the sidecar if ``of_side``."""

    data: bytes
    of_side: bool


class TransferEnd(NamedTuple):
    """The end of the transfer: SHA-256 in hexadecimal digits, empty without a sidecar."""

    sha256: str
    side_sha256: str


def receive_import(
    runtime: Runtime,
    request: ImportRequest,
    announced: Announced,
    parts: Iterable[Chunk | TransferEnd],
    deadline: Deadline,
) -> ImportReport:
    """Spool the parts and import the files; the request has been checked.

    Raises:
        InvalidArgumentError: BAD_TRANSFER: more or fewer bytes than announced, or no end;
            TRANSFER_DAMAGED: another SHA-256. In both cases nothing was written.
        ResourceExhaustedError: DISK_FULL: the disk is full, or would become full.
        Otherwise as ``Database.import_faiss``.
    """
    with (
        os_errors_translated("an incoming import"),
        _Spool(runtime.path, announced) as spool,
    ):
        spool.receive(parts, deadline.check)
        with UntrustedFile(spool.index.path, announced.file_name) as file:
            return run_import(runtime, request, file, spool.sidecar(), deadline)


class _Spool:
    """The folder of one import; a context manager that removes it."""

    def __init__(self, root: Path, announced: Announced) -> None:
        self._announced = announced
        _check_room(root, announced.file_bytes + (announced.side_bytes or 0))
        make_folder((root / INCOMING).parent, exist_ok=True)
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(PartialFolder(root / INCOMING)).path
            self.index = stack.enter_context(
                _Receiving(folder / "index", announced.file_name, announced.file_bytes)
            )
            self._side = None
            if announced.side_bytes is not None:
                self._side = stack.enter_context(
                    _Receiving(folder / "meta.jsonl", announced.side_name, announced.side_bytes)
                )
            self._stack = stack.pop_all()

    def receive(self, parts: Iterable[Chunk | TransferEnd], check: Callable[[], None]) -> None:
        """Write the parts to the files until the end; call ``check`` before each."""
        for part in parts:
            check()
            if isinstance(part, TransferEnd):
                self.index.finish(part.sha256)
                if self._side is not None:
                    self._side.finish(part.side_sha256)
                return
            if not part.of_side:
                self.index.add(part.data)
            elif self._side is not None:
                self._side.add(part.data)
            else:
                raise InvalidArgumentError(
                    "no sidecar was announced, got bytes of one; nothing was written",
                    Reason.BAD_TRANSFER,
                )
        raise InvalidArgumentError(
            f"the transfer stopped without its end message, after {self.index.bytes} of "
            f"{self.index.announced} bytes of {self.index.called}; nothing was written",
            Reason.BAD_TRANSFER,
        )

    def sidecar(self) -> Sidecar | None:
        """Return the sidecar, or None."""
        return None if self._side is None else Sidecar(self._side.path, self._side.called)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()


class _Receiving:
    """A file being received; a context manager. ``bytes``: received so far, of ``announced``."""

    def __init__(self, path: Path, called: str, announced: int) -> None:
        self.path, self.called, self.announced = path, called, announced
        self.bytes = 0
        self._digest = hashlib.sha256()
        self._stream: IO[bytes] = open(path, "xb", opener=creating)  # noqa: SIM115  __exit__ closes it.

    def add(self, data: bytes) -> None:
        if self.bytes + len(data) > self.announced:
            raise self._wrong(Reason.BAD_TRANSFER, f"got {self.bytes + len(data)}")
        self._stream.write(data)
        self._digest.update(data)
        self.bytes += len(data)

    def finish(self, sha256: str) -> None:
        if self.bytes != self.announced:
            raise self._wrong(Reason.BAD_TRANSFER, f"got {self.bytes}")
        found = self._digest.hexdigest()
        if found != sha256:
            raise self._wrong(Reason.TRANSFER_DAMAGED, f"with SHA-256 {sha256!r}, got {found}")
        self._stream.close()

    def _wrong(self, reason: str, what: str) -> InvalidArgumentError:
        return InvalidArgumentError(
            f"{self.called}: expected {self.announced} bytes, {what}; nothing was written", reason
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError):  # May fail on a full disk; the file is removed anyway.
            self._stream.close()


def _check_room(root: Path, size: int) -> None:
    free, needed = shutil.disk_usage(root).free, int(_ROOM_FACTOR * size)
    if free < needed:
        raise ResourceExhaustedError(
            f"an import of {size} bytes needs {needed} bytes free on the disk of the data folder, "
            f"which has {free}",
            Reason.DISK_FULL,
        )
