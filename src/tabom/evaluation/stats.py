"""Estimates with intervals, and exact tests: pure functions of numbers, in float64.

Legend: S seeds, D documents, R resamples, C columns of scores, G groups of equal documents.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabom.core import keys
from tabom.core.errors import DataError

Floats = NDArray[np.float64]
NUM_RESAMPLES = 2000
LEVEL = 0.95
# Fewer documents than this that differ from the rest carry no bootstrap: it would draw the same
# few again and again, and miss the truth far more often than it says.
MIN_INFORMATIVE = 10
# Up to so many documents every resample is drawn document by document.
MAX_DRAWN = 256


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its interval; the ends are NaN where the data justify none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def has_interval(self) -> bool:
        return not (math.isnan(self.low) or math.isnan(self.high))

    def __neg__(self) -> "Estimate":
        return Estimate(value=-self.value, low=-self.high, high=-self.low)


def wilson_interval(num_successes: int, num_trials: int, *, level: float = LEVEL) -> Estimate:
    """A proportion with Wilson's score interval (1927): fit for few trials, and for 0 and 1."""
    if not 0 <= num_successes <= num_trials or num_trials == 0:
        raise DataError(f"{num_successes} successes of {num_trials} trials have no proportion")
    z = _z(level)
    p, n = num_successes / num_trials, num_trials
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Estimate(value=p, low=max(0.0, centre - half), high=min(1.0, centre + half))


def tango_interval(
    num_gained: int, num_lost: int, num_documents: int, *, level: float = LEVEL
) -> Estimate:
    """The difference of two paired proportions with Tango's score interval.

    num_gained: documents that only the first system has right; num_lost: only the second.
    Returns: (gained - lost) / documents. The interval has a width even where nothing changed, and
        inverts the score test of which McNemar's (without a correction) is the case of zero.
    Source: Tango 1998, "Equivalence test and confidence interval for the difference in proportions
        for the paired-sample design".
    """
    b, c, n = num_gained, num_lost, num_documents
    if min(b, c) < 0 or n < 1 or b + c > n:
        raise DataError(f"{b} gained and {c} lost of {n} documents make no difference")
    from scipy.optimize import brentq  # 0.1 s to import, which a help text need not pay

    def score(delta: float, target: float) -> float:
        # The most likely share that only the second has right, where the difference is delta.
        linear = -b - c + (2 * n - b + c) * delta
        root = math.sqrt(max(0.0, linear**2 + 8 * n * c * delta * (1 - delta)))
        only_second = (root - linear) / (4 * n)
        variance = n * (2 * only_second + delta * (1 - delta))
        return b - c - n * delta - target * math.sqrt(max(0.0, variance))

    # The estimate itself solves the equation where nothing changed; the ends lie beside it.
    z, value, beside = _z(level), (b - c) / n, 1e-9
    low = -1.0 if c == n else brentq(partial(score, target=z), -1.0, value - beside, xtol=1e-13)
    high = 1.0 if b == n else brentq(partial(score, target=-z), value + beside, 1.0, xtol=1e-13)
    return Estimate(value=value, low=float(low), high=float(high))


def _z(level: float) -> float:
    return NormalDist().inv_cdf(0.5 + level / 2)


def combined(parts: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates: distances to the ends are added in squares.

    Source: Zou and Donner 2008, "Construction of confidence limits about effect measures" (MOVER).
    """
    if len(parts) == 1:
        return parts[0]
    n = len(parts)
    value = sum(p.value for p in parts) / n
    below = math.sqrt(sum((p.value - p.low) ** 2 for p in parts)) / n
    above = math.sqrt(sum((p.high - p.value) ** 2 for p in parts)) / n
    return Estimate(value=value, low=value - below, high=value + above)


def mean_estimate(
    values: Sequence[Floats],
    *,
    is_difference: bool = False,
    is_crossed: bool = True,
    level: float = LEVEL,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """The mean of one or more sets' means, with the interval that the data justify.

    values: per set a float64 `[S, D]`: scores, or with is_difference arm - base on the same
        documents. NaN is a missing score. All sets have the same seeds; D may differ.
    is_crossed: as in `macro_interval`.
    Returns: of a single seed's zeros and ones (or their differences), score intervals: Wilson's, or
        Tango's for differences, `combined` over the sets. Else the bootstrap over seeds and
        documents, if at least `MIN_INFORMATIVE` documents differ from the most frequent outcome.
        With fewer, zeros and ones of several seeds get the mean of the seeds' score intervals,
        which is too wide rather than too narrow; other numbers get none.
    """
    arrays = _checked(values)
    known = np.concatenate([value_SD[~np.isnan(value_SD)] for value_SD in arrays])
    if not len(known):
        return Estimate(value=math.nan)
    is_binary = bool(np.isin(known, (-1.0, 0.0, 1.0) if is_difference else (0.0, 1.0)).all())
    informative = sum(map(num_informative, arrays))
    num_seeds = len(arrays[0])
    if informative >= MIN_INFORMATIVE and not (is_binary and num_seeds == 1):
        return macro_interval(
            arrays, is_crossed=is_crossed, level=level, num_resamples=num_resamples, seed=seed
        )
    value = float(np.mean([np.nanmean(value_SD) for value_SD in arrays]))
    # A set without any score under one seed leaves nothing to combine.
    if not is_binary or any(np.isnan(value_SD).all(axis=1).any() for value_SD in arrays):
        return Estimate(value=value)
    # Seeds answer the same documents, so their errors go together: averaging the ends takes them
    # to agree wholly, which can only make the interval too wide.
    by_seed = []
    for s in range(num_seeds):
        rows = [value_SD[s][~np.isnan(value_SD[s])] for value_SD in arrays]
        by_seed.append(combined([_score_interval(row, is_difference, level) for row in rows]))
    return Estimate(
        value=value,
        low=sum(e.low for e in by_seed) / num_seeds,
        high=sum(e.high for e in by_seed) / num_seeds,
    )


def _score_interval(row_D: Floats, is_difference: bool, level: float) -> Estimate:
    num_up = int((row_D > 0).sum())
    if is_difference:
        return tango_interval(num_up, int((row_D < 0).sum()), len(row_D), level=level)
    return wilson_interval(num_up, len(row_D), level=level)


def num_informative(value_SD: Floats) -> int:
    """How many documents differ, under any seed, from the most frequent outcome of a document."""
    kept_SD = value_SD[:, ~np.isnan(value_SD).all(axis=0)]
    _, counts = np.unique(np.nan_to_num(kept_SD, nan=-1e300), axis=1, return_counts=True)
    return int(kept_SD.shape[1] - counts.max(initial=0))


def macro_interval(
    values: Sequence[Floats],
    *,
    is_crossed: bool = True,
    level: float = LEVEL,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """The macro average of one or more sets, with a bootstrap over seeds x documents.

    Each resample draws the seeds with replacement (the same ones for all sets), then the documents
    of each set, and takes the mean of the sets' means.

    values: as in `mean_estimate`. A missing score drops out of numerator and denominator alike.
    is_crossed: True if all seeds saw the same documents: those are then drawn once a resample, for
        all seeds; False draws them anew within each drawn seed.
    Returns: the mean of the sets' means and the percentile interval. With S = 1 the interval holds
        for that seed alone; with few seeds it is too narrow in the part that the seeds
        contribute (by about sqrt((S-1)/S)), and not crossed it is somewhat too wide, since the
        documents' noise enters the seeds' resampling too. tests/unit/evaluation measures both.
    Raises: DataError if there is no set, or the sets differ in their number of seeds.
    """
    arrays = _checked(values)
    if any(np.isnan(value_SD).all() for value_SD in arrays):
        return Estimate(value=math.nan)
    resampled = resampled_means(
        arrays, is_crossed=is_crossed, num_resamples=num_resamples, seed=seed
    )
    low, high = np.nanquantile(np.mean(resampled, axis=0), _tails(level))
    value = float(np.mean([np.nanmean(value_SD) for value_SD in arrays]))
    return Estimate(value=value, low=float(low), high=float(high))


def loss_interval(
    differences: Sequence[Floats],
    *,
    is_crossed: bool = True,
    level: float = LEVEL,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Forgetting: the mean over sets of max(0, -change), with a bootstrap interval.

    differences: arm - base per set, `[S, D]`, as in `mean_estimate`.
    Returns: noise alone makes this number positive. The lower end is therefore the value less what
        noise explains, where a set whose change lies within two standard errors of none is taken
        to have none: an arm that equals the base keeps 0 as often as the level says. The upper end
        is the plain quantile, which is rather too high. No interval where fewer than
        `MIN_INFORMATIVE` documents changed.
    Source: the selection of moments in Andrews and Soares 2010.
    """
    arrays = _checked(differences)
    change_N = [float(np.nanmean(d_SD)) for d_SD in arrays]
    value = float(_loss(change_N))
    if sum(map(num_informative, arrays)) < MIN_INFORMATIVE:
        return Estimate(value=value)
    resampled = resampled_means(
        arrays, is_crossed=is_crossed, num_resamples=num_resamples, seed=seed
    )
    # A resample adds noise to noise. Sets that show no clear change are moved to none, so that the
    # excess measures what noise alone makes of them.
    clear_N = [
        change if abs(change) > 2 * means_R.std() else 0.0
        for change, means_R in zip(change_N, resampled, strict=True)
    ]
    shifted = [
        means_R - change + clear
        for means_R, change, clear in zip(resampled, change_N, clear_N, strict=True)
    ]
    last = _tails(level)[1]
    excess = float(np.nanquantile(_loss(shifted), last)) - float(_loss(clear_N))
    high = float(np.nanquantile(_loss(resampled), last))
    return Estimate(value=value, low=max(0.0, value - excess), high=high)


def _loss(changes: Sequence[Any]) -> Any:
    """The mean over sets of what was lost: of numbers, or of arrays of resamples."""
    return np.mean([np.maximum(0.0, -change) for change in changes], axis=0)


def _tails(level: float) -> tuple[float, float]:
    tail = (1 - level) / 2
    return tail, 1 - tail


def _checked(values: Sequence[Floats]) -> list[Floats]:
    arrays = [np.asarray(v, dtype=np.float64) for v in values]
    num_seeds = {v.shape[0] for v in arrays}
    if len(num_seeds) != 1 or any(v.ndim != 2 or v.size == 0 for v in arrays):
        raise DataError(
            f"expected sets of shape [seeds, documents] with as many seeds each; got "
            f"{[v.shape for v in arrays]}"
        )
    return arrays


def resampled_means(
    arrays: Sequence[Floats], *, is_crossed: bool, num_resamples: int, seed: int
) -> list[Floats]:
    """Per set the mean of every bootstrap resample, `[R]`; arguments as in `macro_interval`."""
    num_seeds = len(arrays[0])
    seed_RS = resample_counts(num_seeds, num_resamples=num_resamples, seed=seed, stream=0)
    result = []
    for number, value_SD in enumerate(arrays, start=1):
        known_SD = ~np.isnan(value_SD)
        columns = np.stack([np.where(known_SD, value_SD, 0.0), known_SD.astype(np.float64)])
        draw = partial(_resampled_sums, num_resamples=num_resamples, seed=seed)
        if is_crossed:
            sums_RC = draw(columns.reshape(2 * num_seeds, -1).T, stream=number)
        else:  # a stream of draws for every seed
            each = [
                draw(columns[:, s].T, stream=number + len(arrays) * (s + 1))
                for s in range(num_seeds)
            ]
            sums_RC = np.stack(each, axis=2).reshape(num_resamples, -1)
        sums_R2S = sums_RC.reshape(num_resamples, 2, num_seeds)
        total_R2 = (sums_R2S * seed_RS[:, None]).sum(axis=2)
        with np.errstate(invalid="ignore", divide="ignore"):
            result.append(total_R2[:, 0] / total_R2[:, 1])
    return result


def _resampled_sums(columns_DC: Floats, *, stream: int, num_resamples: int, seed: int) -> Floats:
    """The columns' sums over documents drawn with replacement, `[R, C]`: time linear in D."""
    num = len(columns_DC)
    if num <= MAX_DRAWN:
        counts_RD = resample_counts(num, num_resamples=num_resamples, seed=seed, stream=stream)
        return counts_RD @ columns_DC
    generator = np.random.default_rng(keys.fold(seed, keys.text_key("bootstrap"), stream))
    rows_GC, size_G = np.unique(columns_DC, axis=0, return_counts=True)
    # Documents with equal scores are interchangeable: only how many of each kind are drawn counts.
    # A multinomial costs a binomial for each kind; where nearly all differ, drawing is cheaper.
    if len(rows_GC) <= num // 4:
        return generator.multinomial(num, size_G / num, size=num_resamples) @ rows_GC
    sums_RC = np.empty((num_resamples, columns_DC.shape[1]))
    for r in range(num_resamples):
        counts_D = np.bincount(generator.integers(num, size=num), minlength=num)
        sums_RC[r] = counts_D @ columns_DC
    return sums_RC


@lru_cache(maxsize=8)
def resample_counts(num: int, *, num_resamples: int, seed: int, stream: int) -> Floats:
    """How often each of `num` units is drawn in each bootstrap resample, `[R, num]`.

    Kept, so that all arms of a comparison see the same resamples and pay for them once.
    """
    row_R1 = np.arange(num_resamples, dtype=np.int64)[:, None]
    unit = np.arange(num, dtype=np.int64)[None]
    # Keyed draws: the same resamples in any process, on any machine.
    key = keys.fold(seed, keys.text_key("bootstrap"), stream)[0]
    drawn = keys.below(num, key, row_R1 * num + unit)
    counts = np.bincount((drawn + row_R1 * num).ravel(), minlength=num_resamples * num)
    result: Floats = counts.reshape(num_resamples, num).astype(np.float64)
    result.setflags(write=False)
    return result


def t_interval(values: Sequence[float] | Floats, *, level: float = LEVEL) -> Estimate:
    """The mean of one number a seed, with Student's t interval.

    Returns: no interval for a single seed, and none for equal numbers: seeds that agree to the
        last digit say nothing of how far others would lie.
    """
    value_S = np.asarray(values, dtype=np.float64)
    if len(value_S) == 0:
        raise DataError("no values to take a mean of")
    mean = float(value_S.mean())
    if len(value_S) == 1 or math.isnan(mean) or np.ptp(value_S) == 0:
        return Estimate(value=mean)
    from scipy.stats import t

    error = float(value_S.std(ddof=1)) / math.sqrt(len(value_S))
    half = float(t.ppf(0.5 + level / 2, len(value_S) - 1)) * error
    return Estimate(value=mean, low=mean - half, high=mean + half)


def mcnemar_p(num_gained: int, num_lost: int) -> float:
    """McNemar's exact two-sided p: do two systems answer the same documents equally well?

    num_gained: documents that only the first has right; num_lost: only the second. 1.0 where no
    document differs.
    """
    if num_gained + num_lost == 0:
        return 1.0
    from scipy.stats import binom

    # Under p = 1/2 both tails are alike: twice the smaller one, at most 1.
    tail = binom.cdf(min(num_gained, num_lost), num_gained + num_lost, 0.5)
    return min(1.0, 2 * float(tail))


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """The unbiased estimate of the chance that one of k samples is right.

    num_samples: n >= k drawn. num_correct: c of them right.
    Returns: 1 - C(n - c, k) / C(n, k). Raises: DataError for k > n or c outside [0, n].
    Source: Chen et al. 2021, eq. 1.
    """
    if not 1 <= k <= num_samples or not 0 <= num_correct <= num_samples:
        raise DataError(
            f"pass@{k} of {num_correct} right in {num_samples} samples is not defined; draw at "
            "least k samples of each document"
        )
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)
