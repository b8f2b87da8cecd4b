"""Rows of a user's JSON Lines file, with errors that name the line and the reason."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tabom.core.errors import DataError


def read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place of the row for messages, row) of every line that is not blank.

    Raises: DataError at the first line that is not UTF-8 text or not a JSON object.
    """
    # As bytes, which \n alone ends. A byte order mark is no mistake: some editors write one.
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            place = f"{path}, line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if not text.strip():
                    continue
                row = json.loads(text, parse_constant=_constant)
                if "\\u" in text:  # an escape may be half a character, which no file can hold
                    json.dumps(row, ensure_ascii=False).encode()
            except UnicodeError as error:
                raise DataError(f"{place}: not UTF-8 text ({error})") from error
            except (ValueError, RecursionError) as error:
                raise DataError(f"{place}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise DataError(f"{place}: a row must be a JSON object")
            yield place, row


def _constant(name: str) -> float | None:
    """NaN is no value, as everywhere here."""
    return None if name == "NaN" else float(name.replace("Infinity", "inf"))
