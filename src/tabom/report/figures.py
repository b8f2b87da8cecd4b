"""From the summary to drawings and table cells: which numbers go where, in which colour."""

from collections.abc import Mapping, Sequence
from typing import Any

from tabom.report import svg
from tabom.report.data import main_metric, mean_of, measured_order, number
from tabom.report.scale import extent
from tabom.report.words import best_arms, digits_of, fixed

NUM_COLOURS = 6
DASHES = ("", "6 3", "2 3")
REASON_COLOURS = 5
TRAINING = {
    "loss": "Loss",
    "loss_ce": "Cross-entropy term",
    "loss_rank": "Ranking term",
    "loss_next_slot": "Next-slot term",
    "order_agreement": "Order agreement in the window",
    "grad_norm": "Gradient norm",
}


def arm_styles(summary: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Arm -> (colour, dash). The base is ink; the others are coloured from the last one back,
    so that the arm a study is about, which stands last by habit, gets the strongest colour."""
    base = summary.get("base_arm")
    names = [arm["name"] for arm in summary.get("arms") or () if arm["name"] != base]
    styles = {}
    for index, name in enumerate(reversed(names)):
        dash = DASHES[index // NUM_COLOURS % len(DASHES)]
        styles[name] = (f"arm-{index % NUM_COLOURS}", dash)
    if base:
        styles[base] = ("arm-base", "5 4")
    return styles


def table(summary: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a table of arms in measured order; a cell holds texts, a sort value, a drawing.

    metrics: the columns, of `summary["metrics"]`.
    """
    styles, best = arm_styles(summary), best_arms(summary)
    arms, base = measured_order(summary), summary.get("base_arm")
    ranges, levels = {}, {}
    for metric in metrics:
        cells = [mean_of(arm, metric["key"]) for arm in arms]
        ranges[metric["key"]] = extent([cell[k] for cell in cells for k in ("mean", "low", "high")])
        at_base = [mean_of(arm, metric["key"])["mean"] for arm in arms if arm["name"] == base]
        levels[metric["key"]] = at_base[0] if at_base else None
    rows = []
    for arm in arms:
        colour = styles[arm["name"]][0]
        cells = [
            _cell(arm, metric, ranges[metric["key"]], levels[metric["key"]], colour)
            | {"is_best": best.get(metric["key"]) == arm["name"]}
            for metric in metrics
        ]
        rows.append(
            {"name": arm["name"], "colour": colour, "is_base": arm["name"] == base, "cells": cells}
        )
    return rows


def _cell(
    arm: Mapping[str, Any],
    metric: Mapping[str, Any],
    span: tuple[float, float],
    level: float | None,
    colour: str,
) -> dict[str, Any]:
    cell, digits = mean_of(arm, metric["key"]), digits_of(metric)
    mean, low, high = cell["mean"], cell["low"], cell["high"]
    drawing = ""
    if mean is not None:
        drawing = svg.interval_bar(mean, low, high, extent=span, base=level, colour=colour)
    return {
        "value": mean,
        "text": fixed(mean, digits),
        "interval": _interval(low, high, digits),
        "delta": "" if cell["delta"] is None else fixed(cell["delta"], digits, sign=True),
        "delta_interval": _interval(cell["delta_low"], cell["delta_high"], digits, sign=True),
        "tone": tone(cell, metric),
        "drawing": drawing,
    }


def tone(cell: Mapping[str, float | None], metric: Mapping[str, Any]) -> str:
    """ "gain" or "loss" where the interval of the change excludes zero and a side is better."""
    low, high = cell["delta_low"], cell["delta_high"]
    if low is None or high is None or low <= 0 <= high:
        return ""
    if metric.get("better") not in ("higher", "lower"):
        return ""
    return "gain" if (low > 0) == (metric["better"] == "higher") else "loss"


def _interval(low: float | None, high: float | None, digits: int, *, sign: bool = False) -> str:
    if low is None or high is None:
        return ""
    return f"{fixed(low, digits, sign=sign)} to {fixed(high, digits, sign=sign)}"


def labelled(metric: Mapping[str, Any]) -> str:
    """ "In-domain, %"."""
    label, unit = str(metric.get("label") or metric["key"]), str(metric.get("unit") or "")
    return f"{label}, {unit}" if unit else label


def ranking(summary: Mapping[str, Any]) -> str:
    """The main metric, arm by arm, with intervals and single seeds; "" if nothing to compare."""
    metric = main_metric(summary)
    if metric is None:
        return ""
    dots = []
    for arm in measured_order(summary):
        cell = mean_of(arm, metric["key"])
        if cell["mean"] is None:
            continue
        seeds = [
            number((s.get("metrics") or {}).get(metric["key"])) for s in arm.get("seeds") or ()
        ]
        dots.append(
            svg.Dot(
                label=arm["name"],
                colour=arm_styles(summary)[arm["name"]][0],
                x=cell["mean"],
                x_low=cell["low"],
                x_high=cell["high"],
                # A single seed is the mean itself: nothing to add.
                seeds=[seed for seed in seeds if seed is not None] if len(seeds) > 1 else [],
                note=fixed(cell["mean"], digits_of(metric)),
                is_base=arm["name"] == summary.get("base_arm"),
            )
        )
    return svg.dot_plot(dots, x_label=labelled(metric)) if len(dots) > 1 else ""


def forgetting(summary: Mapping[str, Any]) -> str:
    """The main metric against out-of-domain accuracy; "" where no arm has both."""
    metric = main_metric(summary)
    others = [m for m in summary.get("metrics") or () if m["key"] == "out_of_domain"]
    if metric is None or not others or others[0]["key"] == metric["key"]:
        return ""
    dots = []
    for arm in summary.get("arms") or ():
        x, y = mean_of(arm, "out_of_domain"), mean_of(arm, metric["key"])
        if x["mean"] is None or y["mean"] is None:
            continue
        at = (
            f"{arm['name']}: {fixed(y['mean'], digits_of(metric))} / "
            f"{fixed(x['mean'], digits_of(others[0]))}"
        )
        dots.append(
            svg.Dot(
                label=arm["name"],
                colour=arm_styles(summary)[arm["name"]][0],
                x=x["mean"],
                x_low=x["low"],
                x_high=x["high"],
                y=y["mean"],
                y_low=y["low"],
                y_high=y["high"],
                note=at,
                is_base=arm["name"] == summary.get("base_arm"),
            )
        )
    if len(dots) < 2:
        return ""
    return svg.scatter(dots, x_label=labelled(others[0]), y_label=labelled(metric))


def _series(
    summary: Mapping[str, Any], line: Mapping[str, Any], x: Sequence[float], y: str
) -> svg.Series:
    colour, dash = arm_styles(summary).get(line["arm"], ("ink-soft", ""))
    return svg.Series(
        label=str(line["arm"]),
        colour=colour,
        dash=dash,
        x=list(x),
        y=[number(v) for v in line[y]],
        low=[number(v) for v in line.get("low") or ()],
        high=[number(v) for v in line.get("high") or ()],
    )


def tds(summary: Mapping[str, Any]) -> str:
    """TDS at each step, one line an arm."""
    lines = (summary.get("curves") or {}).get("tds") or ()
    series = [_series(summary, line, range(len(line["values"])), "values") for line in lines]
    if not series:
        return ""
    return svg.line_chart(series, x_label="step", y_label="TDS, nats²", is_zero_shown=True)


def entropy(summary: Mapping[str, Any]) -> str:
    """Entropy of the revealed slot at each step, with the band the summary gives."""
    lines = (summary.get("curves") or {}).get("entropy") or ()
    series = [_series(summary, line, line["steps"], "mean") for line in lines]
    if not series:
        return ""
    return svg.line_chart(
        series, x_label="step", y_label="Entropy at reveal, nats", is_zero_shown=True
    )


def loss_ratio(summary: Mapping[str, Any]) -> str:
    """Loss on ground-truth answers over loss on the model's own, by mask ratio."""
    ratio = (summary.get("curves") or {}).get("loss_ratio") or {}
    series = [
        _series(summary, line, ratio["ratios"], "values") for line in ratio.get("values") or ()
    ]
    if not series:
        return ""
    label = "Ground truth over self-distilled, loss ratio"
    return svg.line_chart(series, x_label="share of slots masked", y_label=label, level=1.0)


def training(summary: Mapping[str, Any]) -> str:
    """Small multiples of the training log: mean over seeds, band from the least to the greatest."""
    runs = (summary.get("curves") or {}).get("training") or ()
    panels = []
    for key, title in TRAINING.items():
        series = []
        for name in dict.fromkeys(run["arm"] for run in runs):
            by_step: dict[float, list[float]] = {}
            for run in runs:
                for point in run["points"] if run["arm"] == name else ():
                    value = number(point.get(key))
                    if value is not None:
                        by_step.setdefault(float(point["step"]), []).append(value)
            if not by_step:
                continue
            steps = sorted(by_step)
            mean = [sum(by_step[s]) / len(by_step[s]) for s in steps]
            has_band = any(len(values) > 1 for values in by_step.values())
            line = {
                "arm": name,
                "mean": mean,
                "low": [min(by_step[s]) for s in steps] if has_band else [],
                "high": [max(by_step[s]) for s in steps] if has_band else [],
            }
            series.append(_series(summary, line, steps, "mean"))
        if series:
            panels.append((title, series))
    if not panels:
        return ""
    return svg.small_multiples(panels, x_label="optimiser step")


def reasons(summary: Mapping[str, Any]) -> dict[str, str]:
    """Verdict reason -> colour: accepted first, the others by how often they occur."""
    total: dict[str, int] = {}
    for seed in summary.get("collection") or ():
        for name, size in (seed.get("reasons") or {}).items():
            total[name] = total.get(name, 0) + int(size)
    rest = sorted((name for name in total if name != "accepted"), key=lambda name: -total[name])
    colours = {"accepted": "reason-accepted"} if "accepted" in total else {}
    for index, name in enumerate(rest):
        colours[name] = f"reason-{index % REASON_COLOURS}"
    return colours


def collection(summary: Mapping[str, Any]) -> str:
    """Verdicts of each seed's trajectories as one bar a seed."""
    colours = reasons(summary)
    rows = [
        (
            f"seed {seed.get('seed', '?')}",
            [(name, colour, (seed["reasons"].get(name) or 0)) for name, colour in colours.items()],
        )
        for seed in summary.get("collection") or ()
        if seed.get("reasons")
    ]
    return svg.stacked_bar(rows) if rows else ""
