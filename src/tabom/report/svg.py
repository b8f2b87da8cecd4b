"""Drawings as SVG text: pure functions, colours by CSS variable, every text escaped.

A colour is the name of a CSS variable without its dashes ("arm-2"), so that a drawing follows the
page into dark mode and print. The page's legend says whose colour is whose.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape

Numbers = Sequence[float | None]
Scale = Callable[[float], float]  # from data to pixels
CHAR = 6.9  # mean width of a character at 12 px, px


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line: x and y of equal length, None = gap; `low`/`high` make a band around it."""

    label: str
    colour: str
    x: Sequence[float]
    y: Numbers
    low: Numbers = ()
    high: Numbers = ()
    dash: str = ""


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One arm in a plot of points. seeds: values of single seeds. note: the value as text."""

    label: str
    colour: str
    x: float
    low: float | None = None
    high: float | None = None
    seeds: Sequence[float] = ()
    note: str = ""
    is_base: bool = False


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What an axis says and must show.

    include: values that must lie on it. limits: what it may not leave, such as 0 and 100 percent.
    is_log: equal factors are equally far apart; values of 0 and below are left out.
    """

    label: str
    include: tuple[float, ...] = ()
    limits: tuple[float, float] = (-math.inf, math.inf)
    is_log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies before it is scaled to pixels."""
        return math.log10(value) if self.is_log else value

    def has(self, value: float | None) -> bool:
        """Whether a value can be drawn."""
        return value is not None and (not self.is_log or value > 0)

    def span(self, values: Numbers, *, pad: float = 0.05) -> tuple[float, float]:
        """(low, high) with low < high over all present values, widened by `pad` of their span."""
        shown = [v for v in values if v is not None and self.has(v)]
        found = [self.place(v) for v in (*shown, *self.include)] or [0.0, 1.0]
        low, high = min(found), max(found)
        room = pad * (high - low) if high > low else abs(high) * 0.1 or 1.0
        # A series that is constant at an end that must be shown opens the axis to the other side.
        if low not in self.include or low == high < 0:
            low -= room
        if high not in self.include or low == high >= 0:
            high += room
        return max(low, self.limits[0]), min(high, self.limits[1])


def line_chart(
    series: Sequence[Series],
    *,
    x: Axis,
    y: Axis,
    size: tuple[int, int] = (520, 320),
    level: float | None = None,
) -> str:
    """Lines with optional bands. level: a value at which a reference line is drawn. "" for none."""
    if not series:
        return ""
    if y.is_log:  # a gap, where nothing can be drawn

        def kept(values: Numbers) -> Numbers:
            return [value if y.has(value) else None for value in values]

        series = [replace(s, y=kept(s.y), low=kept(s.low), high=kept(s.high)) for s in series]
    xs = [value for line in series for value in line.x]
    ys = [value for line in series for part in (line.y, line.low, line.high) for value in part]
    # A single step stands between its neighbours; there is none before the first.
    around = [max(0.0, xs[0] - 1), xs[0] + 1] if len(set(xs)) == 1 else []
    frame = _Frame(size, left=44)
    # A point on the frame would be cut; a line may well begin there.
    pad = 0.05 if all(len(line.x) == 1 for line in series) else 0
    across = frame.across(x, x.span([*xs, *around], pad=pad), is_grid=False, xs=xs)
    up = frame.up(y, y.span(ys if level is None else [*ys, level]))
    if level is not None:
        frame.rule(frame.x0, up(level), frame.x1, up(level), "reference")
    # Bands first, so that no line is hidden under another one's band.
    for line in series:
        frame.band(line, across, up)
    for line in series:
        frame.line(line, across, up)
    names = ", ".join(line.label for line in series)
    return frame.svg(f"{y.label} against {x.label}: {names}")


def dot_plot(dots: Sequence[Dot], *, x: Axis, width: int = 520, row: int = 34) -> str:
    """One row an arm, in the given order: the mean, its interval, and single seeds as rings."""
    # Names get the room they need, but at most a third; longer ones are cut.
    left = min(14 + CHAR * max(len(dot.label) for dot in dots), width / 3)
    frame = _Frame((width, 70 + row * len(dots)), left=left, right=58)
    across = frame.across(x, x.span([v for d in dots for v in (d.x, d.low, d.high, *d.seeds)]))
    for dot in dots:
        if dot.is_base:
            frame.rule(across(dot.x), frame.y0, across(dot.x), frame.y1, "reference")
    for index, dot in enumerate(dots):
        at, most = frame.y0 + row * (index + 0.5), max(2, int((left - 12) / CHAR))
        name = dot.label if len(dot.label) <= most else dot.label[: most - 1].rstrip() + "…"
        frame.text(left - 12, at + 4, name, "label", "end")
        frame.text(width - 4, at + 4, dot.note, "value", "end")
        if dot.low is not None and dot.high is not None:
            frame.rule(across(dot.low), at, across(dot.high), at, "interval", dot.colour)
        for value in dot.seeds:
            frame.circle(across(value), at + 9, 2.2, f"stroke:var(--{dot.colour})", "seed")
        frame.circle(across(dot.x), at, 5, f"fill:var(--{dot.colour})", "dot")
    return frame.svg(f"{x.label}: " + ", ".join(f"{dot.label} {dot.note}" for dot in dots))


class _Frame:
    """A drawing in the making: the plotting area inside the margins, and what is drawn so far."""

    def __init__(self, size: tuple[int, int], *, left: float, right: float = 16) -> None:
        self.size, self.parts = size, list[str]()
        self.x0, self.x1, self.y0, self.y1 = left, size[0] - right, 30.0, size[1] - 40.0

    def across(
        self, axis: Axis, span: tuple[float, float], *, is_grid: bool = True, xs: Numbers = (0.5,)
    ) -> Scale:
        """The x axis; where all `xs` are whole numbers, there is no tick between them."""
        scale = _scaled(axis, span, self.x0, self.x1)
        is_whole = all(value is not None and float(value).is_integer() for value in xs)
        count = (self.x1 - self.x0) / 70
        ticks = (
            _log_ticks(*span) if axis.is_log else _ticks(*span, count=count, least=int(is_whole))
        )
        for tick, text in ticks:
            if is_grid:
                self.rule(scale(tick), self.y0, scale(tick), self.y1, "grid")
            self.text(scale(tick), self.y1 + 17, text, "tick", "middle")
        self.rule(self.x0, self.y1, self.x1, self.y1, "frame")
        self.text((self.x0 + self.x1) / 2, self.y1 + 35, axis.label, "axis", "middle")
        return scale

    def up(self, axis: Axis, span: tuple[float, float]) -> Scale:
        """The y axis. Its label stands above it and level: read without tilting the head."""
        scale = _scaled(axis, span, self.y1, self.y0)
        count = (self.y1 - self.y0) / 45
        for tick, text in _log_ticks(*span) if axis.is_log else _ticks(*span, count=count):
            self.rule(self.x0, scale(tick), self.x1, scale(tick), "grid")
            self.text(self.x0 - 8, scale(tick) + 4, text, "tick", "end")
        self.text(0, 14, axis.label, "axis")
        return scale

    def band(self, line: Series, across: Scale, up: Scale) -> None:
        rows = zip(line.x, line.low, line.high, strict=False)
        kept = [(across(x), up(a), up(b)) for x, a, b in rows if a is not None and b is not None]
        points = [f"{x:g},{b:g}" for x, _, b in kept] + [f"{x:g},{a:g}" for x, a, _ in kept[::-1]]
        if len(kept) > 1:
            style = f'class="band" style="fill:var(--{line.colour})"'
            self.parts.append(f'<path d="M{"L".join(points)}Z" {style}/>')

    def line(self, line: Series, across: Scale, up: Scale) -> None:
        runs: list[list[str]] = [[]]
        for x, y in zip(line.x, line.y, strict=True):
            if y is None:
                runs.append([])
            else:
                runs[-1].append(f"{across(x):g},{up(y):g}")
        title = f"<title>{escape(line.label)}</title>"
        radius = 4.5 if all(len(run) < 2 for run in runs) else 2.2
        for (point,) in (run for run in runs if len(run) == 1):
            cx, cy = map(float, point.split(","))
            self.circle(cx, cy, radius, f"fill:var(--{line.colour})", "dot", title=title)
        if drawn := "".join(f"M{'L'.join(run)}" for run in runs if len(run) > 1):
            style = f'stroke-dasharray="{escape(line.dash)}" style="stroke:var(--{line.colour})"'
            self.parts.append(f'<path d="{drawn}" class="line" {style}>{title}</path>')

    def text(self, x: float, y: float, text: str, kind: str, anchor: str = "start") -> None:
        place = f'x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}"'
        self.parts.append(f"<text {place}>{escape(text)}</text>")

    def rule(self, x1: float, y1: float, x2: float, y2: float, kind: str, colour: str = "") -> None:
        style = f' style="stroke:var(--{colour})"' if colour else ""
        place = f'x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"'
        self.parts.append(f'<line {place} class="{kind}"{style}/>')

    def circle(
        self, x: float, y: float, radius: float, style: str, kind: str, *, title: str = ""
    ) -> None:
        place = f'cx="{x:g}" cy="{y:g}" r="{radius:g}"'
        self.parts.append(f'<circle {place} class="{kind}" style="{style}">{title}</circle>')

    def svg(self, label: str) -> str:
        width, height = self.size
        return (
            f'<svg class="drawing" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" aria-label="{escape(label)}">{"".join(self.parts)}</svg>'
        )


def _scaled(axis: Axis, span: tuple[float, float], start: float, end: float) -> Scale:
    scale = _scale(span, start, end)
    return lambda value: scale(axis.place(value))


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """1, 2 and 5 times powers of ten between two exponents; powers of two where these are few."""
    places = range(math.floor(low), math.ceil(high) + 1)
    found = [m * 10.0**n for n in places for m in (1, 2, 5)]
    inside = [v for v in found if low - 1e-9 <= math.log10(v) <= high + 1e-9]
    if len(inside) < 3:
        powers = (2.0**n for n in range(math.floor(low * 3.4), math.ceil(high * 3.4) + 1))
        inside = [v for v in powers if low - 1e-9 <= math.log10(v) <= high + 1e-9]
    return [(value, f"{value:g}") for value in inside]


def _scale(span: tuple[float, float], start: float, end: float) -> Scale:
    low, wide = span[0], span[1] - span[0] or 1.0
    return lambda value: round(start + (value - low) / wide * (end - start), 2)


def _ticks(low: float, high: float, *, count: float, least: int = 0) -> list[tuple[float, str]]:
    """About `count` multiples of 1, 2 or 5 times a power of ten inside [low, high], with texts.

    All have the decimals that the finest one needs; there are at least two. least: of the step.
    """
    raw = (high - low) / max(2, int(count))
    power = 10.0 ** math.floor(math.log10(raw))
    # The nearest step in ratio, then finer ones until two ticks lie inside.
    steps = [m * p for p in (power * 10, power, power / 10) for m in (5, 2, 1)]
    steps = [step for step in steps if step >= least] or [1.0]
    nearest = min(steps, key=lambda step: abs(math.log(step / raw)))
    for step in steps[steps.index(nearest) :]:
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last > first:
            break
    # 12 significant digits undo 3 * 0.1 = 0.30000000000000004 without hiding a true digit.
    ticks = [float(f"{k * step:.12g}") for k in range(first, last + 1)]
    digits = max(len(f"{tick:.12f}".rstrip("0").partition(".")[2]) for tick in ticks)
    return [(t, f"{t:,.{digits}f}".replace("-", "\N{MINUS SIGN}")) for t in ticks]
