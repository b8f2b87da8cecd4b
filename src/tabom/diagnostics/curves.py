"""How a decoding went: entropy and counts at each step, and when it found its end.

`trajectory.order.left_to_right_share` tells its direction.

Legend: N response slots, K steps (model calls).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tabom.trajectory.order import length_to_end

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, eq=False)
class RevealCurve:
    """Entropy (nats) of the slots at the step that revealed them, over all responses.

    mean_K, lower_K, median_K, upper_K: float64; mean and quartiles, NaN where nothing was revealed.
    count_K: int64, slots revealed at the step.
    """

    mean_K: Floats
    lower_K: Floats
    median_K: Floats
    upper_K: Floats
    count_K: NDArray[np.int64]


def reveal_curve(
    step: Sequence[Ints], entropy: Sequence[NDArray[np.floating]], *, num_steps: int | None = None
) -> RevealCurve:
    """Entropy at reveal against the step.

    step: per response `[N]`, -1 never revealed. entropy: per response `[N]`, nats at reveal.
    num_steps: K; None takes one more than the greatest step.
    """
    empty = [np.empty(0)]
    steps = np.concatenate([*(np.asarray(s) for s in step), *empty]).astype(np.int64)
    values = np.concatenate([*(np.asarray(e) for e in entropy), *empty]).astype(np.float64)
    steps, values = steps[steps >= 0], values[steps >= 0]
    if num_steps is None:
        num_steps = int(steps.max()) + 1 if len(steps) else 0
    table_K4 = np.full((num_steps, 4), np.nan)
    count_K = np.bincount(steps, minlength=num_steps)[:num_steps]
    groups = np.split(values[np.argsort(steps, kind="stable")], np.cumsum(count_K))
    for k in np.flatnonzero(count_K):
        table_K4[k] = [groups[k].mean(), *np.quantile(groups[k], (0.25, 0.5, 0.75))]
    mean_K, lower_K, median_K, upper_K = table_K4.T
    return RevealCurve(
        mean_K=mean_K, lower_K=lower_K, median_K=median_K, upper_K=upper_K, count_K=count_K
    )


def reveals_per_step(step_N: Ints, *, num_steps: int) -> NDArray[np.int64]:
    """Slots revealed at each of `num_steps` steps, int64 `[K]`."""
    step_N = np.asarray(step_N)
    return np.bincount(step_N[step_N >= 0], minlength=num_steps)[:num_steps]


def end_step(step_N: Ints, response_ids_N: Ints, *, end_ids: Collection[int]) -> int:
    """The step that revealed the first end token (first by slot); -1 if there is none."""
    last = length_to_end(response_ids_N, end_ids) - 1
    return int(step_N[last]) if response_ids_N[last] in end_ids else -1
