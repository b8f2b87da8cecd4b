"""Cross-entropy and entropy at chosen slots of many canvases, with any model of the contract.

Legend: B batch, S prompt + canvas, N canvas slots, R asked rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tabom.core.errors import DataError
from tabom.models.contract import MaskedDiffusionModel
from tabom.vocabulary.head import linear_ce_entropy

Ints = NDArray[np.integer]


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """One canvas and the slots at which the model is asked.

    prompt_ids: `[P]`. input_ids_N: the canvas as the model sees it, hidden slots as the mask id.
    slot_R: the slots asked. label_R: the token that the cross-entropy is taken of, one a slot.
    """

    prompt_ids: Ints | Sequence[int]
    input_ids_N: Ints
    slot_R: Ints
    label_R: Ints


@torch.no_grad()
def slot_losses(
    model: MaskedDiffusionModel, questions: Sequence[Question], *, batch_size: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Cross-entropy and entropy per asked slot, one (ce_R, entropy_R) pair per question, in order.

    Entropies are the model's own (nats, float32), over the whole vocabulary. The model is asked in
    evaluation mode (no dropout) and left in the mode it was in.
    """
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1, got {batch_size}")
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(questions), batch_size):
            batch = questions[start : start + batch_size]
            ce_R, entropy_R = _ask(model, batch)
            ends = np.cumsum([len(q.slot_R) for q in batch])[:-1]
            yield from zip(np.split(ce_R, ends), np.split(entropy_R, ends), strict=True)
    finally:
        model.train(was_training)


def _ask(
    model: MaskedDiffusionModel, batch: Sequence[Question]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    lengths = [len(q.prompt_ids) + len(q.input_ids_N) for q in batch]
    width = max(lengths)
    ids_BS = np.full((len(batch), width), model.ids.pad, dtype=np.int64)
    real_BS = np.zeros((len(batch), width), dtype=np.int64)
    for row, (question, length) in enumerate(zip(batch, lengths, strict=True)):
        ids_BS[row, width - length :] = np.concatenate([question.prompt_ids, question.input_ids_N])
        real_BS[row, width - length :] = 1
    batch_R = np.repeat(np.arange(len(batch)), [len(q.slot_R) for q in batch])
    position_R = np.concatenate([q.slot_R + (width - len(q.input_ids_N)) for q in batch])
    label_R = np.concatenate([q.label_R for q in batch])
    move = model.device

    def tensor(array: Ints) -> torch.Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(move)

    has_padding = len(set(lengths)) > 1
    hidden_RD = model.asked_hidden(
        tensor(ids_BS),
        tensor(real_BS) if has_padding else None,
        tensor(batch_R),
        tensor(position_R),
        widest=max(len(q.slot_R) for q in batch),
    )
    ce_R, entropy_R = linear_ce_entropy(hidden_RD, model.head_weight_VD, tensor(label_R))
    return ce_R.float().cpu().numpy(), entropy_R.float().cpu().numpy()
