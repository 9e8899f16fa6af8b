"""``vecdb export``: write a collection to files that other programs read.

    vecdb export faiss      with its graph, for faiss.read_index, or vectors alone
    vecdb export hnswlib    with its graph, for hnswlib's load_index
    vecdb export parquet    ids, vectors as they were given, metadata
    vecdb export npy        the same as a matrix with sidecars, which vecdb load reads

Each command imports what is heavy when it runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vecdb.surface import CollectionSurface
from vecdb.types import ExportReport
from vecdb_cli.commands.options import Data, Json, Name, Url

if TYPE_CHECKING:
    from vecdb_cli.commands.plain_files import PlainReport

__all__ = ["app"]

app = typer.Typer(
    name="export",
    help="Write a collection to a file that other programs read.",
    no_args_is_help=True,
)

File = Annotated[Path, typer.Argument(help="The file; it appears when it is complete.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]


@app.command()
def faiss(
    collection: Name,
    file: File,
    url: Url = None,
    data: Data = None,
    flat: Annotated[
        bool, typer.Option("--flat", help="Vectors only, as an IndexFlat, without a graph.")
    ] = False,
    normalize_queries: Annotated[
        bool,
        typer.Option("--normalize-queries", help="Under cosine, let FAISS normalize queries."),
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a file that faiss.read_index opens, with the collection's graph.

    It is an IndexIDMap2 around an IndexHNSWFlat. The sidecar FILE.meta.parquet (.jsonl without
    pyarrow) has the faiss_id, id and metadata of each row.
    """
    _save(
        lambda found: found.export_faiss(
            file, flat=flat, normalize_queries=normalize_queries, overwrite=overwrite
        ),
        *(collection, file, url, data, as_json),
    )


@app.command()
def hnswlib(
    collection: Name,
    file: File,
    url: Url = None,
    data: Data = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a file for hnswlib's Index.load_index; the space is cosine, l2, or ip for dot."""
    _save(
        lambda found: found.export_hnswlib(file, overwrite=overwrite),
        *(collection, file, url, data, as_json),
    )


@app.command()
def parquet(
    collection: Name,
    file: File,
    url: Url = None,
    data: Data = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write columns id, vector (as given) and metadata (JSON text), in insertion order."""
    from vecdb_cli.commands.plain_files import save_parquet

    _save(
        lambda found: save_parquet(found, file, overwrite=overwrite),
        *(collection, file, url, data, as_json),
    )


@app.command()
def npy(
    collection: Name,
    file: File,
    url: Url = None,
    data: Data = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a matrix FILE.npy with sidecars .ids.txt and .metadata.jsonl, for vecdb load."""
    from vecdb_cli.commands.plain_files import save_npy

    _save(
        lambda found: save_npy(found, file, overwrite=overwrite),
        *(collection, file, url, data, as_json),
    )


def _save(
    save: Callable[[CollectionSurface], PlainReport | ExportReport],
    collection: str,
    file: Path,
    url: str | None,
    data: Path | None,
    as_json: bool,
) -> None:
    from rich.console import Console

    from vecdb_cli.commands.progress import Status
    from vecdb_cli.commands.target import open_target

    with open_target(url, data) as target, Status(Console(stderr=True), f"exporting to {file}"):
        report = save(target.collection(collection))
    _print(report, as_json=as_json)


def _print(report: PlainReport | ExportReport, *, as_json: bool) -> None:
    from rich.text import Text

    from vecdb_cli.commands.answers import bytes_text, print_json
    from vecdb_cli.commands.console import output

    if as_json:
        print_json(dataclasses.asdict(report))
        return
    facts = [("file", report.path), ("sidecar", report.side_path)]
    facts += [("rows", f"{report.rows:,} at seq {report.seq}"), ("size", bytes_text(report.bytes))]
    if isinstance(report, ExportReport):
        took = f", {report.work_s:.1f} s" if report.work_s else ""
        facts += [("graph work", report.work + took), ("SHA-256", report.sha256)]
    facts.append(("took", f"{report.elapsed_s:.1f} s, all on disk"))
    console = output()
    for name, value in facts:
        # Not a table: that would wrap a long path.
        console.print(Text(f"{name:<12} {value}"), soft_wrap=True)
