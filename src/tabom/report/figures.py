"""From the report to drawings: which numbers go where, in which colour."""

from collections import Counter
from collections.abc import Sequence

from tabom.evaluation.comparison import NET_LOSS, Comparison, MetricKey, Row
from tabom.evaluation.scores import IN_DOMAIN, OUT_OF_DOMAIN
from tabom.report import svg
from tabom.report.data import Curve, Report, number
from tabom.report.words import format_of, main_key, measured_order, metric_of

NUM_COLOURS = 6
DASHES = ("", "6 3", "2 3")
REASON_COLOURS = 5
STEP = svg.Axis(label="step")
TRAINING = {
    "loss": svg.Axis(label="Loss"),
    "loss_ce": svg.Axis(label="Cross-entropy term"),
    "loss_rank": svg.Axis(label="Ranking term"),
    "loss_next_slot": svg.Axis(label="Next-slot term"),
    "order_agreement": svg.Axis(label="Order agreement in the window", limits=(0, 1)),
    "grad_norm": svg.Axis(label="Gradient norm"),
}


def arm_styles(report: Report) -> dict[str, tuple[str, str]]:
    """Arm -> (colour, dash). The base is ink; the others are coloured from the last one back,
    so that the arm a study is about, which stands last by habit, gets the strongest colour."""
    arms, base = report.comparison.arms, report.comparison.base
    styles = {}
    for index, name in enumerate(reversed([arm for arm in arms if arm != base])):
        dash = DASHES[index // NUM_COLOURS % len(DASHES)]
        styles[name] = (f"arm-{index % NUM_COLOURS}", dash)
    return styles | ({base: ("arm-base", "5 4")} if base else {})


def ranking(report: Report) -> str:
    """The main metric, arm by arm."""
    key = main_key(report)
    return "" if key is None else _dots(report, key)


def forgetting(report: Report) -> str:
    """Accuracy out of domain, in the same order of arms."""
    key = MetricKey(OUT_OF_DOMAIN)
    is_shown = key in report.comparison.keys and key != main_key(report)
    return _dots(report, key) if is_shown else ""


def _dots(report: Report, key: MetricKey) -> str:
    """Means with intervals and single seeds; "" if there is nothing to compare."""
    comparison = report.comparison
    rows = [row for arm in measured_order(report) if (row := comparison.row(arm, key))]
    form, label = format_of(comparison, key), metric_of(key).label
    axis = (
        svg.Axis(label=f"{label}, %", limits=(0, 100)) if form.is_share else svg.Axis(label=label)
    )
    dots = [_dot(report, comparison, row) for row in rows]
    # A single dot has nothing to be compared with.
    return svg.dot_plot(dots, x=axis) if len(dots) > 1 else ""


def _dot(report: Report, comparison: Comparison, row: Row) -> svg.Dot:
    form = format_of(comparison, row.key)
    low, high = number(row.value.low), number(row.value.high)
    seeds = [form.scale * s for s in row.by_seed if number(s) is not None]
    return svg.Dot(
        label=row.arm,
        colour=arm_styles(report)[row.arm][0],
        x=form.scale * row.value.value,
        low=None if low is None else form.scale * low,
        high=None if high is None else form.scale * high,
        seeds=seeds if len(seeds) > 1 else (),  # a single seed is the mean itself
        note=form.number(row.value.value),
        is_base=row.arm == comparison.base,
    )


def _series(report: Report, curves: Sequence[Curve]) -> list[svg.Series]:
    styles = arm_styles(report)
    return [
        svg.Series(
            label=curve.arm,
            colour=styles.get(curve.arm, ("ink-soft", ""))[0],
            dash=styles.get(curve.arm, ("", ""))[1],
            x=list(curve.x),
            y=[number(v) for v in curve.y],
            low=[number(v) for v in curve.low],
            high=[number(v) for v in curve.high],
        )
        for curve in curves
    ]


def tds(report: Report) -> str:
    """TDS at each step, one line an arm."""
    y = svg.Axis(label="TDS, nats²", include=(0.0,))
    return svg.line_chart(_series(report, report.curves.tds), x=STEP, y=y)


def entropy(report: Report) -> str:
    """Entropy of the revealed slot at each step, with the band the report gives."""
    y = svg.Axis(label="Entropy at reveal, nats", include=(0.0,))
    return svg.line_chart(_series(report, report.curves.entropy), x=STEP, y=y)


def loss_ratio(report: Report) -> str:
    """Loss on ground-truth answers over loss on the model's own, by mask ratio."""
    x = svg.Axis(label="share of slots masked", limits=(0, 1))
    y = svg.Axis(label="Ground truth over self-distilled, loss ratio", is_log=True)
    return svg.line_chart(_series(report, report.curves.loss_ratio), x=x, y=y, level=1.0)


def difficulty(report: Report) -> str:
    """Percent right by difficulty: whether a gain reaches the hard tail."""
    curves = [curve for curve in report.curves.difficulty if len(curve.x) > 1]
    y = svg.Axis(label="Right, %", limits=(0, 100))
    return svg.line_chart(_series(report, curves), x=svg.Axis(label="difficulty"), y=y)


def frontier(report: Report) -> str:
    """In-domain accuracy against what was forgotten, a dot an arm."""
    key, lost = main_key(report), MetricKey(NET_LOSS)
    comparison = report.comparison
    if key is None or lost not in comparison.keys:
        return ""
    dots = []
    for arm in comparison.arms:
        rows = comparison.row(arm, key), comparison.row(arm, lost)
        if rows[0] is not None and rows[1] is not None:
            form = format_of(comparison, key)
            point = 100 * rows[1].value.value, form.scale * rows[0].value.value
            dots.append(Curve(arm=arm, x=[point[0]], y=[point[1]]))
    if len(dots) < 2:
        return ""
    x = svg.Axis(label="forgotten, points")
    y = svg.Axis(label=f"{metric_of(key).label}, %")
    return svg.line_chart(_series(report, dots), x=x, y=y)


def pace(report: Report) -> str:
    """Accuracy against slots revealed a model call, for the first in-domain set with paces."""
    roles = {s.name: s.role for s in report.comparison.sets}
    for name in (n for n, role in roles.items() if role == IN_DOMAIN):
        curves = []
        for arm in report.comparison.arms:
            costs = [c for c in report.comparison.costs if (c.arm, c.set) == (arm, name)]
            costs.sort(key=lambda cost: cost.tokens_per_forward)
            x = [cost.tokens_per_forward for cost in costs]
            curves.append(Curve(arm=arm, x=x, y=[100 * cost.accuracy for cost in costs]))
        if any(len(curve.x) > 1 for curve in curves):
            y = svg.Axis(label="Right, %", limits=(0, 100))
            x_axis = svg.Axis(label=f"slots a model call, {name}")
            return svg.line_chart(_series(report, curves), x=x_axis, y=y)
    return ""


def pass_at_k(report: Report) -> str:
    """The chance that one of k samples is right, for the first set that has samples."""
    keys = [k for k in report.comparison.keys if k.kind.startswith("pass@")]
    keys = [k for k in keys if (k.set, k.pace) == (keys[0].set, keys[0].pace)]
    if len(keys) < 2:
        return ""
    curves = []
    for arm in report.comparison.arms:
        rows = [(k, report.comparison.row(arm, k)) for k in keys]
        there = [(int(k.kind[5:]), row.value.value) for k, row in rows if row is not None]
        curves.append(Curve(arm=arm, x=[k for k, _ in there], y=[100 * v for _, v in there]))
    x = svg.Axis(label=f"samples k, {keys[0].set}", is_log=True)
    return svg.line_chart(_series(report, curves), x=x, y=svg.Axis(label="pass@k, %"))


def training(report: Report) -> str:
    """Small multiples of the training log: mean over seeds, band from the least to the greatest.

    Several drawings, whose grid the page decides: one big one would have tiny text on a phone.
    """
    arms, panels = dict.fromkeys(log.arm for log in report.curves.training), []
    for key, axis in TRAINING.items():
        curves = [curve for arm in arms if (curve := _training_curve(report, arm, key)).x]
        x = svg.Axis(label="optimiser step")
        panels.append(svg.line_chart(_series(report, curves), x=x, y=axis, size=(340, 230)))
    return f'<div class="multiples">{"".join(panels)}</div>' if any(panels) else ""


def _training_curve(report: Report, arm: str, key: str) -> Curve:
    # Seeds may have logged other steps: each step has the mean of those that have it.
    by_step: dict[float, list[float]] = {}
    for log in report.curves.training:
        for point in log.points if log.arm == arm else ():
            value = number(point.get(key))
            if value is not None:
                by_step.setdefault(float(point["step"]), []).append(value)
    rows = [by_step[step] for step in sorted(by_step)]
    has_band = any(len(row) > 1 for row in rows)
    return Curve(
        arm=arm,
        x=sorted(by_step),
        y=[sum(row) / len(row) for row in rows],
        low=[min(row) for row in rows] if has_band else (),
        high=[max(row) for row in rows] if has_band else (),
    )


def verdicts(report: Report) -> dict[str, str]:
    """Verdict reason -> colour: accepted first, the others by how often they occur."""
    total: Counter[str] = Counter()
    for reasons in (one.reasons for ones in (report.collection, report.arms) for one in ones):
        total.update(reasons)
    total = +total  # without what never occurred
    rest = sorted((name for name in total if name != "accepted"), key=lambda name: -total[name])
    colours = {name: f"reason-{index % REASON_COLOURS}" for index, name in enumerate(rest)}
    return ({"accepted": "reason-accepted"} if "accepted" in total else {}) | colours


DRAWINGS = {
    "ranking": ranking,
    "forgetting": forgetting,
    "frontier": frontier,
    "difficulty": difficulty,
    "pace": pace,
    "pass_at_k": pass_at_k,
    "tds": tds,
    "entropy": entropy,
    "loss_ratio": loss_ratio,
    "training": training,
}
