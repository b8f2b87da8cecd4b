"""TDS, the Trajectory Discrimination Score: does the model tell easy slots from hard ones?

High: at a step, the entropies of the slots still masked differ much. It is no score of quality: an
arm may answer better with a lower one.

Legend: N response slots, K steps (model calls).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tabom.core.errors import DataError

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class TdsCurve:
    """TDS at each step, and averaged.

    mean_K: float64, nats squared; the average over trajectories, NaN where none counts.
    count_K: int64, the trajectories that count at the step.
    average: the mean of `mean_K` over the steps that have a trajectory; NaN if there is none.
    """

    mean_K: Floats
    count_K: NDArray[np.int64]
    average: float


def tds(fields: Sequence[NDArray[np.floating]], *, lengths: Sequence[int]) -> TdsCurve:
    """TDS per step and averaged over steps.

    At step t a trajectory contributes the population variance of the predictive entropy over its
    slots still masked before the call reveals any, leaving out the slots after the first end token
    of the finished response. Where no such slot is masked any more (only filler is left to
    reveal), the step is after the response's end and does not count.

    fields: one `[K, N]` array per trajectory, nats; NaN where the slot is visible or not a
        candidate. K may differ. lengths: slots up to and including the first end token.
    Raises: DataError if a field is not two-dimensional, or a length does not fit it.
    Source: TABOM eq. 10 (per step), eq. 11 and table 6 (average), figure 2 (curve).
    """
    if len(fields) != len(lengths):
        raise DataError(f"tds: {len(fields)} fields for {len(lengths)} lengths; expected as many")
    num_steps = max((len(field) for field in fields), default=0)
    sum_K, count_K = np.zeros(num_steps), np.zeros(num_steps, dtype=np.int64)
    for i, (field, length) in enumerate(zip(fields, lengths, strict=True)):
        if field.ndim != 2 or not 0 <= length <= field.shape[1]:
            raise DataError(
                f"tds: field {i} has shape {field.shape} and length {length}; expected "
                "[steps, slots] and a length of at most its slots"
            )
        variance_K, slots_K = masked_variance(np.asarray(field)[:, :length])
        counts_K = slots_K > 0  # a lone slot counts, with a variance of 0, as the equation has it
        steps = slice(0, len(field))
        sum_K[steps] += np.where(counts_K, variance_K, 0.0)
        count_K[steps] += counts_K
    mean_K = np.full(num_steps, np.nan)
    np.divide(sum_K, count_K, out=mean_K, where=count_K > 0)
    average = float(mean_K[count_K > 0].mean()) if (count_K > 0).any() else float("nan")
    return TdsCurve(mean_K=mean_K, count_K=count_K, average=average)


def masked_variance(entropy_KN: NDArray[np.floating]) -> tuple[Floats, NDArray[np.int64]]:
    """Population variance over the slots that are not NaN, and their number, at each step.

    Returns: float64 `[K]` (0 where there is no slot) and int64 `[K]`.
    """
    # Around the mean, in two passes and in float64: the one-pass form cancels near zero entropy.
    masked_KN = ~np.isnan(entropy_KN)
    value_KN = np.where(masked_KN, entropy_KN.astype(np.float64), 0.0)
    slots_K = masked_KN.sum(axis=1)
    divisor_K = np.maximum(slots_K, 1)
    mean_K = value_KN.sum(axis=1) / divisor_K
    deviation_KN = np.where(masked_KN, value_KN - mean_K[:, None], 0.0)
    return (deviation_KN**2).sum(axis=1) / divisor_K, slots_K
