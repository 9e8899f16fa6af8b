"""Check of a server's address, host:port or unix:/path, with a hint in the error."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from vecdb.errors import InvalidArgumentError
from vecdb.reasons import Reason
from vecdb.row_names import shown

__all__ = ["check_address", "is_local"]

_UNIX: Final = "unix:"
_NOT_IN_PATHS: Final = frozenset("\0#?%")
"""gRPC reads an address as a URI, in which these have a meaning."""

_PORT: Final = "7801"
_PORT_MAX: Final = 65_535
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HOST: Final = re.compile(r"[A-Za-z0-9._%-]+|\[[0-9A-Fa-f:.%A-Za-z0-9_-]+\]")


def check_address(address: object) -> str:
    """Return the address if it is host:port, or unix: and the path of a socket.

    Raises:
        InvalidArgumentError: BAD_ADDRESS.
    """
    if not isinstance(address, str):
        raise _wrong(address, "")
    if address.startswith(_UNIX):
        if address == _UNIX or address.startswith(f"{_UNIX}//") or _NOT_IN_PATHS & set(address):
            raise _wrong(address, ", or unix: and the path of a socket, without # ? %")
        return address
    scheme = _SCHEME.match(address)
    if scheme is not None:
        rest = address[scheme.end() :].split("/")[0]
        host_port = rest if ":" in rest else f"{rest}:{_PORT}"
        raise _wrong(address, f"; write it without {scheme.group()}: {shown(host_port)[1:-1]}")
    host, _, port = address.rpartition(":")
    if _HOST.fullmatch(address):
        raise _wrong(address, f", as in {address}:{_PORT}")
    if ":" in host and not host.startswith("["):
        raise _wrong(address, f"; put an IPv6 address in brackets, as in [::1]:{_PORT}")
    if not (_HOST.fullmatch(host) and re.fullmatch("[0-9]+", port)):
        raise _wrong(address, f", as in 127.0.0.1:{_PORT}")
    if len(port) > len(str(_PORT_MAX)) or not 1 <= int(port) <= _PORT_MAX:
        raise _wrong(address, f" with a port of 1 to {_PORT_MAX}")
    return address


def is_local(address: str) -> bool:
    """Return whether a server at a checked address is on this machine."""
    if address.startswith(_UNIX):
        return True
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _wrong(address: object, hint: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"address must be host:port{hint}, got {shown(address)}", Reason.BAD_ADDRESS
    )
