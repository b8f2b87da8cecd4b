"""Evaluation records: files and sums."""

import dataclasses

import pytest

from tabom.core.errors import DataError
from tabom.evaluation.records import EvaluationRecord, read_records, summarize, write_records


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


@pytest.mark.parametrize("name", ["records.parquet", "records.jsonl"])
def test_round_trip(tmp_path, name):
    write_records(tmp_path / name, RECORDS)
    found = read_records(tmp_path / name)
    strip = [{k: v for k, v in r.metrics.items() if v is not None} for r in found]
    assert strip == [{"premature_commit": 0.0}, {}, {}]
    bare = [dataclasses.replace(r, metrics={}) for r in found]
    assert bare == [dataclasses.replace(r, metrics={}) for r in RECORDS]
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"written as \.parquet or \.jsonl"):
        write_records(tmp_path / "records.csv", RECORDS)


def test_a_document_answered_twice_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(DataError, match="'a' of set 'chain' occurs twice at 1 tokens a step"):
        write_records(tmp_path / "records.jsonl", [make("a"), make("a")])
    assert list(tmp_path.iterdir()) == []


def test_bad_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no\.jsonl: no such file"):
        read_records(tmp_path / "no.jsonl")
    (tmp_path / "x.jsonl").write_text('{"set": "chain"}\n')
    with pytest.raises(DataError, match=r"x\.jsonl, row 0: no 'role'"):
        read_records(tmp_path / "x.jsonl")
    (tmp_path / "y.jsonl").write_text("{")
    with pytest.raises(DataError, match=r"y\.jsonl: cannot be read"):
        read_records(tmp_path / "y.jsonl")
    (tmp_path / "z.parquet").write_text("no parquet")
    with pytest.raises(DataError, match=r"z\.parquet: cannot be read"):
        read_records(tmp_path / "z.parquet")


def test_role_is_checked():
    with pytest.raises(DataError, match="role 'id' is not one of in_domain, out_of_domain"):
        make(role="id")


def test_summarize_by_hand():
    first, second = summarize(
        [
            *RECORDS,
            make("c", length=3, metrics={"premature_commit": 1.0}, reason="wrong", correct=0),
        ]
    )
    assert (first.set, first.role, first.tokens_per_step) == ("chain", "in_domain", 1)
    assert first.num_documents == 3
    assert first.accuracy.value == pytest.approx(1 / 3)
    assert first.reasons == {"accepted": 1, "wrong": 2}
    assert first.length == 7.0
    assert first.metrics == {"premature_commit": 0.5}  # over the two to which it applies
    assert (second.tokens_per_step, second.num_forwards, second.metrics) == (2, 8.0, {})
    assert second.accuracy.low < 1.0 == second.accuracy.high
