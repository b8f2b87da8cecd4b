"""From the scores of masked slots to the slots revealed.

Small pure functions on tensors; the loop puts them together. Another schedule is another `quota`
function, another block rule another `candidates` function.

Legend: B batch, N response slots, K blocks.
"""

import torch
from torch import Tensor

from tabom.decoding.config import DecodingConfig

# d3LLM's published settings: how much of a block is decoded when the next one joins in, and when
# that has to reveal something in every call.
ADDED, FULL = 0.1, 0.95


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


def blocks_at_work(open_BN: Tensor, config: DecodingConfig) -> tuple[Tensor, Tensor]:
    """Open slots of the blocks at work: those that may be revealed, and blocks that have to move.

    Returns: bool `[B, N]`, the open slots of the leftmost unfinished block and of up to
        `blocks_ahead` blocks behind it, each from the moment that `ADDED` of the one before is
        decoded; and int64 `[B, N]`, the number of the block where it has to reveal something (the
        leftmost, and those with `FULL` of the one before decoded), -1 elsewhere.
    Source: d3LLM, multi-block decoding.
    """
    length = config.block_length or open_BN.shape[1]
    left_BK = open_BN.unflatten(1, (-1, length)).sum(dim=2)  # open slots of each of the K blocks
    done_BK = 1 - left_BK.double() / length
    first_B1 = (left_BK > 0).int().argmax(dim=1, keepdim=True)
    behind_BK = torch.arange(left_BK.shape[1], device=open_BN.device) - first_B1
    before_BK = done_BK.roll(1, dims=1)
    # A block is added behind blocks that are at work themselves.
    added_BK = ((before_BK >= ADDED) | (behind_BK <= 0)).int().cumprod(dim=1).bool()
    added_BK &= (behind_BK >= 0) & (behind_BK <= config.blocks_ahead)
    full_BK = added_BK & ((behind_BK == 0) | (before_BK >= FULL))
    added_BN, full_BN = (
        mask_BK.repeat_interleave(length, dim=1) for mask_BK in (added_BK, full_BK)
    )
    block_N = torch.arange(open_BN.shape[1], device=open_BN.device) // length
    return open_BN & added_BN, torch.where(open_BN & full_BN, block_N, -1)


def select_ahead(score_BN: Tensor, config: DecodingConfig, open_BN: Tensor) -> Tensor:
    """The slots revealed by a threshold with blocks ahead, bool `[B, N]`; see `blocks_at_work`.

    score_BN: confidences, -inf where not asked.
    """
    candidates_BN, full_BN = blocks_at_work(open_BN, config)
    assert config.threshold is not None
    chosen_BN = candidates_BN & (score_BN >= config.threshold)
    for block in full_BN[full_BN >= 0].unique().tolist():
        mine_BN = full_BN == block
        chosen_BN |= select(score_BN, mine_BN, quota(score_BN, mine_BN, config))
    return chosen_BN


def quota(score_BN: Tensor, candidates_BN: Tensor, config: DecodingConfig) -> Tensor:
    """How many slots each row reveals this step, int64 `[B]`, by the schedule.

    score_BN: of the policy, -inf where not asked.
    """
    if config.threshold is not None:
        quota_B = threshold_quota(score_BN, candidates_BN, threshold=config.threshold)
    elif config.factor is not None:
        quota_B = factor_quota(score_BN, candidates_BN, factor=config.factor)
    else:
        return fixed_quota(candidates_BN, tokens_per_step=config.tokens_per_step)
    least_B = fixed_quota(candidates_BN, tokens_per_step=config.min_per_step)
    return torch.maximum(quota_B, least_B)


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
