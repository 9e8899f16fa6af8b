"""``vecdb bench``: prepare data, run, report, and measure a collection of your own.

This module has the options, the progress and the tables; ``vecdb_bench`` measures.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vecdb.errors import InvalidArgumentError
from vecdb.reasons import Reason
from vecdb_cli.commands.answers import print_json
from vecdb_cli.commands.console import output
from vecdb_cli.commands.options import Data, Json, Name, Url
from vecdb_cli.commands.progress import Status

if TYPE_CHECKING:
    from vecdb_bench.suite import Plan

__all__ = ["app"]

app = typer.Typer(
    name="bench",
    help="Recall and latency of vecdb and others on real data, or of your own collection.",
    no_args_is_help=True,
)

Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        help="Folder of data sets and peers; default ~/.cache/vecdb-bench.",
    ),
]
Out = Annotated[
    Path, typer.Option("--results", metavar="FILE", help="JSON Lines; created or appended to.")
]
In = Annotated[Path, typer.Option("--results", metavar="FILE", help="The results, JSON Lines.")]
_RESULTS = Path("bench-results.jsonl")


class _Steps(Status):
    """Progress of counted work: the current step, and how many of how many are done."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._last = ""

    def step(self, what: str, done: int, total: int) -> None:
        """Set how many of all are done."""
        if what != self._last:
            self._last = what
            self.begin(f"{what}: {done} of {total}")
        self.update(f"{what}: {done:,} of {total:,}", share=done / max(1, total))


@app.command()
def data(
    names: Annotated[
        list[str] | None, typer.Argument(help="glove-50, text-256, sift-128, files; default: all.")
    ] = None,
    cache: Cache = None,
) -> None:
    """Prepare data sets: vectors, held-out queries, true neighbours."""
    from vecdb_bench.data.dataset import cache_folder, prepare
    from vecdb_bench.data.sources import NAMED

    console = output()
    for name in names or list(NAMED):
        with _Steps(Console(stderr=True)) as steps:
            made = prepare(
                name,
                cache_folder(cache),
                progress=lambda what, done, total, name=name: steps.step(  # type: ignore[misc]
                    f"{name}: {what}", done, total
                ),
            )
        console.print(
            f"{name}: {len(made.base):,} × {made.dim}, {made.metric}, {len(made.queries):,} "
            f"queries held out, in {made.folder}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


@app.command()
def run(
    results: Out = _RESULTS,
    plan: Annotated[
        str,
        typer.Option(
            "--plan",
            help="standard: minutes; growth, parts: an hour; peers, filtered: an afternoon; "
            "full: a night; tiny: seconds.",
        ),
    ] = "standard",
    dataset: Annotated[
        list[str] | None, typer.Option("--dataset", help="Instead of the plan's; repeatable.")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option("--target", help="Instead of the plan's; repeatable.")
    ] = None,
    scenario: Annotated[
        list[str] | None, typer.Option("--scenario", help="Instead of the plan's; repeatable.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Measure again what the results file holds.")
    ] = False,
    cache: Cache = None,
) -> None:
    """Measure what the results file does not hold yet; can be stopped and resumed."""
    from vecdb_bench import suite
    from vecdb_bench.data.dataset import cache_folder

    if plan not in suite.PLANS:
        raise InvalidArgumentError(
            f"no plan {plan!r}, expected one of {', '.join(suite.PLANS)}", Reason.NO_PLAN
        )
    wanted: Plan = suite.PLANS[plan]
    wanted = replace(
        wanted,
        datasets=tuple(dataset or wanted.datasets),
        targets=tuple(target or wanted.targets),
        scenarios=tuple(scenario or wanted.scenarios),
    )
    with _Steps(Console(stderr=True)) as steps:
        suite.run(wanted, results, cache_folder(cache), again=again, say=steps.say, step=steps.step)
    typer.echo(f"results are in {results}; vecdb bench report --results {results}")


@app.command()
def report(
    results: In = _RESULTS,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="The page; default: next to the results."),
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(
            "--markdown",
            metavar="FILE",
            help="Also put the tables between their markers in this file.",
        ),
    ] = None,
    svg: Annotated[
        Path | None,
        typer.Option(
            "--picture", metavar="FILE", help="Also draw recall against queries/s as SVG."
        ),
    ] = None,
) -> None:
    """Write one HTML page from a results file; also a Markdown table and a picture."""
    from vecdb_bench.report import table
    from vecdb_bench.report.page import page
    from vecdb_bench.report.picture import picture
    from vecdb_bench.results import read_results

    lines = read_results(results)
    if not lines:
        raise InvalidArgumentError(f"{results} has no results", Reason.NO_RESULTS)
    path = html or results.with_suffix(".html")
    path.write_text(page(lines), encoding="utf-8")
    typer.echo(f"the report is {path}")
    if markdown is not None:
        table.write_tables(markdown, lines)
        typer.echo(f"the tables are in {markdown}")
    if svg is not None:
        svg.write_text(picture(lines), encoding="utf-8")
        typer.echo(f"the picture is {svg}")


@app.command()
def own(
    collection: Name,
    url: Url = None,
    data: Data = None,
    queries: Annotated[
        Path | None, typer.Option(help="An .npy matrix of queries; default: stored vectors.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Maximum number of queries.")] = 200,
    k: Annotated[int, typer.Option(min=1, help="Hits per query.")] = 10,
    as_json: Json = False,
) -> None:
    """Measure recall and latency of your own collection, while it is in use."""
    import numpy as np

    from vecdb_bench import own as measuring
    from vecdb_cli.commands.target import open_target

    with (
        open_target(url, data, indexer=False) as target,
        _Steps(Console(stderr=True)) as steps,
    ):
        there: Any = target.collection(collection)
        ids = None
        if queries is not None:
            asked = np.ascontiguousarray(np.load(queries)[:count], np.float32)
        else:
            asked, ids = measuring.sample(there, count)
        rows = measuring.measure(
            there, asked, ids, k=k, step=lambda done, total: steps.step("searching", done, total)
        )
    if as_json:
        print_json({"collection": collection, "k": k, "rows": [row.as_dict() for row in rows]})
        return
    table = Table("asked for", box=None, pad_edge=False)
    for heading in (
        "expected",
        f"recall@{k}",
        "worst query",
        "p50 ms",
        "p95",
        "p99",
        "vectors compared",
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            f"ef {row.ef}" if row.target is None else f"recall {row.target:g}",
            "" if row.expected is None else f"{row.expected:.4f}",
            f"{row.recall:.4f}",
            f"{row.worst:.2f}",
            f"{row.p50_ms:.2f}",
            f"{row.p95_ms:.2f}",
            f"{row.p99_ms:.2f}",
            f"{row.visited:,.0f}",
        )
    output().print(table)
