"""The address that a server listens on: host and port, or a socket in the file system.

Only callers of the same machine reach a loopback address or a socket file. Any other address is
refused unless callers need a token and the connection is encrypted (``check_protected``).
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from typing import Final, NamedTuple

from vecdb.errors import FailedPreconditionError, InvalidArgumentError
from vecdb.reasons import Reason
from vecdb.row_names import shown

__all__ = [
    "DEFAULT_LISTEN",
    "PRIVATE_PLACE",
    "UNIX",
    "Listen",
    "check_free",
    "check_listen",
    "check_protected",
    "port_in_use",
]

DEFAULT_LISTEN: Final = "127.0.0.1:7801"
UNIX: Final = "unix:"
_NOT_IN_PATHS: Final = frozenset("\0#?%")
"""gRPC reads an address as a URI, in which these have a meaning."""

_PORT_MAX: Final = 65_535
_LISTEN: Final = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\]):([0-9]+)")
"""Host and port; an IPv6 address is in brackets."""

_SOCKET_PATH_BYTES_MAX: Final = 107
"""Of Linux (sockaddr_un)."""

PRIVATE_PLACE: Final = ".12345678/s"
"""Where a socket is bound, in its folder, before it gets its name: as long as the real one."""


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
    """Check that a port is free, since gRPC logs a page of its internals if it is not.

    Raises:
        FailedPreconditionError: PORT_IN_USE.
    """
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


def _socket_path(listen: str) -> str:
    path = listen.removeprefix(UNIX)
    absolute = os.path.abspath(path)
    if not path or path.endswith("/") or path.startswith("//") or _NOT_IN_PATHS & set(absolute):
        raise _bad_address(f"{UNIX} and the path of a socket, without # ? %", listen)
    folder = os.path.dirname(absolute)
    longest = max(
        absolute, os.path.join(folder, PRIVATE_PLACE), key=lambda each: len(os.fsencode(each))
    )
    if len(os.fsencode(longest)) > _SOCKET_PATH_BYTES_MAX:
        raise _bad_address(f"a path of at most {_SOCKET_PATH_BYTES_MAX} bytes", listen)
    return absolute


def _bad_address(expected: str, listen: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"listen must be {expected}, got {shown(listen)}", Reason.BAD_ADDRESS
    )
