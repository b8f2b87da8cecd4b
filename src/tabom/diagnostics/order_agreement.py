"""Order agreement: are the slots that were revealed earlier the ones the model is surer of?

Legend: B contexts, N response slots, W slots compared with each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tabom.core.errors import DataError

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class OrderAgreement:
    """Agreement of entropies with the decoding order, per row and averaged over rows.

    accuracy_B: share of pairs whose earlier slot has the lower entropy; NaN without a pair.
    tau_B: Kendall's tau-b, in [-1, 1], 1 if entropies rise with the order; NaN where all entropies
        or all orders are equal.
    num_pairs_B: int64, pairs compared.
    """

    accuracy_B: Floats
    tau_B: Floats
    num_pairs_B: NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        """The mean over rows that have a pair; NaN if none has."""
        return _mean(self.accuracy_B)

    @property
    def tau(self) -> float:
        """The mean over rows that have a tau; NaN if none has."""
        return _mean(self.tau_B)


def order_agreement(
    entropy_BW: NDArray[np.floating] | Sequence[NDArray[np.floating]],
    order_BW: NDArray[np.integer] | Sequence[NDArray[np.integer]],
) -> OrderAgreement:
    """Pairwise accuracy and Kendall's tau-b within each row.

    entropy_BW: nats; a slot with NaN takes no part. order_BW: -1 takes no part; only the sequence
        of the values counts. Rows may be of different lengths. Pairs of equal entropy count one
        half in the accuracy; pairs of equal order (steps instead of a total order) are not pairs.
    Raises: DataError if the shapes differ.
    Source: the pairs of TABOM eq. 8 (without margin); tau-b as Kendall (1945).
    """
    if len(entropy_BW) != len(order_BW):
        raise DataError(
            f"order agreement: {len(entropy_BW)} rows of entropies, {len(order_BW)} of orders"
        )
    accuracy_B = np.full(len(entropy_BW), np.nan)
    tau_B = np.full(len(entropy_BW), np.nan)
    num_pairs_B = np.zeros(len(entropy_BW), dtype=np.int64)
    for i, (entropy_W, order_W) in enumerate(zip(entropy_BW, order_BW, strict=True)):
        if len(entropy_W) != len(order_W):
            raise DataError(
                f"order agreement: row {i} has {len(entropy_W)} entropies, {len(order_W)} orders"
            )
        keep_W = ~np.isnan(entropy_W) & (np.asarray(order_W) >= 0)
        accuracy_B[i], tau_B[i], num_pairs_B[i] = _agreement(
            np.asarray(entropy_W)[keep_W], np.asarray(order_W)[keep_W]
        )
    return OrderAgreement(accuracy_B=accuracy_B, tau_B=tau_B, num_pairs_B=num_pairs_B)


def _agreement(
    entropy_W: NDArray[np.floating], order_W: NDArray[np.integer]
) -> tuple[float, float, int]:
    # All pairs at once: a context has a few hundred slots at most.
    first, second = np.triu_indices(len(entropy_W), k=1)
    by_order = np.sign(order_W[second] - order_W[first])
    # Differences in the dtype of the record could round two unequal entropies to a tie.
    difference = entropy_W[second].astype(np.float64) - entropy_W[first].astype(np.float64)
    by_entropy = np.sign(difference)
    is_pair = by_order != 0
    num_pairs, num_unequal = int(is_pair.sum()), int((by_entropy != 0).sum())
    score = float((by_order * by_entropy).sum())  # concordant minus discordant
    accuracy = 0.5 + 0.5 * score / num_pairs if num_pairs else float("nan")
    scale = np.sqrt(float(num_pairs) * float(num_unequal))
    return accuracy, score / scale if scale else float("nan"), num_pairs


def _mean(values: Floats) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")
