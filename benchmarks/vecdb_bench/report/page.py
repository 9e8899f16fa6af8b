"""The HTML page: plots and tables of each data set, then all failures."""

from __future__ import annotations

import json
from collections.abc import Callable
from html import escape
from typing import Any

from vecdb_bench.report import filtered
from vecdb_bench.report.lookup import Lines, at_recall, number_of, of, title_of
from vecdb_bench.report.plots import Axis, Series, line_plot
from vecdb_bench.targets.registry import TARGETS

__all__ = ["page"]

_STYLE = """
:root{color-scheme:light dark;--ink:#1a1a1a;--soft:#5c5c5c;--line:#d4d4d4;
--back:#fff;--card:#f6f6f4}
@media(prefers-color-scheme:dark){:root{--ink:#e8e8e6;--soft:#a6a6a2;--line:#454543;--back:#191918;
--card:#232322}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back);max-width:1180px;
margin:2rem auto;padding:0 1.2rem}
h1{font-size:1.7rem;margin:0}h2{margin:2.6rem 0 .3rem;border-bottom:1px solid var(--line)}
h3{font-size:1.05rem;margin:1.5rem 0 .4rem}p{max-width:48rem}.soft{color:var(--soft)}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,480px),1fr));gap:1.2rem}
figure{margin:0;background:var(--card);border-radius:8px;padding:.7rem}
h4{margin:0 0 .3rem;font-size:.95rem}svg{width:100%;height:auto;font:12px system-ui,sans-serif}
svg text{fill:var(--soft)}svg .label{fill:var(--ink)}.grid{stroke:var(--line);stroke-width:.6}
.axis{stroke:var(--soft);fill:none}.legend{display:flex;flex-wrap:wrap;gap:.2rem 1rem;
font-size:.85rem}
.key{width:28px;height:14px;vertical-align:-2px;margin-right:4px}
.scroll{overflow-x:auto;margin-top:.8rem}table{border-collapse:collapse;font-size:.88rem;
font-variant-numeric:tabular-nums}th,td{padding:.25rem .7rem;text-align:right;
border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child,.text{text-align:left}
pre{white-space:pre-wrap;font-size:.8rem;background:var(--card);padding:.6rem;border-radius:6px}
"""


def page(lines: Lines) -> str:
    """Return a self-contained HTML document.

    Args:
        lines: from ``results.read_results``.
    """
    datasets = list(dict.fromkeys(line["dataset"] for line in lines))
    body = [_head(lines)]
    for dataset in datasets:
        here = [line for line in lines if line["dataset"] == dataset]
        body.append(f"<h2>{escape(dataset)}</h2>")
        body += [part(here) for part in _PARTS]
    body.append(_failures(lines))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>vecdb bench</title><style>{_STYLE}</style><body>{''.join(body)}</body></html>\n"
    )


def _head(lines: Lines) -> str:
    if not lines:
        return "<h1>vecdb bench</h1><p>No results yet.</p>"
    last = lines[-1]["provenance"]
    loads = [line["provenance"]["load_average"][0] for line in lines]
    # Lines measured again keep their place in the list, so that times are not in order.
    times = [line["provenance"]["time"] for line in lines]
    facts = (
        f"{escape(last['processor'])}, {last['cores']} cores; Python {last['python']}; vecdb "
        f"{last['vecdb']} {last['commit'][:10]}; {min(times)} to "
        f"{max(times)}; load average {min(loads):.1f} to {max(loads):.1f}"
    )
    targets = [name for name in TARGETS if any(line["target"] == name for line in lines)]
    rows = [[title_of(name), TARGETS[name].kind, TARGETS[name].durability] for name in targets]
    return (
        f'<h1>vecdb bench</h1><p class="soft">{facts}</p>'
        "<p>Speeds of searches and of writing are medians of rounds in which the targets were "
        "interleaved; the rest was measured one target after the other. Ratios between targets "
        "are more portable between machines than absolute rates.</p>"
        + _table(["target", "kind", "an acknowledged write"], rows)
    )


def _targets(lines: Lines) -> list[str]:
    return [name for name in TARGETS if any(line["target"] == name for line in lines)]


def _series(lines: Lines, point: Callable[[dict[str, Any]], tuple[float, float]]) -> list[Series]:
    return [
        Series(
            title_of(name),
            number_of(name),
            [point(line) for line in lines if line["target"] == name],
        )
        for name in _targets(lines)
    ]


def _section(title: str, *parts: str) -> str:
    return f"<h3>{title}</h3>{''.join(parts)}" if any(parts) else ""


def _plots(*plots: tuple[str, str]) -> str:
    drawn = [svg.replace("<figure>", f"<figure><h4>{escape(t)}</h4>") for t, svg in plots if svg]
    return f'<div class="plots">{"".join(drawn)}</div>' if drawn else ""


def _table(head: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return ""
    kinds = ["" if _is_number(cell) else ' class="text"' for cell in rows[0]]
    top = "".join(f"<th{kind}>{escape(each)}</th>" for kind, each in zip(kinds, head, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{top}</tr>{body}</table></div>'


def _is_number(cell: str) -> bool:
    return not cell.strip("0123456789.,-–")


def _search(lines: Lines) -> str:
    sweeps = [line for line in of(lines, scenario="search") if "mode" in line["point"]]
    modes = list(dict.fromkeys(line["point"]["mode"] for line in sweeps))
    plots, rows = [], []
    for mode in modes:
        here = of(sweeps, mode=mode)
        k = here[0]["point"]["k"]
        svg = line_plot(
            f"queries a second over recall@{k}, {mode}",
            Axis(f"recall@{k}", "nines"),
            Axis("queries/s", "log"),
            _series(
                here,
                lambda line, k=k: (  # type: ignore[misc]
                    line["figures"][f"recall_{k}"],
                    line["figures"]["queries_per_s"]["median"],
                ),
            ),
        )
        plots.append((mode, svg))
        for name in _targets(here):
            mine = of(here, target=name)
            speeds = [at_recall(mine, wanted, k) for wanted in (0.9, 0.95, 0.99)]
            rows.append([mode, title_of(name), *(_text(speed, ",.0f") for speed in speeds)])
            spreads = (line["figures"]["queries_per_s"] for line in mine)
            widest = max(each["max"] / each["min"] for each in spreads)
            rows[-1].append(f"{widest:.2f}")
    head = ["calls", "target", "queries/s at 0.90", "at 0.95", "at 0.99"]
    table = _table([*head, "fastest round / slowest, at most"], rows)
    return _section("Recall against queries a second", _plots(*plots), table)


def _latency(lines: Lines) -> str:
    found = of(lines, scenario="latency")
    found = [line for line in found if "loop" in line["point"]]
    plots = []
    for clients, loop in dict.fromkeys(
        (line["point"]["clients"], line["point"]["loop"]) for line in found
    ):
        here = of(found, clients=clients, loop=loop)
        series = [
            Series(
                title_of(line["target"]),
                number_of(line["target"]),
                [(share / 100, ms) for share, ms in line["figures"]["quantiles"]],
            )
            for line in here
        ]
        plots.append(
            (
                f"{clients} clients, {loop}" if clients > 1 else f"one client, {loop}",
                line_plot(
                    "latency by share of calls",
                    Axis("share of calls", "nines"),
                    Axis("ms", "log"),
                    series,
                ),
            )
        )
    names = ("p50_ms", "p95_ms", "p99_ms", "p99.9_ms", "max_ms")
    rows = [
        [
            title_of(line["target"]),
            str(line["point"]["clients"]),
            line["point"]["loop"],
            *(f"{line['figures'][name]:.2f}" for name in names),
            _text(line["figures"]["answers_per_s"], ",.0f"),
            _text(line["figures"]["rate_per_s"], ",.0f"),
            _text(line["figures"]["recall_10"], ".3f"),
        ]
        for line in found
    ]
    head = [
        "target",
        "clients",
        "loop",
        "p50 ms",
        "p95",
        "p99",
        "p99.9",
        "max",
        "answers/s",
        "due/s",
    ]
    return _section("Latency of single queries", _plots(*plots), _table([*head, "recall@10"], rows))


def _ingest(lines: Lines) -> str:
    found = [line for line in of(lines, scenario="ingest") if "batch" in line["point"]]
    ascending = of(found, ids="integer")
    plot = line_plot(
        "rows a second by size of batch",
        Axis("rows a batch", "log"),
        Axis("acknowledged rows/s", "log"),
        _series(
            ascending,
            lambda line: (line["point"]["batch"], line["figures"]["rows_per_s"]["median"]),
        ),
    )
    rows = [
        [
            title_of(line["target"]),
            str(line["point"]["batch"]),
            line["point"]["ids"],
            f"{line['figures']['rows_per_s']['median']:,.0f}",
            f"{line['figures']['indexed_s']['median']:.2f}",
            f"{line['figures']['disk_bytes_per_row']['median']:,.0f}",
        ]
        for line in found
    ]
    head = ["target", "batch", "ids", "rows/s", "all indexed after s", "disk bytes a row"]
    return _section(
        "Writing",
        _plots(("rows a second by size of batch", plot)),
        _table(head, rows),
    )


def _beside(lines: Lines) -> str:
    rows = [
        [
            title_of(line["target"]),
            line["point"]["state"],
            *(f"{line['figures'][name]:.2f}" for name in ("p50_ms", "p99_ms", "max_ms")),
            f"{line['figures']['rows_per_s']:,.0f}",
            *(
                f"{line['figures']['unindexed_bytes'][which] / 1e6:,.1f}"
                if "unindexed_bytes" in line["figures"]
                else "–"
                for which in ("median", "max")
            ),
        ]
        for line in of(lines, scenario="beside")
    ]
    head = ["target", "writer", "p50 ms", "p99", "max", "rows/s written"]
    head += ["in no graph, MB", "at most"]
    return _section("Searches while another client writes", _table(head, rows))


def _walk(lines: Lines) -> str:
    found = of(lines, scenario="walk")
    rows = [
        [name, *(_text(at_recall(of(found, target=target), each), ",.0f") for each in (0.95, 0.99))]
        for name, target in (("kernel of vecdb", "vecdb"), ("hnswlib", "hnswlib"))
        if of(found, target=target)
    ]
    head = ["search of one graph, one thread", "queries/s at 0.95", "at 0.99"]
    return _section("The walk through the graph", _table(head, rows))


def _churn(lines: Lines) -> str:
    found = of(lines, scenario="churn")
    steps = [line for line in found if line["point"]["state"].endswith("replaced")]

    def share(line: dict[str, Any]) -> float:
        return float(line["point"]["state"].split("%")[0])

    plots = [
        (
            what,
            line_plot(
                what,
                Axis("% of rows replaced"),
                Axis(label),
                _series(steps, lambda line, get=get: (share(line), get(line["figures"]))),  # type: ignore[misc]
            ),
        )
        for what, label, get in (
            ("recall@10 under churn", "recall@10", lambda f: f["recall_10"]),
            ("queries a second under churn", "queries/s", lambda f: _median(f["queries_per_s"])),
            ("disk under churn", "MB", lambda f: f["disk_bytes"] / 1e6),
            ("memory under churn", "MB", lambda f: f["private_bytes"] / 1e6),
        )
    ]
    rows = [
        [
            title_of(line["target"]),
            line["point"]["state"],
            f"{line['figures']['recall_10']:.4f}",
            str(line["figures"]["answers_with_fewer"]),
            f"{_median(line['figures']['queries_per_s']):,.0f}",
            f"{line['figures']['private_bytes'] / 1e6:,.0f}",
            f"{line['figures']['disk_bytes'] / 1e6:,.1f}",
        ]
        for line in found
    ]
    head = ["target", "state", "recall@10", "answers short of k", "queries/s", "memory MB"]
    return _section(
        "Churn: rows replaced and deleted", _plots(*plots), _table([*head, "disk MB"], rows)
    )


def _median(figure: Any) -> float:
    # Earlier versions measured one round and wrote a plain number.
    return float(figure["median"] if isinstance(figure, dict) else figure)


def _filtered(lines: Lines) -> str:
    found = [line for line in of(lines, scenario="filtered") if "way" in line["point"]]
    names = ("effort", "recall_10", "p50_ms", "p99_ms")
    rows = [
        [
            title_of(line["target"]),
            line["point"]["condition"],
            line["point"]["way"],
            f"{line['point']['passing_percent']:g}",
            *(_short(line["figures"]["queries_per_s"][which]) for which in ("median", "min")),
            *(_short(line["figures"][name]) for name in names),
        ]
        for line in found
    ]
    head = ["target", "condition", "way", "% pass", "queries/s", "least", "effort", "recall@10"]
    parts = [f"<h4>{escape(each.title)}</h4>{_table(*each[1:])}" for each in filtered.tables(found)]
    return _section("Searches with a filter", *parts, _table([*head, "p50 ms", "p99"], rows))


def _restart(figures: dict[str, Any]) -> str:
    # Earlier versions did not measure it.
    return f"{figures['restart_s']['median']:.2f}" if "restart_s" in figures else "–"


def _recovery(lines: Lines) -> str:
    rows = [
        [
            title_of(line["target"]),
            f"{line['figures']['rows_acknowledged']['median']:,.0f}",
            f"{line['figures']['rows_lost_in_all']:,}",
            f"{line['figures']['ready_s']['median']:.2f}",
            _restart(line["figures"]),
            f"{line['figures']['recall_10']['min']:.4f}",
        ]
        for line in of(lines, scenario="recovery")
    ]
    head = ["target", "rows acknowledged", "rows lost, all rounds", "ready after s"]
    head += ["restarted s", "least recall@10 after"]
    return _section("kill -9 during a load", _table(head, rows))


def _size(lines: Lines) -> str:
    found = [line for line in of(lines, scenario="size") if "rows" in line["point"]]
    plots = [
        (
            what,
            line_plot(
                what,
                Axis("rows", "log"),
                Axis(label, "log"),
                _series(
                    [line for line in found if line["figures"][cost]["median"] > 0],
                    lambda line, cost=cost, unit=unit: (  # type: ignore[misc]
                        line["point"]["rows"],
                        line["figures"][cost]["median"] / unit,
                    ),
                ),
            ),
        )
        for what, label, cost, unit in (
            ("search, p50", "ms", "search_p50_ms", 1.0),
            ("until indexed", "s", "indexed_s", 1.0),
            ("opening and first answer", "s", "open_s", 1.0),
            ("disk", "MB", "disk_bytes", 1e6),
            ("memory", "MB", "private_bytes", 1e6),
        )
    ]
    fitted = of(lines, scenario="size", what="exponents")
    names = ("search_p50_ms", "indexed_s", "private_bytes", "disk_bytes", "open_s")
    rows = [
        [title_of(line["target"]), *(_text(line["figures"].get(name), ".2f") for name in names)]
        for line in fitted
    ]
    head = ["exponent of growth", "search", "build", "memory", "disk", "open"]
    return _section("Growth with the number of rows", _plots(*plots), _table(head, rows))


def _facts(scenario: str, title: str) -> Callable[[Lines], str]:
    """Return the section of a scenario whose figures are listed by their names."""

    def section(lines: Lines) -> str:
        rows = [
            [
                title_of(line["target"]),
                ", ".join(str(value) for value in line["point"].values()),
                name.replace("_", " "),
                _short(_median(figure)),
                *(_short(figure[x]) if isinstance(figure, dict) else "–" for x in ("min", "max")),
            ]
            for line in of(lines, scenario=scenario)
            for name, figure in line["figures"].items()
            if figure is not None
        ]
        return _section(
            title, _table(["target", "point", "figure", "median", "least", "greatest"], rows)
        )

    return section


_PARTS = (
    _search,
    _latency,
    _ingest,
    _beside,
    _facts("full_store", "Writing into a store that has rows already"),
    _churn,
    _filtered,
    _recovery,
    _size,
    _facts("opening", "From opening to the first answer, 15 % of the rows deleted"),
    _walk,
    _facts("contract", "Recall asked for and measured, beside hnswlib"),
    _facts("call", "What an embedded call costs outside the kernel"),
    _facts("memory", "A collection four times the size of memory"),
    _facts("wire", "The wire"),
    _facts("exchange", "Export to and import from a FAISS file"),
    _facts("metadata", "Rows with metadata, and filters beside searches"),
)


def _failures(lines: Lines) -> str:
    failures = [
        f"<p><b>{escape(title_of(line['target']))}</b>, {escape(line['scenario'])} on "
        f"{escape(line['dataset'])}, {escape(json.dumps(line['point']))}: {status}</p>"
        f"<pre>{escape(line['error'])}</pre>"
        for status in ("failed", "cannot")
        for line in of(lines, status)
    ]
    return f"<h2>What failed or can't be done</h2>{''.join(failures)}" if failures else ""


def _short(value: float) -> str:
    return format(value, ",.0f" if abs(value) >= 1000 else ".4g")


def _text(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
