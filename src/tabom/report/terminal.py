"""The same table for a terminal: plain text, aligned, at most 100 columns wide."""

import os
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from tabom.report.data import (
    check_summary,
    clean,
    mean_of,
    measured_order,
    number,
    split_metrics,
)
from tabom.report.figures import tone
from tabom.report.words import MINUS, best_arms, count, digits_of, duration, fixed, headline

WIDTH = 100
NAME_WIDTH = 22
GAP = "  "
CODES = {"gain": "32", "loss": "31", "quiet": "2", "best": "1"}


def format_table(
    summary: Mapping[str, Any], *, width: int = WIDTH, is_coloured: bool = False
) -> str:
    """The arms in measured order; per metric the mean, its change and the change's interval.

    summary: see `tabom.report.data.Summary`. width: columns, at least 60; metrics that do not fit
    beside each other follow in further blocks. is_coloured: ANSI colours.
    Returns: the text, without a final newline. Raises: DataError as `build_report` does.
    """
    check_summary(summary)
    summary = clean(summary)
    width = max(60, min(width, WIDTH))
    arms, best = measured_order(summary), best_arms(summary)
    names = [_cut(_plain(arm["name"]), NAME_WIDTH) for arm in arms]
    left = max([3, *map(_columns, names)])
    sentence = _plain(headline(summary)).replace(MINUS, "-")
    lines = [_cut(_title(summary), width), *_wrap(sentence, width)]
    for block in _blocks(
        [_column(metric, arms) for metric in split_metrics(summary)[0]], width - left
    ):
        lines.append("")
        heads = [_pad(_cut(column["title"], column["width"]), column["width"]) for column in block]
        lines.append((" " * left + GAP + GAP.join(heads)).rstrip())
        for arm, name in zip(arms, names, strict=True):
            cells = []
            for column in block:
                kind = tone(mean_of(arm, column["key"]), column["metric"])
                mean, change = column["cells"][arm["name"]]
                style = "best" if best.get(column["key"]) == arm["name"] else ""
                painted = _paint(mean, style, is_coloured)
                if change:
                    painted += " " + _paint(change, kind or "quiet", is_coloured)
                plain = len(mean) + (1 + len(change) if change else 0)
                cells.append(painted + " " * (column["width"] - plain))
            lines.append((_pad(name, left) + GAP + GAP.join(cells)).rstrip())
    if arms and summary.get("base_arm") and summary.get("metrics"):
        lines += ["", *_wrap(_foot(summary), width)]
    return "\n".join(lines)


def print_table(summary: Mapping[str, Any], *, stream: TextIO | None = None) -> None:
    """Print `format_table` to `stream` (default stdout), in colour where that is wanted.

    Colour: only on a terminal, and never where NO_COLOR is set (https://no-color.org).
    """
    stream = stream or sys.stdout
    is_coloured = stream.isatty() and "NO_COLOR" not in os.environ
    text = format_table(summary, width=_terminal_width(), is_coloured=is_coloured)
    # A console of another encoding shows a "?" rather than ending a run of hours in an error.
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")


def _terminal_width() -> int:
    from shutil import get_terminal_size

    return get_terminal_size((WIDTH, 24)).columns


def _title(summary: Mapping[str, Any]) -> str:
    parts = [_plain(summary["name"]), count(len(summary.get("arms") or ()), "arm")]
    if summary.get("seeds"):
        parts.append(count(len(summary["seeds"]), "seed"))
    if number(summary.get("seconds")):
        parts.append(f"{duration(number(summary['seconds']))} of work")
    return "  |  ".join(parts)


def _foot(summary: Mapping[str, Any]) -> str:
    level = number(summary.get("level"))
    interval = f"{100 * level:g}% interval" if level else "interval"
    text = f"mean, change against {_plain(summary['base_arm'])}, [{interval} of the change]"
    lower = [m for m in split_metrics(summary)[0] if m.get("better") == "lower"]
    names = ", ".join(_plain(m.get("label") or m["key"]) for m in lower)
    return text + (f"; lower is better: {names}" if names else "")


def _column(metric: Mapping[str, Any], arms: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    digits, raw = digits_of(metric), {}
    for arm in arms:
        cell = mean_of(arm, metric["key"])
        low, high = cell["delta_low"], cell["delta_high"]
        change = "" if cell["delta"] is None else fixed(cell["delta"], digits, sign=True, minus="-")
        span = ""
        if change and low is not None and high is not None:
            ends = [fixed(end, digits, sign=True, minus="-") for end in (low, high)]
            span = f"[{ends[0]}, {ends[1]}]"
        mean = "-" if cell["mean"] is None else fixed(cell["mean"], digits, minus="-")
        raw[arm["name"]] = (mean, change, span)
    sizes = [max((len(texts[i]) for texts in raw.values()), default=0) for i in range(3)]
    cells = {
        name: (mean.rjust(sizes[0]), f"{change.rjust(sizes[1])} {span}".rstrip() if change else "")
        for name, (mean, change, span) in raw.items()
    }
    unit = _plain(metric.get("unit") or "")
    title = _plain(metric.get("label") or metric["key"]) + (f" ({unit})" if unit else "")
    body = max((len(mean) + 1 + len(change) for mean, change in cells.values()), default=0)
    # A title may widen its column a little; a longer one is cut.
    width = max(body, min(_columns(title), body + 6), 8)
    return {
        "key": metric["key"],
        "metric": metric,
        "title": title,
        "width": width,
        "cells": cells,
    }


def _blocks(columns: Sequence[dict[str, Any]], width: int) -> list[list[dict[str, Any]]]:
    blocks: list[list[dict[str, Any]]] = []
    room = 0
    for column in columns:
        size = column["width"] + len(GAP)
        if not blocks or size > room:
            blocks.append([])
            room = width
        blocks[-1].append(column)
        room -= size
    return blocks


def _plain(text: Any) -> str:
    """One line without control characters: a name must not be able to steer the terminal."""
    return "".join(c if c.isprintable() else " " for c in " ".join(str(text).split()))


def _columns(text: str) -> int:
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def _cut(text: str, width: int) -> str:
    if _columns(text) <= width:
        return text
    while _columns(text) > width - 2:
        text = text[:-1]
    return text.rstrip() + ".."


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _columns(text))


def _wrap(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and _columns(lines[-1]) + 1 + _columns(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return [_cut(line, width) for line in lines]


def _paint(text: str, kind: str, is_coloured: bool) -> str:
    return f"\x1b[{CODES[kind]}m{text}\x1b[0m" if is_coloured and kind else text
