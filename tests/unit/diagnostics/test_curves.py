"""Curves: entropy at reveal, counts, the end."""

import numpy as np
import pytest

from tabom.diagnostics.curves import end_step, reveal_curve


def test_reveal_curve_worked_by_hand():
    curve = reveal_curve(
        [np.array([0, 2, -1]), np.array([2, 0, 2])],
        [np.array([0.5, 1.0, np.nan]), np.array([2.0, 1.5, 3.0])],
    )
    assert curve.count_K.tolist() == [2, 0, 3]
    np.testing.assert_allclose(curve.mean_K, [1.0, np.nan, 2.0])
    np.testing.assert_allclose(curve.lower_K, [0.75, np.nan, 1.5])
    np.testing.assert_allclose(curve.upper_K, [1.25, np.nan, 2.5])


def test_reveal_curve_of_nothing():
    assert len(reveal_curve([], []).mean_K) == 0


def test_reveal_curve_against_a_loop():
    rng = np.random.default_rng(0)
    step = [rng.integers(-1, 7, size=20) for _ in range(5)]
    entropy = [rng.random(20) for _ in range(5)]
    curve = reveal_curve(step, entropy)
    for k in range(7):
        here = [
            h
            for s, e in zip(step, entropy, strict=True)
            for i, h in zip(s, e, strict=True)
            if i == k
        ]
        assert curve.count_K[k] == len(here)
        if here:
            assert curve.mean_K[k] == pytest.approx(np.mean(here))
            assert curve.upper_K[k] == pytest.approx(np.quantile(here, 0.75))


def test_end_step_is_that_of_the_leftmost_end_token():
    step, ids = np.array([3, 5, 1, 0]), np.array([7, 2, 2, 9])
    assert end_step(step, ids, end_ids=(2, 4)) == 5
    assert end_step(step, ids, end_ids=(4,)) == -1
    assert end_step(step, ids, end_ids=(9,)) == 0
