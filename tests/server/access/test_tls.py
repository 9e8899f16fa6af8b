"""Encrypted connections: certificates of the server and of clients, and their renewal."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trustme

import vecdb
from tests.server.access.conftest import write_certificate
from tests.serving import ServerProcess, running_server
from tests.waiting import HANG_S
from vecdb_server.access.certificates import TlsFiles
from vecdb_server.access.roles import Role
from vecdb_server.access.tokens import Tokens
from vecdb_server.process import Server

ROWS = np.eye(4, dtype=np.float32)


def certificate_at(address: str) -> bytes:
    """The certificate that a server shows, whoever signed it."""
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, int(port)), HANG_S) as plain,
        context.wrap_socket(plain) as wrapped,
    ):
        shown = wrapped.getpeercert(binary_form=True)
    assert shown is not None
    return shown


def test_calls_streams_and_transfers_work_over_tls(
    tmp_path: Path, tls: TlsFiles, ca_file: Path
) -> None:
    with (
        running_server(tmp_path / "data", indexer=False, tls=tls) as address,
        vecdb.connect(address, tls_ca=ca_file) as client,
    ):
        docs = client.create_collection("docs", 4, metric="euclidean")
        docs.upsert_many(list("abcd"), ROWS)
        for _ in range(3):
            assert docs.search(ROWS[2], k=1).ids == ["c"]
        report = docs.export_faiss(tmp_path / "docs.faiss", flat=True)
        assert report.rows == 4
        client.import_faiss(tmp_path / "docs.faiss", "again", meta=False)
        assert client.collection("again").count() == 4


def test_unknown_issuer_and_plain_connections_get_no_answer(
    tmp_path: Path, tls: TlsFiles, ca_file: Path
) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    with running_server(tmp_path / "data", indexer=False, tls=tls) as address:
        for options in ({"tls_ca": other}, {"tls": True}, {}):
            with (
                vecdb.connect(address, **options) as client,
                pytest.raises(vecdb.UnavailableError) as caught,
            ):
                client.list_collections()
            assert caught.value.reason == "CONNECTION"


def test_client_certificates(
    tmp_path: Path, tls: TlsFiles, ca_file: Path, authority: trustme.CA
) -> None:
    cert, key = write_certificate(authority, tmp_path, "client")
    strangers = write_certificate(trustme.CA(), tmp_path, "stranger")
    both = TlsFiles(tls.cert, tls.key, ca_file)
    with running_server(tmp_path / "data", indexer=False, tls=both) as address:
        with vecdb.connect(address, tls_ca=ca_file, tls_cert=cert, tls_key=key) as client:
            assert client.list_collections() == []
        with (
            vecdb.connect(address, tls_ca=ca_file) as client,
            pytest.raises(vecdb.UnavailableError),
        ):
            client.list_collections()
        with (
            vecdb.connect(
                address, tls_ca=ca_file, tls_cert=strangers[0], tls_key=strangers[1]
            ) as client,
            pytest.raises(vecdb.UnavailableError),
        ):
            client.list_collections()


def test_hangup_reads_certificates_and_tokens_again(
    tmp_path: Path,
    tls: TlsFiles,
    ca_file: Path,
    authority: trustme.CA,
    tokens: Path,
    new_token: Callable[..., str],
) -> None:
    text = new_token("ops", Role.ADMIN)
    before = (
        "from pathlib import Path; from vecdb_server.access.certificates import TlsFiles; "
        f"tls = TlsFiles(Path({str(tls.cert)!r}), Path({str(tls.key)!r}))"
    )
    with ServerProcess(
        tmp_path / "data", before=before, written="tls=tls", indexer=False, tokens=str(tokens)
    ) as server:
        address, shown = server.address, certificate_at(server.address)
        with vecdb.connect(address, tls_ca=ca_file, token=text) as client:
            client.create_collection("docs", 4)
            made = authority.issue_cert("127.0.0.1", common_name="renewed")
            made.private_key_pem.write_to_path(tls.key)
            made.cert_chain_pems[0].write_to_path(tls.cert)
            newer, newer_text = Tokens.read(tokens).rotate("ops")
            newer.retire("ops").write(tokens)
            server.signal(signal.SIGHUP)
            server.wait_for(" INFO reload")
            with pytest.raises(vecdb.UnauthenticatedError):
                client.list_collections()
        assert certificate_at(address) != shown
        with vecdb.connect(address, tls_ca=ca_file, token=newer_text) as client:
            assert [each.name for each in client.list_collections()] == ["docs"]
            tls.key.write_text("no key")
            server.signal(signal.SIGHUP)
            server.wait_for("reason=BAD_CERTIFICATE")
            client.drop_collection("docs")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_bad_files_are_refused(tmp_path: Path, tls: TlsFiles, authority: trustme.CA) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    missing = tmp_path / "missing.pem"
    _, other_key = write_certificate(authority, tmp_path, "other")
    for files in (
        *(TlsFiles(missing, tls.key), TlsFiles(tls.cert, missing), TlsFiles(empty, tls.key)),
        *(TlsFiles(tls.cert, other_key), TlsFiles(tls.cert, tls.key, empty)),
        TlsFiles(tls.cert, tls.key, missing),
    ):
        with pytest.raises(vecdb.InvalidArgumentError) as caught:
            Server(tmp_path / "data", "127.0.0.1:0", tls=files)
        assert caught.value.reason == "BAD_CERTIFICATE"
    with pytest.raises(vecdb.InvalidArgumentError) as caught:
        vecdb.connect("127.0.0.1:1", tls_ca=missing)
    assert caught.value.reason == "BAD_CERTIFICATE"
    with pytest.raises(vecdb.InvalidArgumentError):
        vecdb.connect("127.0.0.1:1", tls_cert=tls.cert)


def test_kind_of_key_that_grpc_does_not_know_is_refused(
    tmp_path: Path, tls: TlsFiles, ca_file: Path
) -> None:
    """Python's ssl accepts it; with gRPC every handshake would fail."""
    cert, key = tmp_path / "ed.pem", tmp_path / "ed-key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=localhost"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    with pytest.raises(vecdb.InvalidArgumentError, match="RSA or ECDSA") as caught:
        Server(tmp_path / "data", "127.0.0.1:0", tls=TlsFiles(cert, key))
    assert caught.value.reason == "BAD_CERTIFICATE"
    server = Server(tmp_path / "data", "127.0.0.1:0", tls=tls, indexer=False)
    server.start()
    try:
        shutil.copy(cert, tls.cert)
        shutil.copy(key, tls.key)
        assert [error.reason for error in server.reload()] == ["BAD_CERTIFICATE"]
        with vecdb.connect(server.address, tls_ca=ca_file) as client:
            assert client.list_collections() == []
    finally:
        server.drain(0)


def test_metadata_that_is_no_text_is_not_logged(
    tmp_path: Path, tokens: Path, new_token: Callable[..., str]
) -> None:
    text = new_token("ops", Role.ADMIN)
    with ServerProcess(tmp_path / "data", indexer=False, tokens=str(tokens)) as server:
        host, _, port = server.address.rpartition(":")
        headers = [
            *((b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a")),
            *((b":path", b"/vecdb.v1.Vecdb/ServerInfo"), (b"content-type", b"application/grpc")),
            *((b"te", b"trailers"), (b"authorization", b"Bearer " + text.encode() + b"\xff")),
        ]
        block = b"".join(
            b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
            for name, value in headers
        )
        frame = len(block).to_bytes(3) + b"\x01\x04" + (1).to_bytes(4) + block
        with socket.create_connection((host, int(port)), HANG_S) as raw:
            raw.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5) + frame)
            server.wait_for("the metadata of a call is not text")
        server.signal()
        server.wait()
        assert not any(text in line or "Traceback" in line for line in server.log)


def test_addresses_of_other_machines_need_tokens_and_tls(
    tmp_path: Path, tls: TlsFiles, ca_file: Path, tokens: Path, new_token: Callable[..., str]
) -> None:
    text = new_token("ops", Role.ADMIN)
    for options in ({}, {"tokens": tokens}, {"tls": tls}):
        with pytest.raises(vecdb.FailedPreconditionError) as caught:
            Server(tmp_path / "data", "0.0.0.0:0", **options)
        assert caught.value.reason == "NOT_LOOPBACK"
    server = Server(tmp_path / "data", "0.0.0.0:0", tls=tls, tokens=tokens, indexer=False)
    server.start()
    try:
        assert server.is_protected
        port = server.address.rpartition(":")[2]
        with vecdb.connect(f"127.0.0.1:{port}", tls_ca=ca_file, token=text) as client:
            assert client.list_collections() == []
    finally:
        server.drain(0)
    with ServerProcess(tmp_path / "data", "0.0.0.0:0", insecure=True) as process:
        process.wait_for(" WARNING insecure ")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0


def test_token_is_not_sent_to_another_machine_without_tls() -> None:
    for address in ("192.0.2.1:7801", "example.org:7801", "[2001:db8::1]:7801"):
        with pytest.raises(vecdb.FailedPreconditionError) as caught:
            vecdb.connect(address, token="vecdb_a")
        assert caught.value.reason == "UNPROTECTED_TOKEN"
        vecdb.connect(address, token="vecdb_a", insecure=True).close()
        vecdb.connect(address, token="vecdb_a", tls=True).close()
    for address in ("localhost:1", "127.0.0.1:1", "[::1]:1", "unix:/run/vecdb.sock"):
        vecdb.connect(address, token="vecdb_a").close()
    for token in ("a b", "a\n", "", "é"):
        with pytest.raises(vecdb.InvalidArgumentError) as caught_:
            vecdb.connect("127.0.0.1:1", token=token)
        assert token.strip() == "" or token not in str(caught_.value)
