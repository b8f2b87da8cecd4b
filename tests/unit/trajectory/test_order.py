"""Order arithmetic by hand and against slow, obvious re-implementations."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tabom.trajectory.order import (
    length_to_end,
    non_left_to_right_slots,
    order_from_step,
    visible_at_cut,
)

NAN = float("nan")

slots = st.lists(
    st.tuples(st.integers(-1, 6), st.sampled_from([0.0, 0.5, 1.5, NAN])), min_size=1, max_size=12
)


def test_order_by_hand() -> None:
    # step 0: slot 4. step 2 (a gap): slots 0, 1, 3 tie; 3 is surer; 0 and 1 tie in entropy too.
    # step 5: slots 2 (unknown entropy) and 6. Slot 5 was never revealed.
    step = [2, 2, 5, 2, 0, -1, 5]
    entropy = [0.7, 0.7, NAN, 0.1, 9.0, NAN, 3.0]
    order = order_from_step(step, entropy)
    assert order.dtype == np.int32
    assert order.tolist() == [2, 3, 5, 1, 0, -1, 4]
    assert visible_at_cut(order, 2).tolist() == [False, False, False, True, True, False, False]


def test_unknown_entropies_of_one_step_go_by_slot() -> None:
    assert order_from_step([1, 1, 1], [NAN, 4.0, NAN]).tolist() == [1, 0, 2]


def test_nothing_revealed() -> None:
    order = order_from_step([-1, -1], [NAN, NAN])
    assert order.tolist() == [-1, -1]
    assert not visible_at_cut(order, 5).any()


@given(slots)
def test_order_equals_a_plain_sort(rows: list[tuple[int, float]]) -> None:
    step, entropy = (np.array(column) for column in zip(*rows, strict=True))
    keys = [
        (s, math.isnan(e), 0.0 if math.isnan(e) else e, i)
        for i, (s, e) in enumerate(rows)
        if s >= 0
    ]
    expected = [-1] * len(rows)
    for rank, key in enumerate(sorted(keys)):
        expected[key[3]] = rank
    order = order_from_step(step, entropy)
    assert order.tolist() == expected
    # The visited states are exactly: everything of steps below s, for every s.
    for cut in {int(((step >= 0) & (step < s)).sum()) for s in range(8)}:
        visible = visible_at_cut(order, cut)
        assert visible.sum() == cut
        hidden_steps = step[(step >= 0) & ~visible]
        assert (
            not visible.any() or not len(hidden_steps) or hidden_steps.min() > step[visible].max()
        )


@given(slots, st.integers(1, 5), st.integers(0, 5))
def test_order_does_not_depend_on_how_steps_are_counted(
    rows: list[tuple[int, float]], scale: int, shift: int
) -> None:
    step, entropy = (np.array(column) for column in zip(*rows, strict=True))
    stretched = np.where(step >= 0, step * scale + shift, -1)
    assert np.array_equal(order_from_step(step, entropy), order_from_step(stretched, entropy))


@given(st.lists(st.integers(-1, 5), max_size=10), st.integers(0, 12))
def test_non_left_to_right_slots_is_its_definition(step: list[int], length: int) -> None:
    n = min(length, len(step))
    expected = [
        j for j in range(n) if any(0 <= step[k] < step[j] for k in range(j + 1, n))
    ]  # fmt: skip
    assert non_left_to_right_slots(step, length).tolist() == expected


def test_non_left_to_right_slots_by_hand() -> None:
    #      slot: 0  1  2  3   4  5 (the end token, revealed first)
    step = [1, 3, 2, 2, -1, 0]
    assert non_left_to_right_slots(step, 5).tolist() == [1]
    assert non_left_to_right_slots(step, 6).tolist() == [0, 1, 2, 3]


def test_length_to_end() -> None:
    assert length_to_end([5, 9, 7, 8, 8], (8, 7)) == 3
    assert length_to_end([8], {8}) == 1
    assert length_to_end(np.array([1, 2], dtype=np.int32), (8,)) == 2
    assert length_to_end([1, 2, 3], ()) == 3
