"""Text on a terminal in columns that line up."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from tabom.core.text import JOINERS, duration, gib, number


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, num_left: int = 1) -> str:
    """Rows under heads; the first `num_left` columns to the left, numbers to the right."""
    lines = [list(heads), *map(list, rows)]
    sizes = [max(columns(line[i]) for line in lines) for i in range(len(heads))]

    def pad(text: str, i: int) -> str:
        room = " " * (sizes[i] - columns(text))
        return text + room if i < num_left else room + text

    return "\n".join(
        "  ".join(pad(cell, i) for i, cell in enumerate(line)).rstrip() for line in lines
    )


def records(rows: Sequence[Mapping[str, Any]], *, num_left: int = 1) -> str:
    """A table of mappings with the same keys, which say how their values are shown."""
    heads = [
        key.removeprefix("num_").replace("_bytes", " GiB").replace("_", " ") for key in rows[0]
    ]
    return table(heads, [[_cell(*item) for item in row.items()] for row in rows], num_left=num_left)


def _cell(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if value is None or (value == 0 and key != "id"):
        return "-"
    if key.endswith("_bytes"):
        return gib(value)
    if key == "seconds":
        return duration(value)
    return number(value) if isinstance(value, float) else str(value)


def columns(text: str) -> int:
    """How many columns a terminal gives to a line of text (wide characters take two)."""
    return sum(char_columns(c) for c in text)


def char_columns(c: str) -> int:
    """Columns of one character: 0 for marks and joiners, 2 for wide ones, else 1."""
    if c in JOINERS or unicodedata.combining(c) or unicodedata.category(c) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(c) in "WF" else 1
