"""An HTTP port for monitoring: /metrics, /healthz and /readyz.

    /metrics   the metrics as text
    /healthz   200 while the process answers
    /readyz    200 while the server is ready for calls, else 503

It is off unless an address is given, and has neither encryption nor access control: it shows names
and sizes of collections, and nothing else of them.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from vecdb.errors import InvalidArgumentError
from vecdb.reasons import Reason
from vecdb_server.access.addresses import Listen, check_listen, port_in_use
from vecdb_server.metrics.registry import TEXT_TYPE, Metrics

__all__ = ["Endpoint", "check_metrics_address"]

_REQUESTS_MAX: Final = 16
"""Maximum of connections; further ones are closed."""

_PATIENCE_S: Final = 5.0
"""A connection that sends nothing for so long is closed."""


class Endpoint:
    """An HTTP server in a thread of its own.

    Args:
        listen: where.
        metrics: what /metrics shows.
        is_ready: what /readyz shows.

    Raises:
        FailedPreconditionError: PORT_IN_USE.
    """

    def __init__(self, listen: Listen, metrics: Metrics, is_ready: Callable[[], bool]) -> None:
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        answers: dict[str, Callable[[], tuple[HTTPStatus, str, bytes]]] = {
            "/metrics": lambda: (HTTPStatus.OK, TEXT_TYPE, metrics.text()),
            "/healthz": lambda: (HTTPStatus.OK, _PLAIN, b"ok\n"),
            "/readyz": lambda: (
                (HTTPStatus.OK, _PLAIN, b"ready\n")
                if is_ready()
                else (HTTPStatus.SERVICE_UNAVAILABLE, _PLAIN, b"not ready\n")
            ),
        }
        try:
            self._server = _server_class(family)((listen.host, listen.port), _handler(answers))
        except OSError as error:
            raise port_in_use(listen, error.strerror or str(error)) from None
        self.address = str(listen._replace(port=self._server.server_address[1]))
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="vecdb-metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop and release the port."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


_PLAIN: Final = "text/plain; charset=utf-8"


def check_metrics_address(listen: str) -> Listen:
    """Return an address, which cannot be a socket in the file system.

    Raises:
        InvalidArgumentError: BAD_ADDRESS.
    """
    found = check_listen(listen)
    if found.socket:
        raise InvalidArgumentError(
            f"the address for metrics must be host:port, got {listen}", Reason.BAD_ADDRESS
        )
    return found


def _server_class(family: socket.AddressFamily) -> type[ThreadingHTTPServer]:
    class Server(ThreadingHTTPServer):
        address_family = family
        daemon_threads = True
        block_on_close = False
        _slots = threading.Semaphore(_REQUESTS_MAX)

        def process_request(self, request: Any, client_address: Any) -> None:
            if self._slots.acquire(blocking=False):
                super().process_request(request, client_address)
            else:
                self.shutdown_request(request)

        def process_request_thread(self, request: Any, client_address: Any) -> None:
            try:
                super().process_request_thread(request, client_address)
            finally:
                self._slots.release()

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # The caller has gone. The default prints a traceback.

    return Server


def _handler(
    answers: dict[str, Callable[[], tuple[HTTPStatus, str, bytes]]],
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _PATIENCE_S
        server_version, sys_version = "vecdb", ""

        def do_GET(self) -> None:
            answer = answers.get(self.path.partition("?")[0])
            status, kind, body = (
                (HTTPStatus.NOT_FOUND, _PLAIN, b"not found\n") if answer is None else answer()
            )
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass  # Requests of monitoring are no events.

    return Handler
