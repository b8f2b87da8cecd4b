"""From logits to a token and a score for each masked slot, and from scores to the slots revealed.

Small pure functions on tensors; the loop puts them together. A schedule other than a fixed number
of slots a step is another `quota` function, a block rule another `candidates` function.

Legend: B batch, N response slots, R gathered rows, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tabom.decoding.config import DecodingConfig, Policy
from tabom.decoding.sampling import LOWEST, draw, truncate


@dataclass(frozen=True, kw_only=True)
class RowStats:
    """What one model call says about each row.

    token_R: int64, the token that the slot would get.
    score_R: float32, the policy's; the greatest is revealed first.
    entropy_R: float32 nats, confidence_R: float32 probability of `token_R`; both of the untempered
        distribution without the mask token.
    """

    token_R: Tensor
    score_R: Tensor
    entropy_R: Tensor
    confidence_R: Tensor


def row_stats(
    logits_RV: Tensor,
    *,
    config: DecodingConfig,
    mask_id: int,
    token_uniform_R: Tensor | None = None,
    order_uniform_R: Tensor | None = None,
) -> RowStats:
    """Token, score, entropy and confidence of each row.

    logits_RV: any float dtype, of the rows that predict the slots.
    token_uniform_R: float64 keyed draws, needed above temperature 0.
    order_uniform_R: float64 keyed draws, needed by the random policy.
    Source: TABOM section 4 (decoding by least entropy); Dream's sampler for temperature > 0.
    """
    logits_RV = logits_RV.float()
    plain_RV = logits_RV.index_fill(1, torch.tensor([mask_id], device=logits_RV.device), LOWEST)
    choice_RV = plain_RV if config.suppress_mask else logits_RV
    if config.temperature > 0:
        assert token_uniform_R is not None
        # The clamp undoes LOWEST / T = -inf, which would make 0 * log 0 a NaN.
        choice_RV = truncate(
            (choice_RV / config.temperature).clamp(min=LOWEST),
            top_p=config.top_p,
            top_k=config.top_k,
        )
        token_R = draw(choice_RV, token_uniform_R)
    else:
        token_R = choice_RV.argmax(dim=-1)  # the first of equal values: the lowest id
    log_p_RV = plain_RV.log_softmax(dim=-1)
    chosen_log_p_R = log_p_RV.gather(1, token_R[:, None]).squeeze(1)
    if config.policy == "random":
        assert order_uniform_R is not None
        score_R = order_uniform_R
    else:
        same = choice_RV is plain_RV
        score_R = policy_score(
            log_p_RV if same else choice_RV.log_softmax(dim=-1), token_R, policy=config.policy
        )
    return RowStats(
        token_R=token_R,
        score_R=score_R,
        entropy_R=entropy_nats(log_p_RV),
        confidence_R=chosen_log_p_R.exp(),
    )


def entropy_nats(log_p_RV: Tensor) -> Tensor:
    """`-sum p log p` of each row, nats: a sum of non-negative terms, so nothing cancels."""
    return -(log_p_RV.exp() * log_p_RV).sum(dim=-1)


def policy_score(log_p_RV: Tensor, token_R: Tensor, *, policy: Policy) -> Tensor:
    """The score `[R]` of an entropy, confidence or margin policy; the greatest goes first."""
    if policy == "entropy":
        return -entropy_nats(log_p_RV)
    if policy == "confidence":
        return log_p_RV.gather(1, token_R[:, None]).squeeze(1).exp()
    if policy == "margin":
        best_R2 = log_p_RV.topk(2, dim=-1).values.exp()
        return best_R2[:, 0] - best_R2[:, 1]
    raise AssertionError(f"policy {policy!r} has no score from probabilities")


def candidates_in_block(open_BN: Tensor, *, block_length: int | None) -> Tensor:
    """Open slots that may be revealed now: those of each row's leftmost unfinished block.

    open_BN: bool, slots not yet decoded. block_length: None is one block.
    """
    if block_length is None:
        return open_BN
    block_N = torch.arange(open_BN.shape[1], device=open_BN.device) // block_length
    first_B = open_BN.int().argmax(dim=1)  # 0 in a row with nothing open, which then stays empty
    return open_BN & (block_N[None, :] == block_N[first_B][:, None])


def fixed_quota(candidates_BN: Tensor, *, tokens_per_step: int) -> Tensor:
    """How many slots each row reveals this step, int64 `[B]`: k, or what is left."""
    return candidates_BN.sum(dim=1).clamp(max=tokens_per_step)


def select(score_BN: Tensor, candidates_BN: Tensor, quota_B: Tensor) -> Tensor:
    """The `quota` candidates with the greatest score of each row, bool `[B, N]`; ties: lowest slot.

    score_BN: values at slots that are no candidates do not matter.
    """
    score_BN = score_BN.masked_fill(~candidates_BN, -torch.inf)
    order_BN = score_BN.sort(dim=1, descending=True, stable=True).indices
    taken_BN = torch.arange(score_BN.shape[1], device=score_BN.device) < quota_B[:, None]
    return torch.zeros_like(candidates_BN).scatter(1, order_BN, taken_BN) & candidates_BN
