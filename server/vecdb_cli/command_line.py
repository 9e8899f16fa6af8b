"""The command line ``vecdb``: options and their help; what a command does is in ``commands``.

    vecdb serve    a folder over gRPC             vecdb search   neighbours of an id or a vector
    vecdb load     a file into a collection       vecdb get      rows by their ids
    vecdb create   a collection                   vecdb stats    collections, rows, segments
    vecdb rename   a collection                   vecdb optimize all rows into graphs, now
    vecdb drop     a collection                   vecdb warm     compile the kernels
    vecdb backup   while it is in use             vecdb restore  a backup into a new folder
    vecdb check    is all of it right?            vecdb compact  a folder that nobody has open
    vecdb export   to a file for FAISS …          vecdb import   another library's index
    vecdb demo     the first five minutes         vecdb bench    recall and latency

All but ``serve``, ``restore``, ``check``, ``compact``, ``warm``, ``demo`` and ``bench`` work on a
server (``--url``) or, with no server in between, on a folder (``--data``). Everything heavy is
imported inside the command that needs it, so that ``--help`` is quick.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

import vecdb
from vecdb.errors import VecdbError
from vecdb.one_line import one_line
from vecdb_cli.commands import bench, export, importing, managing
from vecdb_cli.commands.options import Data, Url

__all__ = ["app", "run"]

app = typer.Typer(
    name="vecdb",
    help="A vector database in one folder, embedded or served over gRPC.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(bench.app)
app.add_typer(export.app)

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of tables.")]


class BadRows(str, enum.Enum):
    """What a load does about a row that can't be stored."""

    REFUSE = "refuse"
    SKIP = "skip"


def run(arguments: list[str] | None = None) -> int:
    """Run a command; its exit status.

    Args:
        arguments: those of the process if None.
    """
    try:
        app(arguments, prog_name="vecdb")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except VecdbError as error:
        return _failed(error.message)
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    return 0


def _failed(message: str) -> int:
    """One red line; what upsert_many noted is not for people who can simply load again."""
    from rich.console import Console

    Console(stderr=True).print(
        f"vecdb: {one_line(message)}", style="red", markup=False, highlight=False, soft_wrap=True
    )
    return 1


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vecdb {vecdb.__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="The version.")
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    data: Annotated[
        Path, typer.Option("--data", metavar="DIR", help="The folder; made if it is not there.")
    ],
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Port 0 for any that is free.")
    ] = "127.0.0.1:7801",
    message_mb: Annotated[
        int | None,
        typer.Option("--message-mb", help="Greatest request and answer in MiB, 1 to 64; 16."),
    ] = None,
    group_access: Annotated[
        bool,
        typer.Option("--group-access", help="Make a new folder for its group too: 0770, not 0700."),
    ] = False,
    backup_dir: Annotated[
        Path | None,
        typer.Option(
            "--backup-dir", metavar="DIR", help="Where callers may have backups made; else nowhere."
        ),
    ] = None,
) -> None:
    """Serve a folder over gRPC until SIGTERM or Ctrl-C."""
    from vecdb_server import process

    size = None if message_mb is None else message_mb * 1024**2
    status = process.serve(
        data, listen, message_bytes=size, backup_dir=backup_dir, group_access=group_access
    )
    raise typer.Exit(status)


@app.command()
def load(
    file: Annotated[Path, typer.Argument(help=".npy, .vec, .txt (GloVe) or .bin (word2vec)")],
    collection: Annotated[str, typer.Argument(help="Made if it is not there.")],
    url: Url = None,
    data: Data = None,
    ids: Annotated[
        Path | None,
        typer.Option(help="Ids of an .npy: .txt, .npy or .json; X.ids.txt is found by itself."),
    ] = None,
    metadata: Annotated[
        Path | None, typer.Option(help="JSON Lines; X.metadata.jsonl is found by itself.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="cosine (the default), euclidean or dot.")
    ] = None,
    M: Annotated[
        int | None, typer.Option("--M", help="Links a node of a new collection's graph; 16.")
    ] = None,
    ef_construction: Annotated[
        int | None, typer.Option("--ef-construction", help="Effort of a new graph; 128.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Read only the first so many rows.")
    ] = None,
    batch_rows: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Rows a batch; at most 1,000 by itself.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", help="npy, vec, txt or bin, if the name does not say it: a pipe."),
    ] = None,
    on_bad_row: Annotated[
        BadRows,
        typer.Option(
            "--on-bad-row", help="A zero vector, a broken line: refuse the file, or skip."
        ),
    ] = BadRows.REFUSE,
    optimize: Annotated[
        bool, typer.Option("--optimize", help="Then wait until all rows are in graphs.")
    ] = False,
) -> None:
    """Load a file of vectors into a collection.

    An .npy is a matrix with ids and metadata in files beside it; .vec, .txt and .bin are word
    vectors as fastText, GloVe and word2vec write them; each also as .gz. Loading a file again
    replaces its rows. All of a file is checked before anything is written; what a pipe has brought
    into a new collection is removed if the rest is bad.
    """
    from vecdb_cli.commands import loading
    from vecdb_cli.commands.target import open_target, place_of
    from vecdb_cli.vector_files import open_vectors

    vectors = open_vectors(file, ids, metadata, form=form)
    options = loading.LoadOptions(
        metric, M, ef_construction, limit, batch_rows, on_bad_row is BadRows.SKIP, optimize
    )
    with open_target(url, data, create=True) as target:
        # A server's indexer gets to the rows by itself.
        hint = None if data is None else place_of(url, data)
        try:
            loading.run_load(target, collection, vectors, options, hint)
        except KeyboardInterrupt:  # How far it got has been said.
            raise typer.Exit(managing.INTERRUPTED) from None


app.add_typer(importing.app, name="import")
app.add_typer(managing.app)


@app.command()
def search(
    collection: Annotated[str, typer.Argument()],
    url: Url = None,
    data: Data = None,
    id: Annotated[
        str | None, typer.Option("--id", help="Neighbours of a stored row, without itself.")
    ] = None,
    vector: Annotated[
        str | None, typer.Option("--vector", help='An .npy file, or numbers: "0.1,0.2,..."')
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many.")] = 10,
    ef: Annotated[
        int | None, typer.Option("--ef", help="Effort of the graph walk; 128 or 2k.")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare every row.")] = False,
    as_json: Json = False,
) -> None:
    """The nearest rows to a stored one or to a vector."""
    from vecdb_cli.commands import answers
    from vecdb_cli.commands.console import output
    from vecdb_cli.commands.target import open_target, place_of

    options = answers.SearchOptions(id, vector, k, ef, exact)
    with open_target(url, data) as target:
        answers.print_search(
            output(), target, collection, options, as_json=as_json, place=place_of(url, data)
        )


@app.command()
def stats(
    collection: Annotated[str | None, typer.Argument(help="All, if none is named.")] = None,
    url: Url = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Collections, rows, segments and what the indexer does."""
    from vecdb_cli.commands import answers
    from vecdb_cli.commands.console import output
    from vecdb_cli.commands.target import open_target, place_of

    with open_target(url, data) as target:
        if collection is None:
            answers.print_all_stats(output(), target, as_json=as_json, place=place_of(url, data))
        else:
            answers.print_stats(
                output(), target, collection, as_json=as_json, place=place_of(url, data)
            )


@app.command()
def rename(
    old: Annotated[str, typer.Argument(help="The collection.")],
    new: Annotated[str, typer.Argument(help="A name that is free.")],
    url: Url = None,
    data: Data = None,
) -> None:
    """Give a collection another name, for everyone at once."""
    from vecdb_cli.commands.target import open_target

    with open_target(url, data) as target:
        target.rename_collection(old, new)
    typer.echo(f"collection {old} is called {new} now")


@app.command()
def backup(
    path: Annotated[
        str,
        typer.Argument(help="A new folder; on a server inside of its --backup-dir."),
    ],
    url: Url = None,
    data: Data = None,
    segments: Annotated[
        bool,
        typer.Option("--segments/--no-segments", help="Without them it is smaller."),
    ] = True,
    as_json: Json = False,
) -> None:
    """Back up a folder while it is in use: fsynced, read back, one state a collection."""
    from rich.console import Console

    from vecdb_cli.commands import backups
    from vecdb_cli.commands.console import output
    from vecdb_cli.commands.progress import Status
    from vecdb_cli.commands.target import open_target

    with open_target(url, data) as target, Status(Console(stderr=True), f"backing up to {path}"):
        report = target.backup(path, include_segments=segments)
    backups.print_report(output(), "backup", report, as_json=as_json)


@app.command()
def restore(
    backup: Annotated[str, typer.Argument(help="The folder that vecdb backup made.")],
    data: Annotated[str, typer.Argument(help="The new data folder: not there yet, or empty.")],
    segments: Annotated[
        bool,
        typer.Option(
            "--segments/--no-segments", help="Without: go on if only segments have gone bad."
        ),
    ] = True,
    as_json: Json = False,
) -> None:
    """Make a data folder of a backup; every checksum is compared and nothing overwritten."""
    from rich.console import Console

    from vecdb_cli.commands import backups
    from vecdb_cli.commands.console import output
    from vecdb_cli.commands.progress import Status

    with Status(Console(stderr=True), f"restoring {backup}"):
        report = vecdb.restore(backup, data, include_segments=segments)
    backups.print_report(output(), "data folder", report, as_json=as_json)


@app.command()
def compact(
    data: Annotated[Path, typer.Argument(help="The data folder; nobody may have it open.")],
    as_json: Json = False,
) -> None:
    """Bring a folder to the size of a fresh load: the dead go, the files are written anew."""
    from rich.console import Console

    from vecdb_cli.commands import backups
    from vecdb_cli.commands.console import output
    from vecdb_cli.commands.progress import Status

    with Status(Console(stderr=True), f"compacting {data}"):
        report = vecdb.compact(data)
    backups.print_compaction(output(), report, as_json=as_json)


@app.command()
def check(
    data: Annotated[str, typer.Argument(help="The data folder; others may be using it.")],
    repair: Annotated[
        bool, typer.Option("--repair", help="Build again what is only a cache; remove leftovers.")
    ] = False,
    findable: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Least share of rows that a search for their own vector finds: 0.99."
        ),
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="Rows that are searched for.")] = 1_000,
    as_json: Json = False,
) -> None:
    """Check a folder: every checksum, and everything against everything else.

    The exit status is 0 if all is right (or has been repaired), 1 if problems are left, 2 if not
    all of it could be checked.
    """
    from rich.console import Console

    from vecdb_cli.commands import checking
    from vecdb_cli.commands.console import output
    from vecdb_cli.commands.progress import Status

    try:
        with Status(Console(stderr=True), f"checking {data}") as status:
            report = vecdb.check(
                data, repair=repair, findable=findable, sample=sample, progress=status.update
            )
    except (VecdbError, OSError) as error:
        _failed(str(error))
        raise typer.Exit(checking.NOT_CHECKED) from None
    checking.print_report(output(), report, as_json=as_json)
    raise typer.Exit(checking.exit_status(report))


@app.command()
def warm() -> None:
    """Compile the search kernels for this processor now, not when a folder is first opened."""
    from vecdb.engine.kernels.loading import load_kernels

    load_kernels(typer.echo)
    typer.echo("the kernels are compiled")


@app.command()
def demo(
    data: Annotated[
        Path, typer.Option("--data", metavar="DIR", help="Where the demo's data lies.")
    ] = Path("demo-data"),
    rows: Annotated[
        int, typer.Option(min=2_000, max=400_000, help="Load only so many words.")
    ] = 400_000,
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Any free port if not given.")
    ] = "127.0.0.1:0",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Load anew even if all words are there.")
    ] = False,
    keep_serving: Annotated[
        bool, typer.Option("--keep-serving", help="Leave the server on until Ctrl-C.")
    ] = False,
) -> None:
    """Load 400,000 word vectors into a server, search them, and measure."""
    from vecdb_cli.demo import DemoOptions, run_demo

    raise typer.Exit(run_demo(DemoOptions(data, rows, listen, fresh, keep_serving)))
