"""``vecdb bench``: prepare data, run, report, and measure one's own collection.

Only what a person sees is here: options, bars, tables. What is measured is ``vecdb_bench``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from vecdb.errors import InvalidArgumentError
from vecdb.reasons import Reason
from vecdb_cli.commands.answers import print_json
from vecdb_cli.commands.console import output
from vecdb_cli.commands.progress import is_live

if TYPE_CHECKING:
    from vecdb_bench.suite import Plan

__all__ = ["app"]

app = typer.Typer(
    name="bench",
    help="Recall and latency: ours and others', on real data, or on your own collection.",
    no_args_is_help=True,
)

Cache = Annotated[
    Path | None,
    typer.Option("--cache", metavar="DIR", help="Data and peers; ~/.cache/vecdb-bench."),
]
Out = Annotated[
    Path, typer.Option("--results", metavar="FILE", help="JSON lines; made or added to.")
]
_RESULTS = Path("bench-results.jsonl")


class _Steps:
    """A bar on a terminal, lines elsewhere; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        if is_live(console):
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
                TimeElapsedColumn(),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task("starting", total=1)
        self._last = ""

    def step(self, what: str, done: int, total: int) -> None:
        """So many are done, of all."""
        if self._bar is not None:
            self._bar.update(self._task, description=what, completed=done, total=total)
        elif what != self._last:
            self._last = what
            self.say(f"{what}: {done} of {total}")

    def say(self, sentence: str) -> None:
        """A line, above the bar if there is one."""
        self._console.print(sentence, style="dim", markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> _Steps:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()


@app.command()
def data(
    names: Annotated[
        list[str] | None, typer.Argument(help="glove-50, text-256, sift-128, files; all without.")
    ] = None,
    cache: Cache = None,
) -> None:
    """Prepare data sets: vectors, held-out queries, their true neighbours."""
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
            help="standard: minutes; growth: an hour; peers: an afternoon; full: a night; "
            "tiny: seconds.",
        ),
    ] = "standard",
    dataset: Annotated[
        list[str] | None, typer.Option("--dataset", help="In place of the plan's; repeatable.")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option("--target", help="In place of the plan's; repeatable.")
    ] = None,
    scenario: Annotated[
        list[str] | None, typer.Option("--scenario", help="In place of the plan's; repeatable.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Measure what is in the file already once more.")
    ] = False,
    cache: Cache = None,
) -> None:
    """Measure what the file of results has not yet; can be stopped and resumed."""
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
    results: Out = _RESULTS,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="The page; FILE.html beside.")
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option("--markdown", metavar="FILE", help="Put the table between its markers."),
    ] = None,
    svg: Annotated[
        Path | None,
        typer.Option("--picture", metavar="FILE", help="Draw recall against queries/s as SVG."),
    ] = None,
) -> None:
    """Make one HTML page of the results, the table for a Markdown file and the picture."""
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
        table.replace_between_markers(markdown, table.markdown(lines))
        typer.echo(f"the table is in {markdown}")
    if svg is not None:
        svg.write_text(picture(lines), encoding="utf-8")
        typer.echo(f"the picture is {svg}")


@app.command()
def own(
    collection: Annotated[str, typer.Argument(help="Its name.")],
    url: Annotated[str | None, typer.Option("--url", metavar="HOST:PORT", help="A server.")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="A folder, in this process.")
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(help="An .npy of queries; stored vectors without.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many queries at most.")] = 200,
    k: Annotated[int, typer.Option(min=1, help="Hits a query.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Recall and latency by ef of a collection, on its own data, while it is in use."""
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
            there, asked, ids, k=k, step=lambda done, total: steps.step("asking", done, total)
        )
    if as_json:
        print_json({"collection": collection, "k": k, "rows": [row.as_dict() for row in rows]})
        return
    table = Table("ef", box=None, pad_edge=False)
    for heading in (f"recall@{k}", "worst query", "p50 ms", "p95", "p99", "vectors compared"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            str(row.ef),
            f"{row.recall:.4f}",
            f"{row.worst:.2f}",
            f"{row.p50_ms:.2f}",
            f"{row.p95_ms:.2f}",
            f"{row.p99_ms:.2f}",
            f"{row.visited:,.0f}",
        )
    output().print(table)
