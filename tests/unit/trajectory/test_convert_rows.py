"""Rows in and out of files: every kind of file, one row at a time, damage named."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tabom.core.errors import DataError
from tabom.trajectory.convert import rows
from tabom.trajectory.convert.rows import MalformedRowError, read_rows, writing_rows

ROWS: list[dict[str, Any]] = [{"a": i, "text": 'ü"\n,]}{' * i, "ids": [[i], []]} for i in range(7)]


def write(path: Path, cells: list[dict[str, Any]]) -> Path:
    with writing_rows(path) as write_row:
        for row in cells:
            write_row(row)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json", ".json.gz"])
@pytest.mark.parametrize("chunk", [1, 5, 4096])
def test_what_is_written_is_read(
    tmp_path: Path, suffix: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "CHUNK", chunk)  # an array's rows straddle the chunks
    for cells in (ROWS, ROWS[:1], []):
        path = write(tmp_path / f"f{suffix}", cells)
        assert [r.cells() for r in read_rows(path)] == cells
    assert write(tmp_path / f"g{suffix}", ROWS).read_bytes() == write(path, ROWS).read_bytes()


def test_json_files_are_those_that_json_reads(tmp_path: Path) -> None:
    path = write(tmp_path / "f.json", ROWS)
    assert json.loads(path.read_text()) == ROWS
    path.write_text(json.dumps(ROWS, indent=2))  # as dLLM-RL writes them
    assert [r.cells() for r in read_rows(path)] == ROWS
    assert [r.place for r in read_rows(path)][:2] == [f"{path}, row 0", f"{path}, row 1"]
    with gzip.open(write(tmp_path / "f.jsonl.gz", ROWS), "rt") as file:
        assert [json.loads(line) for line in file] == ROWS


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_columnar_files(tmp_path: Path, kind: str) -> None:
    table, path = pa.Table.from_pylist(ROWS), tmp_path / f"f.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_stream(path, table.schema) as sink:
            sink.write_table(table)
    assert [r.cells() for r in read_rows(path)] == ROWS
    path.write_bytes(b"not that")
    with pytest.raises(DataError, match=rf"f\.{kind}: damaged or not a \.{kind} file"):
        list(read_rows(path))


def test_blank_lines_are_not_rows_and_lines_are_counted_from_one(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n[1]\n{"a"\n')
    found = list(read_rows(path))
    assert [r.place.rpartition(" ")[2] for r in found] == ["1", "3", "4", "5"]
    with pytest.raises(MalformedRowError, match=r"line 4: expected a JSON object, found list"):
        found[2].cells()
    with pytest.raises(MalformedRowError, match=r"f\.jsonl, line 5: not JSON"):
        found[3].cells()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('[{"a": 1}, {"b"', "row 1: not JSON, or the file is cut short"),
        ('[{"a": 1}', "row 0: expected ',' or ']' after it, found ''"),
        ('[{"a": 1} {"b": 2}]', "row 0: expected ',' or ']' after it, found '{'"),
        ('[{"a": 1},]', "row 1: not JSON"),
        ('{"a": 1}\n{"a": 2}', "expected a JSON array of rows; name JSON Lines .jsonl"),
        ("", "expected a JSON array"),
    ],
)
def test_a_damaged_array_says_where(tmp_path: Path, content: str, why: str) -> None:
    path = tmp_path / "f.json"
    path.write_text(content)
    with pytest.raises(DataError) as error:
        list(read_rows(path))
    assert why in str(error.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.jsonl: no such file"):
        list(read_rows(tmp_path / "no.jsonl"))
    (tmp_path / "f.csv").write_text("a")
    with pytest.raises(DataError, match=r"f\.csv: expected a file named \.jsonl"):
        list(read_rows(tmp_path / "f.csv"))
    with pytest.raises(DataError, match=r"cannot write \.parquet"):
        write(tmp_path / "f.parquet", [])
    gz = tmp_path / "f.jsonl.gz"
    gz.write_bytes(gzip.compress(b'{"a": 1}\n' * 100)[:-9])
    with pytest.raises(DataError, match="damaged"):
        list(read_rows(gz))


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        write(tmp_path / "f.json", [{"a": 1}, {"a": tmp_path}])
    assert list(tmp_path.iterdir()) == []


HALF = b'{"a": "\\ud800"}'  # half a character, which no file can hold


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"a": "\xe9"}', "not UTF-8 text"),
        (HALF, "not UTF-8 text"),
        (b"[" * 100_000, "not JSON .*recursion"),
    ],
)
def test_a_line_that_is_no_text_is_one_bad_row(tmp_path: Path, line: bytes, why: str) -> None:
    path = tmp_path / "f.jsonl"
    path.write_bytes(b"\n".join([b'\xef\xbb\xbf{"a": 1}', line, b'{"a": "\\ud83d\\ude00"}']))
    first, bad, last = read_rows(path)
    assert (first.cells(), last.cells()) == ({"a": 1}, {"a": "\U0001f600"})
    with pytest.raises(MalformedRowError, match=f"line 2: {why}"):
        bad.cells()


def test_an_array_may_begin_with_a_mark_and_holds_whole_characters(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(b'\xef\xbb\xbf[{"a": 1}]')
    assert [r.cells() for r in read_rows(path)] == [{"a": 1}]
    path.write_bytes(b'[{"a": 1}, ' + HALF + b"]")
    with pytest.raises(DataError, match=r"row 1: not JSON .*surrogates"):
        list(read_rows(path))
