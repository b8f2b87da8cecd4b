"""Text on a terminal in columns that line up."""

from collections.abc import Mapping, Sequence
from typing import Any

from tabom.core.text import duration, gib, number
from tabom.report.tables import Table, rendered

WIDTH = 140  # of a table of records; a wider one is continued below


def records(rows: Sequence[Mapping[str, Any]], *, num_left: int = 1) -> str:
    """A table of mappings with the same keys, which say how their values are shown."""
    heads = [
        key.removeprefix("num_").replace("_bytes", " GiB").replace("_", " ") for key in rows[0]
    ]
    cells = [[_cell(*item) for item in row.items()] for row in rows]
    return rendered(Table(heads, cells, num_left=num_left), width=WIDTH).rstrip()


def _cell(key: str, value: Any) -> str:
    """A value as its key says: bytes in GiB, seconds as a person says them, nothing as -."""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if value is None or (value == 0 and key != "id"):
        return "-"
    if key.endswith("_bytes"):
        return gib(value)
    if key == "seconds":
        return duration(value)
    return number(value) if isinstance(value, float) else str(value)
