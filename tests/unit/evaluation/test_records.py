"""Evaluation records: files and sums."""

import dataclasses

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tabom.core.errors import DataError
from tabom.decoding.config import DecodingConfig
from tabom.evaluation.records import EvaluationRecord, Pace, read_records, write_records


def make(name="a", **fields) -> EvaluationRecord:
    known = {
        "set": "chain",
        "role": "in_domain",
        "id": name,
        "tokens_per_step": 1,
        "correct": 1,
        "reason": "accepted",
        "num_forwards": 16,
        "length": 9,
        "tokens_per_forward": 1.0,
        "end_step": 3,
    }
    return EvaluationRecord(**{**known, **fields})


RECORDS = [
    make("a", metrics={"premature_commit": 0.0}),
    make(
        "b",
        correct=0,
        reason="wrong",
        detail="slot 3",
        response='ä|"\n\u2028\x85',
        metrics={"premature_commit": None},
    ),
    make("a", tokens_per_step=2, num_forwards=8, tokens_per_forward=2.0),
]


def test_round_trip(tmp_path):
    name = "records.parquet"
    write_records(tmp_path / name, RECORDS)
    found = read_records(tmp_path / name)
    strip = [{k: v for k, v in r.metrics.items() if v is not None} for r in found]
    assert strip == [{"premature_commit": 0.0}, {}, {}]
    bare = [dataclasses.replace(r, metrics={}) for r in found]
    assert bare == [dataclasses.replace(r, metrics={}) for r in RECORDS]
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_pace_is_what_set_it(tmp_path):
    other = {"schedule": "threshold 0.9"}
    records = [make("a"), make("a", sample=1), make("a", **other)]
    write_records(tmp_path / "records.parquet", records)
    found = read_records(tmp_path / "records.parquet")
    assert [str(r.pace) for r in found] == ["1", "1", "threshold 0.9"]
    for options, shown in (
        ({"tokens_per_step": 3}, "3"),
        ({"schedule": "factor", "factor": 1.0, "policy": "confidence"}, "factor 1"),
        ({"schedule": "official", "steps": 8}, "official, 8 steps"),
    ):
        assert str(Pace.of(DecodingConfig(**options))) == shown


def test_bad_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no\.parquet: cannot be read"):
        read_records(tmp_path / "no.parquet")
    pq.write_table(pa.table({"set": ["chain"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x\.parquet: no column 'role'"):
        read_records(tmp_path / "x.parquet")
    (tmp_path / "z.parquet").write_text("no parquet")
    with pytest.raises(DataError, match=r"z\.parquet: cannot be read"):
        read_records(tmp_path / "z.parquet")
