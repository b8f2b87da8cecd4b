"""The usual way to decode Dream and LLaDA, written out plainly as an opponent for benchmarks.

As the published functions do it: every call asks the network about the whole canvas, multiplies
all of its positions with the whole head in the dtype of the model, shifts the logits (Dream),
and takes softmax, logarithm and (for top-p) a full descending sort over the vocabulary. Dream's
integer schedule is the published one, with its first call that reveals nothing.

Legend: B batch, S prompt + response, P prompt, N response slots, M masked positions, R rows,
V vocabulary, K model calls.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tabom.models.contract import MaskedDiffusionModel

EPS = 1e-3  # where Dream's schedule of the mask ratio ends


@dataclass(frozen=True, kw_only=True)
class UsualResult:
    """What a whole run gave: ids and steps int64 `[B, N]` (-1: never revealed), calls made."""

    response_ids_BN: Tensor
    step_BN: Tensor
    num_forwards: int


def all_logits(
    model: MaskedDiffusionModel, ids_BS: Tensor, attention_mask_BS: Tensor | None
) -> Tensor:
    """Logits `[B, S, V]` of every position in the model's dtype; those at p predict p."""
    kwargs: dict[str, Tensor] = {}
    if attention_mask_BS is not None:
        kwargs["attention_mask"] = attention_mask_BS
        if model.family.positions == "from_first_token":
            position_BS = attention_mask_BS.long().cumsum(-1) - 1
            kwargs["position_ids"] = position_BS.masked_fill(attention_mask_BS == 0, 1)
    logits_BSV: Tensor = model.lm(input_ids=ids_BS, use_cache=False, **kwargs).logits
    if model.family.alignment == "shift_right":
        logits_BSV = torch.cat([logits_BSV[:, :1], logits_BSV[:, :-1]], dim=1)
    return logits_BSV


def keep_top_p(logits_RV: Tensor, top_p: float) -> Tensor:
    """Tokens outside the nucleus set to the least number, by a full sort of every row."""
    sorted_RV, order_RV = torch.sort(logits_RV, descending=True)
    cumulative_RV = torch.cumsum(torch.softmax(sorted_RV, dim=-1), dim=-1)
    drop_sorted_RV = cumulative_RV > top_p
    drop_sorted_RV[..., 1:] = drop_sorted_RV[..., :-1].clone()
    drop_sorted_RV[..., 0] = False
    drop_RV = torch.zeros_like(logits_RV, dtype=torch.bool)
    drop_RV = drop_RV.scatter_(-1, order_RV, drop_sorted_RV)
    return logits_RV.masked_fill(drop_RV, torch.finfo(logits_RV.dtype).min)


def entropy_scores(
    logits_MV: Tensor,
    *,
    temperature: float = 0.0,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Dream's score (sum of p log(p + 1e-10)) and token of each masked position.

    generator: draws the token; None takes the most probable one, as the release's evaluation does.
    """
    if temperature > 0:
        logits_MV = logits_MV / temperature
    if top_p is not None and top_p < 1:
        logits_MV = keep_top_p(logits_MV, top_p)
    probability_MV = torch.softmax(logits_MV, dim=-1)
    if temperature > 0 and generator is not None:
        # As `torch.distributions.Categorical` draws.
        share_MV = probability_MV / probability_MV.sum(dim=-1, keepdim=True)
        token_M = torch.multinomial(share_MV, 1, replacement=True, generator=generator).squeeze(1)
    else:
        token_M = probability_MV.max(dim=-1).indices
    log_MV = torch.log(probability_MV + 1e-10)
    return torch.sum(probability_MV * log_MV, dim=-1), token_M


def dream_step(
    model: MaskedDiffusionModel,
    ids_BS: Tensor,
    attention_mask_BS: Tensor | None,
    *,
    count: int,
    temperature: float = 0.0,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    ties_by_slot: bool = True,
) -> Tensor:
    """The ids `[B, S]` after one call that reveals `count` slots of every row.

    ties_by_slot: equal scores (kept sets of one token all have entropy 0) in a fixed order, and
        not in that of the published topk.
    """
    masked_BS = ids_BS == model.ids.mask
    logits_BSV = all_logits(model, ids_BS, attention_mask_BS)
    score_M, token_M = entropy_scores(
        logits_BSV[masked_BS], temperature=temperature, top_p=top_p, generator=generator
    )
    next_BS = ids_BS.clone()
    if count > 0:
        score_BS = torch.full_like(ids_BS, -torch.inf, dtype=logits_BSV.dtype)
        score_BS[masked_BS] = score_M
        token_BS = torch.full_like(ids_BS, model.ids.mask)
        token_BS[masked_BS] = token_M
        if ties_by_slot:
            chosen = torch.sort(score_BS, descending=True, stable=True).indices[:, :count]
        else:
            chosen = torch.topk(score_BS, count).indices
        next_BS.scatter_(1, chosen, token_BS.gather(1, chosen))
    return next_BS


def llada_step(
    model: MaskedDiffusionModel,
    ids_BS: Tensor,
    attention_mask_BS: Tensor | None,
    *,
    counts: list[int],
    block_end: int,
) -> Tensor:
    """The ids `[B, S]` after one call; `counts`: slots each row reveals left of `block_end`."""
    masked_BS = ids_BS == model.ids.mask
    logits_BSV = all_logits(model, ids_BS, attention_mask_BS)
    token_BS = logits_BSV.argmax(dim=-1)
    probability_BSV = torch.softmax(logits_BSV, dim=-1)
    score_BS = torch.gather(probability_BSV, -1, token_BS.unsqueeze(-1)).squeeze(-1)
    score_BS[:, block_end:] = -torch.inf
    token_BS = torch.where(masked_BS, token_BS, ids_BS)
    score_BS = torch.where(masked_BS, score_BS, -torch.inf)
    next_BS = ids_BS.clone()
    for row, count in enumerate(counts):
        chosen = torch.topk(score_BS[row], count).indices
        next_BS[row, chosen] = token_BS[row, chosen]
    return next_BS


def dream_counts(num_slots: int, *, steps: int, eps: float = EPS) -> list[int]:
    """Slots that each call of the published schedule reveals, while no row loses its pace."""
    time = torch.linspace(1, eps, steps + 1)
    left, counts = num_slots, []
    for step in range(steps):
        share = 1 - time[step + 1] / time[step] if step < steps - 1 else 1
        counts.append(int(torch.tensor(float(left)) * share))
        left -= counts[-1]
    return counts


@torch.inference_mode()
def dream(
    model: MaskedDiffusionModel,
    ids_BS: Tensor,
    attention_mask_BS: Tensor | None,
    *,
    num_slots: int,
    schedule: Literal["official", "uniform"] = "official",
    temperature: float = 0.0,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> UsualResult:
    """A whole run, one slot a call in the mean.

    ids_BS: left-padded prompts, then `num_slots` mask tokens. schedule: official (`num_slots`
    calls, the first of which reveals nothing), or uniform (one slot a call).
    """
    counts = [1] * num_slots
    if schedule == "official":
        counts = dream_counts(num_slots, steps=num_slots)
    step_BN = torch.full_like(ids_BS[:, -num_slots:], -1)
    for step, count in enumerate(counts):
        next_BS = dream_step(
            model,
            ids_BS,
            attention_mask_BS,
            count=count,
            temperature=temperature,
            top_p=top_p,
            generator=generator,
            ties_by_slot=schedule != "official",
        )
        step_BN[(ids_BS != next_BS)[:, -num_slots:]] = step
        ids_BS = next_BS
    return UsualResult(
        response_ids_BN=ids_BS[:, -num_slots:], step_BN=step_BN, num_forwards=len(counts)
    )


@torch.inference_mode()
def llada(
    model: MaskedDiffusionModel,
    ids_BS: Tensor,
    attention_mask_BS: Tensor | None,
    *,
    num_slots: int,
    block_length: int,
) -> UsualResult:
    """A whole run by blocks, one slot of the block a call."""
    num_prompt = ids_BS.shape[1] - num_slots
    step_BN = torch.full_like(ids_BS[:, -num_slots:], -1)
    for step in range(num_slots):
        end = num_prompt + (step // block_length + 1) * block_length
        next_BS = llada_step(
            model, ids_BS, attention_mask_BS, counts=[1] * len(ids_BS), block_end=end
        )
        step_BN[(ids_BS != next_BS)[:, -num_slots:]] = step
        ids_BS = next_BS
    return UsualResult(
        response_ids_BN=ids_BS[:, -num_slots:], step_BN=step_BN, num_forwards=num_slots
    )
