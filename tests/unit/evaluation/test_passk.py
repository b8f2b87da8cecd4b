"""pass@k and the knowledge boundary against enumeration and cases worked by hand."""

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabom.core.errors import DataError
from tabom.evaluation.passk import (
    boundary,
    collapse,
    pass_at_k,
    pass_curve,
    sample_id,
    split_id,
    tally,
)
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


def test_ids_of_samples() -> None:
    assert sample_id("a", 0) == "a"
    assert split_id(sample_id("a", 3)) == ("a", 3)
    assert split_id("a#b") == ("a#b", 0)
    assert split_id("plain") == ("plain", 0)


def test_curve_and_boundary_by_hand() -> None:
    # Four samples a document: the arm has 4, 1, 0, 2 right, the base 2, 0, 1, 0.
    def counted(rights: list[int]) -> dict[str, tuple[int, int]]:
        records = [
            record(sample_id(f"d{d}", s), int(s < right))
            for d, right in enumerate(rights)
            for s in range(4)
        ]
        return tally(records)

    arm, base = counted([4, 1, 0, 2]), counted([2, 0, 1, 0])
    assert arm["d3"] == (4, 2)
    curve = pass_curve(arm, base, num_resamples=200)
    assert [at.k for at in curve] == [1, 2, 4]
    assert curve[0].value.estimate == pytest.approx((1 + 0.25 + 0 + 0.5) / 4)
    assert curve[1].value.estimate == pytest.approx((1 + 3 / 6 + 0 + 5 / 6) / 4)
    assert curve[2].value.estimate == pytest.approx(3 / 4)
    assert curve[2].delta is not None
    assert curve[2].delta.estimate == pytest.approx(3 / 4 - 2 / 4)
    assert curve[1].value.low < curve[1].value.estimate < curve[1].value.high
    found = boundary(arm, base)
    assert (found.gained, found.lost) == (("d1", "d3"), ("d2",))
    assert (found.both, found.neither) == (1, 0)
    # The base has too few samples for k = 2: no delta, and no wrong one.
    few = {d: (1, min(c, 1)) for d, (_, c) in base.items()}
    assert [at.delta is None for at in pass_curve(arm, few, num_resamples=50)] == [
        False,
        True,
        True,
    ]
    with pytest.raises(DataError, match="other documents"):
        boundary(arm, {"d0": (4, 1)})


def test_samples_collapse_to_their_document() -> None:
    records = [
        record("a", 1, metrics={"m": 1.0, "n": None}),
        record("a#1", 0, metrics={"m": None, "n": None}),
        record("a#2", 0, metrics={"m": 4.0, "n": None}),
        record("b", 1),
        record("a", 0, tokens_per_step=2),
    ]
    first, second, third = collapse(records)
    assert (first.id, second.id, third.tokens_per_step) == ("a", "b", 2)
    assert math.isclose(first.correct, 1 / 3)
    assert first.metrics == {"m": 2.5, "n": None}
    assert second is records[3]
