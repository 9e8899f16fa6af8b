"""The command line ``vecdb``: options and their help; what a command does is in ``commands``.

    vecdb serve    a folder over gRPC             vecdb search   neighbours of an id or a vector
    vecdb tokens   who may call a server
    vecdb load     a file into a collection       vecdb get      rows by their ids
    vecdb count    rows that match a filter       vecdb delete   by id or filter
    vecdb facet    values of a metadata field     vecdb fields   of the metadata
    vecdb create   a collection                   vecdb stats    collections, rows, segments
    vecdb rename   a collection                   vecdb optimize all rows into graphs, now
    vecdb drop     a collection                   vecdb warm     compile the kernels
    vecdb list     ids in order                   vecdb set      metadata of rows
    vecdb metadata of a collection itself
    vecdb backup   a folder while it is in use    vecdb restore  a backup into a new folder
    vecdb check    verify a folder                vecdb compact  a folder that is not in use
    vecdb export   to a file for FAISS …          vecdb import   another library's index
    vecdb demo     the first five minutes         vecdb bench    recall and latency

Commands that read or change collections work on a server (``--url``) or on a folder (``--data``).
Each command imports what is heavy when it runs, so that ``--help`` is quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import vecdb
from vecdb.errors import VecdbError
from vecdb.one_line import one_line
from vecdb_cli.commands import (
    bench,
    changing,
    export,
    importing,
    managing,
    selecting,
    serving,
    tokens,
)
from vecdb_cli.commands.options import (
    COLLECTIONS,
    FILES,
    MAINTENANCE,
    ROWS,
    SERVING,
    TRYING,
    BadRows,
    Data,
    FilterText,
    IndexField,
    Json,
    Name,
    NewData,
    NewEfConstruction,
    NewM,
    NewTargetRecall,
    NoIndexFields,
    OrderedByHeading,
    Url,
    index_fields_of,
)

__all__ = ["app", "run"]

app = typer.Typer(
    name="vecdb",
    cls=OrderedByHeading,
    help="A vector database in one folder, embedded or served over gRPC.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # Joins the lines of a paragraph.
)
app.add_typer(serving.app)
app.add_typer(tokens.app, rich_help_panel=SERVING)
app.add_typer(bench.app, rich_help_panel=TRYING)
app.add_typer(export.app, rich_help_panel=FILES)


def run(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status.

    Args:
        arguments: the command line; that of the process if None.
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
    """Print an error as one red line and return the exit status.

    The notes that ``upsert_many`` adds to errors are left out: a load can simply be repeated.
    """
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
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help="File with the access token for a server; or the variable VECDB_TOKEN.",
        ),
    ] = None,
    tls: Annotated[
        bool,
        typer.Option("--tls", envvar="VECDB_TLS", help="Encrypt the connection to a server."),
    ] = False,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            "--tls-ca",
            metavar="FILE",
            envvar="VECDB_TLS_CA",
            help="Issuers of its certificate; default: those that come with grpcio.",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            "--tls-cert",
            metavar="FILE",
            envvar="VECDB_TLS_CERT",
            help="The client's certificate, if the server asks for one.",
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option("--tls-key", metavar="FILE", envvar="VECDB_TLS_KEY", help="Its private key."),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Send a token without TLS to another machine too."),
    ] = False,
) -> None:
    from vecdb_cli.commands import target

    target.set_connect_options(
        context,
        token_file,
        tls=tls,
        tls_ca=tls_ca,
        tls_cert=tls_cert,
        tls_key=tls_key,
        insecure=insecure,
    )


@app.command(rich_help_panel=ROWS)
def load(
    file: Annotated[Path, typer.Argument(help=".npy, .vec, .txt (GloVe) or .bin (word2vec).")],
    collection: Annotated[str, typer.Argument(help="Created if it does not exist.")],
    url: Url = None,
    data: NewData = None,
    ids: Annotated[
        Path | None,
        typer.Option(help="Ids of an .npy file: .txt, .npy or .json; default: its sidecar."),
    ] = None,
    metadata: Annotated[
        Path | None, typer.Option(help="Metadata as JSON Lines; default: its sidecar.")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="cosine (default), euclidean or dot.")] = None,
    M: NewM = None,
    ef_construction: NewEfConstruction = None,
    index_field: IndexField = None,
    no_index_fields: NoIndexFields = False,
    target_recall: NewTargetRecall = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of rows to load.")
    ] = None,
    batch_rows: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Rows per batch; default at most 1,000.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format", help="npy, vec, txt or bin, if the name does not say it (a pipe)."
        ),
    ] = None,
    on_bad_row: Annotated[
        BadRows,
        typer.Option(
            "--on-bad-row",
            help="Refuse the file at a zero vector or malformed line, or skip the row.",
        ),
    ] = BadRows.REFUSE,
    optimize: Annotated[
        bool, typer.Option("--optimize", help="Afterwards, wait until all rows are in graphs.")
    ] = False,
) -> None:
    """Load a file of vectors into a collection.

    An .npy file is a matrix, with ids and metadata in sidecars (X.ids.txt, X.metadata.jsonl); .vec,
    .txt and .bin are word vectors of fastText, GloVe and word2vec. Each may be compressed (.gz).

    Loading a file again replaces its rows. The whole file is checked before anything is written. A
    pipe can be read only once: if a later row is bad, a collection created for it is dropped.
    """
    from vecdb_cli.commands import loading
    from vecdb_cli.commands.target import open_target, place_of
    from vecdb_cli.vector_files import open_vectors

    vectors = open_vectors(file, ids, metadata, form=form)
    fields = index_fields_of(index_field, no_index_fields)
    options = loading.LoadOptions(
        *(metric, M, ef_construction, fields, target_recall),
        *(limit, batch_rows, on_bad_row is BadRows.SKIP, optimize),
    )
    with open_target(url, data, create=True) as target:
        # The indexer of a server needs no hint: it indexes the rows in any case.
        hint = None if data is None else place_of(url, data)
        try:
            loading.run_load(target, collection, vectors, options, hint)
        except KeyboardInterrupt:  # The message has been printed.
            raise typer.Exit(managing.INTERRUPTED) from None


app.add_typer(importing.app, name="import", rich_help_panel=FILES)
app.add_typer(managing.app)
app.add_typer(changing.app)
app.add_typer(selecting.app)


@app.command(rich_help_panel=ROWS)
def search(
    collection: Name,
    url: Url = None,
    data: Data = None,
    id: Annotated[
        str | None,
        typer.Option("--id", help="Find neighbours of this stored row, without the row itself."),
    ] = None,
    vector: Annotated[
        str | None, typer.Option("--vector", help='Numbers, "0.1,0.2,...", or an .npy file.')
    ] = None,
    near: Annotated[
        list[str] | None,
        typer.Option(help="Search with the mean of these stored rows; repeatable."),
    ] = None,
    away: Annotated[
        list[str] | None,
        typer.Option(help="With --near: away from these stored rows; repeatable."),
    ] = None,
    k: Annotated[
        int, typer.Option("-k", help="Number of hits; 0 with --max-distance: all within.")
    ] = 10,
    max_distance: Annotated[float | None, typer.Option(help="Leave out what is farther.")] = None,
    group_by: Annotated[
        str | None, typer.Option(help="Group hits by this field; -k is the number of groups.")
    ] = None,
    group_size: Annotated[int | None, typer.Option(help="Most hits of a group; default 1.")] = None,
    filter: FilterText = None,
    ef: Annotated[
        int | None,
        typer.Option("--ef", help="Candidates of the graph walk, in place of --recall."),
    ] = None,
    recall: Annotated[
        float | None,
        typer.Option("--recall", help="Recall to reach on average, above 0 to 1; default 0.95."),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every row.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show the way and its costs.")] = False,
    as_json: Json = False,
) -> None:
    """Find the rows nearest to a stored row, a vector, or the mean of stored rows."""
    from vecdb_cli.commands import answers
    from vecdb_cli.commands.console import output
    from vecdb_cli.commands.filters import read_filter
    from vecdb_cli.commands.target import open_target, place_of

    condition = read_filter(filter)
    options = answers.SearchOptions(
        id, vector, k, ef, recall, exact, near or None, away or None, max_distance, condition,
        group_by, group_size, explain,
    )  # fmt: skip
    with open_target(url, data) as target:
        answers.print_search(
            output(), target, collection, options, as_json=as_json, place=place_of(url, data)
        )


@app.command(rich_help_panel=COLLECTIONS)
def stats(
    collection: Annotated[str | None, typer.Argument(help="One collection; default: all.")] = None,
    url: Url = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Show collections, rows, segments and the state of the indexer."""
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


@app.command(rich_help_panel=COLLECTIONS)
def rename(
    old: Name,
    new: Annotated[str, typer.Argument(help="An unused name.")],
    url: Url = None,
    data: Data = None,
) -> None:
    """Rename a collection; all processes see the new name at once."""
    from vecdb_cli.commands.target import open_target

    with open_target(url, data) as target:
        target.rename_collection(old, new)
    typer.echo(f"collection {old} renamed to {new}")


@app.command(rich_help_panel=MAINTENANCE)
def backup(
    path: Annotated[
        str,
        typer.Argument(help="A new folder; on a server inside its --backup-dir."),
    ],
    url: Url = None,
    data: Data = None,
    segments: Annotated[
        bool,
        typer.Option("--segments/--no-segments", help="Without segments a backup is smaller."),
    ] = True,
    as_json: Json = False,
) -> None:
    """Back up a folder while it is in use: one committed state per collection."""
    from rich.console import Console

    from vecdb_cli.commands import backups
    from vecdb_cli.commands.console import output
    from vecdb_cli.commands.progress import Status
    from vecdb_cli.commands.target import open_target

    with open_target(url, data) as target, Status(Console(stderr=True), f"backing up to {path}"):
        report = target.backup(path, include_segments=segments)
    backups.print_report(output(), "backup", report, as_json=as_json)


@app.command(rich_help_panel=MAINTENANCE)
def restore(
    backup: Annotated[str, typer.Argument(help="The folder that vecdb backup wrote.")],
    data: Annotated[str, typer.Argument(help="The new data folder; must not exist, or be empty.")],
    segments: Annotated[
        bool,
        typer.Option(
            "--segments/--no-segments", help="Without segments: if only these are damaged."
        ),
    ] = True,
    as_json: Json = False,
) -> None:
    """Restore a backup into a new folder; verify every checksum and overwrite nothing."""
    from rich.console import Console

    from vecdb_cli.commands import backups
    from vecdb_cli.commands.console import output
    from vecdb_cli.commands.progress import Status

    with Status(Console(stderr=True), f"restoring {backup}"):
        report = vecdb.restore(backup, data, include_segments=segments)
    backups.print_report(output(), "data folder", report, as_json=as_json)


@app.command(rich_help_panel=MAINTENANCE)
def compact(
    data: Annotated[Path, typer.Argument(help="The data folder; no process may have it open.")],
    as_json: Json = False,
) -> None:
    """Shrink a folder to the size of a fresh load; no process may have it open."""
    from rich.console import Console

    from vecdb_cli.commands import backups
    from vecdb_cli.commands.console import output
    from vecdb_cli.commands.progress import Status

    with Status(Console(stderr=True), f"compacting {data}"):
        report = vecdb.compact(data)
    backups.print_compaction(output(), report, as_json=as_json)


@app.command(rich_help_panel=MAINTENANCE)
def check(
    data: Annotated[str, typer.Argument(help="The data folder; it may be in use.")],
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Rebuild caches and remove leftovers; never change stored data."
        ),
    ] = False,
    findable: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Minimum self-recall: share of rows that a search for their own vector finds.",
        ),
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="Rows to search for with --findable.")] = 1_000,
    as_json: Json = False,
) -> None:
    """Verify a folder, also while it is in use: every checksum, and that all parts agree.

    The exit status is 0 if there are no problems (or all were repaired), 1 if problems are left,
    and 2 if not everything could be checked.
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


@app.command(rich_help_panel=SERVING)
def warm() -> None:
    """Compile the search kernels for this processor now instead of on first use."""
    from vecdb.engine.kernels.loading import load_kernels

    load_kernels(typer.echo)
    typer.echo("the kernels are compiled")


@app.command(rich_help_panel=TRYING)
def demo(
    data: Annotated[
        Path, typer.Option("--data", metavar="DIR", help="The demo's data folder.")
    ] = Path("demo-data"),
    rows: Annotated[
        int, typer.Option(min=2_000, max=400_000, help="Number of words to load.")
    ] = 400_000,
    listen: Annotated[
        str,
        typer.Option(
            "--listen", metavar="HOST:PORT", help="Address of the server; port 0 is any free port."
        ),
    ] = "127.0.0.1:0",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Load again even if all words are stored.")
    ] = False,
    keep_serving: Annotated[
        bool, typer.Option("--keep-serving", help="Leave the server running until Ctrl-C.")
    ] = False,
) -> None:
    """Load 400,000 word vectors into a server, search them, measure recall and latency."""
    from vecdb_cli.demo import DemoOptions, run_demo

    raise typer.Exit(run_demo(DemoOptions(data, rows, listen, fresh, keep_serving)))
