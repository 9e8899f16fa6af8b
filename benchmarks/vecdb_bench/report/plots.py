"""Line plots as inline SVG: axes with round ticks, linear or logarithmic; colour and marker vary.

Colours are Okabe and Ito's, which are distinct for colour-blind readers; each series also has its
own marker. Text and axes use the page's colours, so that plots are legible in light and dark mode.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["COLOURS", "Axis", "Series", "key", "line_plot"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C", "#B8A800")
_WIDTH, _HEIGHT = 560, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 14, 14, 46
_TICKS = 6
_TICK_SPACE = 42
"""Least distance of labels on the x axis."""


@dataclass(frozen=True)
class Series:
    """Points of one target in drawing order; ``number`` determines colour and marker."""

    name: str
    number: int
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """An axis with its scale.

    Attributes:
        label: text beside the axis.
        kind: "linear", "log", or "nines" for shares near 1: 0.9, 0.99 and 0.999 are at equal
            distances, and 1 is drawn where 0.9999 is, since its position would be infinite.
    """

    label: str
    kind: str = "linear"

    def place(self, value: float) -> float:
        """Return the position of a value on the axis, without unit."""
        if self.kind == "log":
            return math.log10(max(value, 1e-12))
        if self.kind == "nines":
            return -math.log10(max(1.0 - value, 1e-4))
        return value

    def ticks(self, low: float, high: float) -> list[tuple[float, str]]:
        """Return positions and labels of the ticks between two positions."""
        if self.kind == "nines":
            shares = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995)
            texts = [(self.place(share), f"{share:g}") for share in shares]
            texts.append((4.0, "1"))
        elif self.kind == "log":
            texts = [
                (math.log10(factor * 10.0**power), _number(factor * 10.0**power))
                for power in range(math.floor(low) - 1, math.ceil(high) + 1)
                for factor in ((1, 2, 5) if high - low < 2.5 else (1,))
            ]
        else:
            step = _round_step((high - low) / _TICKS)
            first = math.ceil(low / step)
            texts = [
                (number * step, _number(number * step))
                for number in range(first, math.floor(high / step) + 1)
            ]
        return [(place, text) for place, text in texts if low - 1e-9 <= place <= high + 1e-9]


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step)) if step > 0 else 1.0
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)


def _number(value: float) -> str:
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{letter}"
    return f"{round(value, 9):g}"


def line_plot(title: str, x: Axis, y: Axis, series: Sequence[Series]) -> str:
    """Return a figure element with SVG and legend, or "" if no series has points.

    Args:
        title: text for screen readers.
        series: those without points are omitted.
    """
    series = [each for each in series if each.points]
    if not series:
        return ""
    xs = [x.place(point[0]) for each in series for point in each.points]
    ys = [y.place(point[1]) for each in series for point in each.points]
    x_low, x_high = _widened(xs)
    y_low, y_high = _widened(ys)
    if y.kind == "linear":
        y_low = min(0.0, y_low)

    def at(point: tuple[float, float]) -> tuple[float, float]:
        across = (x.place(point[0]) - x_low) / (x_high - x_low)
        up = (y.place(point[1]) - y_low) / (y_high - y_low)
        return (
            _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM),
        )

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">',
        *_axes(x, y, (x_low, x_high), (y_low, y_high)),
        *(part for each in series for part in _curve(each, [at(p) for p in each.points])),
        "</svg>",
    ]
    return "<figure>" + "".join(parts) + _legend(series) + "</figure>"


def _widened(places: Sequence[float]) -> tuple[float, float]:
    low, high = min(places), max(places)
    space = (high - low) * 0.05 or max(abs(high) * 0.1, 0.1)
    return low - space, high + space


def _axes(
    x: Axis, y: Axis, x_range: tuple[float, float], y_range: tuple[float, float]
) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    last = math.inf
    for place, text in reversed(x.ticks(*x_range)):
        across = _LEFT + (place - x_range[0]) / (x_range[1] - x_range[0]) * (right - _LEFT)
        if last - across < _TICK_SPACE:
            continue
        last = across
        parts.append(f'<path class="grid" d="M{across:.1f} {_TOP}V{bottom}"/>')
        parts.append(f'<text x="{across:.1f}" y="{bottom + 16}" text-anchor="middle">{text}</text>')
    for place, text in y.ticks(*y_range):
        up = bottom - (place - y_range[0]) / (y_range[1] - y_range[0]) * (bottom - _TOP)
        parts.append(f'<path class="grid" d="M{_LEFT} {up:.1f}H{right}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{up + 4:.1f}" text-anchor="end">{text}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>')
    middle = (_LEFT + right) / 2
    parts.append(
        f'<text class="label" x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">'
        f"{escape(x.label)}</text>"
    )
    middle = (_TOP + bottom) / 2
    parts.append(
        f'<text class="label" transform="translate(14 {middle}) rotate(-90)" '
        f'text-anchor="middle">{escape(y.label)}</text>'
    )
    return parts


def _colour(series: Series) -> str:
    return COLOURS[series.number % len(COLOURS)]


def _dash(series: Series) -> str:
    return ' stroke-dasharray="6 4"' if series.number >= len(COLOURS) else ""


def _curve(series: Series, places: Sequence[tuple[float, float]]) -> list[str]:
    colour, dash = _colour(series), _dash(series)
    line = " ".join(f"{across:.1f},{up:.1f}" for across, up in places)
    parts = [f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>']
    for (across, up), point in zip(places, series.points, strict=True):
        tooltip = f"{series.name}: {point[0]:.4g}, {point[1]:.4g}"
        parts.append(_marker(series.number, across, up, colour, tooltip))
    return parts


def _marker(number: int, across: float, up: float, colour: str, tooltip: str = "") -> str:
    shapes = (
        "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
        "M-3.5-3.5h7v7h-7z",
        "M0-5L4.6 3.5H-4.6z",
        "M0-5L5 0L0 5L-5 0z",
        "M0 5L4.6-3.5H-4.6z",
        "M-1.5-5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5z",
    )
    title = f"<title>{escape(tooltip)}</title>" if tooltip else ""
    return (
        f'<path transform="translate({across:.1f} {up:.1f})" d="{shapes[number % len(shapes)]}" '
        f'fill="{colour}">{title}</path>'
    )


def _legend(series: Sequence[Series]) -> str:
    entries = "".join(
        '<span><svg class="key" viewBox="-14 -7 28 14">'
        + key(each)
        + f"</svg>{escape(each.name)}</span>"
        for each in series
    )
    return f'<figcaption class="legend">{entries}</figcaption>'


def key(series: Series) -> str:
    """Return line and marker of a series for a legend, centred on the origin, 28 wide."""
    return (
        f'<path d="M-14 0H14" stroke-width="2" stroke="{_colour(series)}"{_dash(series)}/>'
        + _marker(series.number, 0, 0, _colour(series))
    )
