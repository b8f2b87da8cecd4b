"""Numbers as text, and the one sentence that says what was found and no more."""

from collections.abc import Mapping
from typing import Any

from tabom.report.data import main_metric, mean_of, measured_order

MINUS = "\N{MINUS SIGN}"


def digits_of(metric: Mapping[str, Any]) -> int:
    """Decimals shown for a metric: its own `digits`, or 1 for percent and 3 for the rest."""
    return int(metric.get("digits", 1 if metric.get("unit") == "%" else 3))


def fixed(value: float | None, digits: int, *, sign: bool = False, minus: str = MINUS) -> str:
    """`value` with `digits` decimals, a true minus, no negative zero; an en dash where absent."""
    if value is None:
        return "–"
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return (minus if value < 0 else "+" if sign else "") + text


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: "42 s", "5 min 12 s", "3 h 20 min"."""
    if seconds is None:
        return ""
    if 0 < seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def count(number: int, noun: str) -> str:
    """ "1 arm", "3 arms"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def listed(names: list[str]) -> str:
    """ "A", "A and B", "A, B and C"."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def change_interval(
    arm: Mapping[str, Any], key: str, base: str | None
) -> tuple[float, float] | None:
    """The interval by which arms are told apart: of the change, [0, 0] for the base itself.

    Of the mean where the study has no base, as there is no change then.
    """
    if arm["name"] == base:
        return 0.0, 0.0
    cell, name = mean_of(arm, key), "delta_" if base else ""
    low, high = cell[name + "low"], cell[name + "high"]
    return None if low is None or high is None else (low, high)


def not_separable(summary: Mapping[str, Any], key: str, *, arm: Mapping[str, Any]) -> list[str]:
    """Names of the other arms whose interval of change overlaps that of `arm`.

    An arm without an interval cannot be told apart from any other, so it is listed too.
    """
    base = summary.get("base_arm")
    own = change_interval(arm, key, base)
    names = []
    for other in summary.get("arms") or ():
        if other["name"] == arm["name"]:
            continue
        theirs = change_interval(other, key, base)
        if own is None or theirs is None or (own[0] <= theirs[1] and theirs[0] <= own[1]):
            names.append(other["name"])
    return names


def best_arms(summary: Mapping[str, Any]) -> dict[str, str]:
    """Per metric the arm that is better than every other one, separably; else no entry."""
    best = {}
    for metric in summary.get("metrics") or ():
        if metric.get("better") not in ("higher", "lower"):
            continue
        sign = 1 if metric["better"] == "higher" else -1
        scored = [
            (sign * mean, arm)
            for arm in summary.get("arms") or ()
            if (mean := mean_of(arm, metric["key"])["mean"]) is not None
        ]
        if len(scored) < 2:
            continue
        leader = max(scored, key=lambda pair: pair[0])[1]
        if not not_separable(summary, metric["key"], arm=leader):
            best[metric["key"]] = leader["name"]
    return best


def headline(summary: Mapping[str, Any]) -> str:
    """One or two sentences made from the numbers: the leader, whether it is one, what it costs."""
    metric = main_metric(summary)
    arms = measured_order(summary)
    arms = [arm for arm in arms if metric and mean_of(arm, metric["key"])["mean"] is not None]
    if metric is None or not arms:
        return "This run has no evaluated arm."
    key, label, base = metric["key"], _lower(metric), summary.get("base_arm")
    best = arms[0]
    value = _value(best, metric)
    if len(arms) == 1:
        cell, digits = mean_of(best, key), digits_of(metric)
        span = ""
        if cell["low"] is not None and cell["high"] is not None:
            span = f" ({_level(summary)} {_span(cell['low'], cell['high'], digits)})"
        return (
            f"{best['name']} reaches {value} {label}{span}. There is no other arm to compare with."
        )
    peers = not_separable(summary, key, arm=best)
    if best["name"] == base:
        close = f" {listed(peers)} cannot be separated from it." if peers else ""
        return f"No arm improves on {base}, which reaches {value} {label}.{close}"
    if not peers:
        return f"{best['name']} leads {label} with {value}{_change(best, metric, summary)}, " + (
            "separably ahead of every other arm." + _cost(best, summary)
        )
    if base in peers:
        return (
            f"{best['name']} has the best {label} result, {value}{_change(best, metric, summary)}, "
            f"but it is not separable from {base}: this run shows no reliable gain."
        )
    return (
        f"{best['name']} has the best {label} result, {value}{_change(best, metric, summary)}, "
        f"but is not separable from {listed(peers)}: the intervals of their changes overlap."
        + _cost(best, summary)
    )


def _lower(metric: Mapping[str, Any]) -> str:
    label = str(metric.get("label") or metric["key"])
    return label[:1].lower() + label[1:] if label[1:2].islower() else label


def _value(arm: Mapping[str, Any], metric: Mapping[str, Any]) -> str:
    unit = str(metric.get("unit") or "")
    text = fixed(mean_of(arm, metric["key"])["mean"], digits_of(metric))
    return text + ("%" if unit == "%" else f" {unit}" if unit else "")


def _span(low: float, high: float, digits: int, *, sign: bool = False) -> str:
    return f"{fixed(low, digits, sign=sign)} to {fixed(high, digits, sign=sign)}"


def _level(summary: Mapping[str, Any]) -> str:
    level = summary.get("level")
    return f"{100 * level:.4g}% interval" if level else "interval"


def _change(arm: Mapping[str, Any], metric: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    cell, digits = mean_of(arm, metric["key"]), digits_of(metric)
    if cell["delta"] is None:
        return ""
    text = f" ({fixed(cell['delta'], digits, sign=True)} over {summary.get('base_arm')}"
    if cell["delta_low"] is not None and cell["delta_high"] is not None:
        span = _span(cell["delta_low"], cell["delta_high"], digits, sign=True)
        text += f", {_level(summary)} {span}"
    return text + ")"


def _cost(arm: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    metrics = [m for m in summary.get("metrics") or () if m["key"] == "out_of_domain"]
    if not metrics:
        return ""
    cell, digits = mean_of(arm, "out_of_domain"), digits_of(metrics[0])
    delta, low, high = cell["delta"], cell["delta_low"], cell["delta_high"]
    if delta is None:
        return ""
    points = "points" if metrics[0].get("unit") == "%" else ""
    if low is None or high is None:
        return (
            f" Out of domain it changes by {fixed(delta, digits, sign=True)} {points}".rstrip()
            + "."
        )
    span = _span(low, high, digits, sign=True)
    if low <= 0 <= high:
        return f" Out of domain no change can be told from zero ({span})."
    verb = "loses" if delta < 0 else "gains"
    return f" Out of domain it {verb} {fixed(abs(delta), digits)} {points}".rstrip() + f" ({span})."


def cautions(summary: Mapping[str, Any]) -> list[str]:
    """What a reader must know before trusting the table; found in the numbers, not written."""
    found = []
    seeds = summary.get("seeds") or ()
    if len(seeds) == 1 and len(summary.get("arms") or ()) > 1:
        found.append("One seed: intervals cover the prompts, not the spread between trainings.")
    small = [s for s in summary.get("sets") or () if 0 < (s.get("num_documents") or 0) < 100]
    if small:
        names = listed([f"{s['name']} ({s['num_documents']})" for s in small])
        found.append(f"Sets of fewer than 100 prompts: {names}. Expect wide intervals.")
    return found
