"""Intervals and tests for accuracies: pure functions of numbers, float64, no dependency.

Legend: S seeds, D documents, R resamples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from tabom.core import keys
from tabom.core.errors import DataError

Floats = NDArray[np.float64]
NUM_RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its interval; NaN ends where the data give none."""

    estimate: float
    low: float
    high: float


def wilson_interval(num_successes: int, num_trials: int, *, level: float = LEVEL) -> Interval:
    """A proportion with Wilson's score interval (1927): fit for few trials, and for 0 and 1."""
    if not 0 <= num_successes <= num_trials or num_trials == 0:
        raise DataError(f"{num_successes} successes of {num_trials} trials have no proportion")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    p, n = num_successes / num_trials, num_trials
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(estimate=p, low=max(0.0, centre - half), high=min(1.0, centre + half))


def paired_interval(
    arm_D: Sequence[float] | Floats,
    base_D: Sequence[float] | Floats,
    *,
    level: float = LEVEL,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean of arm - base over the same documents, with a paired bootstrap interval.

    arm_D, base_D: one score a document, in the same order of documents.
    """
    arm, base = np.asarray(arm_D, dtype=np.float64), np.asarray(base_D, dtype=np.float64)
    if arm.shape != base.shape:
        raise DataError(f"{len(arm)} and {len(base)} documents cannot be paired")
    return macro_interval([(arm - base)[None]], level=level, num_resamples=num_resamples, seed=seed)


def macro_interval(
    values: Sequence[Floats],
    *,
    is_crossed: bool = True,
    level: float = LEVEL,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The macro average of one or more sets, with a bootstrap over seeds x documents.

    Each resample draws the seeds with replacement (the same ones for all sets), then the documents
    of each set, and takes the mean of the sets' means.

    values: per set a float64 `[S, D]`: scores, or differences to the base on the same documents.
        All sets have the same seeds; D may differ. NaN is a missing score: it drops out of the
        means of numerator and denominator alike.
    is_crossed: True if all seeds saw the same documents: those are then drawn once a resample, for
        all seeds; False draws them anew within each drawn seed.
    Returns: the mean of the sets' means and the percentile interval. With S = 1 the interval holds
        for that seed alone; with few seeds it is too narrow in the part that the seeds
        contribute (by about sqrt((S-1)/S)), and not crossed it is somewhat too wide, since the
        documents' noise enters the seeds' resampling too. tests/unit/evaluation measures both.
    Raises: DataError if there is no set, or the sets differ in their number of seeds.
    """
    arrays = [np.asarray(v, dtype=np.float64) for v in values]
    num_seeds = {v.shape[0] for v in arrays}
    if len(num_seeds) != 1 or any(v.ndim != 2 or v.size == 0 for v in arrays):
        raise DataError(
            f"expected sets of shape [seeds, documents] with as many seeds each; got "
            f"{[v.shape for v in arrays]}"
        )
    seed_RS = resample_counts(num_seeds.pop(), num_resamples=num_resamples, seed=seed, stream=0)
    estimates, resampled = [], []
    for number, value_SD in enumerate(arrays, start=1):
        known_SD = ~np.isnan(value_SD)
        both_2SD = np.stack([np.where(known_SD, value_SD, 0.0), known_SD.astype(np.float64)])
        if not known_SD.any():
            return Interval(estimate=math.nan, low=math.nan, high=math.nan)
        estimates.append(float(both_2SD[0].sum() / both_2SD[1].sum()))
        if is_crossed:
            document_RD = resample_counts(
                value_SD.shape[1], num_resamples=num_resamples, seed=seed, stream=number
            )
            sums_2R = [((document_RD @ x_SD.T) * seed_RS).sum(axis=1) for x_SD in both_2SD]
        else:
            sums_2R = [np.zeros(num_resamples), np.zeros(num_resamples)]
            for s in range(value_SD.shape[0]):
                document_RD = resample_counts(
                    value_SD.shape[1],
                    num_resamples=num_resamples,
                    seed=seed,
                    stream=number + len(arrays) * (s + 1),
                )
                for sum_R, x_SD in zip(sums_2R, both_2SD, strict=True):
                    sum_R += seed_RS[:, s] * (document_RD @ x_SD[s])
        with np.errstate(invalid="ignore", divide="ignore"):
            resampled.append(sums_2R[0] / sums_2R[1])
    tail = (1 - level) / 2
    low, high = np.nanquantile(np.mean(resampled, axis=0), (tail, 1 - tail))
    return Interval(estimate=float(np.mean(estimates)), low=float(low), high=float(high))


@lru_cache(maxsize=16)
def resample_counts(num: int, *, num_resamples: int, seed: int, stream: int) -> Floats:
    """How often each of `num` units is drawn in each bootstrap resample, `[R, num]`.

    Kept, so that all arms of a comparison see the same resamples and pay for them once.
    """
    row_R1 = np.arange(num_resamples, dtype=np.int64)[:, None]
    unit = np.arange(num, dtype=np.int64)[None]
    key = keys.fold(seed, keys.text_key("bootstrap"), stream)[0]
    drawn = keys.below(num, key, row_R1 * num + unit)
    counts = np.bincount((drawn + row_R1 * num).ravel(), minlength=num_resamples * num)
    result: Floats = counts.reshape(num_resamples, num).astype(np.float64)
    result.setflags(write=False)
    return result


def t_interval(values: Sequence[float] | Floats, *, level: float = LEVEL) -> Interval:
    """The mean of one number a seed, with Student's t interval; NaN ends for a single seed."""
    value_S = np.asarray(values, dtype=np.float64)
    if len(value_S) == 0:
        raise DataError("no values to take a mean of")
    mean = float(value_S.mean())
    if len(value_S) == 1:
        return Interval(estimate=mean, low=math.nan, high=math.nan)
    error = float(value_S.std(ddof=1)) / math.sqrt(len(value_S))
    half = t_quantile(0.5 + level / 2, num_degrees=len(value_S) - 1) * error
    return Interval(estimate=mean, low=mean - half, high=mean + half)


def t_quantile(probability: float, *, num_degrees: int) -> float:
    """The quantile of Student's t with a whole number of degrees of freedom.

    probability: in (0.5, 1). By bisection of the closed form of the distribution function.
    Source: Abramowitz and Stegun 26.7.3 and 26.7.4.
    """
    if not 0.5 < probability < 1 or num_degrees < 1:
        raise DataError(f"no t quantile for {probability} and {num_degrees} degrees of freedom")
    low, high = 0.0, 1.0
    while _t_cdf(high, num_degrees) < probability:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_cdf(middle, num_degrees) < probability else (low, middle)
    return (low + high) / 2


def _t_cdf(t: float, num_degrees: int) -> float:
    angle = math.atan(t / math.sqrt(num_degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = num_degrees % 2
    term, total = (cosine if is_odd else 1.0), 0.0
    for k in range(2 if is_odd else 1, num_degrees, 2):
        total += term
        term *= cosine * cosine * k / (k + 1)
    inside = 2 / math.pi * (angle + sine * total) if is_odd else sine * total
    return 0.5 + inside / 2


def mcnemar_p(arm_D: Sequence[float] | Floats, base_D: Sequence[float] | Floats) -> float:
    """McNemar's exact two-sided p: do two systems answer the same documents equally well?

    arm_D, base_D: 0 or 1 a document, in the same order. 1.0 where no document differs.
    """
    arm, base = np.asarray(arm_D), np.asarray(base_D)
    if arm.shape != base.shape:
        raise DataError(f"{len(arm)} and {len(base)} documents cannot be paired")
    wins, losses = int((arm > base).sum()), int((arm < base).sum())
    num = wins + losses
    tail = sum(math.comb(num, i) for i in range(min(wins, losses) + 1))
    return min(1.0, float(2 * tail / 2**num))
