"""The usual way to train on a trajectory's window, written out plainly as an opponent.

Every position of the padded batch goes through the whole head, the logits are shifted (Dream) and
copied to float32, every response position gets a softmax and an entropy, and the ranking term
walks over the responses in a Python loop. `gathered_loss` is what a careful reader would do first:
gather the rows that the loss needs, then plain autograd.

Legend: B batch, S prompt + response, P prompt, N response slots, R gathered rows, W window,
V vocabulary, D hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from tabom.models.contract import MaskedDiffusionModel
from tabom.objectives.batch import Context, TrajectoryBatch
from tabom.objectives.compose import Objective
from tabom.objectives.rows import Rows

IGNORE = -100


@dataclass(frozen=True, kw_only=True)
class UsualBatch:
    """A micro-batch as a training script of the usual kind holds it.

    label_BN: the finished token at target slots, -100 elsewhere.
    window: for each response the slots of its window in decoding order, int64.
    """

    input_ids_BS: Tensor
    attention_mask_BS: Tensor
    label_BN: Tensor
    window: Sequence[Tensor]

    @property
    def num_slots(self) -> int:
        return self.label_BN.shape[1]


def usual_batch(batch: TrajectoryBatch, context: Context) -> UsualBatch:
    """The same question that `context` asks."""
    is_target_R = context.ce_weight_R > 0
    label_BN = torch.full_like(batch.response_ids_BN, IGNORE)
    rows = context.row_batch_R[is_target_R], context.row_slot_R[is_target_R]
    label_BN[rows] = context.label_R[is_target_R]
    return UsualBatch(
        input_ids_BS=torch.cat([batch.prompt_ids_BP, context.input_ids_BN], dim=1),
        attention_mask_BS=torch.cat(
            [batch.prompt_mask_BP, torch.ones_like(batch.response_ids_BN)], dim=1
        ),
        label_BN=label_BN,
        window=[context.row_slot_R[row_W[row_W >= 0]] for row_W in context.window_BW],
    )


def full_logit_loss(
    logits_BSV: Tensor,
    batch: UsualBatch,
    *,
    shift: bool,
    rank_weight: float = 1.0,
    margin: float = 0.2,
) -> Tensor:
    """Mean cross-entropy of the targets + rank_weight * ranking term, from logits of everything.

    The cross-entropy is a flat mean over tokens: equal to the product's mean of means where all
    windows have one length, as in all benchmarks here.
    """
    logits_BSV = torch.nan_to_num(logits_BSV)
    if shift:
        logits_BSV = torch.cat([logits_BSV[:, :1], logits_BSV[:, :-1]], dim=1)
    logits_BNV = logits_BSV[:, -batch.num_slots :].float()
    ce = F.cross_entropy(logits_BNV.flatten(0, 1), batch.label_BN.flatten(), ignore_index=IGNORE)
    p_BNV = torch.softmax(logits_BNV, dim=-1)
    entropy_BN = -(p_BNV * torch.log(p_BNV + 1e-10)).sum(-1)
    entropies = [entropy_BN[b, slot_W] for b, slot_W in enumerate(batch.window)]
    return ce + rank_weight * ranking_loop(entropies, margin=margin)


def ranking_loop(entropies: Sequence[Tensor], *, margin: float) -> Tensor:
    """Mean over responses of the mean hinge over pairs, in a Python loop over the responses.

    entropies: of each response's window, in decoding order, nats.
    """
    losses = []
    for entropy_W in entropies:
        order_W = torch.arange(len(entropy_W), device=entropy_W.device)
        pair_WW = order_W.unsqueeze(1) < order_W.unsqueeze(0)
        if not pair_WW.any():
            continue
        hinge_WW = F.relu(entropy_W.unsqueeze(1) - entropy_W.unsqueeze(0) + margin)
        losses.append(hinge_WW[pair_WW].mean())
    return torch.stack(losses).mean()


def ranking_pairs(entropies: Sequence[Tensor], *, margin: float) -> Tensor:
    """The same as the formula is written: a Python loop over responses and over pairs."""
    losses = []
    for entropy_W in entropies:
        width = len(entropy_W)
        hinges = [
            F.relu(entropy_W[i] - entropy_W[j] + margin)
            for i in range(width)
            for j in range(i + 1, width)
        ]
        losses.append(torch.stack(hinges).mean())
    return torch.stack(losses).mean()


def gathered_loss(
    rows_RD: Tensor, weight_VD: Tensor, objective: Objective, context: Context
) -> Tensor:
    """Plain autograd on the gathered rows only; the terms are the product's."""
    logits_RV = (rows_RD @ weight_VD.t()).float()
    log_p_RV = torch.log_softmax(logits_RV, dim=-1)
    ce_R = -log_p_RV.gather(1, context.label_R.unsqueeze(1)).squeeze(1)
    entropy_R = -(log_p_RV.exp() * log_p_RV).sum(-1)
    return objective.total(
        objective.term_sums(Rows(ce_R=ce_R, entropy_R=entropy_R), context).sums, context.counts
    )


def usual_step_loss(
    model: MaskedDiffusionModel, batch: UsualBatch, *, rank_weight: float, margin: float
) -> Tensor:
    """Forward of the whole network to the logits of every position, then the loss."""
    position_BS = (batch.attention_mask_BS.cumsum(-1) - 1).masked_fill(
        batch.attention_mask_BS == 0, 1
    )
    logits_BSV = model.lm(
        input_ids=batch.input_ids_BS,
        attention_mask=batch.attention_mask_BS,
        position_ids=position_BS,
        use_cache=False,
    ).logits
    return full_logit_loss(
        logits_BSV,
        batch,
        shift=model.family.alignment == "shift_right",
        rank_weight=rank_weight,
        margin=margin,
    )
