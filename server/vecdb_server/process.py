"""The lifecycle of a server: bind → open the folder → load kernels → ready → drain → stop.

    starting    the port is bound, health is NOT_SERVING; calls get UNAVAILABLE (STARTING)
    ready       health is SERVING; the log has address, folder, collections and rows
    draining    health is NOT_SERVING; new calls get UNAVAILABLE (DRAINING), running ones are
                cancelled after a grace period of 10 s
    stopped     the database is closed

``serve`` runs a server as the main program of a process: SIGTERM and SIGINT start a drain, SIGHUP
reads the tokens and the certificates again. ``Server`` is the same without signal handlers and log
configuration, for tests and for embedding.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
from grpc_health.v1 import health_pb2

import vecdb
from vecdb import limits
from vecdb.checks import check_limit
from vecdb.errors import (
    InvalidArgumentError,
    UnavailableError,
    VecdbError,
)
from vecdb.reasons import Reason
from vecdb_server import log
from vecdb_server.access.addresses import (
    DEFAULT_LISTEN,
    check_free,
    check_listen,
    check_protected,
    port_in_use,
)
from vecdb_server.access.callers import Access
from vecdb_server.access.certificates import Certificates, TlsFiles
from vecdb_server.access.socket_file import SocketFile
from vecdb_server.admission import Activity, OpenCalls
from vecdb_server.backup_folder import BackupFolder
from vecdb_server.call_threads import CallThreads
from vecdb_server.health import HEALTH_CALLS_MAX, Health
from vecdb_server.metrics.endpoint import Endpoint, check_metrics_address
from vecdb_server.metrics.registry import Metrics
from vecdb_server.service import Service
from vecdb_server.signals import RELOAD, Signals
from vecdb_server.transport import SERVICE_NAME, service_handler

if TYPE_CHECKING:
    from vecdb.engine.runtime.runtime import Runtime

__all__ = ["DEFAULT_THREADS", "Server", "serve"]

DEFAULT_THREADS: Final = 32
"""Maximum of running calls. It exceeds the number of cores, since most of them wait for disks,
kernels or the writer."""

GRACE_S: Final = 10.0
_FLUSH_S: Final = 1.0
"""Time for answers that are being sent when the port is closed."""

_CALLS_MAX: Final = 1_024
"""Maximum of open calls, including those that wait for a message or a worker."""

_CALLS_OF_CONNECTION_MAX: Final = 256
"""Maximum of open calls of one connection; gRPC's client queues further ones."""

_SLOW_CALLS_MAX: Final = 64
"""Maximum of calls that have waited for their message for a second. Each may hold the memory of a
partly received message."""

_CALLS_LEAVING: Final = 128
"""Threads for calls that were ended to make room for others, until they have returned."""

_SWITCH_S: Final = 0.001
"""Python's switch interval in a server. A search gives the interpreter up for each kernel and each
read of the store; to get it back from a thread that parses or writes a large batch it waits for
this long, each time. Python's own value is 5 ms."""

_THREADS_MAX: Final = _CALLS_MAX + HEALTH_CALLS_MAX + _CALLS_LEAVING

_CONNECTIONS_MAX: Final = 1_024
_HANDSHAKE_S: Final = 20
_IDLE_CONNECTION_S: Final = 300
"""A connection without a call for so long is closed; gRPC's client reconnects transparently."""

_PING_AFTER_S, _PING_ANSWER_S = 20.0, 20.0
"""A caller that disappeared without closing its connection is detected after 20 to 40 s."""

_PINGS_APART_S = 5.0
"""Minimum interval of pings that callers may send; vecdb's client pings every 10 s during a
call."""

_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING


class Server:
    """A server of one data folder. ``start`` returns when it is ready, ``drain`` when it has
    stopped.

    Args:
        data: the folder; created if it does not exist.
        listen: address and port, such as "127.0.0.1:7801", port 0 for any free port; or
            "unix:/run/vecdb.sock". One that other machines reach needs tokens and tls.
        message_bytes: maximum message size in bytes, within ``limits.MESSAGE_BYTES``.
        threads: maximum of running calls.
        backup_dir: the folder for backups that callers request; None: Backup is rejected.
        tokens: file of access tokens, see ``access.tokens``; None: callers need none.
        tls: files of TLS; None: the connection is not encrypted.
        insecure: listen on any address, without tokens and TLS too.
        metrics: address and port of an HTTP endpoint for monitoring, see ``metrics.endpoint``.
        options: fields of ``vecdb.engine.runtime.options.Options``.

    Attributes:
        folder_settled: set once the folder is open or has failed to open; compiling follows.

    Raises:
        InvalidArgumentError: the address is invalid, an option is out of its limits,
            ``backup_dir`` is not a folder, or a file of tokens or TLS cannot be used.
        FailedPreconditionError: NOT_LOOPBACK.
    """

    def __init__(
        self,
        data: str | os.PathLike[str],
        listen: str = DEFAULT_LISTEN,
        *,
        message_bytes: int | None = None,
        threads: int = DEFAULT_THREADS,
        backup_dir: str | os.PathLike[str] | None = None,
        tokens: str | os.PathLike[str] | None = None,
        tls: TlsFiles | None = None,
        insecure: bool = False,
        metrics: str | None = None,
        **options: object,
    ) -> None:
        size = limits.MESSAGE_BYTES.default if message_bytes is None else message_bytes
        self._message_bytes = check_limit(limits.MESSAGE_BYTES, size)
        if threads < 4:
            raise InvalidArgumentError(
                f"threads must be at least 4, got {threads}", Reason.OUT_OF_RANGE
            )
        self._listen = check_listen(listen)
        self._socket_file = SocketFile(self._listen)
        protected = {"has_tokens": tokens is not None, "has_tls": tls is not None}
        check_protected(self._listen, **protected, insecure=insecure)
        self._access = Access(None if tokens is None else Path(tokens))
        self._has_tokens = tokens is not None
        self._certificates = None if tls is None else Certificates(tls)
        self._data = Path(data).absolute()
        self._options = {"indexer_outlives_parent": False, **options}
        backups = None if backup_dir is None else BackupFolder(backup_dir, self._data)
        self._service = Service(self._message_bytes, backups)
        self._health = Health()
        self._activity = Activity()
        self._open_calls = OpenCalls(_CALLS_MAX, _SLOW_CALLS_MAX)
        self._pool = CallThreads(_THREADS_MAX, threads, self._open_calls.end_longest_wait)
        self._metrics = Metrics(
            lambda: self._service.runtime,
            lambda: self._open_calls.open_count,
            lambda: self._activity.count,
        )
        self._metrics_listen = None if metrics is None else check_metrics_address(metrics)
        self._endpoint: Endpoint | None = None
        self._grpc: grpc.Server | None = None
        self._threads = threads
        self._draining = threading.Lock()
        self._stopped = False
        self.folder_settled = threading.Event()

    @property
    def address(self) -> str:
        """Address and port, "127.0.0.1:7801", or "unix:" and the path of the socket; once bound,
        with the actual port if 0 was given."""
        return str(self._listen)

    @property
    def metrics_address(self) -> str | None:
        """Address and port of the endpoint for monitoring, once bound; None without one."""
        return None if self._endpoint is None else self._endpoint.address

    @property
    def is_protected(self) -> bool:
        """Whether other machines can neither call without a token nor read what others send."""
        return self._listen.is_local or (self._has_tokens and self._certificates is not None)

    def start(self) -> None:
        """Bind the port, open the folder, load the kernels. Call it once.

        Raises:
            FailedPreconditionError: PORT_IN_USE; or the folder is not a data folder or has a newer
                format.
            VecdbError: the folder cannot be opened.
        """
        self.bind()
        try:
            self.open()
        except BaseException:
            self.drain(grace_s=0.0)
            raise

    def bind(self) -> None:
        """Bind the port. From now on health is answered; other calls get STARTING."""
        if not self._listen.socket:
            check_free(self._listen)
        server = grpc.server(
            self._pool,
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", self._message_bytes),
                ("grpc.max_send_message_length", self._message_bytes),
                ("grpc.max_concurrent_streams", _CALLS_OF_CONNECTION_MAX),
                ("grpc.max_allowed_incoming_connections", _CONNECTIONS_MAX),
                ("grpc.server_handshake_timeout_ms", 1_000 * _HANDSHAKE_S),
                ("grpc.max_connection_idle_ms", 1_000 * _IDLE_CONNECTION_S),
                *_keepalive(),
            ),
            maximum_concurrent_rpcs=_THREADS_MAX,
        )
        served = service_handler(
            self._service,
            self._access,
            self._metrics,
            self._activity,
            self._open_calls,
            self._threads,
            self._message_bytes,
        )
        server.add_generic_rpc_handlers((served, self._health.handler()))
        self._set_health(_NOT_SERVING)
        try:
            with self._socket_file.bound() as address:
                if self._certificates is None:
                    port = server.add_insecure_port(address)
                else:
                    port = server.add_secure_port(address, self._certificates.credentials())
        except RuntimeError:
            raise port_in_use(self._listen) from None
        if not self._listen.socket:
            self._listen = self._listen._replace(port=port)
        self._grpc = server
        if self._metrics_listen is not None:
            self._endpoint = Endpoint(self._metrics_listen, self._metrics, self._is_ready)
        server.start()

    def open(self) -> None:
        """Open the folder, load the kernels and become ready."""
        try:
            runtime = self._service.runtime = _open_folder(self._data, self._options)
        finally:
            self.folder_settled.set()
        _load_kernels()
        if self._is_starting():
            collections, rows = _count_rows(runtime)
        # A drain may have begun in the meantime; do not undo it.
        if self._is_starting():
            self._service.refusal = None
            self._set_health(_SERVING)
            log.event(
                "ready", address=self.address, data=self._data, collections=collections, rows=rows
            )

    def reload(self) -> list[VecdbError]:
        """Read the files of tokens and of TLS again. Calls that come later need a token of the new
        file; connections that come later get the new certificate.

        Returns:
            Errors, BAD_TOKEN_FILE and BAD_CERTIFICATE: these files cannot be used, and what was
            read from them before stays in use.
        """
        errors: list[VecdbError] = []
        for part in (self._access, self._certificates):
            try:
                if part is not None:
                    part.reload()
            except InvalidArgumentError as error:
                errors.append(error)
        return errors

    def drain(self, grace_s: float = GRACE_S) -> None:
        """Reject new calls, wait up to ``grace_s`` seconds for running ones, close everything.

        Idempotent and thread-safe; returns when everything is closed.
        """
        with self._draining:
            if self._stopped:
                return
            self._stopped = True
            self._service.refusal = UnavailableError("the server is stopping", Reason.DRAINING)
            self._health.end()
            log.event("drain", calls=self._activity.count, grace_s=grace_s)
            if not self._activity.wait_for_none(grace_s):
                log.event("cancel", logging.WARNING, calls=self._activity.count)
            if self._grpc is not None:
                self._grpc.stop(_FLUSH_S).wait()
                self._activity.wait_for_none(_FLUSH_S)
                self._socket_file.remove()
            runtime, self._service.runtime = self._service.runtime, None
            if runtime is not None:
                runtime.close()
            self._pool.shutdown(wait=False)
            if self._endpoint is not None:
                self._endpoint.close()
            log.event("stop")

    def _is_ready(self) -> bool:
        return self._service.refusal is None

    def _is_starting(self) -> bool:
        refusal = self._service.refusal
        return refusal is not None and refusal.reason == Reason.STARTING

    def _set_health(self, status: int) -> None:
        self._health.set("", status)
        self._health.set(SERVICE_NAME, status)


def serve(
    data: str | os.PathLike[str],
    listen: str = DEFAULT_LISTEN,
    *,
    grace_s: float = GRACE_S,
    log_json: bool = False,
    **options: Any,
) -> int:
    """Serve a folder until SIGTERM or SIGINT; a second signal ends the process at once.

    Call it in the main thread, as the main program of a process. It logs to stderr, one line per
    event.

    Args:
        grace_s: seconds that running calls have after the signal.
        log_json: log in JSON, one object a line.
        options: further arguments of ``Server``.

    Returns:
        The exit status: 0 after a drain, 2 for invalid arguments (such as an address that other
        machines reach, without tokens), 1 if the server could not start (port in use, folder of a
        newer version).
    """
    log.configure(as_json=log_json)
    sys.setswitchinterval(min(_SWITCH_S, sys.getswitchinterval()))
    signals = Signals()
    try:
        server = Server(data, listen, **options)
    except VecdbError as error:
        log.event("refused", logging.ERROR, reason=error.reason, message=error.message)
        return 2
    if not server.is_protected:
        log.event(
            "insecure",
            logging.WARNING,
            message="other machines reach this server, which asks for no token or does not encrypt",
        )
    log.event(
        "start",
        version=vecdb.__version__,
        data=Path(data).absolute(),
        listen=listen,
        pid=os.getpid(),
    )
    # Compiling may take a minute. It runs in another thread, so that the main thread can handle
    # signals.
    opening = _Opening(server, signals.stop)
    try:
        server.bind()
    except VecdbError as error:
        log.event("refused", logging.ERROR, reason=error.reason, message=error.message)
        return 1
    opening.start()
    while signals.wait() == RELOAD:
        _reload(server)
    server.folder_settled.wait(grace_s)
    server.drain(grace_s)
    status = 1 if opening.failed else 0
    if opening.is_alive():
        # The thread is compiling, and would crash if the interpreter were finalized. The folder is
        # closed, so nothing else is left to do.
        os._exit(status)
    return status


class _Opening(threading.Thread):
    """Opens the database in another thread; a failure stops the server."""

    def __init__(self, server: Server, stop: Callable[[], None]) -> None:
        super().__init__(name="vecdb-open", daemon=True)
        self._server = server
        self._stop_server = stop
        self.failed = False

    def run(self) -> None:
        try:
            self._server.open()
        except VecdbError as error:
            log.event("failed", logging.ERROR, reason=error.reason, message=error.message)
        except OSError as error:
            log.event("failed", logging.ERROR, reason="OS", message=error)
        except Exception as error:
            log.failure("failed", error)
        else:
            from vecdb.engine.system.garbage import freeze_loaded_objects

            freeze_loaded_objects()
            return
        self.failed = True
        self._stop_server()


def _reload(server: Server) -> None:
    errors = server.reload()
    for error in errors:
        log.event("refused", logging.ERROR, reason=error.reason, message=error.message)
    if not errors:
        log.event("reload")


def _keepalive() -> tuple[tuple[str, int], ...]:
    return (
        ("grpc.keepalive_time_ms", int(1e3 * _PING_AFTER_S)),
        ("grpc.keepalive_timeout_ms", int(1e3 * _PING_ANSWER_S)),
        ("grpc.http2.ping_timeout_ms", int(1e3 * _PING_ANSWER_S)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", int(1e3 * _PINGS_APART_S)),
    )


def _open_folder(data: Path, options: dict[str, object]) -> Runtime:
    from vecdb.engine.runtime.runtime import Runtime

    return Runtime.open(data, **options)


def _load_kernels() -> None:
    """Load the kernels, or compile them, so that no call waits for that."""
    from vecdb.engine.kernels.loading import load_kernels

    began = time.monotonic()
    load_kernels(lambda sentence: log.event("compile", message=sentence))
    log.event("kernels", logging.DEBUG, took_s=f"{time.monotonic() - began:.2f}")


def _count_rows(runtime: Runtime) -> tuple[int, int]:
    """Return the number of collections and of rows. A collection that cannot be opened is logged
    and skipped."""
    descriptions = runtime.list_collections()
    rows = 0
    for description in descriptions:
        try:
            rows += runtime.collection(description.name).count()
        except VecdbError as error:
            log.event(
                "error",
                logging.ERROR,
                collection=description.name,
                reason=error.reason,
                message=error.message,
            )
    return len(descriptions), rows
