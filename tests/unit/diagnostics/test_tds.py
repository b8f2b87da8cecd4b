"""TDS against closed forms and a brute-force oracle."""

import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tabom.core.errors import DataError
from tabom.diagnostics.tds import masked_variance, tds

NAN = float("nan")


def test_worked_by_hand():
    # Four slots, the end token in slot 2: slot 3 is filler and does not count.
    field_KN = np.array(
        [
            [1.0, 3.0, 2.0, 90.0],  # variance of (1, 3, 2) = 2/3
            [NAN, 2.0, 1.0, 90.0],  # variance of (2, 1) = 1/4
            [NAN, NAN, 5.0, 90.0],  # a lone slot: 0
            [NAN, NAN, NAN, 90.0],  # after the end: no step of this response
        ]
    )
    curve = tds([field_KN], lengths=[3])
    np.testing.assert_allclose(curve.mean_K, [2 / 3, 1 / 4, 0, NAN])
    assert curve.count_K.tolist() == [1, 1, 1, 0]
    assert curve.average == pytest.approx((2 / 3 + 1 / 4) / 3)


def test_trajectories_of_different_numbers_of_steps():
    long, short = np.array([[0.0, 2.0], [NAN, 1.0]]), np.array([[0.0, 4.0]])
    curve = tds([long, short], lengths=[2, 2])
    assert curve.count_K.tolist() == [2, 1]
    np.testing.assert_allclose(curve.mean_K, [(1 + 4) / 2, 0])
    assert curve.average == pytest.approx(1.25)


def oracle(fields, lengths):
    """Eq. 10-11 with the standard library alone."""
    per_step = []
    for k in range(max(len(f) for f in fields)):
        values = []
        for field, length in zip(fields, lengths, strict=True):
            if k < len(field):
                masked = [float(x) for x in field[k][:length] if not np.isnan(x)]
                if masked:
                    values.append(statistics.pvariance(masked))
        if values:
            per_step.append(statistics.fmean(values))
    return statistics.fmean(per_step) if per_step else NAN, per_step


fields = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        arrays(
            np.float32,
            st.tuples(st.integers(1, 6), st.just(n)),
            elements=st.one_of(st.just(NAN), st.floats(0, 12, width=32)),
        ),
        st.integers(0, n),
    )
)


@settings(max_examples=60, deadline=None)
@given(st.lists(fields, min_size=1, max_size=4))
def test_against_the_oracle(cases):
    curve = tds([f for f, _ in cases], lengths=[n for _, n in cases])
    average, per_step = oracle([f for f, _ in cases], [n for _, n in cases])
    np.testing.assert_allclose(curve.average, average, atol=1e-9)
    np.testing.assert_allclose(curve.mean_K[curve.count_K > 0], per_step, atol=1e-9)


def test_filler_and_visible_slots_do_not_matter():
    rng = np.random.default_rng(0)
    field_KN = rng.random((5, 8))
    field_KN[2, 3] = NAN
    changed = field_KN.copy()
    changed[:, 6:] = 1e9
    assert tds([field_KN], lengths=[6]).average == tds([changed], lengths=[6]).average


def test_no_cancellation_around_a_large_mean():
    # The one-pass form E[x^2] - E[x]^2 in float32 gives 0 or nonsense here.
    entropy_KN = np.array([[1000.0, 1000.001]], dtype=np.float32)
    gap = float(entropy_KN[0, 1]) - 1000.0
    variance_K, slots_K = masked_variance(entropy_KN)
    assert variance_K[0] == pytest.approx(gap**2 / 4, rel=1e-6)
    assert slots_K.tolist() == [2]


def test_nothing_to_measure():
    curve = tds([], lengths=[])
    assert np.isnan(curve.average)
    assert len(curve.mean_K) == 0


def test_errors():
    with pytest.raises(DataError, match="1 fields for 2 lengths"):
        tds([np.zeros((1, 2))], lengths=[1, 2])
    with pytest.raises(DataError, match=r"field 0 has shape \(1, 2\) and length 3"):
        tds([np.zeros((1, 2))], lengths=[3])
    with pytest.raises(DataError, match="field 0 has shape"):
        tds([np.zeros(2)], lengths=[1])
