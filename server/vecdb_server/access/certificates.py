"""The files of TLS: the server's certificate and key, and the authorities of client certificates.

They are read when the server starts and after SIGHUP, never in between, and checked. If they cannot
be used, the earlier ones stay in use.
"""

from __future__ import annotations

import base64
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from vecdb.errors import InvalidArgumentError
from vecdb.reasons import Reason

__all__ = ["Certificates", "TlsFiles"]

_EDWARDS_CURVES: Final = (b"\x06\x03\x2b\x65\x70", b"\x06\x03\x2b\x65\x71")
"""The identifiers 1.3.101.112 and 113 (RFC 8410) in DER."""

_HEADER_BYTES: Final = 24
"""An identifier is at the beginning of a private key in the form of PKCS #8."""


@dataclass(frozen=True)
class TlsFiles:
    """Paths of PEM files.

    Attributes:
        cert: the server's certificate, followed by those of its issuers.
        key: its private key, not encrypted.
        client_ca: issuers of client certificates; if given, a client needs a certificate.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None


class Certificates:
    """The certificates in use. Thread-safe.

    Args:
        files: where they are.

    Raises:
        InvalidArgumentError: BAD_CERTIFICATE.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._current = _read(files)

    def reload(self) -> None:
        """Read the files again; connections that exist keep what they began with.

        Raises:
            InvalidArgumentError: BAD_CERTIFICATE; nothing has changed.
        """
        self._current = _read(self._files)

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials for a port, which follow ``reload``."""
        return grpc.dynamic_ssl_server_credentials(
            self._current,
            self._fetcher(),
            require_client_authentication=self._files.client_ca is not None,
        )

    def _fetcher(self) -> Callable[[], grpc.ServerCertificateConfiguration | None]:
        used = self._current

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal used
            if self._current is used:
                return None  # Unchanged.
            used = self._current
            return used

        return fetch


def _read(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    """Read the files once, and check what was read: gRPC takes any bytes, and then fails each
    handshake without a reason."""
    try:
        cert, key = files.cert.read_bytes(), files.key.read_bytes()
        authorities = None if files.client_ca is None else files.client_ca.read_bytes()
        _check(cert, key, authorities)
    except (OSError, ValueError) as error:
        names = ", ".join(str(each) for each in (files.cert, files.key, files.client_ca) if each)
        raise InvalidArgumentError(
            f"the TLS files {names}: {getattr(error, 'strerror', None) or error}",
            Reason.BAD_CERTIFICATE,
        ) from None
    return grpc.ssl_server_certificate_configuration([(key, cert)], authorities)


def _check(cert: bytes, key: bytes, authorities: bytes | None) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:  # Of mode 0700. Python's ssl takes paths only.
        places = Path(folder, "cert"), Path(folder, "key")
        for place, content in zip(places, (cert, key), strict=True):
            place.write_bytes(content)
        context.load_cert_chain(*places, _no_password)
    if authorities is not None:
        context.load_verify_locations(cadata=authorities.decode("ascii"))
    if any(each in _key_bytes(key)[:_HEADER_BYTES] for each in _EDWARDS_CURVES):
        raise ValueError("clients of gRPC know no Ed25519 or Ed448: use an RSA or ECDSA key")


def _key_bytes(pem: bytes) -> bytes:
    """Return what the last block of a PEM file encodes."""
    block = pem.rpartition(b"-----BEGIN ")[2].partition(b"-----\n")[2].partition(b"-----END")[0]
    return base64.b64decode(block)


def _no_password() -> str:
    raise ValueError("the key is encrypted")
