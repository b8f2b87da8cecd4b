"""Text on a terminal: columns that line up, numbers one can read, and nothing that steers it."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

JOINERS = "\u200d\ufe0f"  # they make one emoji of two characters and take no room


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


def number(value: float) -> str:
    """Three digits and a prefix: 7.62 G."""
    for size, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {letter}"
    if value >= 1e4:
        return f"{value / 1e3:.3g} k"
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.2g}"


def parameters(value: float) -> str:
    """A count of parameters as people say it: 7.62 B parameters."""
    return number(value).replace(" G", " B") + " parameters"


def gib(value: float) -> str:
    """Bytes in GiB, three digits of small ones."""
    scaled = value / 2**30
    return f"{scaled:.1f}" if scaled >= 10 else f"{scaled:.3g}" if scaled >= 0.001 else "< 0.001"


def duration(seconds: float) -> str:
    """Hours, minutes or seconds, whichever is short."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 60:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.1f} s" if seconds >= 0.1 else "< 0.1 s"


def safe(text: str) -> str:
    """The text without control characters but newline and tab: a model must not steer a terminal.

    Direction marks and other invisible ones go as well; emoji joiners stay.
    """
    return "".join(c if c.isprintable() or c in "\n\t" or c in JOINERS else "\ufffd" for c in text)


def columns(text: str) -> int:
    """How many columns a terminal gives to a line of text (wide characters take two)."""
    return sum(char_columns(c) for c in text)


def char_columns(c: str) -> int:
    """Columns of one character: 0 for marks and joiners, 2 for wide ones, else 1."""
    if c in JOINERS or unicodedata.combining(c) or unicodedata.category(c) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(c) in "WF" else 1
