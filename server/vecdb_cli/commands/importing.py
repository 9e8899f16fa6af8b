"""``vecdb import``: load index files of FAISS and hnswlib into a collection."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from vecdb.errors import InvalidArgumentError
from vecdb.import_files import open_regular
from vecdb.os_errors import os_errors_translated
from vecdb.types import ImportReport
from vecdb_cli.commands.options import Json, NewData, Url

if TYPE_CHECKING:
    from vecdb_cli.commands.target import Target

__all__ = ["app"]

app = typer.Typer(
    help="Import an index file of another library, with its graph.", no_args_is_help=True
)

_TIMEOUT_S: Final = 60.0
"""Timeout of the calls before the upload, as ``vecdb.connect`` has it; the upload has none."""

File = Annotated[Path, typer.Argument(help="The index file; verified before anything is written.")]
Collection = Annotated[str, typer.Argument(help="Created if it does not exist.")]
Meta = Annotated[
    Path | None,
    typer.Option(
        "--meta",
        help="Ids and metadata, .parquet or .jsonl; default FILE.meta.parquet or FILE.meta.jsonl.",
    ),
]
NoMeta = Annotated[bool, typer.Option("--no-meta", help="Ignore the sidecar.")]


@app.command("faiss")
def import_faiss(
    file: File,
    collection: Collection,
    url: Url = None,
    data: NewData = None,
    metric: Annotated[
        str | None,
        typer.Option(help="cosine, euclidean or dot; default: that of the file or collection."),
    ] = None,
    meta: Meta = None,
    no_meta: NoMeta = False,
    as_json: Json = False,
) -> None:
    """Import an IndexFlat or IndexHNSWFlat, also inside an IndexIDMap or after a normalization."""
    beside = _beside(meta, no_meta)
    if data is None:
        report = _send(url, file, beside, "faiss", collection, metric)
    else:
        with _opened(url, data, file) as database:
            report = database.import_faiss(file, collection, metric=metric, meta=beside)
    _print(report, as_json=as_json)


@app.command("hnswlib")
def import_hnswlib(
    file: File,
    collection: Collection,
    dim: Annotated[int, typer.Option(help="Components of each vector; the file does not say.")],
    metric: Annotated[str, typer.Option(help="cosine, euclidean (hnswlib's l2) or dot (ip).")],
    url: Url = None,
    data: NewData = None,
    meta: Meta = None,
    no_meta: NoMeta = False,
    as_json: Json = False,
) -> None:
    """Import a file of hnswlib's Index.save_index."""
    beside = _beside(meta, no_meta)
    if data is None:
        report = _send(url, file, beside, "hnswlib", collection, metric, dim)
    else:
        with _opened(url, data, file) as database:
            report = database.import_hnswlib(file, collection, dim=dim, metric=metric, meta=beside)
    _print(report, as_json=as_json)


def _beside(meta: Path | None, no_meta: bool) -> Path | bool | None:
    if meta is not None and no_meta:
        raise InvalidArgumentError("give --meta or --no-meta, not both")
    return False if no_meta else meta


def _opened(url: str | None, data: Path, file: Path) -> Target:
    """Open the folder; it is not created if the file is missing."""
    from vecdb_cli.commands.target import open_target

    if not data.exists():
        with os_errors_translated(str(file)):
            os.close(open_regular(file.expanduser(), str(file)))
    return open_target(url, data, create=True)


def _send(
    url: str | None,
    file: Path,
    beside: Path | bool | None,
    kind: str,
    collection: str,
    metric: str | None,
    dim: int | None = None,
) -> ImportReport:
    """Send the file to a server, with the progress of the bytes sent."""
    from rich.console import Console

    from vecdb_cli.commands.progress import Bytes
    from vecdb_cli.commands.target import DEFAULT_URL, connect_options
    from vecdb_client.address import check_address
    from vecdb_client.calls import Calls
    from vecdb_client.credentials import Credentials
    from vecdb_client.imports import send_import
    from vecdb_client.translation import import_begin

    address = check_address(DEFAULT_URL if url is None else url)
    credentials = Credentials(address, **connect_options)
    begin = import_begin(kind, collection, metric, dim)
    size = file.stat().st_size if file.is_file() else 0
    with (
        contextlib.closing(Calls(address, credentials, _TIMEOUT_S)) as calls,
        Bytes(Console(stderr=True), f"importing {file.name}", size) as bar,
    ):
        return send_import(calls, begin, file, beside, None, bar.sent)


def _print(report: ImportReport, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(report), indent=2))
        return
    verb = "created" if report.made else "found"
    typer.echo(f"{verb} collection {report.collection}, from {report.kind}")
    rate = report.rows / max(report.elapsed_s, 1e-9)
    typer.echo(f"{report.rows:,} rows in {report.elapsed_s:.1f} s, {rate:,.0f} rows/s, all on disk")
    if report.skipped:
        typer.echo(f"{report.skipped:,} rows were left out, as the file marks them deleted")
    typer.echo(f"graph: {report.graph}")
    if report.connected:
        typer.echo(f"{report.connected:,} unreachable nodes were linked")
    for sentence in report.assumed:
        typer.echo(f"assumed: {sentence}")
