"""Charts as inline SVG that keeps its text at reading size at any width, without a line of script.

Numbers come in, `Markup` goes out. Places along x are percentages and places along y are pixels, so
a chart stretches with its column while text stays as it is; only lines and dots sit in an inner
viewBox, with strokes that do not scale. Colours are class names (`ko`, `en`, `before`, …) that
report.html styles for light, dark and print. Every value is in a `<title>`, shown on hover.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from markupsafe import Markup, escape

Point = tuple[float, float]
_Scale = Callable[[float], float]

COLUMNS = 90  # hover targets along a line chart
INNER = 1000.0  # side of the inner viewBox


@dataclass(frozen=True)
class Series:
    """One line of a chart (or a cloud of dots). `style` holds class names."""

    name: str
    points: Sequence[Point]
    style: str
    dots: bool = False


@dataclass(frozen=True)
class Band:
    """A marked stretch of the x axis: a training phase."""

    name: str
    first: float
    last: float


@dataclass(frozen=True)
class Part:
    """One bar, or one piece of a stacked bar."""

    value: float
    style: str
    title: str
    said: str = ""


@dataclass(frozen=True)
class Row:
    """A line of a bar chart: label on the left, a note on the right, bars beneath."""

    label: str
    parts: Sequence[Part]
    note: str = ""


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    bands: Sequence[Band] = (),
    height: int = 240,
    y_range: Point | None = None,
    zero: bool = False,
) -> Markup:
    """Lines and dots over a shared x axis.

    `y_range` sets the y axis where two charts are to be compared; `zero` starts it at 0. Points that
    are not finite have to be left out by the caller. Empty where there is no point.
    """
    drawn = [one for one in series if one.points]
    if not drawn:
        return Markup("")
    xs = [x for one in drawn for x, _ in one.points]
    low_x, high_x = min(xs), max(xs)
    if high_x == low_x:
        low_x, high_x = low_x - 0.5, high_x + 0.5
    ys = [y for one in drawn for _, y in one.points]
    bottom, top = y_range or (min(ys), max(ys))
    y_ticks = ticks(0.0 if zero else bottom, top, 5)
    low_y, high_y = y_ticks[0], y_ticks[-1]

    def across(x: float) -> float:
        return 100 * (min(max(x, low_x), high_x) - low_x) / (high_x - low_x)

    def down(y: float) -> float:
        return height * (high_y - y) / (high_y - low_y)

    out = [_open(f"{y_label}, by {x_label}", height)]
    for index, band in enumerate(bands):
        left, right = across(band.first), across(band.last)
        out.append(
            f'<rect class="band b{index % 2}" x="{left:.2f}%" y="0" width="{max(right - left, 0.2):.2f}%"'
            f' height="{height}"/><text class="mark" x="{left:.2f}%" dx="4" y="12">{index + 1}</text>'
        )
    out.append(_grid_y(y_ticks, down))
    x_ticks = [tick for tick in ticks(low_x, high_x, 4) if low_x <= tick <= high_x]
    out += (
        f'<text class="tick" x="{across(tick):.2f}%" y="{height + 18}" text-anchor="middle">'
        f"{said(tick)}</text>"
        for tick in x_ticks
    )
    out.append(_axis_labels(x_label, y_label, height))
    out.append(
        f'<svg class="lines" width="100%" height="{height}" viewBox="0 0 {INNER:.0f} {INNER:.0f}"'
        ' preserveAspectRatio="none" aria-hidden="true">'
    )
    for one in drawn:
        places = [(across(x) * INNER / 100, down(y) * INNER / height) for x, y in one.points]
        if one.dots or len(places) == 1:
            path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in places)
            out.append(f'<path class="dots {escape(one.style)}" d="{path}"/>')
        else:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            out.append(f'<path class="line {escape(one.style)}" d="M{path}"/>')
    out.append("</svg>")
    out += _hover(drawn, x_label, across, height)
    out.append("</svg>")
    return Markup("".join(out))


def column_chart(
    columns: Sequence[tuple[str, float]],
    *,
    x_label: str,
    y_label: str,
    behind: Sequence[float] = (),
    height: int = 180,
) -> Markup:
    """Upright columns in the order given; labels are thinned where there are many.

    `behind`: a paler, wider column behind each, to compare with ("before").
    """
    if not columns:
        return Markup("")
    y_ticks = ticks(0.0, max(1.0, *(value for _, value in columns), *behind), 4)
    wide = 100 / len(columns)
    every = math.ceil(len(columns) / 8)

    def down(y: float) -> float:
        return height * (1 - y / y_ticks[-1])

    out = [_open(f"{y_label}, by {x_label}", height), _grid_y(y_ticks, down)]
    for index, (label, value) in enumerate(columns):
        place = down(value)
        told = f"{value:,.0f}"
        inset = 0.1
        if behind:
            told = f"{behind[index]:,.0f} before, {told} after"
            top = down(behind[index])
            out.append(
                f'<rect class="bar before" x="{(index + 0.06) * wide:.2f}%" y="{top:.1f}"'
                f' width="{0.88 * wide:.2f}%" height="{height - top:.1f}">'
                f"<title>{escape(label)}: {told}</title></rect>"
            )
            inset = 0.24
        out.append(
            f'<rect class="bar after" x="{(index + inset) * wide:.2f}%" y="{place:.1f}"'
            f' width="{(1 - 2 * inset) * wide:.2f}%" height="{height - place:.1f}">'
            f"<title>{escape(label)}: {told}</title></rect>"
        )
        if index % every == 0:
            out.append(
                f'<text class="tick" x="{(index + 0.5) * wide:.2f}%" y="{height + 18}"'
                f' text-anchor="middle">{escape(label)}</text>'
            )
    out += [_axis_labels(x_label, y_label, height), "</svg>"]
    return Markup("".join(out))


def bar_chart(rows: Sequence[Row], *, x_label: str, stacked: bool = False) -> Markup:
    """Lying bars from zero; `stacked` puts a row's parts end to end instead of one below the other."""
    if not rows:
        return Markup("")
    sizes = [
        sum(part.value for part in row.parts)
        if stacked
        else max((part.value for part in row.parts), default=0.0)
        for row in rows
    ]
    largest = max(*sizes, 1e-9)
    room = 100.0 if stacked else 86.0  # a lying bar's figure stands behind its end
    thick, out, y = (16 if stacked else 13), [], 14.0
    for row in rows:
        label = row.label if len(row.label) <= 30 else row.label[:29] + "…"
        out.append(f'<text class="name" x="0" y="{y:.0f}">{escape(label)}</text>')
        if row.note:
            out.append(
                f'<text class="note" x="100%" y="{y:.0f}" text-anchor="end">{escape(row.note)}</text>'
            )
        y += 7
        if stacked:
            out.append(f'<rect class="track" x="0" y="{y:.0f}" width="100%" height="{thick}"/>')
        left = 0.0
        for part in row.parts:
            width = room * part.value / largest
            out.append(
                f'<rect class="bar {escape(part.style)}" x="{left:.3f}%" y="{y:.0f}"'
                f' width="{width:.3f}%" height="{thick}"><title>{escape(part.title)}</title></rect>'
            )
            if stacked:
                left += width
            else:
                out.append(
                    f'<text class="tick" x="{width:.2f}%" dx="6" y="{y + thick - 2.5:.1f}">'
                    f"{escape(part.said)}</text>"
                )
                y += thick + 2
        y += (thick if stacked else 0) + 26
    out.append(
        f'<text class="axis" x="100%" y="{y - 8:.0f}" text-anchor="end">{escape(x_label)}</text>'
    )
    return Markup(_open(x_label, round(y), "bars") + "".join(out) + "</svg>")


def share_bar(share: float, title: str) -> Markup:
    """A bar for a table cell; `share` of its width is filled."""
    return Markup(
        '<svg class="share" width="100%" height="8" role="img" aria-label="{0}"><rect class="track"'
        ' width="100%" height="8"/><rect class="bar after" width="{1}%" height="8"/>'
        "<title>{0}</title></svg>"
    ).format(title, f"{100 * min(max(share, 0.0), 1.0):.2f}")


# ── data before drawing ─────────────────────────────────────────────────────────────────────────


def thin(points: Sequence[Point], most: int) -> list[Point]:
    """At most about `most` points: the lowest and the highest of each stretch, so spikes stay."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(2 * len(points) / most)
    kept: list[Point] = []
    for at in range(0, len(points), size):
        stretch = points[at : at + size]
        low, high = min(stretch, key=_height), max(stretch, key=_height)
        kept += [low] if low == high else sorted((low, high))
    return kept


def scatter(points: Sequence[Point], most: int) -> list[Point]:
    """About `most` points for dots: one of each stretch, and its highest where that stands out.

    Lowest and highest alone (`thin`) would draw two tracks with nothing between them.
    """
    size = math.ceil(len(points) / most)
    if size <= 1:
        return list(points)
    stretches = [points[at : at + size] for at in range(0, len(points), size)]
    tops = [max(stretch, key=_height) for stretch in stretches]
    ranges = sorted(
        top[1] - min(stretch, key=_height)[1] for top, stretch in zip(tops, stretches, strict=True)
    )
    usual, kept = ranges[len(ranges) // 2], []
    for top, stretch in zip(tops, stretches, strict=True):
        middle = stretch[len(stretch) // 2]
        stands_out = top[1] - middle[1] > 2 * usual
        kept += sorted((middle, top)) if stands_out else [middle]
    return kept


def smooth(points: Sequence[Point], span: int) -> list[Point]:
    """The mean over `span` points around each one, over fewer (at least a quarter) at the ends.

    A moving average that looks back lags behind a falling loss; the whole run is known here.
    """
    sums = [0.0, *accumulate(y for _, y in points)]
    last, half, out = len(points) - 1, span // 2, []
    for index, (x, _) in enumerate(points):
        reach = min(half, max(min(index, last - index), half // 4))
        start, end = max(0, index - reach), min(last, index + reach) + 1
        out.append((x, (sums[end] - sums[start]) / (end - start)))
    return out


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers that enclose low…high, about `count` steps of 1, 2, 2.5 or 5 × 10ⁿ."""
    if high <= low:
        pad = abs(low) * 0.05 or 0.5
        low, high = low - pad, high + pad
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * size for size in (1, 2, 2.5, 5, 10) if power * size >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def said(value: float) -> str:
    """A figure for an axis or a tooltip: 1200 → "1,200", 0.00002 → "2e-5"."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.4g} M"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 0.01:
        return f"{value:.4g}"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


# ── pieces of a drawing ─────────────────────────────────────────────────────────────────────────


def _open(label: str, height: int, style: str = "plot") -> str:
    return f'<svg class="{style}" width="100%" height="{height}" role="img" aria-label="{escape(label)}">'


def _grid_y(values: Iterable[float], down: _Scale) -> str:
    return "".join(
        f'<line class="grid" x1="0" x2="100%" y1="{down(value):.1f}" y2="{down(value):.1f}"/>'
        f'<text class="tick" x="-8" y="{down(value):.1f}" dy=".34em" text-anchor="end">'
        f"{said(value)}</text>"
        for value in values
    )


def _axis_labels(x_label: str, y_label: str, height: int) -> str:
    return (
        f'<text class="axis" x="-46" y="-12">{escape(y_label)}</text>'
        f'<text class="axis" x="100%" y="{height + 34}" text-anchor="end">{escape(x_label)}</text>'
    )


def _hover(drawn: Sequence[Series], x_label: str, across: _Scale, height: int) -> list[str]:
    """Unseen columns over the plot; each tells the values of every line at its place."""
    xs = sorted({x for one in drawn for x, _ in one.points})
    if len(xs) > COLUMNS:
        xs = [xs[round(index * (len(xs) - 1) / (COLUMNS - 1))] for index in range(COLUMNS)]
    edges = [xs[0], *((a + b) / 2 for a, b in pairwise(xs)), xs[-1]]
    places = [[x for x, _ in one.points] for one in drawn]
    out = []
    for index, x in enumerate(xs):
        lines = [f"{x_label} {said(x)}"]
        for one, place in zip(drawn, places, strict=True):
            start, end = bisect_left(place, edges[index]), bisect_right(place, edges[index + 1])
            if start < end:
                nearest = min(one.points[start:end], key=lambda point: abs(point[0] - x))
                lines.append(f"{one.name} {said(nearest[1])}")
        left, right = across(edges[index]), across(edges[index + 1])
        out.append(
            f'<rect class="hover" x="{left:.2f}%" y="0" width="{max(right - left, 0.5):.2f}%"'
            f' height="{height}"><title>{escape(chr(10).join(lines))}</title></rect>'
        )
    return out


def _height(point: Point) -> float:
    return point[1]
