"""Tokens and certificates for tests of access."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from vecdb_server.access.certificates import TlsFiles
from vecdb_server.access.roles import Role
from vecdb_server.access.tokens import Tokens


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """An empty file of tokens."""
    path = tmp_path / "tokens.json"
    Tokens().write(path)
    return path


@pytest.fixture
def new_token(tokens: Path) -> Callable[..., str]:
    """Adds a token to the file and returns its text; name, role, prefix of collections."""

    def create(name: str, role: Role, collections: str = "") -> str:
        after, text = Tokens.read(tokens).create(name, role, collections)
        after.write(tokens)
        return text

    return create


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


def write_certificate(authority: trustme.CA, folder: Path, name: str) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1 and its key; return their paths."""
    made = authority.issue_cert("127.0.0.1", "localhost", common_name=name)
    cert, key = folder / f"{name}.pem", folder / f"{name}-key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    made.private_key_pem.write_to_path(key)
    return cert, key


@pytest.fixture
def tls(authority: trustme.CA, tmp_path: Path) -> TlsFiles:
    return TlsFiles(*write_certificate(authority, tmp_path, "server"))
