"""Does a model's uncertainty follow the order in which the base decoded?

Legend: N response slots.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tabom.core import keys
from tabom.core.errors import DataError
from tabom.diagnostics.order_agreement import OrderAgreement, order_agreement
from tabom.diagnostics.slot_losses import AskedCanvas, slot_losses
from tabom.models.contract import MaskedDiffusionModel
from tabom.trajectory.order import length_to_end, visible_at_cut
from tabom.trajectory.record import Trajectory


@dataclass(frozen=True, kw_only=True, eq=False)
class ContextEntropies:
    """A model's entropies in one order-prefix context of a trajectory.

    id: of the trajectory. cut: slots visible. length: slots up to the first end token.
    entropy_N: float32, nats; NaN at slots that are visible, or were never revealed.
    order_N: int64, the recorded order; -1 wherever entropy_N is NaN.
    """

    id: str
    cut: int
    length: int
    entropy_N: NDArray[np.float32]
    order_N: NDArray[np.int64]


def context_entropies(
    model: MaskedDiffusionModel,
    trajectories: Iterable[Trajectory],
    *,
    cuts_per_trajectory: int,
    seed: int,
    batch_size: int,
) -> list[ContextEntropies]:
    """Entropies of all masked slots in fixed contexts: the first `cut` revealed slots visible.

    The cuts are keyed by (seed, trajectory id), one in each of `cuts_per_trajectory` equal parts of
    0 .. n - 1 (n slots revealed), so every model asked with one seed sees the same contexts. A
    slot that was never revealed stays masked and is not asked.
    """
    if cuts_per_trajectory < 1:
        raise DataError(f"cuts_per_trajectory must be at least 1, got {cuts_per_trajectory}")
    canvases, contexts = [], []
    for trajectory in trajectories:
        order_N = np.asarray(trajectory.order_N, dtype=np.int64)
        length = length_to_end(trajectory.response_ids_N, model.ids.eos)
        for cut in _cuts(trajectory, cuts_per_trajectory, seed):
            is_visible_N = visible_at_cut(order_N, cut)
            slot_R = np.flatnonzero(order_N >= cut)
            canvases.append(
                AskedCanvas(
                    prompt_ids=trajectory.prompt_ids,
                    input_ids_N=np.where(is_visible_N, trajectory.response_ids_N, model.ids.mask),
                    slot_R=slot_R,
                    label_R=trajectory.response_ids_N[slot_R],
                )
            )
            contexts.append(
                ContextEntropies(
                    id=trajectory.id,
                    cut=cut,
                    length=length,
                    entropy_N=np.full(len(order_N), np.nan, dtype=np.float32),
                    order_N=np.where(order_N >= cut, order_N, -1),
                )
            )
    answers = slot_losses(model, canvases, batch_size=batch_size)
    for context, canvas, (_, entropy_R) in zip(contexts, canvases, answers, strict=True):
        context.entropy_N[canvas.slot_R] = entropy_R
    return contexts


def context_agreement(
    contexts: Iterable[ContextEntropies], *, window: int | None = None
) -> OrderAgreement:
    """Order agreement in each context, over the slots up to the first end token.

    window: compare only the next `window` slots in decoding order (as the ranking term does);
        None compares all masked slots.
    """
    entropies, orders = [], []
    for context in contexts:
        order, entropy = context.order_N[: context.length], context.entropy_N[: context.length]
        # Visible slots have order -1 here, and so have slots that were never revealed.
        slots = np.flatnonzero(order >= 0)
        slots = slots[np.argsort(order[slots])][:window]
        entropies.append(entropy[slots])
        orders.append(order[slots])
    return order_agreement(entropies, orders)


def _cuts(trajectory: Trajectory, num_cuts: int, seed: int) -> list[int]:
    """Distinct cuts in rising order; fewer than `num_cuts` if fewer slots were revealed."""
    num_revealed = trajectory.num_revealed
    # A cut in each of equal parts spreads them over the decoding, for every model the same.
    part = np.arange(num_cuts, dtype=np.int64)
    draw = keys.uniform(
        seed, keys.text_key("context_entropies"), keys.text_key(trajectory.id), part
    )
    cuts = np.floor((part + draw) * num_revealed / num_cuts).astype(np.int64)
    return np.unique(cuts).tolist() if num_revealed else []
