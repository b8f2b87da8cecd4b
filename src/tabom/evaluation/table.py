"""The comparison of arms as Markdown and CSV text."""

import csv
import io
import math
from collections.abc import Mapping, Sequence

from tabom.evaluation.compare import ArmRow, Mean

_LABELS = {
    "in_domain": "in domain",
    "out_of_domain": "out of domain",
}
_COLUMNS = ("mean", "low", "high", "delta", "delta_low", "delta_high")


def to_markdown(
    rows: Sequence[ArmRow],
    *,
    keys: Sequence[str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> str:
    """One line per arm, one column per key: mean, and delta to the base with its interval.

    keys: which means; None takes all but single sets. labels: column heads by key.
    Shares are shown in percent with one decimal, other numbers with three.
    """
    if keys is None:
        keys = [k for k in _all_keys(rows) if not k.startswith("set:")]
    heads = [(labels or {}).get(key, label(key)) for key in keys]
    lines = [["arm", "seeds", *heads]]
    for row in rows:
        cells = [_cell(row.means[k]) if k in row.means else "–" for k in keys]
        lines.append([row.arm, str(row.num_seeds), *cells])
    lines.insert(1, ["---", *["---:"] * (len(lines[0]) - 1)])
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "".join("| " + " | ".join(line) + " |\n" for line in escaped)


def to_csv(rows: Sequence[ArmRow]) -> str:
    """All means, one line per arm and key; shares as they are, an absent number is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["arm", "key", *_COLUMNS, "num_seeds", "num_documents"])
    for row in rows:
        for key, mean in row.means.items():
            numbers = [getattr(mean, name) for name in _COLUMNS]
            shown = [repr(float(n)) if _is_known(n) else "" for n in numbers]
            writer.writerow([row.arm, key, *shown, mean.num_seeds, mean.num_documents])
    return text.getvalue()


def label(key: str) -> str:
    """A key of a row's means in words: "in_domain@2" is "in domain, 2 tokens a step"."""
    name, _, speed = key.removeprefix("set:").partition("@")
    words = _LABELS.get(name, name if key.startswith("set:") else name.replace("_", " "))
    if not speed:
        return words
    return f"{words}, {speed} tokens a step" if speed.isdigit() else f"{words}, {speed}"


def _all_keys(rows: Sequence[ArmRow]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row.means))


def _is_known(number: float | None) -> bool:
    return number is not None and not math.isnan(number)


def _cell(mean: Mean) -> str:
    scale, digits = (100, 1) if mean.is_share else (1, 3)

    def show(number: float | None, sign: str = "") -> str:
        return "–" if number is None or math.isnan(number) else f"{number * scale:{sign}.{digits}f}"

    if mean.delta is None:
        return show(mean.mean)
    cell = f"{show(mean.mean)} ({show(mean.delta, '+')}"
    if _is_known(mean.delta_low) and _is_known(mean.delta_high):
        cell += f" [{show(mean.delta_low, '+')}, {show(mean.delta_high, '+')}]"
    return cell + ")"
