"""The access token of a client, and its files of TLS."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import grpc

from vecdb.errors import FailedPreconditionError, InvalidArgumentError
from vecdb.reasons import Reason
from vecdb.surface.arguments import StrPath
from vecdb_client.address import is_local

__all__ = ["Credentials"]

_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
"""What a header may hold, without spaces."""


class Credentials:
    """The credentials of a client. Files are read once.

    Args:
        address: the checked address of the server.
        token: access token; None for none.
        tls: encrypt the connection; implied by the files.
        tls_ca: PEM file with the issuers of the server's certificate; None: those that come
            with grpcio.
        tls_cert: PEM file with the client's certificate, if the server asks for one.
        tls_key: PEM file with its private key.
        insecure: send a token without TLS to other machines too.

    Attributes:
        metadata: to send with each call; None without a token.

    Raises:
        InvalidArgumentError: BAD_OPTION, or BAD_CERTIFICATE: a file cannot be read.
        FailedPreconditionError: UNPROTECTED_TOKEN.
    """

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        tls: bool = False,
        tls_ca: StrPath | None = None,
        tls_cert: StrPath | None = None,
        tls_key: StrPath | None = None,
        insecure: bool = False,
    ) -> None:
        if (tls_cert is None) != (tls_key is None):
            raise InvalidArgumentError("give both tls_cert and tls_key", Reason.BAD_OPTION)
        is_encrypted = tls or tls_ca is not None or tls_cert is not None
        self.metadata: tuple[tuple[str, str], ...] | None = None
        if token is not None:
            if not isinstance(token, str) or _TOKEN.fullmatch(token) is None:
                # The text is left out: it may be a secret with a line end.
                raise InvalidArgumentError(
                    "token must be a text of printable ASCII characters without spaces",
                    Reason.BAD_OPTION,
                )
            if not (is_encrypted or insecure or is_local(address)):
                raise FailedPreconditionError(
                    f"refused to send a token to {address} without TLS, where others could read "
                    "it; give tls_ca or tls=True, or insecure=True",
                    Reason.UNPROTECTED_TOKEN,
                )
            self.metadata = (("authorization", f"Bearer {token}"),)
        self._channel = (
            grpc.ssl_channel_credentials(_read(tls_ca), _read(tls_key), _read(tls_cert))
            if is_encrypted
            else None
        )

    def channel(self, address: str, options: tuple[tuple[str, object], ...]) -> grpc.Channel:
        """Return a new channel."""
        if self._channel is None:
            return grpc.insecure_channel(address, options=options)
        return grpc.secure_channel(address, self._channel, options=options)


def _read(path: StrPath | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(os.fspath(path)).read_bytes()
    except OSError as error:
        raise InvalidArgumentError(
            f"{os.fspath(path)}: {error.strerror or error}", Reason.BAD_CERTIFICATE
        ) from None
