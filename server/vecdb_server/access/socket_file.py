"""The socket of a server in the file system.

It is bound in a private folder, and gets its name with mode 0600 afterwards, so that no other user
can connect to it in between. While that happens the folder around it is locked: of two servers that
start at once, one gets the name. A server removes its own socket only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from typing import Final

from vecdb_server.access.addresses import PRIVATE_PLACE, UNIX, Listen, port_in_use

__all__ = ["SocketFile"]

_NAME: Final = os.path.basename(PRIVATE_PLACE)


class SocketFile:
    """A socket in the file system; without one, for host and port, nothing is done.

    Args:
        listen: the address.
    """

    def __init__(self, listen: Listen) -> None:
        self._listen = listen
        self._own: tuple[int, int] | None = None

    @contextlib.contextmanager
    def bound(self) -> Iterator[str]:
        """Yield the address to bind, in gRPC's form; the socket gets its name after the block.

        Raises:
            FailedPreconditionError: PORT_IN_USE.
        """
        path = self._listen.socket
        if not path:
            yield str(self._listen)
            return
        with _locked(self._listen):
            _check_free(self._listen)
            try:
                folder = tempfile.mkdtemp(prefix=".", dir=os.path.dirname(path))
            except OSError as error:
                raise port_in_use(self._listen, error.strerror or str(error)) from None
            try:
                bound = os.path.join(folder, _NAME)
                yield f"{UNIX}{bound}"
                os.chmod(bound, 0o600)
                os.link(bound, path)  # Unlike a rename it replaces nothing.
                status = os.lstat(path)
                self._own = status.st_dev, status.st_ino
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def remove(self) -> None:
        """Remove the socket, unless another one has its name by now. Idempotent."""
        own, self._own = self._own, None
        if own is None:
            return
        with contextlib.suppress(OSError), _locked(self._listen):
            status = os.lstat(self._listen.socket)
            if (status.st_dev, status.st_ino) == own:
                os.unlink(self._listen.socket)


@contextlib.contextmanager
def _locked(listen: Listen) -> Iterator[None]:
    try:
        folder = os.open(os.path.dirname(listen.socket), os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise port_in_use(listen, f"its folder: {error.strerror or error}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _check_free(listen: Listen) -> None:
    try:
        mode = os.lstat(listen.socket).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise port_in_use(listen, "a file of that name is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(listen.socket)
        except ConnectionRefusedError:
            os.unlink(listen.socket)  # Of a server that was killed.
            return
        except OSError as error:
            raise port_in_use(listen, error.strerror or str(error)) from None
    raise port_in_use(listen)
