"""From the report to drawings and table cells: which numbers go where, in which colour."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tabom.evaluation.comparison import OUT_OF_DOMAIN, Comparison, MetricKey, Row
from tabom.report import svg
from tabom.report.data import Curve, Report, main_key, number
from tabom.report.scale import extent
from tabom.report.words import (
    best_arm,
    format_of,
    measured_order,
    metric_of,
    tone,
)

NUM_COLOURS = 6
DASHES = ("", "6 3", "2 3")
REASON_COLOURS = 5
STEP = svg.Axis(label="step")
TRAINING = {
    "loss": "Loss",
    "loss_ce": "Cross-entropy term",
    "loss_rank": "Ranking term",
    "loss_next_slot": "Next-slot term",
    "order_agreement": "Order agreement in the window",
    "grad_norm": "Gradient norm",
}


def arm_styles(report: Report) -> dict[str, tuple[str, str]]:
    """Arm -> (colour, dash). The base is ink; the others are coloured from the last one back,
    so that the arm a study is about, which stands last by habit, gets the strongest colour."""
    arms = report.comparison.arms if report.comparison else [arm.name for arm in report.arms]
    base = report.comparison.base if report.comparison else None
    styles = {}
    for index, name in enumerate(reversed([arm for arm in arms if arm != base])):
        dash = DASHES[index // NUM_COLOURS % len(DASHES)]
        styles[name] = (f"arm-{index % NUM_COLOURS}", dash)
    if base:
        styles[base] = ("arm-base", "5 4")
    return styles


def table(report: Report, keys: Sequence[MetricKey]) -> list[dict[str, Any]]:
    """Rows of a table of arms in measured order; a cell holds texts, a sort value, a drawing."""
    comparison = report.comparison
    if comparison is None or not keys:
        return []
    styles, base = arm_styles(report), comparison.base
    best = {key: best_arm(comparison, key) for key in keys}
    rows = []
    for arm in measured_order(report):
        cells = [
            _cell(comparison, arm, key, styles[arm][0]) | {"is_best": best[key] == arm}
            for key in keys
        ]
        rows.append({"name": arm, "colour": styles[arm][0], "is_base": arm == base, "cells": cells})
    return rows


def _cell(comparison: Comparison, arm: str, key: MetricKey, colour: str) -> dict[str, Any]:
    row, form = comparison.row(arm, key), format_of(comparison, key)
    if row is None:
        return {"value": None, "text": form.number(None)}
    at_base = comparison.row(comparison.base, key) if comparison.base is not None else None
    low, high = number(row.value.low), number(row.value.high)
    drawing = svg.interval_bar(
        svg.Dot(label=arm, colour=colour, x=row.value.value, x_low=low, x_high=high),
        extent=_extent(comparison, key),
        base=at_base.value.value if at_base else None,
    )
    return {
        "value": row.value.value,
        "text": form.number(row.value.value),
        "interval": form.span(row.value),
        "change": "" if row.change is None else form.number(row.change.value, sign=True),
        "change_interval": form.span(row.change, sign=True),
        "tone": tone(comparison, arm, key),
        "drawing": drawing,
    }


def _extent(comparison: Comparison, key: MetricKey) -> tuple[float, float]:
    rows = [row for row in comparison.rows if row.key == key]
    return extent([number(x) for r in rows for x in (r.value.value, r.value.low, r.value.high)])


def ranking(report: Report) -> str:
    """The main metric, arm by arm, with intervals and single seeds; "" if nothing to compare."""
    comparison, key = report.comparison, main_key(report)
    if comparison is None or key is None:
        return ""
    rows = [row for arm in measured_order(report) if (row := comparison.row(arm, key))]
    form = format_of(comparison, key)
    dots = []
    for row in rows:
        # A single seed is the mean itself: nothing to add.
        seeds = [form.scale * s for s in row.by_seed if number(s) is not None]
        dot = _dot(report, row, note=form.number(row.value.value))
        dots.append(replace(dot, seeds=seeds if len(seeds) > 1 else ()))
    return svg.dot_plot(dots, x=_axis(comparison, key)) if len(dots) > 1 else ""


def _dot(report: Report, row: Row, *, note: str) -> svg.Dot:
    comparison = report.comparison
    scale = 1.0 if comparison is None else format_of(comparison, row.key).scale
    low, high = number(row.value.low), number(row.value.high)
    return svg.Dot(
        label=row.arm,
        colour=arm_styles(report)[row.arm][0],
        x=scale * row.value.value,
        x_low=None if low is None else scale * low,
        x_high=None if high is None else scale * high,
        note=note,
        is_base=comparison is not None and row.arm == comparison.base,
    )


def _axis(comparison: Comparison, key: MetricKey) -> svg.Axis:
    """ "In-domain, %", from 0 to 100 at most."""
    form, label = format_of(comparison, key), metric_of(key).label
    if not form.is_share:
        return svg.Axis(label=label)
    return svg.Axis(label=f"{label}, %", limits=(0.0, 100.0))


def forgetting(report: Report) -> str:
    """The main metric against out-of-domain accuracy; "" where no two arms have both."""
    comparison, key, other = report.comparison, main_key(report), MetricKey(OUT_OF_DOMAIN)
    if comparison is None or key is None or other not in comparison.keys or other == key:
        return ""
    dots = []
    for arm in comparison.arms:
        across, up = comparison.row(arm, other), comparison.row(arm, key)
        if across is None or up is None:
            continue
        texts = [format_of(comparison, r.key).number(r.value.value) for r in (up, across)]
        right = _dot(report, across, note=f"{arm}: {' / '.join(texts)}")
        above = _dot(report, up, note="")
        dots.append(replace(right, y=above.x, y_low=above.x_low, y_high=above.x_high))
    if len(dots) < 2:
        return ""
    return svg.scatter(dots, x=_axis(comparison, other), y=_axis(comparison, key))


def _series(report: Report, curve: Curve) -> svg.Series:
    colour, dash = arm_styles(report).get(curve.arm, ("ink-soft", ""))
    return svg.Series(
        label=curve.arm,
        colour=colour,
        dash=dash,
        x=list(curve.x),
        y=[number(v) for v in curve.y],
        low=[number(v) for v in curve.low],
        high=[number(v) for v in curve.high],
    )


def tds(report: Report) -> str:
    """TDS at each step, one line an arm."""
    series = [_series(report, curve) for curve in report.curves.tds]
    return svg.line_chart(series, x=STEP, y=svg.Axis(label="TDS, nats²", include=(0.0,)))


def entropy(report: Report) -> str:
    """Entropy of the revealed slot at each step, with the band the report gives."""
    series = [_series(report, curve) for curve in report.curves.entropy]
    y = svg.Axis(label="Entropy at reveal, nats", include=(0.0,))
    return svg.line_chart(series, x=STEP, y=y)


def loss_ratio(report: Report) -> str:
    """Loss on ground-truth answers over loss on the model's own, by mask ratio."""
    series = [_series(report, curve) for curve in report.curves.loss_ratio]
    x = svg.Axis(label="share of slots masked", limits=(0.0, 1.0))
    y = svg.Axis(label="Ground truth over self-distilled, loss ratio")
    return svg.line_chart(series, x=x, y=y, level=1.0)


def training(report: Report) -> str:
    """Small multiples of the training log: mean over seeds, band from the least to the greatest."""
    panels = []
    for key, title in TRAINING.items():
        curves = [
            _training_curve(report, arm, key)
            for arm in dict.fromkeys(log.arm for log in report.curves.training)
        ]
        series = [_series(report, curve) for curve in curves if curve.x]
        limits = (0.0, 1.0) if key == "order_agreement" else None
        if series:
            panels.append((svg.Axis(label=title, limits=limits), series))
    return svg.small_multiples(panels, x=svg.Axis(label="optimiser step")) if panels else ""


def _training_curve(report: Report, arm: str, key: str) -> Curve:
    by_step: dict[float, list[float]] = {}
    for log in report.curves.training:
        for point in log.points if log.arm == arm else ():
            value = number(point.get(key))
            if value is not None:
                by_step.setdefault(float(point["step"]), []).append(value)
    steps = sorted(by_step)
    has_band = any(len(values) > 1 for values in by_step.values())
    return Curve(
        arm=arm,
        x=steps,
        y=[sum(by_step[s]) / len(by_step[s]) for s in steps],
        low=[min(by_step[s]) for s in steps] if has_band else (),
        high=[max(by_step[s]) for s in steps] if has_band else (),
    )


def reasons(report: Report) -> dict[str, str]:
    """Verdict reason -> colour: accepted first, the others by how often they occur."""
    total: dict[str, int] = {}
    for seed in report.collection:
        for name, size in seed.reasons.items():
            total[name] = total.get(name, 0) + int(size)
    rest = sorted((name for name in total if name != "accepted"), key=lambda name: -total[name])
    colours = {"accepted": "reason-accepted"} if "accepted" in total else {}
    for index, name in enumerate(rest):
        colours[name] = f"reason-{index % REASON_COLOURS}"
    return colours


def collection(report: Report) -> str:
    """Verdicts of each seed's trajectories as one bar a seed."""
    colours = reasons(report)
    rows = [
        (
            f"seed {seed.seed}",
            [(name, colour, seed.reasons.get(name, 0)) for name, colour in colours.items()],
        )
        for seed in report.collection
        if seed.reasons
    ]
    return svg.stacked_bar(rows) if rows else ""


DRAWINGS = {
    "ranking": ranking,
    "forgetting": forgetting,
    "tds": tds,
    "entropy": entropy,
    "loss_ratio": loss_ratio,
    "collection": collection,
    "training": training,
}
