"""``vecdb import``: index files of FAISS and hnswlib into a collection of a folder.

Parquet is read here, as the engine knows JSON Lines alone: a table beside the index is copied into
a temporary file of lines.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from vecdb.errors import InvalidArgumentError, MissingExtraError, NotFoundError
from vecdb.types import ImportReport

__all__ = ["app"]

app = typer.Typer(
    help="Bring in an index file of another library, graph and all.", no_args_is_help=True
)

_FILE = typer.Argument(help="The index file; it is checked before anything is written.")
_COLLECTION = typer.Argument(help="Made if it is not there.")
_DATA = typer.Option("--data", metavar="DIR", help="The data folder; made if it is not there.")
_META = typer.Option(
    "--meta",
    help="Ids and metadata, .parquet or .jsonl; FILE.meta.parquet or .jsonl is found by itself.",
)
_NO_META = typer.Option("--no-meta", help="Leave out what lies beside the file.")
_JSON = typer.Option("--json", help="One JSON document instead of lines.")

_PARQUET_ROWS = 1_000
_FIELDS = ("faiss_id", "id", "metadata")


@app.command("faiss")
def import_faiss(
    file: Annotated[Path, _FILE],
    collection: Annotated[str, _COLLECTION],
    data: Annotated[Path, _DATA],
    metric: Annotated[
        str | None,
        typer.Option(help="cosine, euclidean or dot, if not what the file or collection says."),
    ] = None,
    meta: Annotated[Path | None, _META] = None,
    no_meta: Annotated[bool, _NO_META] = False,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """IndexFlat or IndexHNSWFlat, also in IndexIDMap, IndexIDMap2 or after a normalisation."""
    import vecdb

    with _lines(file, meta, no_meta) as lines, vecdb.open(data) as database:
        report = database.import_faiss(file, collection, metric=metric, meta=lines)
    _print(report, as_json=as_json)


@app.command("hnswlib")
def import_hnswlib(
    file: Annotated[Path, _FILE],
    collection: Annotated[str, _COLLECTION],
    data: Annotated[Path, _DATA],
    dim: Annotated[int, typer.Option(help="Components of a vector.")],
    metric: Annotated[str, typer.Option(help="cosine, euclidean (l2) or dot (ip).")],
    meta: Annotated[Path | None, _META] = None,
    no_meta: Annotated[bool, _NO_META] = False,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """A file that hnswlib's Index.save_index wrote."""
    import vecdb

    with _lines(file, meta, no_meta) as lines, vecdb.open(data) as database:
        report = database.import_hnswlib(file, collection, dim=dim, metric=metric, meta=lines)
    _print(report, as_json=as_json)


@contextlib.contextmanager
def _lines(file: Path, meta: Path | None, no_meta: bool) -> Iterator[Path | bool | None]:
    """What the engine is told of the file beside the index."""
    if meta is not None and no_meta:
        raise InvalidArgumentError("give --meta or --no-meta, not both")
    table = file.with_name(file.name + ".meta.parquet")
    if meta is None and not no_meta and table.exists():
        meta = table
    if meta is None or meta.suffix != ".parquet":
        yield False if no_meta else meta
        return
    with tempfile.TemporaryDirectory(prefix="vecdb-import-") as folder:
        path = Path(folder) / "meta.jsonl"
        _copy_table(meta, path)
        yield path


def _copy_table(table: Path, lines: Path) -> None:
    """A Parquet table as JSON Lines, some rows at a time."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise MissingExtraError("reading Parquet", "demo") from None
    try:
        with parquet.ParquetFile(table) as source, lines.open("w") as out:
            for batch in source.iter_batches(_PARQUET_ROWS, columns=list(_FIELDS)):
                for row in batch.to_pylist():
                    out.write(json.dumps(row) + "\n")
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {table}", "NO_FILE") from None
    except (ArrowException, KeyError, TypeError, ValueError) as error:
        wanted = ", ".join(_FIELDS)
        raise InvalidArgumentError(
            f"{table}: no readable Parquet table of {wanted}: {error}", "BAD_META"
        ) from None


def _print(report: ImportReport, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(report), indent=2))
        return
    made = "made" if report.made else "found"
    typer.echo(f"{made} collection {report.collection}, from {report.kind}")
    rate = report.rows / max(report.elapsed_s, 1e-9)
    typer.echo(f"{report.rows:,} rows in {report.elapsed_s:.1f} s, {rate:,.0f} rows/s, all on disk")
    if report.skipped:
        typer.echo(f"{report.skipped:,} rows are marked deleted in the file and were left out")
    typer.echo(f"graph: {report.graph}")
    if report.connected:
        typer.echo(f"{report.connected:,} nodes that no search could come to were linked")
