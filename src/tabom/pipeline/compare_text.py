"""A comparison as Markdown, and as rows for a spreadsheet."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from tabom.evaluation.records import Speed
from tabom.evaluation.stats import Interval
from tabom.evaluation.table import label, to_markdown
from tabom.pipeline.compare import Comparison


def to_text(comparison: Comparison) -> str:
    """All tables as Markdown; what has nothing to show is left out."""
    parts = [_table(comparison), _differences(comparison), _tests(comparison)]
    parts += [_speeds(comparison), _samples(comparison), _held_out(comparison)]
    return "\n".join(part for part in parts if part)


def to_rows(comparison: Comparison) -> str:
    """Everything beside the table as CSV: one number a line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "arm", "seed", "set", "tokens_per_step", "key", "value"])
    for t in comparison.tests:
        for key in ("num_documents", "wins", "losses", "p"):
            place = ["mcnemar", t.arm, t.seed, t.set, str(t.speed)]
            writer.writerow([*place, key, getattr(t, key)])
    for s in comparison.speeds:
        for key in ("schedule", "accuracy", "tokens_per_forward", "num_forwards"):
            writer.writerow(["speed", s.arm, None, s.set, str(s.speed), key, getattr(s, key)])
    for item in comparison.samples:
        head = ["pass", item.arm, None, item.set, str(item.speed)]
        for at in item.curve:
            for name, interval in (("", at.value), ("_delta", at.delta)):
                if interval is not None:
                    for end in ("estimate", "low", "high"):
                        value = getattr(interval, end)
                        writer.writerow([*head, f"pass@{at.k}{name}_{end}", value])
        if item.boundary is not None:
            b = item.boundary
            for key, value in (("gained", len(b.gained)), ("lost", len(b.lost))):
                writer.writerow([*head, key, value])
            for document in b.gained:
                writer.writerow([*head, "gained_document", document])
    for d in comparison.differences:
        for name in d.sets:
            writer.writerow(["differs", d.arm, None, name, None, d.key, f"{d.base!r} {d.own!r}"])
    for arm, note in comparison.held_out:
        writer.writerow(["held_out", arm, None, None, None, "note", note])
    return text.getvalue()


def warnings(comparison: Comparison) -> list[str]:
    """One line for each key in which an arm was evaluated otherwise than the base."""
    return [
        f"{d.arm} was evaluated otherwise than the base: {d.key} is {d.own!r} there, {d.base!r} "
        f"for the base ({', '.join(d.sets)})"
        for d in comparison.differences
    ]


def _table(comparison: Comparison) -> str:
    head = "## Accuracy"
    note = (
        f"Percent; in brackets the change against {comparison.base}, with its "
        f"{comparison.level:.0%} interval (paired bootstrap over documents).\n"
        if comparison.base is not None
        else "Percent.\n"
    )
    keys = comparison.table_keys
    labels = {key: label(key) for key in keys}
    return f"{head}\n\n{note}\n{to_markdown(comparison.rows, keys=keys, labels=labels)}"


def _tests(comparison: Comparison) -> str:
    if not comparison.tests:
        return ""
    lines = [
        [
            t.arm,
            "" if t.seed is None else str(t.seed),
            _set(t.set, t.speed),
            str(t.num_documents),
            str(t.wins),
            str(t.losses),
            f"{t.p:.3g}",
        ]
        for t in comparison.tests
    ]
    columns = ["arm", "seed", "task", "documents", "gained", "lost", "McNemar p"]
    return _markdown(f"Task by task, against {comparison.base}", columns, lines)


def _speeds(comparison: Comparison) -> str:
    lines = [
        [
            s.arm,
            s.set,
            s.schedule,
            f"{s.tokens_per_forward:.2f}",
            f"{s.num_forwards:.1f}",
            f"{100 * s.accuracy:.1f}",
        ]
        for s in comparison.speeds
    ]
    columns = [
        "arm",
        "task",
        "tokens a step, or schedule",
        "tokens per forward",
        "forwards",
        "accuracy",
    ]
    return _markdown("Accuracy against speed", columns, lines)


def _samples(comparison: Comparison) -> str:
    if not comparison.samples:
        return ""
    ks = sorted({at.k for item in comparison.samples for at in item.curve})
    lines, borders = [], []
    for item in comparison.samples:
        task = _set(item.set, item.speed)
        by_k = {at.k: at for at in item.curve}
        cells = [_pass(by_k[k].value, by_k[k].delta) if k in by_k else "–" for k in ks]
        lines.append([item.arm, task, *cells])
        if item.boundary is not None:
            b = item.boundary
            numbers = (b.num_samples, b.num_base_samples, len(b.gained), len(b.lost))
            borders.append([item.arm, task, *map(str, (*numbers, b.both, b.neither))])
    text = _markdown("pass@k", ["arm", "task", *(f"pass@{k}" for k in ks)], lines)
    if borders:
        columns = ["arm", "task", "samples", "samples of the base", "only the arm solves",
                   "only the base solves", "both", "neither"]  # fmt: skip
        text += "\n" + _markdown("Knowledge boundary", columns, borders)
    return text


def _pass(value: Interval, delta: Interval | None) -> str:
    text = f"{100 * value.estimate:.1f}"
    if delta is None:
        return text
    low, high = 100 * delta.low, 100 * delta.high
    return f"{text} ({100 * delta.estimate:+.1f} [{low:+.1f}, {high:+.1f}])"


def _differences(comparison: Comparison) -> str:
    if not comparison.differences:
        return "" if comparison.base is None else "All were evaluated alike.\n"
    lines = [
        [d.arm, d.key, repr(d.base), repr(d.own), ", ".join(d.sets)] for d in comparison.differences
    ]
    columns = ["arm", "key", "base", "arm's own", "sets"]
    return _markdown("Evaluated otherwise than the base", columns, lines)


def _held_out(comparison: Comparison) -> str:
    if not comparison.held_out:
        return ""
    return _markdown("Held out", ["arm", "found"], [list(item) for item in comparison.held_out])


def _set(name: str, speed: Speed) -> str:
    if speed.schedule:
        return f"{name}, {speed.schedule}"
    return name if speed.tokens_per_step == 1 else f"{name}, {speed.tokens_per_step} a step"


def _markdown(title: str, columns: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    rows = [list(columns), ["---"] * len(columns), *lines]
    escaped = ([str(cell).replace("|", "\\|") for cell in row] for row in rows)
    return f"## {title}\n\n" + "".join("| " + " | ".join(row) + " |\n" for row in escaped)
