"""Small line charts, scatters, histograms and dot plots as inline SVG.

Colours come from the page's style sheet (`.c0` to `.c7` set `--c`), so that a chart follows the light or dark scheme.
Charts are drawn narrow, so that one fills a phone's width at its own size and several stand side by side on a desktop.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

COLOURS = 8  # of the style sheet; beyond them lines are dashed
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 10, 40

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """Attributes:
    low, high: the range shown.
    log: decades are evenly spaced; both ends must be above 0.
    """

    label: str
    low: float
    high: float
    log: bool = False
    scale: float = 1.0

    def at(self, value: float) -> float:
        """Where a value stands, 0 at `low` to 1 at `high`; clipped a little beyond both."""
        if self.log:
            place = math.log(max(value, 1e-300) / self.low) / math.log(self.high / self.low)
        else:
            place = (value - self.low) / (self.high - self.low)
        return min(max(place, -0.05), 1.05)

    def ticks(self, most: int = 5) -> list[float]:
        if self.log:
            return _log_ticks(self.low, self.high, most)
        return [tick / self.scale for tick in _even_ticks(self.low * self.scale, self.high * self.scale, most)]

    def tick_text(self, value: float) -> str:
        value *= self.scale
        for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= size:
                return f"{value / size:.3g}{prefix}"
        return f"{value:.4g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.0e}"


def fitting_axis(label: str, values: Iterable[float], *, log: bool = False, zero: bool = False) -> Axis:
    """An axis that holds all the values, with a margin."""
    known = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    if not known:
        return Axis(label, 1 if log else 0, 10 if log else 1, log)
    low, high = min(known), max(known)
    if log:
        margin = max((high / low) ** 0.08, 1.15)
        return Axis(label, low / margin, high * margin, True)
    margin = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return Axis(label, 0.0 if zero and low >= 0 else low - margin, high + margin)


def _even_ticks(low: float, high: float, most: int) -> list[float]:
    raw = (high - low) / max(most, 1)
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= raw * 0.75)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for mantissas in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**e for e in exponents for m in mantissas if low <= m * 10.0**e <= high]
        if len(ticks) <= most + 1:
            return ticks if len(ticks) > 1 else _even_ticks(low, high, most)
    every = math.ceil(len(ticks) / most)
    return ticks[::every]


@dataclass(frozen=True)
class Series:
    """Attributes:
    points: (x, y); a NaN breaks the line.
    colour: index of a variant.
    band: (x, low, high) around the line.
    group: a CSS class that the legend switches on and off.
    """

    name: str
    points: Sequence[Point]
    colour: int
    band: Sequence[tuple[float, float, float]] = ()
    markers: bool = False
    group: str = ""


@dataclass(frozen=True)
class Mark:
    """A dot of a scatter. `low` and `high` draw a whisker along y."""

    name: str
    x: float
    y: float
    colour: int
    hint: str = ""
    low: float | None = None
    high: float | None = None
    hollow: bool = False
    group: str = ""


@dataclass(frozen=True)
class DotRow:
    """A row of a dot plot: one dot a seed, a bar at the mean, a hollow diamond for the paper's number."""

    name: str
    colour: int
    values: Sequence[float]
    mean: float | None
    paper: float | None = None
    group: str = field(default="")


class _Frame:
    """The plotting area of one chart, and the frame's own lines and words."""

    def __init__(self, x: Axis, y: Axis, width: int, height: int) -> None:
        self.x, self.y, self.width, self.height = x, y, width, height
        self.inner_width, self.inner_height = width - _LEFT - _RIGHT, height - _TOP - _BOTTOM

    def left(self, value: float) -> float:
        return _LEFT + self.inner_width * self.x.at(value)

    def top(self, value: float) -> float:
        return _TOP + self.inner_height * (1 - self.y.at(value))

    def axes(self) -> str:
        bottom, parts = _TOP + self.inner_height, []
        for tick in self.y.ticks(4):
            y = self.top(tick)
            parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}h{self.inner_width}"/>')
            parts.append(_text(_LEFT - 6, y + 3.5, self.y.tick_text(tick), "end"))
        for tick in self.x.ticks(5):
            x = self.left(tick)
            parts.append(f'<path class="tick" d="M{x:.1f} {bottom}v4"/>')
            parts.append(_text(x, bottom + 15, self.x.tick_text(tick), "middle"))
        parts.append(f'<path class="axis" d="M{_LEFT} {bottom}h{self.inner_width}"/>')
        parts.append(_text(_LEFT + self.inner_width / 2, self.height - 6, self.x.label, "middle", "label"))
        if self.y.label:
            x, y = 10, _TOP + self.inner_height / 2
            parts.append(
                f'<text class="label" text-anchor="middle" transform="translate({x} {y:.1f}) rotate(-90)">'
                f"{escape(self.y.label)}</text>"
            )
        return "".join(parts)

    def wrap(self, title: str, content: str) -> str:
        clip = f'<svg x="{_LEFT}" y="{_TOP - 4}" width="{self.inner_width + 4}" height="{self.inner_height + 6}"'
        inside = f'{clip} viewBox="{_LEFT} {_TOP - 4} {self.inner_width + 4} {self.inner_height + 6}">{content}</svg>'
        return _svg(title, self.width, self.height, self.axes() + inside)


def line_chart(series: Sequence[Series], x: Axis, y: Axis, title: str, width: int = 340, height: int = 220) -> str:
    frame = _Frame(x, y, width, height)
    return frame.wrap(title, "".join(_line(frame, one) for one in series))


def _line(frame: _Frame, one: Series) -> str:
    parts = []
    if one.band:
        upper = [f"{frame.left(x):.1f} {frame.top(high):.1f}" for x, _, high in one.band]
        lower = [f"{frame.left(x):.1f} {frame.top(low):.1f}" for x, low, _ in reversed(one.band)]
        parts.append(f'<path class="band" d="M{"L".join(upper + lower)}Z"/>')
    path, pen_down = [], False
    for x, y in one.points:
        if not (math.isfinite(x) and math.isfinite(y)):
            pen_down = False
            continue
        path.append(f"{'L' if pen_down else 'M'}{frame.left(x):.1f} {frame.top(y):.1f}")
        pen_down = True
    parts.append(f'<path class="line" d="{"".join(path)}"/>')
    if one.markers:
        parts += [
            f'<circle class="dot" r="3" cx="{frame.left(x):.1f}" cy="{frame.top(y):.1f}">'
            f"<title>{escape(one.name)}: {x:g}, {y:.4g}</title></circle>"
            for x, y in one.points
        ]
    return f'<g class="{_colour_class(one.colour)} {escape(one.group)}">{"".join(parts)}</g>'


def scatter_chart(marks: Sequence[Mark], x: Axis, y: Axis, title: str, width: int = 340, height: int = 240) -> str:
    """Dots with their names beside them, moved apart where they would lie on one another."""
    frame = _Frame(x, y, width, height)
    taken: list[tuple[float, float, float, float]] = [
        (frame.left(m.x) - 6, frame.top(m.y) - 6, frame.left(m.x) + 6, frame.top(m.y) + 6) for m in marks
    ]
    parts = []
    for mark in sorted(marks, key=lambda m: (m.hollow, m.x)):
        left, top = frame.left(mark.x), frame.top(mark.y)
        shapes = ""
        if mark.low is not None and mark.high is not None:
            shapes += f'<path class="whisker" d="M{left:.1f} {frame.top(mark.low):.1f}V{frame.top(mark.high):.1f}"/>'
        if mark.hollow:
            shapes += _diamond(left, top)
        else:
            shapes += f'<circle class="dot" r="4.5" cx="{left:.1f}" cy="{top:.1f}"/>'
        hint = f"<title>{escape(mark.hint or mark.name)}</title>"
        label = _placed_label(mark.name, left, top, frame, taken) if mark.name else ""
        parts.append(f'<g class="{_colour_class(mark.colour)} {escape(mark.group)}">{hint}{shapes}{label}</g>')
    return frame.wrap(title, "".join(parts))


def _placed_label(
    name: str, left: float, top: float, frame: _Frame, taken: list[tuple[float, float, float, float]]
) -> str:
    text = name if len(name) <= 34 else name[:33] + "…"
    width, height = 5.7 * len(text), 12
    right_edge, bottom_edge = frame.width - _RIGHT, _TOP + frame.inner_height
    places = []
    for lift in (0, -13, 13, -26, 26, -39, 39):
        places += [(left + 9, top + lift - 6), (left - 9 - width, top + lift - 6)]
    for x, y in places:
        box = (x, y, x + width, y + height)
        inside = x >= _LEFT and box[2] <= right_edge and y >= _TOP - 4 and box[3] <= bottom_edge
        if inside and not any(_overlap(box, other) for other in taken):
            taken.append(box)
            return _text(x, y + 9.5, text, "start", "name")
    return ""  # the dot keeps its hint and its colour


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def dot_plot(rows: Sequence[DotRow], x: Axis, title: str, width: int = 340) -> str:
    """Each row's name stands above its dots, so that long names fit on a phone."""
    row_height, top, side = 40, 4, 12
    height = top + row_height * len(rows) + 38
    inner = width - 2 * side

    def left(value: float) -> float:
        return side + inner * x.at(value)

    bottom, parts = top + row_height * len(rows), []
    for tick in x.ticks(5):
        parts.append(f'<path class="grid" d="M{left(tick):.1f} {top}V{bottom}"/>')
        parts.append(_text(left(tick), bottom + 14, x.tick_text(tick), "middle"))
    parts.append(_text(width / 2, height - 5, x.label, "middle", "label"))
    for index, row in enumerate(rows):
        base = top + row_height * index
        y = base + 27
        shapes = [_text(side, base + 13, row.name, "start", "name"), f'<path class="row" d="M{side} {y}h{inner}"/>']
        shapes += [
            f'<circle class="dot soft" r="4" cx="{left(v):.1f}" cy="{y}"><title>{100 * v:.1f}</title></circle>'
            for v in row.values
        ]
        if row.mean is not None:
            shapes.append(f'<path class="mean" d="M{left(row.mean):.1f} {y - 8}v16"/>')
        if row.paper is not None:
            shapes.append(_diamond(left(row.paper), y, f"paper: {100 * row.paper:.1f}"))
        parts.append(f'<g class="{_colour_class(row.colour)} {escape(row.group)}">{"".join(shapes)}</g>')
    return _svg(title, width, height, "".join(parts))


def histogram_chart(
    edges: Sequence[float],
    shares: Sequence[tuple[str, int, Sequence[float]]],
    x_label: str,
    title: str,
    groups: Sequence[str] = (),
    width: int = 340,
    height: int = 220,
) -> str:
    """Outlined steps of each (name, colour, shares), laid over one another."""
    highest = max((max(values) for _, _, values in shares if values), default=1.0) or 1.0
    frame = _Frame(Axis(x_label, edges[0], edges[-1]), Axis("share", 0.0, highest * 1.05), width, height)
    parts = []
    for index, (name, colour, values) in enumerate(shares):
        path = f"M{frame.left(edges[0]):.1f} {frame.top(0):.1f}"
        for low, high, value in zip(edges, edges[1:], values):
            path += f"L{frame.left(low):.1f} {frame.top(value):.1f}H{frame.left(high):.1f}"
        path += f"V{frame.top(0):.1f}"
        group = escape(groups[index]) if groups else ""
        hint = f"<title>{escape(name)}</title>"
        parts.append(f'<g class="{_colour_class(colour)} {group}">{hint}<path class="step" d="{path}"/></g>')
    return frame.wrap(title, "".join(parts))


def _colour_class(colour: int) -> str:
    return f"c{colour % COLOURS}" + (" dashed" if colour >= COLOURS else "")


def _diamond(x: float, y: float, hint: str = "") -> str:
    title = f"<title>{escape(hint)}</title>" if hint else ""
    return f'<path class="paper" d="M{x:.1f} {y - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5 -5.5Z">{title}</path>'


def _text(x: float, y: float, text: str, anchor: str, css: str = "") -> str:
    css_class = f' class="{css}"' if css else ""
    return f'<text{css_class} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(title: str, width: int, height: int, content: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title, quote=True)}">'
        f"{content}</svg>"
    )
