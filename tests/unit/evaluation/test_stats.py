"""Intervals and tests: closed forms, brute force, and coverage by simulation with fixed keys."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabom.core import keys
from tabom.core.errors import DataError
from tabom.evaluation.stats import (
    macro_interval,
    mcnemar_p,
    paired_interval,
    resample_counts,
    t_interval,
    t_quantile,
    wilson_interval,
)


def normal(*key, shape):
    """Keyed standard normals (Box-Muller)."""
    index = np.arange(math.prod(shape), dtype=np.int64)
    radius = np.sqrt(-2 * np.log1p(-keys.uniform(*key, 0, index)))
    return (radius * np.cos(2 * np.pi * keys.uniform(*key, 1, index))).reshape(shape)


# -- closed forms ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # Newcombe (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_published_values(successes, trials, low, high):
    found = wilson_interval(successes, trials)
    assert found.estimate == successes / trials
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(st.integers(1, 300), st.data())
def test_wilson_is_symmetric_and_solves_its_equation(trials, data):
    successes = data.draw(st.integers(0, trials))
    found, mirrored = (
        wilson_interval(successes, trials),
        wilson_interval(trials - successes, trials),
    )
    assert found.low == pytest.approx(1 - mirrored.high, abs=1e-12)
    for end in (found.low, found.high):
        score = (found.estimate - end) ** 2
        assert score == pytest.approx(1.959963985**2 * end * (1 - end) / trials, abs=1e-9)


def test_wilson_errors():
    with pytest.raises(DataError, match="5 successes of 4 trials"):
        wilson_interval(5, 4)
    with pytest.raises(DataError, match="0 successes of 0 trials"):
        wilson_interval(0, 0)


@pytest.mark.parametrize(
    ("probability", "degrees", "value"),
    [  # from printed tables
        (0.975, 1, 12.7062),
        (0.975, 2, 4.3027),
        (0.975, 3, 3.1824),
        (0.975, 9, 2.2622),
        (0.975, 30, 2.0423),
        (0.95, 5, 2.0150),
        (0.995, 10, 3.1693),
        (0.975, 1000, 1.9623),
    ],
)
def test_t_quantiles(probability, degrees, value):
    assert t_quantile(probability, num_degrees=degrees) == pytest.approx(value, abs=6e-5)


def test_t_interval_by_hand():
    found = t_interval([1.0, 2.0, 3.0])
    assert found.estimate == 2.0
    assert found.high - 2.0 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert 2.0 - found.low == pytest.approx(found.high - 2.0)
    alone = t_interval([1.0])
    assert alone.estimate == 1.0
    assert math.isnan(alone.low)
    assert math.isnan(alone.high)
    with pytest.raises(DataError, match="no values"):
        t_interval([])


def test_mcnemar_by_hand():
    # 1 win, 5 losses: 2 * (C(6,0) + C(6,1)) / 64.
    assert mcnemar_p([1, 0, 0, 0, 0, 0, 1, 0], [0, 1, 1, 1, 1, 1, 1, 0]) == pytest.approx(14 / 64)
    assert mcnemar_p([1, 0], [1, 0]) == 1.0
    assert mcnemar_p([1, 0], [0, 1]) == 1.0
    assert mcnemar_p([1] * 10, [0] * 10) == pytest.approx(2 / 1024)
    assert mcnemar_p([1] * 3000, [0] * 3000) == 0.0  # no overflow
    with pytest.raises(DataError, match="2 and 1 documents"):
        mcnemar_p([1, 0], [1])


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=8))
def test_mcnemar_against_all_sign_flips(pairs):
    arm, base = zip(*pairs, strict=True)
    observed = abs(sum(arm) - sum(base))
    differing = [a - b for a, b in pairs if a != b]
    flips = list(itertools.product((-1, 1), repeat=len(differing)))
    extreme = sum(abs(sum(f)) >= observed for f in flips)
    assert mcnemar_p(arm, base) == pytest.approx(extreme / len(flips))


# -- bootstrap ---------------------------------------------------------------------------------


def test_resample_counts_are_keyed_draws_with_replacement():
    counts = resample_counts(7, num_resamples=500, seed=0, stream=1)
    assert counts.shape == (500, 7)
    assert (counts.sum(axis=1) == 7).all()
    assert (counts == resample_counts(7, num_resamples=500, seed=0, stream=1)).all()
    assert not (counts == resample_counts(7, num_resamples=500, seed=1, stream=1)).all()
    assert not (counts == resample_counts(7, num_resamples=500, seed=0, stream=2)).all()
    # Each unit is drawn once on average; the standard error of a mean is .04.
    np.testing.assert_allclose(counts.mean(axis=0), 1.0, atol=0.16)
    assert counts.var() == pytest.approx(6 / 7, abs=0.08)
    assert not counts.flags.writeable


def test_macro_interval_against_a_plain_loop():
    x, y = normal(1, shape=(3, 5)), normal(2, shape=(3, 4))
    num = 40
    seeds = resample_counts(3, num_resamples=num, seed=9, stream=0)
    first = resample_counts(5, num_resamples=num, seed=9, stream=1)
    second = resample_counts(4, num_resamples=num, seed=9, stream=2)
    means = []
    for r in range(num):
        drawn = [s for s in range(3) for _ in range(int(seeds[r, s]))]
        documents = [
            [d for d in range(len(c[r])) for _ in range(int(c[r, d]))] for c in (first, second)
        ]
        sets = [
            np.mean([[v[s, d] for d in ds] for s in drawn])
            for v, ds in zip((x, y), documents, strict=True)
        ]
        means.append(np.mean(sets))
    found = macro_interval([x, y], num_resamples=num, seed=9, level=0.8)
    assert found.estimate == pytest.approx((x.mean() + y.mean()) / 2)
    assert found.low == pytest.approx(np.quantile(means, 0.1))
    assert found.high == pytest.approx(np.quantile(means, 0.9))


def test_documents_that_seeds_share_are_drawn_together():
    # All variance lies in the documents and is the same for every seed: more seeds, no gain.
    document = normal(3, shape=(1, 60))
    crossed = macro_interval([np.repeat(document, 8, axis=0)])
    alone = macro_interval([document])
    width = crossed.high - crossed.low
    assert width == pytest.approx(alone.high - alone.low, rel=1e-9)
    nested = macro_interval([normal(3, shape=(8, 60))], is_crossed=False)
    assert nested.high - nested.low < 0.7 * width


def test_a_missing_score_drops_out():
    values = np.array([[1.0, 0.0, np.nan, np.nan]])
    found = macro_interval([values], num_resamples=200)
    assert found.estimate == 0.5
    assert 0.0 <= found.low <= found.high <= 1.0
    nothing = macro_interval([np.full((2, 3), np.nan)])
    assert math.isnan(nothing.estimate)


def test_pairing_removes_what_documents_share():
    base = normal(4, shape=(300,)) * 10
    arm = base + 0.5 + 0.1 * normal(5, shape=(300,))
    paired = paired_interval(arm, base)
    assert paired.estimate == pytest.approx(0.5, abs=0.03)
    assert paired.high - paired.low < 0.05
    with pytest.raises(DataError, match="3 and 2 documents cannot be paired"):
        paired_interval([1, 2, 3], [1, 2])


def test_the_interval_is_the_normal_one_for_many_documents():
    x = normal(6, shape=(2000,))
    found = paired_interval(x, np.zeros(2000))
    half = 1.96 * x.std() / math.sqrt(2000)
    assert found.high - found.estimate == pytest.approx(half, rel=0.08)
    assert found.estimate - found.low == pytest.approx(half, rel=0.08)


@pytest.mark.parametrize("is_crossed", [True, False])
def test_coverage(is_crossed):
    """A 95% interval holds the truth in about 95 of 100 studies of 8 seeds and 100 documents.

    With 400 studies the standard error is 1.1 points; the draws are fixed, so no false alarm.
    """
    num, hits = 400, 0
    for study in range(num):
        seeds = 0.05 * normal(study, 7, shape=(8, 1))
        documents = 0.4 * normal(study, 8, shape=(1, 100) if is_crossed else (8, 100))
        noise = 0.3 * normal(study, 9, shape=(8, 100))
        found = macro_interval(
            [0.1 + seeds + documents + noise], is_crossed=is_crossed, num_resamples=400
        )
        hits += found.low <= 0.1 <= found.high
    assert 0.92 <= hits / num <= 0.995


def test_leaving_out_the_seeds_would_not_cover():
    """The same studies, seeds taken as fixed: the interval is too narrow. So the test can fail."""
    num, hits = 200, 0
    for study in range(num):
        values = 0.1 + 0.2 * normal(study, 7, shape=(8, 1)) + 0.3 * normal(study, 9, shape=(8, 100))
        found = macro_interval([values.mean(axis=0, keepdims=True)], num_resamples=400)
        hits += found.low <= 0.1 <= found.high
    assert hits / num < 0.6


def test_macro_errors():
    with pytest.raises(DataError, match=r"as many seeds each; got \[\(2, 3\), \(1, 3\)\]"):
        macro_interval([np.zeros((2, 3)), np.zeros((1, 3))])
    with pytest.raises(DataError, match="as many seeds"):
        macro_interval([])
    with pytest.raises(DataError, match="as many seeds"):
        macro_interval([np.zeros(3)])
