"""The picture in the README: recall against queries per second, as a self-contained SVG file.

The picture is a pure function of the results, so that a test can compare the committed file with
the one generated from the committed results.
"""

from __future__ import annotations

from html import escape

from vecdb.errors import InvalidArgumentError
from vecdb_bench.report.lookup import Lines, number_of, of, title_of
from vecdb_bench.report.plots import Axis, Series, key, line_plot
from vecdb_bench.targets.registry import TARGETS

__all__ = ["picture"]

_MODE = "one query, one caller"
_PLOT_HEIGHT = 340
_WIDTH, _HEAD = 740, 34
_KEY_LEFT, _KEY_TOP, _KEY_STEP = 590, 48, 22
_STYLE = """
svg{font:12px system-ui,sans-serif;--ink:#1a1a1a;--soft:#5c5c5c;--line:#d4d4d4;--back:#fff}
@media(prefers-color-scheme:dark){svg{--ink:#e8e8e6;--soft:#a6a6a2;--line:#454543;--back:#191918}}
text{fill:var(--soft)}.label,.key{fill:var(--ink)}.grid{stroke:var(--line);stroke-width:.6}
.axis{stroke:var(--soft);fill:none}.back{fill:var(--back)}.title{fill:var(--ink);font-size:14px}
"""


def picture(lines: Lines) -> str:
    """Return the SVG of the first data set: one curve per target, one point per effort.

    Args:
        lines: from ``results.read_results``.

    Raises:
        InvalidArgumentError: NO_RESULTS: the results have no searches with one caller.
    """
    sweep = of(lines, scenario="search", mode=_MODE)
    if not sweep:
        raise InvalidArgumentError(
            f"expected results of the scenario search in mode {_MODE!r}, got no searches; run "
            "that scenario first",
            "NO_RESULTS",
        )
    dataset, k = sweep[0]["dataset"], sweep[0]["point"]["k"]
    series = [
        Series(title_of(name), number_of(name), points)
        for name in TARGETS
        if (points := _points(of(sweep, target=name, dataset=dataset), k))
    ]
    title = f"recall@{k} against queries a second, {dataset}, {_MODE}"
    figure = line_plot(title, Axis(f"recall@{k}", "nines"), Axis("queries/s", "log"), series)
    curves = figure[figure.index(">", figure.index("<svg")) + 1 : figure.index("</svg>")]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEAD + _PLOT_HEIGHT}" '
        f'role="img" aria-label="{escape(title)}">',
        f"<style>{_STYLE}</style>",
        '<rect class="back" width="100%" height="100%"/>',
        f'<text class="title" x="14" y="22">{escape(title)}</text>',
        f'<g transform="translate(0 {_HEAD})">{curves}</g>',
        *(_key(row, each) for row, each in enumerate(series)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _points(lines: Lines, k: int) -> list[tuple[float, float]]:
    return [
        (line["figures"][f"recall_{k}"], line["figures"]["queries_per_s"]["median"])
        for line in lines
    ]


def _key(row: int, series: Series) -> str:
    """Return a line of the legend."""
    return (
        f'<g transform="translate({_KEY_LEFT} {_KEY_TOP + row * _KEY_STEP})">{key(series)}'
        f'<text class="key" x="22" y="4">{escape(series.name)}</text></g>'
    )
