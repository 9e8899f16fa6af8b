"""An event is one line of the log, whatever text it contains."""

from __future__ import annotations

import io
import logging
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

import vecdb
from tests.server.raw_calls import Code, Wire, creation, upsert
from tests.serving import ServerProcess
from tests.waiting import HANG_S
from vecdb_server import log


def test_an_event_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "vecdb.server"):
        log.event("failed", message='a "b"\nc', path="/srv/data", empty="", number=3)
    line = caplog.records[0].getMessage()
    assert line == 'failed message="a \\"b\\"\\nc" path=/srv/data empty="" number=3'


FOREIGN = [
    "a\n2026-11-29T00:00:00.000Z INFO ready address=evil",
    "a\r\nb",
    "a\x1b[2J\x1b]0;title\x07b",
    "a\x00b\x7f\x85\x9bc",
    "a\u2028b\u2029c\u202ed\u200be",
    "\ud800 half of a pair",
    'back\\slash and "quotes" = signs',
    "é漢字🙂",
    "x" * 100_000 + "\n" + "y" * 100_000,
]


@pytest.fixture
def log_stream() -> Iterator[io.StringIO]:
    """What a process that logs as a server does writes."""
    root, own = logging.getLogger(), logging.getLogger("vecdb.server")
    before = root.handlers[:], root.level, own.level
    stream = io.StringIO()
    log.configure(stream)
    yield stream
    root.handlers[:], root.level, own.level = before


def _lines(stream: io.StringIO) -> list[str]:
    text = stream.getvalue()
    stream.seek(0)
    stream.truncate()
    text.encode()  # No half of a pair is left.
    assert text.endswith("\n") and all(c == "\n" or c.isprintable() for c in text)
    assert max(map(len, text.split("\n"))) < 20_000
    return text.splitlines()


@pytest.mark.parametrize("text", FOREIGN)
def test_foreign_text_makes_no_line_of_its_own(text: str, log_stream: io.StringIO) -> None:
    log.event("error", logging.ERROR, message=text, id=text)
    assert len(_lines(log_stream)) == 1
    logging.getLogger("somebody.else").warning("got %s", text)
    assert len(_lines(log_stream)) == 1
    try:
        try:
            raise KeyError(text)
        except KeyError:
            raise RuntimeError(text) from OSError(5, text)
    except RuntimeError as error:
        log.failure("defect", error, call=text)
        logging.getLogger("somebody.else").exception(text)
    lines = _lines(log_stream)
    began = [line for line in lines if not line.startswith(" ")]
    assert [line.split()[1] for line in began] == ["ERROR", "ERROR"]
    assert sum("RuntimeError: " in line for line in lines) == 2
    assert sum("OSError: " in line for line in lines) == 2
    assert sum(Path(__file__).name in line for line in lines) == 2


def test_what_can_be_printed_is_logged_as_it_is(log_stream: io.StringIO) -> None:
    log.event("error", message="é漢字🙂 =", name="é漢字🙂")
    assert _lines(log_stream)[0].endswith(' error message="é漢字🙂 =" name=é漢字🙂')
    log.event("error", message="x" * 5_000)
    assert _lines(log_stream)[0].endswith('x… (5000 characters)"')


def test_foreign_text_in_calls_makes_no_line_of_its_own(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", indexer=False) as process:
        raw = Wire(process.address)
        raw.stub.CreateCollection(creation("docs"))
        for text in FOREIGN[:5]:
            for request in (upsert(collection=text), upsert(ids=[text, text, "c"])):
                assert raw.failure("Upsert", request)[0] is Code.INVALID_ARGUMENT
            host, _, port = process.address.partition(":")
            with socket.create_connection((host, int(port)), timeout=HANG_S) as client:
                client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, b""))
                # The last stream, an internal error, and whatever somebody likes to say.
                client.sendall(_frame(7, b"\0\0\0\0\0\0\0\x02" + text.encode()))
                client.sendall(_frame(6, b"are here"))
                heard = b""
                while b"are here" not in heard:  # It has read what came before.
                    heard += client.recv(65_536)
        raw.channel.close()
        process.signal()
        assert process.wait() == 0
        events = [line.split()[2] for line in process.log]
        assert [each for each in events if each != "compile"] == ["start", "ready", "drain", "stop"]


def _frame(kind: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, 0)) + b"\0\0\0\0" + payload


@pytest.mark.parametrize("text", FOREIGN[:5])
def test_foreign_text_of_a_server_is_one_line_in_a_client(text: str) -> None:
    def refuse(request: bytes, context: grpc.ServicerContext) -> None:
        context.abort(Code.UNAVAILABLE, text)

    rpcs = {"ListCollections": grpc.unary_unary_rpc_method_handler(refuse)}
    stranger = grpc.server(ThreadPoolExecutor(1))
    stranger.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("vecdb.v1.Vecdb", rpcs),)
    )
    port = stranger.add_insecure_port("127.0.0.1:0")
    stranger.start()
    with (
        vecdb.connect(f"127.0.0.1:{port}") as client,
        pytest.raises(vecdb.UnavailableError) as caught,
    ):
        client.list_collections()
    stranger.stop(None)
    assert caught.value.message.isprintable()
