"""Cross-entropy and entropy at chosen slots of many canvases: the one way to ask a model here.

Legend: B batch, S prompt + canvas, N canvas slots, R asked rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tabom.core.errors import DataError
from tabom.decoding.canvas import left_padded
from tabom.decoding.decoder import evaluating
from tabom.models.contract import MaskedDiffusionModel
from tabom.vocabulary.head import linear_ce_entropy

Ints = NDArray[np.integer]
Losses = tuple[NDArray[np.float32], NDArray[np.float32]]  # ce_R, entropy_R


@dataclass(frozen=True, kw_only=True, eq=False)
class AskedCanvas:
    """One canvas and the slots at which the model is asked.

    prompt_ids: `[P]`. input_ids_N: the canvas as the model sees it, hidden slots as the mask id.
    slot_R: the slots asked. label_R: the token that the cross-entropy is taken of, one a slot.
    """

    prompt_ids: Ints | Sequence[int]
    input_ids_N: Ints
    slot_R: Ints
    label_R: Ints


def slot_losses(
    model: MaskedDiffusionModel, canvases: Sequence[AskedCanvas], *, batch_size: int
) -> list[Losses]:
    """Cross-entropy and entropy per asked slot, one (ce_R, entropy_R) pair per canvas, in order.

    Entropies are the model's own (nats, float32), over the whole vocabulary. The model is asked in
    evaluation mode (no dropout) and left in the mode it was in.
    """
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1, got {batch_size}")
    with evaluating(model):
        starts = range(0, len(canvases), batch_size)
        batches = (canvases[start : start + batch_size] for start in starts)
        return [losses for batch in batches for losses in _ask(model, batch)]


def _ask(model: MaskedDiffusionModel, batch: Sequence[AskedCanvas]) -> list[Losses]:
    rows = [np.concatenate([q.prompt_ids, q.input_ids_N]) for q in batch]
    ids_BS, mask_BS = left_padded(rows, pad_id=model.ids.pad)
    num_columns, sizes = ids_BS.shape[1], [len(q.slot_R) for q in batch]
    # Canvases end where the batch does, so slots are counted from its right end.
    position_R = np.concatenate([num_columns - len(q.input_ids_N) + q.slot_R for q in batch])

    def tensor(array: Ints) -> torch.Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(model.device)

    hidden_RD = model.asked_hidden(
        ids_BS.to(model.device),
        None if mask_BS is None else mask_BS.to(model.device),
        tensor(np.repeat(np.arange(len(batch)), sizes)),
        tensor(position_R),
        widest=max(sizes),
    )
    label_R = np.concatenate([q.label_R for q in batch])
    losses = linear_ce_entropy(hidden_RD, model.head_weight_VD, tensor(label_R))
    ce, entropy = (
        np.split(loss_R.float().cpu().numpy(), np.cumsum(sizes)[:-1]) for loss_R in losses
    )
    return list(zip(ce, entropy, strict=True))
