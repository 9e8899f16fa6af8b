"""The files of TLS: the server's certificate and key, and the authorities of client certificates.

They are read when the server starts and when it is told to reload, never in between: gRPC asks for
them at each handshake. A file that cannot be used leaves the ones before in use.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from vecdb.errors import InvalidArgumentError
from vecdb.reasons import Reason

__all__ = ["Certificates", "TlsFiles"]


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
    # gRPC accepts any bytes, and then fails each handshake. Python's ssl says what is wrong.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.cert, files.key, _no_password)
        cert, key = files.cert.read_bytes(), files.key.read_bytes()
        authorities = None
        if files.client_ca is not None:
            context.load_verify_locations(files.client_ca)
            authorities = files.client_ca.read_bytes()
    except (OSError, ValueError) as error:
        raise InvalidArgumentError(
            f"the TLS files {files.cert}, {files.key}"
            f"{'' if files.client_ca is None else f', {files.client_ca}'}: "
            f"{getattr(error, 'strerror', None) or error}",
            Reason.BAD_CERTIFICATE,
        ) from None
    return grpc.ssl_server_certificate_configuration([(key, cert)], authorities)


def _no_password() -> str:
    raise ValueError("the key is encrypted")
