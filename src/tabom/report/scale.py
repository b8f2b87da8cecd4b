"""The arithmetic of drawings: ticks a person would choose, and labels that do not collide."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def nice_ticks(low: float, high: float, *, count: int = 5) -> list[float]:
    """About `count` multiples of 1, 2 or 5 times a power of ten that lie inside [low, high].

    low, high: finite; where equal, the range is widened around them. Returns at least two ticks.
    """
    if high < low:
        low, high = high, low
    if high - low < 1e-12 * max(1.0, abs(low)):
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    # The nearest step in ratio, then finer ones until two ticks lie inside.
    nearest = 1 if raw < power * 2**0.5 else 2 if raw < power * 10**0.5 else 5
    nearest = 10 if raw >= power * 50**0.5 else nearest
    steps = [m * p for p in (power, power / 10) for m in (10, 5, 2, 1)]
    for step in [candidate for candidate in steps if candidate <= nearest * power]:
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last > first:
            break
    # 12 significant digits undo 3 * 0.1 = 0.30000000000000004 without hiding a true digit.
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """The ticks as text, all with the decimals that the finest one needs."""
    spare = [f"{tick:.12f}".rstrip("0").partition(".")[2] for tick in ticks]
    digits = max((len(text) for text in spare), default=0)
    return [f"{tick:,.{digits}f}".replace("-", "\N{MINUS SIGN}") for tick in ticks]


def extent(
    values: Iterable[float | None],
    *,
    pad: float = 0.05,
    include: Iterable[float] = (),
    limits: tuple[float, float] | None = None,
) -> tuple[float, float]:
    """(low, high) with low < high over all present values, widened by `pad` of their span.

    include: values that must lie inside and get no padding beyond them, e.g. a zero line.
    limits: what the values cannot leave, such as 0 and 100 percent; the axis does not either.
    Returns: the limits, or (0, 1), if there is no value.
    """
    found = [value for value in values if value is not None]
    fixed = list(include)
    if not found and not fixed:
        return limits or (0.0, 1.0)
    low, high = min([*found, *fixed]), max([*found, *fixed])
    room = pad * (high - low) if high > low else abs(high) * 0.1 or 1.0
    # A constant series that lies on a fixed end still needs an axis: it opens to the other side.
    if low not in fixed or (low == high and low < 0):
        low -= room
    if high not in fixed or (low == high and high >= 0):
        high += room
    return (low, high) if limits is None else (max(low, limits[0]), min(high, limits[1]))


def spread(wanted: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Positions near `wanted` (any order) that are at least `gap` apart and inside [low, high].

    Least squares: neighbours that collide are merged into a block that sits at its mean wish.
    Where the room is too small for all, they are spaced evenly over it.
    """
    n = len(wanted)
    if n > 1 and gap * (n - 1) > high - low:
        gap = (high - low) / (n - 1)
    order = sorted(range(n), key=lambda i: wanted[i])
    blocks: list[list[float]] = []  # [sum of wishes shifted to the block's start, size]
    for i in order:
        blocks.append([wanted[i], 1])
        while len(blocks) > 1:
            (sum_a, size_a), (sum_b, size_b) = blocks[-2:]
            if _start(sum_a, size_a, gap, low, high) + size_a * gap <= _start(
                sum_b, size_b, gap, low, high
            ):
                break
            blocks[-2:] = [[sum_a + sum_b - gap * size_a * size_b, size_a + size_b]]
    placed = [0.0] * n
    at = iter(order)
    for total, size in blocks:
        start = _start(total, size, gap, low, high)
        for k in range(int(size)):
            placed[next(at)] = start + k * gap
    return placed


def _start(total: float, size: float, gap: float, low: float, high: float) -> float:
    return min(max(total / size, low), high - gap * (size - 1))


Rect = tuple[float, float, float, float]  # x0, y0, x1, y1
DIRECTIONS = [(dx, dy) for dx in (1, 0, -1) for dy in (0, -1, 1, -2, 2) if dx or dy]
DISTANCES = (11.0, 20.0, 32.0, 46.0, 62.0)


def place_labels(
    points: Sequence[tuple[float, float]],
    widths: Sequence[float],
    *,
    inside: Rect,
    obstacles: Sequence[Rect] = (),
    height: float = 14.0,
) -> list[Rect]:
    """A box for the label of each point: near it, inside `inside`, on top of as little as can be.

    points: x, y in pixels. widths: of the labels. obstacles: areas that a label had better not
    cover; the points themselves and the labels placed before are avoided more strongly.
    """
    sized = list(zip(points, widths, strict=True))
    n = range(len(sized))
    # Greedy placement depends on who comes first; of a few orders the least crowded result wins.
    orders = [list(n), list(reversed(n))]
    for axis in (0, 1):
        up = sorted(n, key=lambda i: points[i][axis])
        orders += [up, up[::-1]]
    tries = [_place(sized, order, inside, obstacles, height) for order in orders]
    return min(tries, key=lambda result: result[0])[1]


def _place(
    sized: Sequence[tuple[tuple[float, float], float]],
    order: Sequence[int],
    inside: Rect,
    obstacles: Sequence[Rect],
    height: float,
) -> tuple[float, list[Rect]]:
    dots = [(x - 6, y - 6, x + 6, y + 6) for (x, y), _ in sized]
    placed: dict[int, Rect] = {}
    total = 0.0
    for i in order:
        (x, y), width = sized[i]
        others = [dot for k, dot in enumerate(dots) if k != i] + list(placed.values())
        best = (math.inf, (x, y, x + width, y + height))
        for distance in DISTANCES:
            for dx, dy in DIRECTIONS:
                left = x + dx * distance - (0.5 - dx / 2) * width
                top = y + dy * distance - height / 2
                box = (left, top, left + width, top + height)
                cost = distance + 20 * (width * height - overlap(box, inside))
                if cost >= best[0]:
                    continue
                cost += 6 * sum(overlap(box, other) for other in placed.values())
                cost += 4 * sum(overlap(box, dot) for dot in dots)
                cost += 2 * sum(overlap(box, other) for other in obstacles)
                # A leader that runs through another point or label would name the wrong one.
                leader = [(x + t * dx * distance, y + t * dy * distance) for t in (0.4, 0.6, 0.8)]
                cost += 25 * sum(
                    other[0] < a < other[2] and other[1] < b < other[3]
                    for a, b in leader
                    for other in others
                )
                if cost < best[0] - 1e-9:
                    best = cost, box
        total += best[0]
        placed[i] = best[1]
    return total, [placed[i] for i in range(len(sized))]


def overlap(a: Rect, b: Rect) -> float:
    """The area that two boxes share."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return wide * high if wide > 0 and high > 0 else 0.0


@dataclass(frozen=True)
class Scale:
    """A linear map from data to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return round(self.start + (value - self.low) / span * (self.end - self.start), 2)
