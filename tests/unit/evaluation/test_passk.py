"""pass@k against enumeration, the ids of samples and their means."""

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabom.core.errors import DataError
from tabom.evaluation.passk import collapse, pass_at_k
from tabom.evaluation.records import EvaluationRecord


def record(id: str, correct: int, **more: object) -> EvaluationRecord:
    values = {"set": "s", "role": "in_domain", "tokens_per_step": 1, "reason": "accepted",
              "num_forwards": 4, "length": 3, "tokens_per_forward": 1.0, "end_step": 2}  # fmt: skip
    return EvaluationRecord(id=id, correct=correct, **{**values, **more})  # type: ignore[arg-type]


@given(n=st.integers(1, 7), data=st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(n: int, data: st.DataObject) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    outcomes = [1] * c + [0] * (n - c)
    subsets = list(combinations(outcomes, k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_needs_k_samples() -> None:
    with pytest.raises(DataError, match="pass@3"):
        pass_at_k(2, 1, 3)
    with pytest.raises(DataError, match="draw at least k"):
        pass_at_k(2, 3, 1)


def test_samples_collapse_to_their_document() -> None:
    records = [
        record("a", 1, metrics={"m": 1.0, "n": None}),
        record("a", 0, sample=1, metrics={"m": None, "n": None}),
        record("a", 0, sample=2, metrics={"m": 4.0, "n": None}),
        record("b", 1),
        record("a", 0, tokens_per_step=2),
    ]
    first, second, third = collapse(records)
    assert (first.id, second.id, third.tokens_per_step) == ("a", "b", 2)
    assert math.isclose(first.correct, 1 / 3)
    assert first.metrics == {"m": 2.5, "n": None}
    assert second is records[3]
