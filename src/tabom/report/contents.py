"""The tables of a report: each is said once here, and rendered wherever it is shown."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tabom.core.text import duration
from tabom.evaluation.comparison import FORGETTING, NET_LOSS, SET, Comparison, MetricKey
from tabom.evaluation.scores import IN_DOMAIN, OUT_OF_DOMAIN
from tabom.evaluation.stats import Estimate
from tabom.report.data import Report
from tabom.report.tables import Cell, Table
from tabom.report.words import (
    SHARE,
    best_arm,
    fixed,
    format_of,
    measured_order,
    metric_of,
    pace_text,
    tone,
)

LOSSES = (FORGETTING, NET_LOSS)
SAYS = {1: "higher", -1: "lower", 0: "open"}


def arms_table(
    report: Report, keys: Sequence[MetricKey], *, title: str = "", has_seeds: bool = False
) -> Table:
    """The arms in measured order; for each metric the mean, and its change with an interval."""
    comparison, first = report.comparison, ["arm", "seeds"] if has_seeds else ["arm"]
    # The arm to be shown in bold in each column, if there is one.
    best = {key: best_arm(comparison, key) for key in keys}
    rows = []
    for arm in measured_order(report):
        cells: list[Any] = [arm, len(comparison.seeds[arm])][: len(first)]
        for key in keys:
            row, form = comparison.row(arm, key), format_of(comparison, key)
            value, change = (row.value, row.change) if row is not None else (None, None)
            mean = form.number(value.value if value is not None else None)
            cells.append(Cell(mean, "best" if arm == best[key] else ""))
            if key.kind in LOSSES:  # they are changes themselves
                cells.append(form.ends(value))
            else:
                style = tone(comparison, arm, key) or "quiet"
                cells.append(Cell(form.bracket(change, sign=True), style))
        rows.append(cells)
    heads = []
    for key in keys:
        label, unit = metric_of(key).label, format_of(comparison, key).unit
        heads += [f"{label} {unit}".rstrip(), "interval" if key.kind in LOSSES else "change"]
    lower = [metric_of(key).label for key in keys if metric_of(key).better == "lower"]
    note = f"Means, with {100 * comparison.level:g}% intervals"
    note += "" if comparison.base is None else f" of the changes against {comparison.base}"
    note += f"; lower is better: {', '.join(lower)}." if lower else "."
    return Table([*first, *heads], rows, title=title, note=note, group=2)


def paper_keys(comparison: Comparison) -> list[MetricKey]:
    """The columns as in the paper: each role's sets, then their mean; at the slowest pace, then at
    the others (tokens a step by their number, then schedules by name); the losses last."""
    paces = dict.fromkeys(key.pace for key in comparison.keys if key.is_accuracy)
    keys: list[MetricKey] = []
    for pace in sorted(paces, key=lambda p: (p != "" and not p.isdigit(), len(p), p)):
        for role in (IN_DOMAIN, OUT_OF_DOMAIN):
            names = [s.name for s in comparison.sets if s.role == role]
            keys += [MetricKey(SET, set=name, pace=pace) for name in names]
            keys.append(MetricKey(role, pace=pace))
    return [key for key in (*keys, *map(MetricKey, LOSSES)) if key in comparison.keys]


def comparison_tables(report: Report) -> list[Table]:
    """Arm against arm, then all else that there is to say about how arms were compared."""
    comparison = report.comparison
    passes = [key for key in comparison.keys if key.kind.startswith("pass@")]
    makers = (_differences, _tests, _costs, _boundaries, _held_out)
    tables = [_pairs(report, comparison), *(make(comparison) for make in makers)]
    tables += [arms_table(report, passes, title="pass@k")] if passes else []
    return [table for table in tables if table]


def _pairs(report: Report, comparison: Comparison) -> Table:
    """Arm against arm in and out of domain, paired by prompt and seed, in measured order."""
    keys = [key for key in map(MetricKey, (IN_DOMAIN, OUT_OF_DOMAIN)) if key in comparison.keys]
    # In measured order, so that most differences are positive and easy to read.
    order, rows = measured_order(report), []
    for i, first in enumerate(order):
        for second in order[i + 1 :]:
            cells: list[Any] = [f"{first} – {second}"]
            for key in keys:
                pair = comparison.pair(first, second, key)
                sign, change = (pair.sign, pair.difference) if pair is not None else (0, None)
                style = {1: "gain", -1: "loss", 0: ""}[sign]
                cells += [Cell(SHARE.bracket(change, sign=True), style), SAYS[sign]]
            rows.append(cells)
    heads = [head for key in keys for head in (metric_of(key).label, "says")]
    note = (
        "First minus second, in points, paired by prompt and by seed. These differences, not the "
        "intervals of the single arms, decide what is called separable."
    )
    return Table(["difference", *heads], rows, title="Arm against arm", note=note, group=2)


def _tests(comparison: Comparison) -> Table:
    rows = []
    for t in comparison.tests:
        # Interval and exact test may disagree where few documents changed; then neither decides.
        is_told = t.p < 1 - comparison.level and not t.change.low <= 0 <= t.change.high
        says = SAYS[(t.gained > t.lost) - (t.gained < t.lost) if is_told else 0]
        change = SHARE.bracket(t.change, sign=True)
        counts = [t.num_documents, t.gained, t.lost]
        rows.append([t.arm, _seed(t.seed), _set(t), *counts, change, f"{t.p:.3g}", says])
    heads = ["arm", "seed", "set", "prompts", "gained", "lost", "change", "p", "says"]
    note = (
        "Tango's interval of the change and the p of McNemar's exact test; a change is called "
        "higher or lower only if both say so."
    )
    title = f"Set by set, against {comparison.base}"
    return Table(heads, rows, title=title, note=note, num_left=3)


def _costs(comparison: Comparison) -> Table:
    rows = []
    for c in comparison.costs:
        numbers = [fixed(c.tokens_per_forward, 2), fixed(c.num_forwards, 1)]
        rows.append([c.arm, c.set, c.pace, *numbers, SHARE.number(c.accuracy)])
    heads = ["arm", "set", "tokens a step, or schedule", "tokens per forward", "forwards",
             "accuracy"]  # fmt: skip
    return Table(heads, rows, title="Accuracy against pace", num_left=3)


def _boundaries(comparison: Comparison) -> Table:
    rows = [
        [b.arm, _seed(b.seed), _set(b), b.k, len(b.gained), len(b.lost), b.both, b.neither]
        for b in comparison.boundaries
    ]
    heads = ["arm", "seed", "set", "samples", "only the arm", "only the base", "both", "neither"]
    note = "Prompts solved within equally many samples of the arm's model and of the base."
    return Table(heads, rows, title="Knowledge boundary", note=note, num_left=3)


def _differences(comparison: Comparison) -> Table:
    rows = [
        [d.arm, d.key, repr(d.base), repr(d.own), ", ".join(d.sets)] for d in comparison.differences
    ]
    heads = ["arm", "setting", "base", "arm's own", "sets"]
    return Table(heads, rows, title="Evaluated otherwise than the base", num_left=5)


def _held_out(comparison: Comparison) -> Table:
    # A study checks once for all its arms: the same sentence is shown once, with all of them.
    notes: dict[str, list[str]] = {}
    for arm, note in comparison.held_out:
        notes.setdefault(note, []).append(arm)
    rows = [[", ".join(arms), note] for note, arms in notes.items()]
    return Table(["trained", "found"], rows, title="Held out", num_left=2)


def collection_table(report: Report) -> Table:
    """What each seed collected."""
    rows = []
    for item in report.collection:
        accepted, number = item.reasons.get("accepted"), item.num_prompts
        share = None if accepted is None or not number else 100 * accepted / number
        pace = [duration(item.seconds), _whole(item.trajectories_per_hour)]
        rows.append([item.seed, _whole(number), _whole(accepted), fixed(share, 1), *pace])
    return Table(["seed", "trajectories", "accepted", "share, %", "time", "an hour"], rows)


def settings_tables(report: Report) -> list[Table]:
    """Versions, hardware, sets, objectives, and every arm under every seed."""
    sets = report.comparison.sets
    contents = {
        "Versions": report.versions.items(),
        "Hardware": [(_spaced(name), value) for name, value in report.hardware.items()],
        "Evaluation sets": [
            (s.name, f"{_spaced(s.role)}, {s.num_documents:,} prompts") for s in sets
        ],
        "Objective of each arm": [
            (a.name, _spaced([a.data, a.objective]) if a.objective else "not trained")
            for a in report.arms
        ],
    }
    tables = [
        Table(["what", "value"], [(k, _flat(v)) for k, v in rows], title=title, num_left=2)
        for title, rows in contents.items()
    ]
    return [table for table in (*tables, _seed_table(report)) if table]


def _seed_table(report: Report) -> Table:
    """One row an arm and seed: the metrics of the main table, counts and seconds."""
    comparison = report.comparison
    heads = [metric_of(key).label for key in report.columns]
    heads = ["arm", "seed", *heads, "trained on", "training", "evaluation"]
    rows = []
    for work in report.work:
        cells: list[Any] = [work.arm, _seed(work.seed)]
        at = comparison.seeds[work.arm].index(work.seed)
        for key in report.columns:
            row = comparison.row(work.arm, key)
            cells.append(format_of(comparison, key).number(row.by_seed[at] if row else None))
        took = [duration(s) or "–" for s in (work.train_seconds, work.evaluate_seconds)]
        rows.append([*cells, _whole(work.num_examples), *took])
    return Table(heads, rows, title="Every arm and seed", num_left=2)


def _seed(seed: int | None) -> str:
    return "–" if seed is None else str(seed)


def _set(item: Any) -> str:
    """The set and the pace of a test or a boundary."""
    return item.set if item.pace == "1" else f"{item.set}, {pace_text(item.pace)}"


def _whole(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _flat(value: Any) -> str:
    """A version, an objective or a piece of hardware as one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_flat, value)) or "none"
    return "none" if value is None else str(value)


def _spaced(value: Any) -> str:
    """The same for our own names, which have underscores; those of others stay as they are."""
    return _flat(value).replace("_", " ")


def estimates_csv(comparison: Comparison) -> str:
    """Every estimate a line: the mean of an arm, or where `against` is named, the difference.

    Shares as they are; an absent number is empty.
    """
    text = io.StringIO()
    heads = ["arm", "against", "kind", "set", "pace", "value", "low", "high", "p"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*heads, "num_seeds", "num_documents"])
    for row in comparison.rows:
        size = [len(comparison.seeds[row.arm]), row.num_documents]
        writer.writerow([row.arm, "", *_numbers(row.key, row.value), "", *size])
    for pair in comparison.pairs:
        p = "" if pair.p is None else repr(pair.p)
        numbers = _numbers(pair.key, pair.difference)
        writer.writerow([pair.first, pair.second, *numbers, p, "", ""])
    return text.getvalue()


def _numbers(key: MetricKey, estimate: Estimate) -> list[str]:
    ends = (estimate.value, estimate.low, estimate.high)
    numbers = [repr(float(x)) if math.isfinite(x) else "" for x in ends]
    return [key.kind, key.set, key.pace, *numbers]
