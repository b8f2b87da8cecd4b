"""Drawings as SVG text: pure functions, colours by CSS variable, every text escaped.

A colour is the name of a CSS variable without its dashes ("arm-2"), so that a drawing follows the
page into dark mode and print. Sizes are in pixels of the view box; the page scales them down.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tabom.report.scale import Scale, extent, nice_ticks, place_labels, spread, tick_labels

LINE_GAP = 15.0  # between two labels, px
CHAR = 6.9  # mean width of a character at 12 px, px


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line: x and y of equal length, None = gap; `low`/`high` make a band around it."""

    label: str
    colour: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    dash: str = ""


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One arm in a plot of points; intervals may be absent. `seeds`: values of single seeds."""

    label: str
    colour: str
    x: float
    x_low: float | None = None
    x_high: float | None = None
    y: float = 0.0
    y_low: float | None = None
    y_high: float | None = None
    seeds: Sequence[float] = ()
    note: str = ""
    is_base: bool = False


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What an axis says and must show.

    include: values that must lie on it. limits: what it may not leave, such as 0 and 100 percent.
    """

    label: str
    include: tuple[float, ...] = ()
    limits: tuple[float, float] | None = None

    def scale(
        self, values: Sequence[float | None], start: float, end: float, *, pad: float = 0.05
    ) -> Scale:
        """From data to pixels between start and end."""
        found = extent(values, pad=pad, include=self.include, limits=self.limits)
        return Scale(*found, start, end)


def line_chart(
    series: Sequence[Series],
    *,
    x: Axis,
    y: Axis,
    size: tuple[int, int] = (520, 320),
    is_labelled: bool = True,
    level: float | None = None,
) -> str:
    """Lines with optional bands; their names stand at the line ends, moved apart where needed.

    level: a value at which a reference line is drawn. Returns: "" if there is no line.
    """
    if not series:
        return ""
    (width, height), names = size, [line.label for line in series]
    room = 32 + CHAR * max(map(len, names)) if is_labelled else 12
    right = min(room, width * 0.4)
    box = _Box(width=width, height=height, left=44, right=right, top=30, bottom=40)
    xs = [value for line in series for value in line.x]
    ys = [value for line in series for part in (line.y, line.low, line.high) for value in part]
    # A single step stands between its neighbours; there is none before the first.
    one = [max(0.0, xs[0] - 1), xs[0] + 1] if len(set(xs)) == 1 else []
    across = x.scale([*xs, *one], box.x0, box.x1, pad=0.0)
    up = y.scale(ys if level is None else [*ys, level], box.y1, box.y0)
    parts = [_axes(box, across, up, labels=(x.label, y.label), is_whole=_is_whole(xs))]
    if level is not None:
        parts.append(_rule(box.x0, up(level), box.x1, up(level), "reference"))
    parts += [_band(line, across, up) for line in series]
    ends = []
    for line in series:
        points = [
            None if b is None else (across(a), up(b)) for a, b in zip(line.x, line.y, strict=True)
        ]
        parts.append(_path(points, line))
        last = [point for point in points if point is not None]
        if last:
            ends.append((line, last[-1]))
    if is_labelled:
        wanted = [point[1] for _, point in ends]
        placed = spread(wanted, gap=LINE_GAP, low=box.y0, high=box.y1)
        for (line, (end_x, end_y)), at in zip(ends, placed, strict=True):
            parts.append(
                f'<path d="M{end_x + 2:g},{end_y:g}L{box.x1 + 16:g},{at:g}H{box.x1 + 22:g}" '
                f'fill="none" style="stroke:var(--{line.colour})" stroke-width="1"/>'
            )
            parts.append(_text(box.x1 + 25, at + 4, _cut(line.label, right - 27), "label"))
    return _svg(width, height, f"{y.label} against {x.label}: {', '.join(names)}", parts)


def _is_whole(xs: Sequence[float]) -> bool:
    return all(float(value).is_integer() for value in xs)


def small_multiples(panels: Sequence[tuple[Axis, Sequence[Series]]], *, x: Axis) -> str:
    """Unlabelled line charts, one per (y axis, series), in an element whose grid the page decides.

    Not one big drawing: that would shrink its text on a narrow page. The page has the legend.
    """
    drawn = [
        line_chart(series, x=x, y=axis, size=(340, 230), is_labelled=False)
        for axis, series in panels
    ]
    return f'<div class="multiples">{"".join(drawn)}</div>'


def scatter(dots: Sequence[Dot], *, x: Axis, y: Axis, size: tuple[int, int] = (520, 372)) -> str:
    """Points with intervals in both axes; dashed lines mark the base's level."""
    width, height = size
    box = _Box(width=width, height=height, left=44, right=56, top=30, bottom=40)
    across = x.scale([v for d in dots for v in (d.x, d.x_low, d.x_high)], box.x0, box.x1, pad=0.08)
    up = y.scale([v for d in dots for v in (d.y, d.y_low, d.y_high)], box.y1, box.y0, pad=0.08)
    parts = [_axes(box, across, up, labels=(x.label, y.label))]
    for dot in dots:
        if dot.is_base:
            parts.append(_rule(across(dot.x), box.y0, across(dot.x), box.y1, "reference"))
            parts.append(_rule(box.x0, up(dot.y), box.x1, up(dot.y), "reference"))
    for dot in dots:
        at_x, at_y = across(dot.x), up(dot.y)
        if dot.x_low is not None and dot.x_high is not None:
            ends = across(dot.x_low), across(dot.x_high)
            parts.append(_rule(ends[0], at_y, ends[1], at_y, "bar", dot.colour))
        if dot.y_low is not None and dot.y_high is not None:
            parts.append(_rule(at_x, up(dot.y_low), at_x, up(dot.y_high), "bar", dot.colour))
    points = [(across(dot.x), up(dot.y)) for dot in dots]
    names = [_cut(dot.label, width / 3) for dot in dots]
    boxes = place_labels(
        points,
        [CHAR * len(name) for name in names],
        inside=(box.x0, box.y0, width, box.y1),
        obstacles=[_cross(dot, across, up) for dot in dots],
    )
    for dot, name, (at_x, at_y), (left, top, end, bottom) in zip(
        dots, names, points, boxes, strict=True
    ):
        # From the point to the nearest spot of its label.
        to_x, to_y = min(max(at_x, left), end), min(max(at_y, top + 3), bottom - 3)
        parts.append(_rule(at_x, at_y, to_x, to_y, "leader", dot.colour))
        parts.append(_text(left, bottom - 3, name, "label halo"))
    for dot, (at_x, at_y) in zip(dots, points, strict=True):
        parts.append(_circle(at_x, at_y, 5, dot.colour, dot.note or dot.label))
    label = f"{y.label} against {x.label}: {', '.join(dot.label for dot in dots)}"
    return _svg(width, height, label, parts)


def dot_plot(dots: Sequence[Dot], *, x: Axis, width: int = 520, row: int = 40) -> str:
    """One row an arm, in the given order: the mean, its interval, and single seeds as rings."""
    height = 30 + row * len(dots) + 40
    left = min(14 + CHAR * max((len(dot.label) for dot in dots), default=0), width / 3)
    box = _Box(width=width, height=height, left=left, right=58, top=12, bottom=40)
    values = [v for d in dots for v in (d.x, d.x_low, d.x_high, *d.seeds)]
    across = x.scale(values, box.x0, box.x1)
    parts = [_axes(box, across, None, labels=(x.label, ""))]
    for dot in dots:
        if dot.is_base:
            parts.append(_rule(across(dot.x), box.y0, across(dot.x), box.y1, "reference"))
    for index, dot in enumerate(dots):
        at = box.y0 + row * (index + 0.5)
        parts.append(_text(box.x0 - 12, at + 4, _cut(dot.label, left - 12), "label", "end"))
        if dot.x_low is not None and dot.x_high is not None:
            ends = across(dot.x_low), across(dot.x_high)
            parts.append(_rule(ends[0], at, ends[1], at, "interval", dot.colour))
        for value in dot.seeds:
            parts.append(
                f'<circle cx="{across(value):g}" cy="{at + 9:g}" r="2.2" class="seed" '
                f'style="stroke:var(--{dot.colour})"/>'
            )
        parts.append(_circle(across(dot.x), at, 5, dot.colour, dot.note or dot.label))
        parts.append(_text(width - 4, at + 4, dot.note, "value", "end"))
    names = ", ".join(f"{dot.label} {dot.note}" for dot in dots)
    return _svg(width, height, f"{x.label}: {names}", parts)


def interval_bar(dot: Dot, *, extent: tuple[float, float], base: float | None) -> str:
    """A drawing for a table cell: a dot in its interval, a tick at the base's value."""
    width, height = 116, 14
    x, at = Scale(*extent, 4, width - 4), height / 2
    parts = [_rule(0, at, width, at, "track")]
    if base is not None:
        parts.append(_rule(x(base), 1, x(base), height - 1, "reference"))
    if dot.x_low is not None and dot.x_high is not None:
        parts.append(_rule(x(dot.x_low), at, x(dot.x_high), at, "interval thin", dot.colour))
    parts.append(_circle(x(dot.x), at, 3.4, dot.colour, ""))
    return _svg(width, height, "", parts)


def stacked_bar(
    rows: Sequence[tuple[str, Sequence[tuple[str, str, float]]]], *, width: int = 760, row: int = 34
) -> str:
    """One bar a row of (label, [(part, colour, count)]), all rows on one scale from zero."""
    left = 14 + CHAR * max((len(label) for label, _ in rows), default=0)
    most = max((sum(part[2] for part in parts) for _, parts in rows), default=0) or 1
    x = Scale(0, most, left, width - 64)
    drawn = []
    for index, (label, pieces) in enumerate(rows):
        top, done = index * row + 4, 0.0
        drawn.append(_text(left - 12, top + row / 2 + 1, label, "label", "end"))
        for name, colour, size in pieces:
            start, end = x(done), x(done + size)
            done += size
            if size <= 0:
                continue
            drawn.append(
                f'<rect x="{start:g}" y="{top:g}" width="{max(end - start - 1.5, 0.5):g}" '
                f'height="{row - 10}" rx="2" style="fill:var(--{colour})">'
                f"<title>{escape(name)}: {size:,.0f}</title></rect>"
            )
            share = f"{100 * size / most:.0f}%" if len(rows) == 1 else f"{size:,.0f}"
            if end - start > CHAR * len(share) + 10:
                style = f'style="fill:var(--{colour}-ink)"'
                drawn.append(
                    f'<text x="{start + 7:g}" y="{top + row / 2 + 0.5:g}" class="value" {style}>'
                    f"{share}</text>"
                )
        drawn.append(_text(x(done) + 8, top + row / 2 + 1, f"{done:,.0f}", "value"))
    names = "; ".join(
        f"{label}: " + ", ".join(f"{p[0]} {p[2]:,.0f}" for p in ps) for label, ps in rows
    )
    return _svg(width, row * len(rows) + 4, names, drawn)


def _cross(dot: Dot, x: Scale, y: Scale) -> tuple[float, float, float, float]:
    """The area of a point's horizontal interval; the upright one is left free for labels."""
    low = dot.x if dot.x_low is None else dot.x_low
    high = dot.x if dot.x_high is None else dot.x_high
    return x(low), y(dot.y) - 2, x(high), y(dot.y) + 2


class _Box:
    """The plotting area inside the margins."""

    def __init__(
        self, *, width: float, height: float, left: float, right: float, top: float, bottom: float
    ) -> None:
        self.x0, self.x1 = left, width - right
        self.y0, self.y1 = top, height - bottom


def _svg(width: float, height: float, label: str, parts: Sequence[str]) -> str:
    role = f'role="img" aria-label="{escape(label)}"' if label else 'aria-hidden="true"'
    return (
        f'<svg class="drawing" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" {role}>{"".join(parts)}</svg>'
    )


def _axes(
    box: _Box, x: Scale, y: Scale | None, *, labels: tuple[str, str], is_whole: bool = False
) -> str:
    parts = []
    x_ticks = nice_ticks(x.low, x.high, count=max(2, int((box.x1 - box.x0) / 70)))
    if is_whole:  # there is no step 2.5
        x_ticks = [tick for tick in x_ticks if tick.is_integer()] or [round(x.low)]
    for tick, text in zip(x_ticks, tick_labels(x_ticks), strict=True):
        if y is None:
            parts.append(_rule(x(tick), box.y0, x(tick), box.y1, "grid"))
        parts.append(_text(x(tick), box.y1 + 17, text, "tick", "middle"))
    if y is not None:
        y_ticks = nice_ticks(y.low, y.high, count=max(2, int((box.y1 - box.y0) / 45)))
        for tick, text in zip(y_ticks, tick_labels(y_ticks), strict=True):
            parts.append(_rule(box.x0, y(tick), box.x1, y(tick), "grid"))
            parts.append(_text(box.x0 - 8, y(tick) + 4, text, "tick", "end"))
        # Above the axis and level, where it is read without tilting the head.
        parts.append(_text(0, 14, labels[1], "axis"))
    parts.append(_rule(box.x0, box.y1, box.x1, box.y1, "frame"))
    parts.append(_text((box.x0 + box.x1) / 2, box.y1 + 35, labels[0], "axis", "middle"))
    return "".join(parts)


def _band(line: Series, x: Scale, y: Scale) -> str:
    rows = list(zip(line.x, line.low, line.high, strict=False))
    kept = [(x(a), y(b), y(c)) for a, b, c in rows if b is not None and c is not None]
    if len(kept) < 2:
        return ""
    forth = [f"{a:g},{c:g}" for a, _, c in kept]
    back = [f"{a:g},{b:g}" for a, b, _ in reversed(kept)]
    return f'<path d="M{"L".join(forth + back)}Z" class="band" style="fill:var(--{line.colour})"/>'


def _path(points: Sequence[tuple[float, float] | None], line: Series) -> str:
    runs: list[list[str]] = [[]]
    for point in points:
        if point is None:
            runs.append([])
        else:
            runs[-1].append(f"{point[0]:g},{point[1]:g}")
    # A point without neighbours is a line of no length, which its round ends make a dot.
    drawn = "".join(f"M{'L'.join(run * 2 if len(run) == 1 else run)}" for run in runs if run)
    dash = f' stroke-dasharray="{escape(line.dash)}"' if line.dash else ""
    kind = "line lone" if all(len(run) < 2 for run in runs) else "line"
    shape = f'class="{kind}"{dash} style="stroke:var(--{line.colour})"'
    return f'<path d="{drawn}" {shape}><title>{escape(line.label)}</title></path>'


def _cut(text: str, room: float) -> str:
    """The text, or its beginning where it is wider than `room` pixels."""
    most = max(2, int(room / CHAR))
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'


def _rule(x1: float, y1: float, x2: float, y2: float, kind: str, colour: str = "") -> str:
    style = f' style="stroke:var(--{colour})"' if colour else ""
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" class="{kind}"{style}/>'


def _circle(x: float, y: float, r: float, colour: str, note: str) -> str:
    title = f"<title>{escape(note)}</title>" if note else ""
    at = f'cx="{x:g}" cy="{y:g}" r="{r:g}"'
    return f'<circle {at} class="dot" style="fill:var(--{colour})">{title}</circle>'
