"""The one reader of a user's files of rows, with errors that name the file, the row and the reason.

The name's end says what a file is: JSON Lines, a JSON array or CSV (each also gzipped), Parquet,
Arrow, or text with a prompt a line. A row that is malformed is one bad row and not the end of the
file: it fails when its cells are asked for, so a caller may drop it and go on.
"""

import codecs
import csv
import gzip
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any

from tabom.core.errors import DataError

SUFFIXES = (
    ".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".txt", ".parquet", ".arrow",
)  # fmt: skip
MAX_DEPTH = 100  # of lists and objects in a row: what follows walks through them by recursion


class MalformedRowError(DataError):
    """A row that is not what it should be. `field` is the one at fault ("": the whole row)."""

    def __init__(self, place: str, field: str, why: str) -> None:
        super().__init__(f"{place}, field {field!r}: {why}" if field else f"{place}: {why}")
        self.field = field


@dataclass(frozen=True)
class Row:
    """One row and where it stands: "file, line 7" (from 1) or "file, row 6" (from 0)."""

    place: str
    content: Any  # bytes of JSON that are still to be parsed, a value, or what is wrong with it

    def cells(self) -> dict[str, Any]:
        """The row as a mapping. NaN is no value, as everywhere here: it becomes None.

        Raises: MalformedRowError if the row is not UTF-8, not JSON, no mapping or nested too deep.
        """
        value = self.content
        if isinstance(value, MalformedRowError):
            raise value
        try:
            if isinstance(value, bytes):
                value = json.loads(value.decode(), parse_constant=_constant)
            # An escape may be half a character, which no file can hold. The depth is looked at
            # here, too, for the encoder stops at a nesting that later steps could not walk.
            if self._may_be_deep and _is_deep(value, MAX_DEPTH):
                raise ValueError(f"nested deeper than {MAX_DEPTH}")
            if isinstance(self.content, bytes) and b"\\u" in self.content:
                json.dumps(value, ensure_ascii=False).encode()
        except UnicodeError as error:
            raise MalformedRowError(self.place, "", f"not UTF-8 text ({error})") from error
        except (ValueError, RecursionError) as error:
            raise MalformedRowError(self.place, "", f"not JSON ({error})") from error
        if not isinstance(value, dict):
            why = f"expected an object of columns, found {type(value).__name__}"
            raise MalformedRowError(self.place, "", why)
        return value

    @property
    def _may_be_deep(self) -> bool:
        """Whether a text has so many brackets that they could stand in one another."""
        content = self.content
        return (
            not isinstance(content, bytes) or content.count(b"[") + content.count(b"{") > MAX_DEPTH
        )


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file. JSON Lines, CSV, Parquet and Arrow are read row by row.

    Cells of CSV are text, whatever they look like: "007" and "NA" stay what they are.
    Raises: DataError if there is no such file, its name ends with none of SUFFIXES, or it is
        damaged in a way that leaves no next row to go on with.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    suffix = next((s for s in sorted(SUFFIXES, key=len)[::-1] if path.name.endswith(s)), None)
    if suffix is None:
        raise DataError(f"{path}: expected a file named {', '.join(SUFFIXES)}")
    kind = suffix.split(".")[1]
    try:
        if kind in ("parquet", "arrow"):
            yield from _table_rows(path, kind)
            return
        with path.open("rb") as raw:
            file: Any = gzip.GzipFile(fileobj=raw) if suffix.endswith(".gz") else raw
            yield from {"jsonl": _lines, "json": _array, "csv": _csv, "txt": _text}[kind](
                file, path
            )
    except (OSError, EOFError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: damaged or not a {suffix} file ({error})") from error


def _lines(file: IO[bytes], path: Path) -> Iterator[Row]:
    # As bytes, which \n alone ends, so that a line that is no text is one bad row. A byte order
    # mark is no mistake: some editors write one.
    for number, line in enumerate(file, start=1):
        content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if content.strip():
            yield Row(f"{path}, line {number}", content)


def _array(file: IO[bytes], path: Path) -> Iterator[Row]:
    """The elements of one JSON array; a file of JSON Lines that is named .json is taken, too."""
    content = file.read().removeprefix(codecs.BOM_UTF8)
    if not content.lstrip().startswith(b"["):
        yield from _lines(io.BytesIO(content), path)
        return
    try:
        values = json.loads(content.decode(), parse_constant=_constant)
        json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON array of rows ({error})") from error
    for number, value in enumerate(values):
        yield Row(f"{path}, row {number}", value)


def _csv(file: IO[bytes], path: Path) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # the default is 128 KiB for a cell
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        lines = csv.reader(text, strict=True)  # else an open quote swallows the rest of the file
        head = [name.strip() for name in next(lines, [])]
        if len(set(head)) < len(head):
            raise ValueError(f"a column stands twice in its head: {', '.join(head)}")
        for number, cells in enumerate(filter(None, lines)):
            place = f"{path}, row {number}"
            if len(cells) > len(head):
                why = f"{len(cells)} cells under a head of {len(head)} columns"
                yield Row(place, MalformedRowError(place, "", why))
            else:
                yield Row(place, dict(zip_longest(head, cells)))  # a short row lacks its last


def _text(file: IO[bytes], path: Path) -> Iterator[Row]:
    """A prompt on each line that is not blank."""
    with io.TextIOWrapper(file, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                row = {"id": f"line-{number}", "prompt": line.rstrip("\n")}
                yield Row(f"{path}, line {number}", row)


def _table_rows(path: Path, kind: str) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    with path.open("rb") as source:
        batches: Any = (
            pq.ParquetFile(source).iter_batches(batch_size=64)
            if kind == "parquet"
            else pa.ipc.open_stream(source)
        )
        for batch in batches:
            for value in batch.to_pylist():
                yield Row(f"{path}, row {number}", value)
                number += 1


def _is_deep(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested in more than so many levels."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels == 0 or any(
        isinstance(item, dict | list) and _is_deep(item, levels - 1) for item in inner
    )


def _constant(name: str) -> float | None:
    return None if name == "NaN" else float(name.replace("Infinity", "inf"))
