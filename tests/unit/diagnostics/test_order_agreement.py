"""Pairwise accuracy and tau-b against their definitions, pair by pair."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabom.core.errors import DataError
from tabom.diagnostics.order_agreement import order_agreement

NAN = float("nan")


def one(entropy, order):
    found = order_agreement([np.array(entropy, dtype=float)], [np.array(order)])
    return found.accuracy_B[0], found.tau_B[0], found.num_pairs_B[0]


def test_worked_by_hand():
    assert one([0.1, 0.2, 0.3], [0, 1, 2]) == (1.0, 1.0, 3)
    assert one([0.3, 0.2, 0.1], [0, 1, 2]) == (0.0, -1.0, 3)
    # Pairs (0,1) right, (0,2) right, (1,2) wrong.
    accuracy, tau, pairs = one([0.1, 0.3, 0.2], [0, 1, 2])
    assert (accuracy, pairs) == (pytest.approx(2 / 3), 3)
    assert tau == pytest.approx(1 / 3)
    # One tie of entropy: half a pair; tau-b = 2 / sqrt(3 * 2).
    accuracy, tau, _ = one([0.1, 0.1, 0.2], [0, 1, 2])
    assert accuracy == pytest.approx(2.5 / 3)
    assert tau == pytest.approx(2 / math.sqrt(6))


def oracle(entropy, order):
    """The definitions in plain loops."""
    kept = [(h, o) for h, o in zip(entropy, order, strict=True) if not math.isnan(h) and o >= 0]
    score = concordant = discordant = pairs = tied_h = tied_o = total = 0
    for i, (h_i, o_i) in enumerate(kept):
        for h_j, o_j in kept[i + 1 :]:
            total += 1
            tied_h += h_i == h_j
            tied_o += o_i == o_j
            if o_i == o_j:
                continue
            pairs += 1
            early, late = (h_i, h_j) if o_i < o_j else (h_j, h_i)
            score += 1.0 if early < late else 0.5 if early == late else 0.0
            concordant += early < late
            discordant += early > late
    scale = math.sqrt((total - tied_h) * (total - tied_o))
    return (
        score / pairs if pairs else NAN,
        (concordant - discordant) / scale if scale else NAN,
        pairs,
    )


rows = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 1.0, NAN, 2.0]), st.integers(-1, 5)), max_size=9
)


@settings(max_examples=150, deadline=None)
@given(rows)
def test_against_the_definitions(row):
    found = one([h for h, _ in row], [o for _, o in row])
    np.testing.assert_allclose(found, oracle([h for h, _ in row], [o for _, o in row]))


@given(*[st.permutations(range(6))] * 3)
def test_slot_numbers_do_not_matter_and_reversal_flips(order, entropy, shuffled):
    order, entropy = np.array(order), np.array(entropy, dtype=float)
    a = order_agreement([entropy], [order])
    b = order_agreement([entropy[shuffled]], [order[shuffled]])
    c = order_agreement([entropy], [5 - order])
    assert a.tau == pytest.approx(b.tau) == pytest.approx(-c.tau)
    assert a.accuracy == pytest.approx(b.accuracy) == pytest.approx(1 - c.accuracy)
    assert a.tau == pytest.approx(2 * a.accuracy - 1)  # without ties


def test_means_leave_out_rows_without_pairs():
    found = order_agreement(
        np.array([[0.1, 0.2, NAN], [0.5, NAN, NAN], [0.2, 0.1, NAN]]),
        np.array([[0, 1, -1], [0, -1, -1], [0, 1, -1]]),
    )
    assert found.num_pairs_B.tolist() == [1, 0, 1]
    assert found.accuracy == 0.5
    assert found.tau == 0.0
    assert math.isnan(order_agreement([np.array([0.1])], [np.array([0])]).accuracy)


def test_float32_entropies_close_to_each_other_are_no_tie():
    low = np.float32(1.0)
    high = np.nextafter(low, np.float32(2))
    found = order_agreement([np.array([low, high])], [np.array([0, 1])])
    assert found.accuracy == 1.0


def test_errors():
    with pytest.raises(DataError, match="row 0 has 2 entropies, 1 orders"):
        order_agreement([np.zeros(2)], [np.arange(1)])
    with pytest.raises(DataError, match="1 rows of entropies, 0 of orders"):
        order_agreement([np.zeros(2)], [])
