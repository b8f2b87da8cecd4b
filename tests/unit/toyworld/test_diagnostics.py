"""Premature commits on hand-made responses."""

from __future__ import annotations

import pytest

from tabom.toyworld.diagnostics import premature_commit
from tabom.toyworld.tasks import pad, prompts

ROW = {
    "task": "chain",
    "prompt": "AbBcCdDeEfFaGhHgIjJi:a6",
    "reference": "a=bcdefa",
    "ground_truth": "a:bcdefa.",
}
IN_ORDER = [7, 0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15]


def test_right_response_is_not_premature_whatever_its_order() -> None:
    assert premature_commit(row=ROW, slots=pad("a=bcdefa"), step=IN_ORDER) is False
    assert premature_commit(row=ROW, slots=pad("a=bcdefa"), step=list(range(16))) is False
    assert premature_commit(row=ROW, slots=pad("a:bcdefa."), step=list(range(16))) is False


def test_answer_before_the_end_of_the_path() -> None:
    assert premature_commit(row=ROW, slots=pad("c=bcdefa"), step=list(range(16))) is True
    assert premature_commit(row=ROW, slots=pad("c=bcdefa"), step=IN_ORDER) is False


def test_node_before_the_node_it_follows() -> None:
    step = list(IN_ORDER)
    step[4], step[5] = 4, 3  # slot 5, the path's fourth node, before slot 4
    assert premature_commit(row=ROW, slots=pad("a=bcdifa"), step=step) is True
    assert premature_commit(row=ROW, slots=pad("a=bcdifa"), step=IN_ORDER) is False


def test_same_step_counts_as_too_early() -> None:
    step = [value // 2 for value in IN_ORDER]
    step[4] = step[5] = 2
    assert premature_commit(row=ROW, slots=pad("a=bcdifa"), step=step) is True


def test_only_the_first_wrong_token_counts() -> None:
    # Slot 2 is wrong first, with all it needs (the prompt); the early answer is wrong later.
    step = list(IN_ORDER)
    step[0], step[7] = 6, 7
    assert premature_commit(row=ROW, slots=pad("c=icdefa"), step=step) is False


def test_wrong_equals_sign_or_filler_is_no_commitment() -> None:
    assert premature_commit(row=ROW, slots=pad("abbcdefa"), step=list(range(16))) is False
    assert premature_commit(row=ROW, slots=pad("a=bcdefaa"), step=list(range(16))) is False


def test_node_never_revealed_is_not_visible() -> None:
    step = list(IN_ORDER)
    step[4] = -1
    assert premature_commit(row=ROW, slots=pad("a=bc?ifa"), step=step) is True


def test_other_surface_is_read_by_the_same_order() -> None:
    assert premature_commit(row=ROW, slots=pad("c:bcdefa."), step=IN_ORDER) is False
    assert premature_commit(row=ROW, slots=pad("c:bcdefa."), step=list(range(16))) is True
    single = {**ROW, "reference": "b=b", "ground_truth": "b:b."}
    assert premature_commit(row=single, slots=pad("c:b."), step=list(range(16))) is True
    assert premature_commit(row=single, slots=pad("b:c."), step=list(range(16))) is False


def test_tasks_without_a_path_have_no_finding() -> None:
    row = prompts(task="sort", split="eval", seed=0, num=1)[0]
    assert premature_commit(row=row, slots=pad("a"), step=list(range(16))) is None


def test_wrong_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="16 slots"):
        premature_commit(row=ROW, slots="a=bcdefa", step=list(range(16)))
