"""How a decoding went: entropy and counts at each step, and when it found its end.

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

    mean_K, lower_K, upper_K: float64; mean and quartiles, NaN where nothing was revealed.
    count_K: int64, slots revealed at the step.
    """

    mean_K: Floats
    lower_K: Floats
    upper_K: Floats
    count_K: NDArray[np.int64]


def reveal_curve(step: Sequence[Ints], entropy: Sequence[NDArray[np.floating]]) -> RevealCurve:
    """Entropy at reveal against the step; there is one step more than the greatest one.

    step: per response `[N]`, -1 never revealed. entropy: per response `[N]`, nats at reveal.
    """
    steps = np.concatenate([np.empty(0, dtype=np.int64), *step])
    values = np.concatenate([np.empty(0), *entropy])
    steps, values = steps[steps >= 0], values[steps >= 0]
    count_K = np.bincount(steps)
    table_K3 = np.full((len(count_K), 3), np.nan)
    # The sort keeps the values of one step together, in as many groups as there are steps.
    groups = np.split(values[np.argsort(steps, kind="stable")], np.cumsum(count_K))
    for k in np.flatnonzero(count_K):
        table_K3[k] = [groups[k].mean(), *np.quantile(groups[k], (0.25, 0.75))]
    mean_K, lower_K, upper_K = table_K3.T
    return RevealCurve(mean_K=mean_K, lower_K=lower_K, upper_K=upper_K, count_K=count_K)


def end_step(step_N: Ints, response_ids_N: Ints, *, end_ids: Collection[int]) -> int:
    """The step that revealed the first end token (first by slot); -1 if there is none."""
    last = length_to_end(response_ids_N, end_ids) - 1
    return int(step_N[last]) if response_ids_N[last] in end_ids else -1
