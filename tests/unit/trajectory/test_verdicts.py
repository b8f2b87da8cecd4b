from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tabom.core.errors import DataError
from tabom.trajectory.verdicts import (
    REASONS,
    Verdict,
    count_reasons,
    read_verdicts,
    write_verdicts,
)


def test_round_trip_and_counts(tmp_path: Path) -> None:
    verdicts = {
        "a": Verdict("accepted", "7 = 7", "exact 1"),
        "b": Verdict("wrong", "ü"),
        "c": Verdict("wrong"),
    }
    path = tmp_path / "deep" / "verdicts.parquet"
    write_verdicts(path, verdicts)
    read = read_verdicts(path)
    assert read == verdicts
    assert list(read) == ["a", "b", "c"]
    assert [v.is_accepted for v in verdicts.values()] == [True, False, False]
    counts = count_reasons(verdicts.values())
    assert counts == {
        "accepted": 1, "wrong": 2, "no_answer": 0, "truncated": 0, "unverifiable": 0
    }  # fmt: skip
    assert tuple(counts) == REASONS
    write_verdicts(path, {})
    assert read_verdicts(path) == {}


def test_bad_verdicts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="reason 'ok' is not one of accepted, wrong"):
        Verdict("ok")


def test_half_a_character_can_be_kept(tmp_path: Path) -> None:
    write_verdicts(tmp_path / "v", {"a": Verdict("wrong", "raised \ud83d")})
    assert read_verdicts(tmp_path / "v")["a"].detail == "raised ?"


def write(path: Path, rows: list[dict[str, str | None]], mark: bytes = b"1") -> None:
    pq.write_table(
        pa.Table.from_pylist(rows).replace_schema_metadata({b"tabom_verdicts": mark}), path
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reason": "fine"}, r"v\.parquet, row 1, field 'reason': .*'fine' is not one of"),
        ({"id": "a"}, r"v\.parquet, row 1, field 'id': 'a' occurs twice"),
        ({"detail": None}, r"v\.parquet, row 1, field 'detail': expected text"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, change: dict[str, str | None], message: str) -> None:
    good: dict[str, str | None] = {"id": "a", "reason": "wrong", "detail": "", "verifier": ""}
    write(tmp_path / "v.parquet", [good, {**good, "id": "b", **change}])
    with pytest.raises(DataError, match=message):
        read_verdicts(tmp_path / "v.parquet")


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "v.parquet"
    with pytest.raises(DataError, match=r"v\.parquet: no such file"):
        read_verdicts(path)
    path.write_text("hello")
    with pytest.raises(DataError, match=r"v\.parquet: not a readable Parquet file"):
        read_verdicts(path)
    write(path, [{"id": "a"}], mark=b"9")
    with pytest.raises(DataError, match=r"v\.parquet: not a verdict file"):
        read_verdicts(path)
    write(path, [{"id": "a", "reason": "wrong", "detail": ""}])
    with pytest.raises(DataError, match=r"v\.parquet: column 'verifier' is missing"):
        read_verdicts(path)
