"""Intervals and tests: closed forms, brute force, and coverage by simulation with fixed keys."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabom.core import keys
from tabom.core.errors import DataError
from tabom.evaluation.stats import (
    Estimate,
    combined,
    loss_interval,
    macro_interval,
    mcnemar_p,
    mean_estimate,
    num_informative,
    pass_at_k,
    resample_counts,
    t_interval,
    tango_interval,
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
    assert found.value == successes / trials
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
        score = (found.value - end) ** 2
        assert score == pytest.approx(1.959963985**2 * end * (1 - end) / trials, abs=1e-9)


def test_wilson_errors():
    with pytest.raises(DataError, match="5 successes of 4 trials"):
        wilson_interval(5, 4)
    with pytest.raises(DataError, match="0 successes of 0 trials"):
        wilson_interval(0, 0)


def test_t_interval_by_hand():
    found = t_interval([1.0, 2.0, 3.0])
    assert found.value == 2.0
    assert found.high - 2.0 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert 2.0 - found.low == pytest.approx(found.high - 2.0)
    for alone in (t_interval([1.0]), t_interval([1.0, 1.0]), t_interval([0.1] * 3)):
        assert alone.value == pytest.approx(1.0 if alone.value > 0.5 else 0.1)
        assert not alone.has_interval  # and none of no width
    with pytest.raises(DataError, match="no values"):
        t_interval([])


def test_mcnemar_by_hand():
    # 1 gained, 5 lost: 2 * (C(6,0) + C(6,1)) / 64.
    assert mcnemar_p(1, 5) == pytest.approx(14 / 64, abs=1e-12)
    assert mcnemar_p(0, 0) == 1.0
    assert mcnemar_p(1, 1) == 1.0
    assert mcnemar_p(10, 0) == pytest.approx(2 / 1024, abs=1e-12)
    assert mcnemar_p(3000, 0) == 0.0  # no overflow


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=8))
def test_mcnemar_against_all_sign_flips(pairs):
    gained, lost = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
    flips = list(itertools.product((-1, 1), repeat=gained + lost))
    extreme = sum(abs(sum(f)) >= abs(gained - lost) for f in flips)
    assert mcnemar_p(gained, lost) == pytest.approx(extreme / len(flips), abs=1e-12)


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_against_the_sum_of_binomial_coefficients(gained, lost):
    num = gained + lost
    tail = sum(math.comb(num, i) for i in range(min(gained, lost) + 1))
    assert mcnemar_p(gained, lost) == pytest.approx(min(1.0, 2 * tail / 2**num), abs=1e-12)


def test_mcnemar_of_many_documents_is_near_the_normal_one():
    assert mcnemar_p(500_000, 499_000) == pytest.approx(0.3176, abs=1e-3)


def likeliest(gained, lost, num, delta):
    """The log likelihood of a table at a difference, its other parameter on a grid."""
    second = np.linspace(max(0.0, -delta), (1 - delta) / 2, 20_001)[1:-1]
    first = second + delta
    shares = [(gained, first), (lost, second), (num - gained - lost, 1 - first - second)]
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [n * np.log(p) if n else np.zeros_like(p) for n, p in shares]
    at = np.nanargmax(np.where(np.isnan(sum(terms)), -np.inf, sum(terms)))
    return first[at], second[at]


@pytest.mark.parametrize("table", [(12, 2, 50), (5, 5, 30), (3, 1, 200), (0, 4, 25), (9, 8, 20)])
def test_the_ends_of_tango_solve_the_score_equation(table):
    """Brute force: the most likely shares at each end, found on a grid, give a z of 1.96."""
    gained, lost, num = table
    found = tango_interval(gained, lost, num)
    for end in (found.low, found.high):
        first, second = likeliest(gained, lost, num, end)
        error = math.sqrt((first + second - end**2) / num)
        assert (found.value - end) / error == pytest.approx(
            math.copysign(1.959964, found.value - end), abs=2e-2
        )


def test_tango_by_hand_and_at_the_edges():
    # Nothing changed: the ends solve delta^2 = z^2 * delta * (1 - delta) / n.
    square = 1.959963985**2
    nothing = tango_interval(0, 0, 30)
    assert nothing.high == pytest.approx(square / (30 + square), abs=1e-9)
    assert nothing.low == pytest.approx(-nothing.high, abs=1e-12)
    one = tango_interval(1, 0, 1)
    assert (one.value, one.high) == (1.0, 1.0)
    assert one.low < 0
    # At zero it is McNemar's test without a correction: 9 against 1 is z = 2.53, 6 against 1 1.89.
    assert tango_interval(9, 1, 40).low > 0
    assert tango_interval(6, 1, 40).low < 0
    with pytest.raises(DataError, match="3 gained and 2 lost of 4"):
        tango_interval(3, 2, 4)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 60))
def test_tango_is_symmetric_and_holds_its_estimate(gained, lost, same):
    num = gained + lost + same
    if num == 0:
        return
    found, mirrored = tango_interval(gained, lost, num), tango_interval(lost, gained, num)
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high
    assert found.low == pytest.approx(-mirrored.high, abs=1e-9)


def tables(study, num, right, wrong):
    """Keyed draws of how many of `num` documents turn right, and wrong."""
    u = keys.uniform(study, 11, np.arange(num, dtype=np.int64))
    return int((u < right).sum()), int((u > 1 - wrong).sum())


@pytest.mark.parametrize(
    ("num", "right", "wrong"), [(50, 0.03, 0), (40, 0.05, 0.02), (100, 0.02, 0)]
)
def test_coverage_where_few_documents_turn(num, right, wrong):
    """Where 2 to 5% of the documents turn, the bootstrap covers far too seldom, Tango does not."""
    studies, hits, boot = 400, 0, 0
    for study in range(studies):
        gained, lost = tables(study, num, right, wrong)
        found = tango_interval(gained, lost, num)
        hits += found.low <= right - wrong <= found.high
        row = np.zeros((1, num))
        row[0, :gained], row[0, gained : gained + lost] = 1, -1
        old = macro_interval([row], num_resamples=200)
        boot += old.low <= right - wrong <= old.high
    assert hits / studies >= 0.93
    assert boot < hits


@given(n=st.integers(1, 7), data=st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = list(itertools.combinations([1] * c + [0] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


def test_pass_at_k_needs_k_samples():
    with pytest.raises(DataError, match="pass@3"):
        pass_at_k(2, 1, 3)
    with pytest.raises(DataError, match="3 right in 2 samples"):
        pass_at_k(2, 3, 1)


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
    assert found.value == pytest.approx((x.mean() + y.mean()) / 2)
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
    assert found.value == 0.5
    assert 0.0 <= found.low <= found.high <= 1.0
    nothing = macro_interval([np.full((2, 3), np.nan)])
    assert math.isnan(nothing.value)


def test_pairing_removes_what_documents_share():
    base = normal(4, shape=(300,)) * 10
    arm = base + 0.5 + 0.1 * normal(5, shape=(300,))
    paired = macro_interval([(arm - base)[None]])
    assert paired.value == pytest.approx(0.5, abs=0.03)
    assert paired.high - paired.low < 0.05


def test_the_interval_is_the_normal_one_for_many_documents():
    x = normal(6, shape=(2000,))
    found = macro_interval([x[None]])
    half = 1.96 * x.std() / math.sqrt(2000)
    assert found.high - found.value == pytest.approx(half, rel=0.08)
    assert found.value - found.low == pytest.approx(half, rel=0.08)


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


# -- which interval ------------------------------------------------------------------------------


def test_a_single_seed_of_zeros_and_ones_has_score_intervals():
    row = np.array([[1.0, 0, 1, 1, 0, 1, 1, 1]])
    assert mean_estimate([row]) == wilson_interval(6, 8)
    change = np.array([[1.0, 0, 0, 0, -1, 1, 0, 0]])
    assert mean_estimate([change], is_difference=True) == tango_interval(2, 1, 8)
    # A difference of gains alone is not a proportion.
    gains = np.array([[1.0, 0, 0, 0]])
    assert mean_estimate([gains], is_difference=True) == tango_interval(1, 0, 4)
    # Missing scores count as no document.
    assert mean_estimate([np.array([[1.0, np.nan, 0.0]])]) == wilson_interval(1, 2)


def test_independent_sets_add_their_distances_in_squares():
    parts = [Estimate(value=0.5, low=0.2, high=0.6), Estimate(value=0.1, low=-0.3, high=0.9)]
    found = combined(parts)
    assert found.value == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - math.hypot(0.3, 0.4) / 2)
    assert found.high == pytest.approx(0.3 + math.hypot(0.1, 0.8) / 2)


def test_no_interval_where_none_is_justified():
    for values in ([[0.3]], [[0.3, 0.3, 0.3]], [[0.1, 0.7, 0.2]], [[np.nan, np.nan]]):
        assert not mean_estimate([np.array(values)]).has_interval
    assert not mean_estimate([np.array([[1.0, 0.0], [np.nan, np.nan]])]).has_interval
    assert mean_estimate([normal(1, shape=(1, 30))]).has_interval


def test_seeds_that_changed_nothing_keep_a_width():
    found = mean_estimate([np.zeros((3, 30))], is_difference=True)
    assert (found.value, found.high) == (0.0, tango_interval(0, 0, 30).high)


def test_seeds_with_enough_changes_are_bootstrapped():
    change_SD = np.zeros((2, 40))
    change_SD[0, :7], change_SD[1, 4:10] = 1, 1
    assert num_informative(change_SD) == 10
    assert mean_estimate([change_SD], is_difference=True) == macro_interval([change_SD])
    change_SD[1, 9] = 0
    few = mean_estimate([change_SD], is_difference=True)
    ends = [tango_interval(n, 0, 40) for n in (7, 5)]
    assert few.low == pytest.approx((ends[0].low + ends[1].low) / 2)


def test_coverage_of_few_changes_under_several_seeds():
    """Three seeds that share what is hard in a document: 3% turn, and the truth is held."""
    studies, hits = 300, 0
    for study in range(studies):
        hard = keys.uniform(study, 21, np.arange(60, dtype=np.int64)) < 0.06
        own = keys.uniform(study, 22, np.arange(180, dtype=np.int64)).reshape(3, 60) < 0.5
        found = mean_estimate([(hard & own).astype(float)], is_difference=True)
        hits += found.low <= 0.03 <= found.high
    assert hits / studies >= 0.93


# -- many documents ------------------------------------------------------------------------------


def brute(values_SD, num_resamples):
    """A plain bootstrap over seeds and documents with another generator."""
    rng, means = np.random.default_rng(5), []
    for _ in range(num_resamples):
        seeds = rng.integers(len(values_SD), size=len(values_SD))
        documents = rng.integers(values_SD.shape[1], size=values_SD.shape[1])
        means.append(values_SD[seeds][:, documents].mean())
    return np.quantile(means, (0.025, 0.975))


@pytest.mark.parametrize("kind", ["binary", "real"])
def test_many_documents_give_the_interval_of_plain_draws(kind):
    index = np.arange(3 * 4000, dtype=np.int64)
    u = keys.uniform(31, index).reshape(3, 4000)
    values = np.where(u < 0.1, 1.0, np.where(u > 0.95, -1.0, 0.0)) if kind == "binary" else u
    values[0] += 0.01 * (kind == "real")
    found = macro_interval([values])
    low, high = brute(values, 2000)
    assert found.value == pytest.approx(values.mean(), abs=1e-12)
    assert found.low == pytest.approx(low, abs=0.15 * (high - low))
    assert found.high == pytest.approx(high, abs=0.15 * (high - low))
    assert found == macro_interval([values])  # the draws are keyed


def test_a_hundred_thousand_documents_take_little_memory():
    u = keys.uniform(41, np.arange(300_000, dtype=np.int64)).reshape(3, 100_000)
    values = np.where(u < 0.05, 1.0, np.where(u > 0.98, -1.0, 0.0))
    tracemalloc.start()
    found = macro_interval([values])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.low < 0.03 < found.high
    assert peak < 200e6


# -- forgetting ----------------------------------------------------------------------------------


def test_forgetting_is_the_mean_of_the_losses():
    lost, gained = np.zeros((1, 50)), np.zeros((1, 50))
    lost[0, :20], gained[0, :15] = -1, 1
    found = loss_interval([lost, gained])
    assert found.value == pytest.approx(0.4 / 2)
    assert 0.1 < found.low < 0.2 < found.high < 0.3
    few = loss_interval([np.array([[0.0, -1.0, 0.0]])])
    assert few.value == pytest.approx(1 / 3)
    assert not few.has_interval


def test_forgetting_by_noise_alone_does_not_stand_out():
    """An arm that equals the base turns as many documents right as wrong: zero is held."""
    studies, hits, values = 200, 0, []
    for study in range(studies):
        u = keys.uniform(study, 51, np.arange(4 * 100, dtype=np.int64)).reshape(4, 1, 100)
        changes = list(np.where(u < 0.06, 1.0, np.where(u > 0.94, -1.0, 0.0)))
        found = loss_interval(changes, num_resamples=400)
        hits += found.low == 0.0
        values.append(found.value)
    assert np.mean(values) > 0.01  # what noise alone makes of it
    assert hits / studies >= 0.93


def test_macro_errors():
    with pytest.raises(DataError, match=r"as many seeds each; got \[\(2, 3\), \(1, 3\)\]"):
        macro_interval([np.zeros((2, 3)), np.zeros((1, 3))])
    with pytest.raises(DataError, match="as many seeds"):
        macro_interval([])
    with pytest.raises(DataError, match="as many seeds"):
        macro_interval([np.zeros(3)])


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_the_binomial_test(gained, lost):
    from scipy.stats import binomtest

    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar_p(gained, lost) == pytest.approx(expected, rel=1e-12, abs=1e-300)


def test_mcnemar_of_forty_thousand_documents_is_at_once():
    """The sum over all tables, in logarithms."""
    from math import lgamma, log

    n, k = 40_000, 19_800
    terms = [lgamma(n + 1) - lgamma(i + 1) - lgamma(n - i + 1) - n * log(2) for i in range(k + 1)]
    expected = 2 * sum(math.exp(term) for term in terms)
    assert mcnemar_p(k, n - k) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("num", [300, 5000])
def test_few_kinds_are_drawn_as_the_documents_would_be(num):
    """A resample of 0/1 pairs is a multinomial of its kinds: the interval of brute force."""
    rng = np.random.default_rng(0)
    value = rng.choice([-1.0, 0.0, 1.0], size=(2, num), p=[0.1, 0.6, 0.3])
    found = macro_interval([value], num_resamples=4000)
    means = []
    for _ in range(4000):
        seeds, documents = rng.integers(2, size=2), rng.integers(num, size=num)
        means.append(value[seeds][:, documents].mean())
    low, high = np.quantile(means, [0.025, 0.975])
    # The standard error of such a quantile of 4000 resamples.
    allowed = 5 * np.std(means) * math.sqrt(0.025 * 0.975 / 4000) / 0.058
    assert found.low == pytest.approx(low, abs=allowed)
    assert found.high == pytest.approx(high, abs=allowed)
