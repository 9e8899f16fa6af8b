"""``vecdb serve``: a folder over gRPC."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vecdb.errors import InvalidArgumentError
from vecdb.reasons import Reason
from vecdb_cli.commands.options import SERVING

__all__ = ["app"]

app = typer.Typer()


Folder = Annotated[
    Path,
    typer.Option("--data", metavar="DIR", help="The folder; created if it does not exist."),
]
Listen = Annotated[
    str,
    typer.Option(
        "--listen",
        metavar="HOST:PORT",
        help="Address, port 0 is any free port; or unix:/path of a socket.",
    ),
]
MessageMb = Annotated[
    int | None,
    typer.Option("--message-mb", help="Maximum message size in MiB (1–64, default 16)."),
]
MetadataKb = Annotated[
    int,
    typer.Option(
        "--metadata-kb", help="Maximum size of a row's metadata in KiB (1–1024, default 64)."
    ),
]
Codes = Annotated[
    str,
    typer.Option(
        "--codes",
        metavar="auto|none",
        help="none: write segments without codes; search float32.",
    ),
]
RecallMeter = Annotated[
    float,
    typer.Option(
        "--recall-meter",
        metavar="SHARE",
        help="Share of a core for measuring recall, 0 to 1 (default 0.01); 0: off.",
    ),
]
GroupAccess = Annotated[
    bool,
    typer.Option("--group-access", help="Create a new folder with mode 0770, not 0700."),
]
BackupDir = Annotated[
    Path | None,
    typer.Option("--backup-dir", metavar="DIR", help="Folder in which clients may create backups."),
]
Tokens = Annotated[
    Path | None,
    typer.Option(
        "--tokens",
        metavar="FILE",
        help="Access tokens, made by `vecdb tokens`; without one of them a call is refused.",
    ),
]
TlsCert = Annotated[
    Path | None,
    typer.Option("--tls-cert", metavar="FILE", help="The server's certificate (PEM)."),
]
TlsKey = Annotated[
    Path | None, typer.Option("--tls-key", metavar="FILE", help="Its private key (PEM).")
]
TlsClientCa = Annotated[
    Path | None,
    typer.Option(
        "--tls-client-ca",
        metavar="FILE",
        help="Issuers of client certificates (PEM), which clients then need.",
    ),
]
Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure", help="Allow an address that other machines reach without tokens and TLS."
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        metavar="HOST:PORT",
        help="HTTP endpoint for monitoring: /metrics, /healthz, /readyz.",
    ),
]
LogFormat = Annotated[
    str, typer.Option("--log-format", metavar="text|json", help="Format of the log lines.")
]


@app.command(rich_help_panel=SERVING)
def serve(
    data: Folder,
    listen: Listen = "127.0.0.1:7801",
    message_mb: MessageMb = None,
    metadata_kb: MetadataKb = 64,
    codes: Codes = "auto",
    recall_meter: RecallMeter = 0.01,
    group_access: GroupAccess = False,
    backup_dir: BackupDir = None,
    tokens: Tokens = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_client_ca: TlsClientCa = None,
    insecure: Insecure = False,
    metrics: Metrics = None,
    log_format: LogFormat = "text",
) -> None:
    """Serve a folder over gRPC until SIGTERM or Ctrl-C. SIGHUP reads tokens and certificates
    again."""
    from vecdb_server import process
    from vecdb_server.access.certificates import TlsFiles

    if (tls_cert is None) != (tls_key is None) or (tls_client_ca and tls_cert is None):
        raise InvalidArgumentError(
            "give --tls-cert and --tls-key, and with them --tls-client-ca", Reason.BAD_OPTION
        )
    if log_format not in ("text", "json"):
        raise InvalidArgumentError(
            f"--log-format must be text or json, got {log_format!r}", Reason.BAD_OPTION
        )
    tls = TlsFiles(tls_cert, tls_key, tls_client_ca) if tls_cert and tls_key else None
    size = None if message_mb is None else message_mb * 1024**2
    status = process.serve(
        data,
        listen,
        message_bytes=size,
        backup_dir=backup_dir,
        tokens=tokens,
        tls=tls,
        insecure=insecure,
        metrics=metrics,
        log_json=log_format == "json",
        metadata_bytes_max=1024 * metadata_kb,
        codes=codes,
        recall_meter=recall_meter,
        group_access=group_access,
    )
    raise typer.Exit(status)
