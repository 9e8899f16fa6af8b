"""The address that a server listens on: host and port, or a socket in the file system.

Only callers of the same machine reach a loopback address or a socket file. Any other address is
refused unless callers need a token and the connection is encrypted (``check_protected``).
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from typing import Final, NamedTuple

from vecdb.errors import FailedPreconditionError, InvalidArgumentError
from vecdb.reasons import Reason
from vecdb.row_names import shown

__all__ = [
    "DEFAULT_LISTEN",
    "Listen",
    "bound_at",
    "check_free",
    "check_listen",
    "check_protected",
    "port_in_use",
    "remove_socket",
]

DEFAULT_LISTEN: Final = "127.0.0.1:7801"
UNIX: Final = "unix:"
_PORT_MAX: Final = 65_535
_LISTEN: Final = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\]):([0-9]+)")
"""Host and port; an IPv6 address is in brackets."""

_SOCKET_PATH_BYTES_MAX: Final = 107
"""Of Linux (sockaddr_un)."""

_SOCKET_NAME: Final = "s"
_BOUND_AT: Final = f".12345678/{_SOCKET_NAME}"
"""Where a socket is bound, in its folder: mkdtemp adds eight characters to the dot."""


class Listen(NamedTuple):
    """An address to listen on.

    Attributes:
        host: an IP address or a name; empty with a socket.
        port: 0 for any free port.
        socket: absolute path of a socket; empty without one.
    """

    host: str
    port: int
    socket: str = ""

    def __str__(self) -> str:
        """Return it as clients give it, and gRPC takes it."""
        if self.socket:
            return f"{UNIX}{self.socket}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only callers of this machine reach it."""
        if self.socket:
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def check_listen(listen: str) -> Listen:
    """Return the address of "127.0.0.1:7801", "localhost:7801", "[::1]:7801" or "unix:/run/v.sock".

    Raises:
        InvalidArgumentError: BAD_ADDRESS.
    """
    if listen.startswith(UNIX):
        return Listen("", 0, _socket_path(listen))
    found = _LISTEN.fullmatch(listen)
    if found is None:
        raise _bad_address(f"host:port, as in {DEFAULT_LISTEN}, or {UNIX}/path", listen)
    host, port_text = found.group(1).removeprefix("[").removesuffix("]"), found.group(2)
    if len(port_text) > len(str(_PORT_MAX)) or int(port_text) > _PORT_MAX:
        raise _bad_address(f"host:port with a port of 0 to {_PORT_MAX}", listen)
    return Listen("127.0.0.1" if host.lower() == "localhost" else host, int(port_text))


def check_protected(listen: Listen, *, has_tokens: bool, has_tls: bool, insecure: bool) -> None:
    """Check that an address which other machines reach has tokens and TLS.

    Args:
        listen: the address.
        insecure: allow it without them.

    Raises:
        FailedPreconditionError: NOT_LOOPBACK.
    """
    if listen.is_local or insecure or (has_tokens and has_tls):
        return
    missing = " and ".join(
        [*([] if has_tokens else ["--tokens"]), *([] if has_tls else ["--tls-cert, --tls-key"])]
    )
    raise FailedPreconditionError(
        f"refused to listen on {listen}, which other machines reach, without {missing}: anyone "
        "there could read or change the data; --insecure allows it",
        Reason.NOT_LOOPBACK,
    )


def check_free(listen: Listen) -> None:
    """Check that the address is free, since gRPC logs a page of its internals if a port is not,
    and takes a socket away from the server that listens on it.

    Raises:
        FailedPreconditionError: PORT_IN_USE.
    """
    if listen.socket:
        _check_socket_free(listen)
        return
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen.host, listen.port))
        except OSError as error:
            raise port_in_use(listen, error.strerror or str(error)) from None


def port_in_use(listen: Listen, why: str = "Address already in use") -> FailedPreconditionError:
    """Return the error for an address that is not free."""
    return FailedPreconditionError(f"cannot listen on {listen}: {why}", Reason.PORT_IN_USE)


@contextlib.contextmanager
def bound_at(listen: Listen) -> Iterator[str]:
    """Yield the address to bind, in gRPC's form. A socket is bound in a private folder and gets its
    name, with mode 0600, when the block ends: so nobody else can ever connect to it."""
    if not listen.socket:
        yield str(listen)
        return
    folder = tempfile.mkdtemp(prefix=".", dir=os.path.dirname(listen.socket))
    try:
        bound = os.path.join(folder, _SOCKET_NAME)
        yield f"{UNIX}{bound}"
        os.chmod(bound, 0o600)
        os.rename(bound, listen.socket)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_socket(listen: Listen) -> None:
    """Remove the socket of a server that has stopped."""
    if listen.socket:
        with contextlib.suppress(OSError):
            os.unlink(listen.socket)


def _check_socket_free(listen: Listen) -> None:
    try:
        mode = os.lstat(listen.socket).st_mode
    except FileNotFoundError:
        if not os.path.isdir(os.path.dirname(listen.socket)):
            raise port_in_use(listen, "its folder does not exist") from None
        return
    if not stat.S_ISSOCK(mode):
        raise port_in_use(listen, "a file of that name is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(listen.socket)
        except ConnectionRefusedError:
            return  # Of a server that was killed; gRPC replaces it.
        except OSError as error:
            raise port_in_use(listen, error.strerror or str(error)) from None
    raise port_in_use(listen)


def _socket_path(listen: str) -> str:
    path = listen.removeprefix(UNIX)
    if not path or "\0" in path or path.endswith("/"):
        raise _bad_address(f"{UNIX} followed by the path of a socket", listen)
    absolute = os.path.abspath(path)
    folder = os.path.dirname(absolute)
    longest = max(
        absolute, os.path.join(folder, _BOUND_AT), key=lambda each: len(os.fsencode(each))
    )
    if len(os.fsencode(longest)) > _SOCKET_PATH_BYTES_MAX:
        raise _bad_address(f"a path of at most {_SOCKET_PATH_BYTES_MAX} bytes", listen)
    return absolute


def _bad_address(expected: str, listen: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"listen must be {expected}, got {shown(listen)}", Reason.BAD_ADDRESS
    )
