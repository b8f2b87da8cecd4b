"""Rows of a file: JSON Lines (also gzipped), a JSON array, Parquet or Arrow; one held at a time."""

import codecs
import gzip
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tabom.core.atomic import replacing
from tabom.core.errors import DataError

CHUNK = 4 * 2**20  # characters of a JSON array that are read at a time
JSON_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
SUFFIXES = (*JSON_SUFFIXES, ".parquet", ".arrow")


class MalformedRowError(DataError):
    """A row that is not what its format says. `field` is the one at fault ("": the whole row)."""

    def __init__(self, place: str, field: str, why: str) -> None:
        super().__init__(f"{place}, field {field!r}: {why}" if field else f"{place}: {why}")
        self.field = field


@dataclass(frozen=True)
class Row:
    """One row and where it stands: "file, line 7" (from 1) or "file, row 6" (from 0)."""

    place: str
    content: Any  # bytes of JSON that are still to be parsed, or a parsed value

    def cells(self) -> dict[str, Any]:
        """The row as a mapping. Raises: MalformedRowError if it is none."""
        value = self.content
        if isinstance(value, bytes):
            try:
                text = value.decode()
                value = json.loads(text)
                _require_characters(value, text)
            except UnicodeError as error:
                raise MalformedRowError(self.place, "", f"not UTF-8 text ({error})") from error
            except (ValueError, RecursionError) as error:
                raise MalformedRowError(self.place, "", f"not JSON ({error})") from error
        if not isinstance(value, dict):
            raise MalformedRowError(
                self.place, "", f"expected a JSON object, found {type(value).__name__}"
            )
        return value


def read_rows(path: Path) -> Iterator[Row]:
    """Stream the rows of a file, whose suffix says what it is.

    Raises: DataError if there is no such file, its suffix is none of SUFFIXES, or it is damaged in
        a way that leaves no next row to go on with.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    suffix = suffix_of(path)
    try:
        if suffix.startswith(".jsonl"):
            # As bytes, so that a line that is no text is one bad row and not the end of the file.
            with _open(path) as file:
                for number, line in enumerate(file, start=1):
                    if number == 1:
                        line = line.removeprefix(codecs.BOM_UTF8)
                    if line.strip():
                        yield Row(f"{path}, line {number}", line)
        elif suffix.startswith(".json"):
            with io.TextIOWrapper(_open(path), encoding="utf-8-sig") as file:
                for number, value in enumerate(_array(file, str(path))):
                    yield Row(f"{path}, row {number}", value)
        else:
            number = 0
            for batch in _arrow_batches(path, suffix):
                for value in batch.to_pylist():
                    yield Row(f"{path}, row {number}", value)
                    number += 1
    except (OSError, EOFError, UnicodeDecodeError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: damaged or not a {suffix} file ({error})") from error


@contextmanager
def writing_rows(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that writes one row; the file appears whole on a clean exit, or not at all.

    Raises: DataError if the suffix is none of JSON_SUFFIXES.
    """
    suffix = suffix_of(path)
    if suffix not in JSON_SUFFIXES:
        raise DataError(f"{path}: cannot write {suffix}; name it {' or '.join(JSON_SUFFIXES)}")
    is_lines = suffix.startswith(".jsonl")
    with replacing(path) as temporary, temporary.open("wb") as raw:
        # No name and no time in the gzip header: equal rows give equal files.
        file: Any = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if suffix[-3:] == ".gz" else raw
        before = b"" if is_lines else b"["

        def write(cells: dict[str, Any]) -> None:
            nonlocal before
            text = json.dumps(cells, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            file.write(before + text.encode() + (b"\n" if is_lines else b""))
            before = b"" if is_lines else b",\n"

        yield write
        if not is_lines:
            file.write(b"[]\n" if before == b"[" else b"]\n")
        if file is not raw:
            file.close()


def suffix_of(path: Path) -> str:
    """The suffix with ".gz", if it is one of SUFFIXES. Raises: DataError."""
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if path.name.endswith(suffix):
            return suffix
    raise DataError(f"{path}: expected a file named {', '.join(SUFFIXES)}")


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")


def _require_characters(value: Any, text: str) -> None:
    """Raise UnicodeError if an escape (only that can) is half a character, which no file holds."""
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()


def _array(file: IO[str], name: str) -> Iterator[Any]:
    """The elements of a JSON array, parsed one by one."""
    decoder = json.JSONDecoder()
    text, is_end = "", False

    def more() -> None:
        nonlocal text, is_end
        chunk = file.read(max(CHUNK, len(text)))  # doubling: a long element costs linear time
        is_end = not chunk
        text += chunk

    def next_sign() -> str:
        nonlocal text
        text = text.lstrip()
        while not text and not is_end:
            more()
            text = text.lstrip()
        return text[:1]

    if next_sign() != "[":
        raise DataError(f"{name}: expected a JSON array of rows; name JSON Lines .jsonl")
    text = text[1:]
    number = 0
    while next_sign() != "]" or number:
        try:
            value, end = decoder.raw_decode(text)
            _require_characters(value, text[:end])
        except (UnicodeError, RecursionError) as error:
            raise DataError(f"{name}, row {number}: not JSON ({error})") from error
        except ValueError as error:
            if is_end:
                raise DataError(
                    f"{name}, row {number}: not JSON, or the file is cut short ({error})"
                ) from error
            more()
            continue
        yield value
        text = text[end:]
        sign = next_sign()
        if sign == "]":
            return
        if sign != ",":
            raise DataError(f"{name}, row {number}: expected ',' or ']' after it, found {sign!r}")
        text = text[1:]
        number += 1


def _arrow_batches(path: Path, suffix: str) -> Iterator[Any]:
    if suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=64)
    else:
        with pa.OSFile(str(path)) as source, pa.ipc.open_stream(source) as reader:
            yield from reader
