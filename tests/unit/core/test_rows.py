"""Rows of files: every kind of file, damage named, text as it stands."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tabom.core.errors import DataError
from tabom.core.rows import MAX_DEPTH, MalformedRowError, read_rows

ROWS: list[dict[str, Any]] = [{"a": i, "text": 'ü"\n,]}{' * i, "ids": [[i], []]} for i in range(7)]


def write(path: Path, cells: list[dict[str, Any]]) -> Path:
    is_lines = ".jsonl" in path.name
    text = "".join(f"{json.dumps(c)}\n" for c in cells) if is_lines else json.dumps(cells, indent=2)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json", ".json.gz"])
def test_every_kind_of_json_file_is_read(tmp_path: Path, suffix: str) -> None:
    for cells in (ROWS, ROWS[:1], []):
        path = write(tmp_path / f"f{suffix}", cells)
        assert [r.cells() for r in read_rows(path)] == cells
    place = next(iter(read_rows(write(path, ROWS)))).place
    assert place == (f"{path}, line 1" if "jsonl" in suffix else f"{path}, row 0")


def test_json_lines_may_be_named_json(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text('{"a": 1}\n{"a": 2}')
    assert [r.cells() for r in read_rows(path)] == [{"a": 1}, {"a": 2}]


def test_cells_of_csv_are_text(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text(
        '\ufeffzip,age,note\r\n007,18,"two\nlines, a comma"\r\n00501,,NA\r\n1e3,None,nan\r\n'
    )
    assert [r.cells() for r in read_rows(path)] == [
        {"zip": "007", "age": "18", "note": "two\nlines, a comma"},
        {"zip": "00501", "age": "", "note": "NA"},
        {"zip": "1e3", "age": "None", "note": "nan"},
    ]
    path.write_text("a,b\n1,2\n1,2,3\n1\n" + "x" * 200_000 + ",2\n")
    first, long, short, wide = read_rows(path)
    assert first.cells() == {"a": "1", "b": "2"}
    assert short.cells() == {"a": "1", "b": None}
    assert len(wide.cells()["a"]) == 200_000
    with pytest.raises(MalformedRowError, match=r"f\.csv, row 1"):
        long.cells()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('prompt,answer\n"open,1\ntwo,2\n', "unexpected end of data"),
        ("prompt,prompt\none,two\n", "stands twice"),
        ("prompt, prompt\none,two\n", "stands twice"),
        ('a,b\n"x"y,2\n', "expected after"),
    ],
)
def test_csv_loses_nothing_in_silence(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "f.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"f\.csv: .*{why}"):
        list(read_rows(path))
    path.write_text("prompt , answer\n one, 1\n\n")
    assert [r.cells() for r in read_rows(path)] == [{"prompt": " one", "answer": " 1"}]
    path.write_text("prompt;answer\none;1,5\n")
    (row,) = read_rows(path)
    with pytest.raises(MalformedRowError, match="2 cells under a head of 1"):
        row.cells()


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
    with pytest.raises(
        MalformedRowError, match=r"line 4: expected an object of columns, found list"
    ):
        found[2].cells()
    with pytest.raises(MalformedRowError, match=r"f\.jsonl, line 5: not JSON"):
        found[3].cells()


@pytest.mark.parametrize(
    "content", ['[{"a": 1}, {"b"', '[{"a": 1}', '[{"a": 1} {"b": 2}]', '[{"a": 1},]', "[" * 100_000]
)
def test_a_damaged_array_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "f.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"f\.json: not a JSON array of rows"):
        list(read_rows(path))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.jsonl: no such file"):
        list(read_rows(tmp_path / "no.jsonl"))
    (tmp_path / "f.tsv").write_text("a")
    with pytest.raises(DataError, match=r"f\.tsv: expected a file named \.jsonl"):
        list(read_rows(tmp_path / "f.tsv"))
    gz = tmp_path / "f.jsonl.gz"
    gz.write_bytes(gzip.compress(b'{"a": 1}\n' * 100)[:-9])
    with pytest.raises(DataError, match="damaged"):
        list(read_rows(gz))


HALF = b'{"a": "\\ud800"}'  # half a character, which no file can hold


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"a": "\xe9"}', "not UTF-8 text"),
        (HALF, "not UTF-8 text"),
        (b"[" * 100_000, "not JSON .*recursion"),
        (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "not JSON .*deeper than"),
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
    with pytest.raises(DataError, match=r"not a JSON array .*surrogates"):
        list(read_rows(path))
