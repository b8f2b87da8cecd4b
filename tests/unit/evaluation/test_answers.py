"""Answers as columns: grouped, ordered, scored and refused as record by record."""

import math
import random

import numpy as np
import pytest

from tabom.core.errors import DataError
from tabom.evaluation.answers import accuracy, answers_of, metric, pass_at
from tabom.evaluation.records import SCORES, EvaluationRecord, read_table, to_table, write_records
from tabom.evaluation.stats import pass_at_k


def make(name: str, doc: str, sample: int, correct: float, **changes: object) -> EvaluationRecord:
    fields: dict[str, object] = {
        "set": name, "role": "in_domain", "id": doc, "sample": sample, "tokens_per_step": 1,
        "correct": correct, "reason": "accepted", "num_forwards": 3, "length": 4,
        "tokens_per_forward": 2.0, "end_step": -1,
    }  # fmt: skip
    return EvaluationRecord(**{**fields, **changes})  # type: ignore[arg-type]


def some(seed: int) -> list[EvaluationRecord]:
    rng = random.Random(seed)
    records = [
        make(
            name, f"é{doc}", sample, float(rng.random() < 0.4), tokens_per_step=pace,
            metrics={"m": rng.choice([None, 1.0, 2.5])} if name == "a" else {},
        )
        for name in ("a", "b")
        for pace in (1, 4)
        for doc in rng.sample(range(50), 12)
        for sample in range(rng.randint(1, 4))
    ]  # fmt: skip
    rng.shuffle(records)
    return records


@pytest.mark.parametrize("seed", range(5))
def test_columns_score_as_records_do(seed: int) -> None:
    records = some(seed)
    found = answers_of(to_table(records))
    cells = dict.fromkeys((r.set, r.pace) for r in records)
    assert list(found) == list(cells)  # in the order of their first record
    for cell, answers in found.items():
        by_doc: dict[str, list[EvaluationRecord]] = {}
        for r in sorted(records, key=lambda r: (r.id, r.sample)):
            if (r.set, r.pace) == cell:
                by_doc.setdefault(r.id, []).append(r)
        assert answers.id_D.tolist() == list(by_doc)
        groups = list(by_doc.values())
        assert accuracy(answers).tolist() == pytest.approx(
            [sum(r.correct for r in g) / len(g) for g in groups]
        )
        assert answers.first_D.tolist() == [g[0].correct for g in groups]
        for k in (1, 2, 3):
            assert answers.solved(k).tolist() == [any(r.correct for r in g[:k]) for g in groups]
            expected = [
                pass_at_k(len(g), sum(r.correct == 1 for r in g), k) if len(g) >= k else math.nan
                for g in groups
            ]
            np.testing.assert_allclose(pass_at(k)(answers), expected)
        means = []
        for g in groups:
            known = [r.metrics["m"] for r in g if r.metrics.get("m") is not None]
            means.append(sum(known) / len(known) if known else math.nan)  # type: ignore[arg-type]
        np.testing.assert_allclose(metric("m")(answers), means)


def test_a_doubled_sample_is_refused_with_its_name() -> None:
    records = [make("a", "x", 0, 1.0), make("a", "y", 1, 1.0), make("a", "x", 0, 0.0)]
    with pytest.raises(DataError, match=r"file: 'a': 'x' occurs twice"):
        answers_of(to_table(records), where="file")


def test_two_roles_of_one_set_are_refused() -> None:
    records = [make("a", "x", 0, 1.0), make("a", "y", 0, 1.0, role="out_of_domain")]
    with pytest.raises(DataError, match="both in and out"):
        answers_of(to_table(records))


def test_nothing_answered_is_nothing(tmp_path) -> None:
    assert answers_of(to_table([])) == {}
    write_records(tmp_path / "r.parquet", some(0))
    table = read_table(tmp_path / "r.parquet", SCORES)
    assert "response" not in table.column_names
    assert set(answers_of(table)) == set(answers_of(to_table(some(0))))
