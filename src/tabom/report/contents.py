"""The tables of a comparison: each is said once here, and rendered wherever it is shown."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tabom.evaluation.comparison import (
    FORGETTING,
    IN_DOMAIN,
    NET_LOSS,
    OUT_OF_DOMAIN,
    SET,
    Comparison,
    MetricKey,
    Pair,
)
from tabom.evaluation.records import Pace
from tabom.evaluation.stats import Estimate
from tabom.report.data import Report
from tabom.report.tables import Cell, Table
from tabom.report.words import (
    Format,
    best_arm,
    duration,
    fixed,
    format_of,
    measured_order,
    metric_of,
    pace_text,
    tone,
)

SHARE = Format(is_share=True)
LOSSES = (FORGETTING, NET_LOSS)


def arms_table(
    report: Report, keys: Sequence[MetricKey], *, title: str = "", has_seeds: bool = False
) -> Table:
    """The arms in measured order; for each metric the mean, its change and that one's interval."""
    comparison = report.comparison
    if comparison is None or not keys:
        return Table(["arm"], [])
    best = {key: best_arm(comparison, key) for key in keys}
    rows = []
    for arm in measured_order(report):
        cells: list[object] = [arm, *([len(comparison.seeds[arm])] if has_seeds else [])]
        for key in keys:
            row, form = comparison.row(arm, key), format_of(comparison, key)
            mean = form.number(row.value.value if row else None)
            style, change = tone(comparison, arm, key) or "quiet", row.change if row else None
            parts = [Cell(mean, "best" if best[key] == arm else "")]
            if key.kind in LOSSES:  # they are changes themselves
                parts.append(Cell(form.ends(row.value) if row else "", "quiet"))
            elif change is not None:
                parts.append(Cell(form.number(change.value, sign=True), style))
                parts.append(Cell(form.ends(change, sign=True), style))
            cells.append(parts)
        rows.append(cells)
    heads = [f"{metric_of(k).label} {format_of(comparison, k).unit}".rstrip() for k in keys]
    first = ["arm", "seeds"] if has_seeds else ["arm"]
    return Table([*first, *heads], rows, title=title, note=_note(comparison, keys))


def _note(comparison: Comparison, keys: Sequence[MetricKey]) -> str:
    text = "Mean"
    if comparison.base is not None:
        text += f", change against {comparison.base} [{100 * comparison.level:g}% interval]"
    lower = [metric_of(key).label for key in keys if metric_of(key).better == "lower"]
    return text + (f"; lower is better: {', '.join(lower)}." if lower else ".")


def paper_keys(comparison: Comparison) -> list[MetricKey]:
    """The columns as in the paper: each role's sets, then their mean; at the slowest pace, then at
    the others (tokens a step by their number, then schedules by name); the losses last."""
    known = set(comparison.keys)
    paces = dict.fromkeys(key.pace for key in comparison.keys if key.is_accuracy)
    keys: list[MetricKey] = []
    for pace in sorted(paces, key=lambda p: (p != "" and not p.isdigit(), len(p), p)):
        for role in (IN_DOMAIN, OUT_OF_DOMAIN):
            names = [s.name for s in comparison.sets if s.role == role]
            keys += [MetricKey(SET, set=name, pace=pace) for name in names]
            keys.append(MetricKey(role, pace=pace))
    return [key for key in [*keys, *map(MetricKey, LOSSES)] if key in known]


def pair_table(report: Report) -> Table:
    """Arm against arm in and out of domain, paired by prompt and seed, in measured order."""
    comparison = report.comparison
    if comparison is None or len(comparison.arms) < 3:
        return Table(["arm"], [])
    keys = [
        key for key in comparison.keys if key.is_accuracy and key.kind != SET and not key.pace
    ]  # fmt: skip
    order, rows = measured_order(report), []
    for i, first in enumerate(order):
        for second in order[i + 1 :]:
            cells: list[object] = [f"{first} – {second}"]
            for key in keys:
                pair = comparison.pair(first, second, key)
                cells.append("–" if pair is None else _pair_cell(comparison, pair))
            rows.append(cells)
    return Table(
        ["difference", *(metric_of(key).label for key in keys)],
        rows,
        title="Arm against arm",
        note="First minus second, in points, paired by prompt and by seed. These differences, not "
        "the intervals of the single arms, decide what is called separable.",
    )


def _pair_cell(comparison: Comparison, pair: Pair) -> list[Cell]:
    form = format_of(comparison, pair.key)
    style = {1: "gain", -1: "loss", 0: ""}[pair.sign]
    number = form.number(pair.difference.value, sign=True)
    ends = form.ends(pair.difference, sign=True)
    return [Cell(number, style), Cell(ends, style), Cell(_says(pair.sign))]


def _says(sign: int) -> str:
    return {1: "higher", -1: "lower", 0: "open"}[sign]


def detail_tables(comparison: Comparison) -> list[Table]:
    """All further tables that have something to show."""
    tables = [_differences(comparison), _tests(comparison), _costs(comparison)]
    tables += [_passes(comparison), _boundaries(comparison), _held_out(comparison)]
    return [table for table in tables if table]


def alike(comparison: Comparison) -> str:
    """Whether all were evaluated alike, in a sentence where they were."""
    has_base = comparison.base is not None
    return "All were evaluated alike." if has_base and not comparison.differences else ""


def warnings(comparison: Comparison) -> list[str]:
    """One line for each setting in which an arm was evaluated otherwise than the base."""
    return [
        f"{d.arm} was evaluated otherwise than the base: {d.key} is {d.own!r} there, {d.base!r} "
        f"for the base ({', '.join(d.sets)})"
        for d in comparison.differences
    ]


def _tests(comparison: Comparison) -> Table:
    rows = []
    for t in comparison.tests:
        change = SHARE.bracket(t.change, sign=True)
        is_told = t.p < 1 - comparison.level and not t.change.low <= 0 <= t.change.high
        sign = int(math.copysign(1, t.gained - t.lost)) if is_told else 0
        task, seed = _task(t.set, t.pace), "" if t.seed is None else t.seed
        rows.append(
            [t.arm, seed, task, t.num_documents, t.gained, t.lost, change, f"{t.p:.3g}",
             _says(sign)]
        )  # fmt: skip
    return Table(
        ["arm", "seed", "task", "prompts", "gained", "lost", "change", "p", "says"],
        rows,
        title=f"Task by task, against {comparison.base}",
        note="Tango's interval of the change and the p of McNemar's exact test; a change is called "
        "higher or lower only if both say so.",
        num_left=3,
    )


def _costs(comparison: Comparison) -> Table:
    rows = [
        [c.arm, c.set, c.schedule, fixed(c.tokens_per_forward, 2), fixed(c.num_forwards, 1),
         SHARE.number(c.accuracy)]
        for c in comparison.costs
    ]  # fmt: skip
    return Table(
        ["arm", "task", "tokens a step, or schedule", "tokens per forward", "forwards", "accuracy"],
        rows,
        title="Accuracy against pace",
        num_left=3,
    )


def _passes(comparison: Comparison) -> Table:
    ks = sorted({at.k for at in comparison.samples})
    places = dict.fromkeys((at.arm, at.set, at.pace) for at in comparison.samples)
    found = {(at.arm, at.set, at.pace, at.k): at for at in comparison.samples}
    rows = []
    for arm, name, pace in places:
        cells: list[object] = [arm, _task(name, pace)]
        for k in ks:
            at = found.get((arm, name, pace, k))
            change = SHARE.bracket(at.change, sign=True) if at else ""
            cells.append([SHARE.number(at.value.value if at else None), change])
        rows.append(cells)
    return Table(
        ["arm", "task", *(f"pass@{k}" for k in ks)],
        rows,
        title="pass@k",
        note="Of the samples of one model; over seeds, the mean.",
        num_left=2,
    )


def _boundaries(comparison: Comparison) -> Table:
    rows = [
        [b.arm, "" if b.seed is None else b.seed, _task(b.set, b.pace), b.k, len(b.gained),
         len(b.lost), b.both, b.neither]
        for b in comparison.boundaries
    ]  # fmt: skip
    return Table(
        ["arm", "seed", "task", "samples", "only the arm", "only the base", "both", "neither"],
        rows,
        title="Knowledge boundary",
        note="Prompts solved within equally many samples of the arm's model and of the base.",
        num_left=3,
    )


def _differences(comparison: Comparison) -> Table:
    rows = [[d.arm, d.key, repr(d.base), repr(d.own), ", ".join(d.sets)]
            for d in comparison.differences]  # fmt: skip
    heads = ["arm", "setting", "base", "arm's own", "sets"]
    return Table(heads, rows, title="Evaluated otherwise than the base", num_left=5)


def _held_out(comparison: Comparison) -> Table:
    notes: dict[str, list[str]] = {}
    for arm, note in comparison.held_out:
        notes.setdefault(note, []).append(arm)
    rows = [[", ".join(arms), note] for note, arms in notes.items()]
    return Table(["trained", "found"], rows, title="Held out", num_left=2)


def _task(name: str, pace: Pace) -> str:
    if pace == Pace(1):
        return name
    return f"{name}, {pace_text(str(pace))}"


def collection_table(report: Report) -> Table:
    """What each seed collected."""
    rows = []
    for item in report.collection:
        accepted, number = item.reasons.get("accepted"), item.num_prompts
        share = None if accepted is None or not number else 100 * accepted / number
        counts = [_whole(number), _whole(accepted), fixed(share, 1)]
        speed = [duration(item.seconds), _whole(item.trajectories_per_hour)]
        rows.append([item.seed, *counts, *speed])
    return Table(["seed", "trajectories", "accepted", "share, %", "time", "an hour"], rows)


def settings_tables(report: Report) -> list[Table]:
    """Versions, hardware, sets, objectives, and every arm under every seed."""
    versions = [(name, _flat(value)) for name, value in report.versions.items()]
    hardware = [(name, _flat(value)) for name, value in report.hardware.items()]
    arms = [(a.name, a.data.replace("_", " "), _flat(a.objective)) for a in report.arms]
    sets = report.comparison.sets if report.comparison is not None else []
    rows = [(s.name, s.role.replace("_", " "), s.num_documents) for s in sets]
    tables = [
        Table(["what", "version"], versions, title="Versions", num_left=2),
        Table(["what", "value"], hardware, title="Hardware", num_left=2),
        Table(["set", "role", "prompts"], rows, title="Evaluation sets", num_left=2),
        Table(["arm", "data", "objective"], arms, title="Objective of each arm", num_left=3),
        _seed_table(report),
    ]
    return [table for table in tables if table]


def _seed_table(report: Report) -> Table:
    """One row an arm and seed: the metrics of the main table, counts and seconds."""
    comparison, rows = report.comparison, []
    heads = [metric_of(key).label for key in report.columns]
    if comparison is None:
        return Table(["arm"], [])
    for work in report.work:
        cells: list[object] = [work.arm, "–" if work.seed is None else work.seed]
        for key in report.columns:
            row = comparison.row(work.arm, key)
            by_seed = (
                dict(zip(comparison.seeds[work.arm], row.by_seed, strict=False)) if row else {}
            )
            cells.append(format_of(comparison, key).number(by_seed.get(work.seed)))
        took = [duration(s) or "–" for s in (work.train_seconds, work.evaluate_seconds)]
        rows.append([*cells, _whole(work.num_examples), *took])
    heads = ["arm", "seed", *heads, "trained on", "training", "evaluation"]
    return Table(heads, rows, title="Every arm and seed", num_left=2)


def _whole(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _flat(value: Any) -> str:
    """A version, an objective or a piece of hardware as one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items())
    return ", ".join(map(_flat, value)) if isinstance(value, list | tuple) else str(value)


def estimates_csv(comparison: Comparison) -> str:
    """Every estimate a line: the mean of an arm, or where `against` is named, the difference.

    Shares as they are; an absent number is empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["arm", "against", "kind", "set", "pace", "value", "low", "high", "p", "num_seeds",
         "num_documents"]
    )  # fmt: skip
    for row in comparison.rows:
        size = (len(comparison.seeds[row.arm]), row.num_documents)
        writer.writerow([row.arm, "", *_place(row.key), *_ends(row.value), "", *size])
    for pair in comparison.pairs:
        p = "" if pair.p is None else repr(pair.p)
        place = [pair.first, pair.second, *_place(pair.key)]
        writer.writerow([*place, *_ends(pair.difference), p, "", ""])
    return text.getvalue()


def _place(key: MetricKey) -> list[str]:
    return [key.kind, key.set, key.pace]


def _ends(estimate: Estimate) -> list[str]:
    ends = (estimate.value, estimate.low, estimate.high)
    return [repr(float(x)) if math.isfinite(x) else "" for x in ends]
