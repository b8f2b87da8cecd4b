"""From the scores of masked slots to the slots revealed.

Small pure functions on tensors; the loop puts them together. Another schedule is another `quota`
function, another block rule another `candidates` function.

Legend: B batch, N response slots.
"""

import torch
from torch import Tensor

from tabom.decoding.config import DecodingConfig


def candidates_in_block(
    open_BN: Tensor, *, block_length: int | None, offset_B: Tensor | None = None
) -> Tensor:
    """Open slots that may be revealed now: those of each row's leftmost unfinished block.

    open_BN: bool, slots not yet decoded. block_length: None is one block.
    offset_B: slots before slot 0 that count for the blocks (the prompt of a block-causal model).
    """
    if block_length is None:
        return open_BN
    block_BN = torch.arange(open_BN.shape[1], device=open_BN.device)[None]
    if offset_B is not None:
        block_BN = block_BN + offset_B[:, None]
    block_BN = (block_BN // block_length).expand(open_BN.shape)
    first_B = open_BN.int().argmax(dim=1)  # 0 in a row with nothing open, which then stays empty
    return open_BN & (block_BN == block_BN.gather(1, first_B[:, None]))


def quota(score_BN: Tensor, candidates_BN: Tensor, config: DecodingConfig) -> Tensor:
    """How many slots each row reveals this step, int64 `[B]`, by the schedule.

    score_BN: of the policy, -inf where not asked.
    """
    if config.threshold is not None:
        return threshold_quota(score_BN, candidates_BN, threshold=config.threshold)
    if config.factor is not None:
        return factor_quota(score_BN, candidates_BN, factor=config.factor)
    return fixed_quota(candidates_BN, tokens_per_step=config.tokens_per_step)


def fixed_quota(candidates_BN: Tensor, *, tokens_per_step: int) -> Tensor:
    """How many slots each row reveals this step, int64 `[B]`: k, or what is left."""
    return candidates_BN.sum(dim=1).clamp(max=tokens_per_step)


def threshold_quota(confidence_BN: Tensor, candidates_BN: Tensor, *, threshold: float) -> Tensor:
    """The candidates with at least this confidence, and one where there are none; int64 `[B]`.

    Source: Fast-dLLM, confidence-aware parallel decoding.
    """
    passing_B = ((confidence_BN >= threshold) & candidates_BN).sum(dim=1)
    return torch.maximum(passing_B, fixed_quota(candidates_BN, tokens_per_step=1))


def factor_quota(confidence_BN: Tensor, candidates_BN: Tensor, *, factor: float) -> Tensor:
    """The ranks r = 1, 2, ... with confidence >= 1 - factor / (r + 1), and at least one.

    All ranks count, not only those before the first that fails. Returns int64 `[B]`.
    Source: Fast-dLLM, factor-based parallel decoding.
    """
    ranked_BN = confidence_BN.masked_fill(~candidates_BN, -torch.inf).sort(descending=True).values
    rank_N = torch.arange(1, ranked_BN.shape[1] + 1, device=ranked_BN.device)
    passing_B = (ranked_BN >= 1 - factor / (rank_N + 1)).sum(dim=1)
    return torch.maximum(passing_B, fixed_quota(candidates_BN, tokens_per_step=1))


def select(score_BN: Tensor, candidates_BN: Tensor, quota_B: Tensor) -> Tensor:
    """The `quota` candidates with the greatest score of each row, bool `[B, N]`; ties: lowest slot.

    score_BN: values at slots that are no candidates do not matter.
    """
    score_BN = score_BN.masked_fill(~candidates_BN, -torch.inf)
    # The sort is stable, which gives a tie to the lowest slot.
    order_BN = score_BN.sort(dim=1, descending=True, stable=True).indices
    taken_BN = torch.arange(score_BN.shape[1], device=score_BN.device) < quota_B[:, None]
    return torch.zeros_like(candidates_BN).scatter(1, order_BN, taken_BN) & candidates_BN
