"""From logits to a token and a score for each masked slot, and from scores to the slots revealed.

Small pure functions on tensors; the loop puts them together. Another schedule is another `quota`
function, another block rule another `candidates` function.

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

    logits_RV: any float dtype, of the rows that predict the slots. Float32 logits are overwritten
        (at the full vocabulary, every copy that is saved counts).
    token_uniform_R: float64 keyed draws, needed where tokens are drawn.
    order_uniform_R: float64 keyed draws, needed by the random policy.
    Source: TABOM section 4 (decoding by least entropy); Dream's sampler for temperature > 0.
    """
    plain_RV = logits_RV.float()
    choice_RV = plain_RV if config.is_mask_suppressed else plain_RV.clone()
    plain_RV.index_fill_(1, torch.tensor([mask_id], device=plain_RV.device), LOWEST)
    if not config.draws_tokens:
        token_R = choice_RV.argmax(dim=-1)  # the first of equal values: the lowest id
    if config.temperature > 0:
        # The clamp undoes LOWEST / T = -inf, which would make 0 * log 0 a NaN.
        choice_RV = truncate(
            (choice_RV / config.temperature).clamp(min=LOWEST),
            top_p=config.top_p,
            top_k=config.top_k,
        )
        if config.draws_tokens:
            assert token_uniform_R is not None
            token_R = draw(choice_RV, token_uniform_R)
    is_same = choice_RV is plain_RV
    plain = distribution_(plain_RV)
    entropy_R = plain.entropy_nats()
    if config.policy == "random":
        assert order_uniform_R is not None
        score_R = order_uniform_R
    elif config.policy == "entropy" and is_same:
        score_R = -entropy_R
    else:
        chosen_from = plain if is_same else distribution_(choice_RV)
        score_R = policy_score(chosen_from, token_R, policy=config.policy)
    return RowStats(
        token_R=token_R,
        score_R=score_R,
        entropy_R=entropy_R,
        confidence_R=plain.probability(token_R),
    )


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """A softmax that is never divided out: `weight_RV / total_R`.

    log_weight_RV: float32, logits less the row's greatest. weight_RV: their exponentials.
    rest_R: float64, the sum of all weights but the greatest, which is 1. Kept apart, since 1 + rest
    in float32 forgets what tells very certain slots from each other.
    """

    log_weight_RV: Tensor
    weight_RV: Tensor
    rest_R: Tensor

    def entropy_nats(self) -> Tensor:
        """Float32 `[R]`, accurate to about 1e-7 of its size or 1e-6 nats.

        Both parts are sums of non-negative terms, so nothing cancels. A float32 log_softmax was
        off by up to 4e-5 nats over 150k tokens on a CPU: enough to swap slots that are close.
        """
        mean_R = (self.weight_RV * self.log_weight_RV).sum(dim=-1).double() / (1 + self.rest_R)
        return (self.rest_R.log1p() - mean_R).float()

    def probability(self, token_R: Tensor) -> Tensor:
        """Float32 `[R]`, of one token a row."""
        return (self.weight_RV.gather(1, token_R[:, None]).squeeze(1) / (1 + self.rest_R)).float()

    def margin(self) -> Tensor:
        """Float32 `[R]`, the greatest probability less the second."""
        best_R2 = self.weight_RV.topk(2, dim=-1).values.double()
        return ((best_R2[:, 0] - best_R2[:, 1]) / (1 + self.rest_R)).float()


def distribution_(logits_RV: Tensor) -> Distribution:
    """The softmax of float32 logits, which are overwritten."""
    greatest_R1, index_R1 = logits_RV.max(dim=-1, keepdim=True)
    log_weight_RV = logits_RV.sub_(greatest_R1)
    weight_RV = log_weight_RV.exp()
    rest_R = weight_RV.scatter_(1, index_R1, 0.0).sum(dim=-1).double()
    weight_RV.scatter_(1, index_R1, 1.0)
    return Distribution(log_weight_RV=log_weight_RV, weight_RV=weight_RV, rest_R=rest_R)


def policy_score(rows: Distribution, token_R: Tensor, *, policy: Policy) -> Tensor:
    """The score `[R]` of an entropy, confidence or margin policy; the greatest goes first."""
    if policy == "entropy":
        return -rows.entropy_nats()
    if policy == "confidence":
        return rows.probability(token_R)
    if policy == "margin":
        return rows.margin()
    raise AssertionError(f"policy {policy!r} has no score from probabilities")


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
    order_BN = score_BN.sort(dim=1, descending=True, stable=True).indices
    taken_BN = torch.arange(score_BN.shape[1], device=score_BN.device) < quota_B[:, None]
    return torch.zeros_like(candidates_BN).scatter(1, order_BN, taken_BN) & candidates_BN
