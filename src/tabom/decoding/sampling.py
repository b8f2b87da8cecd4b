"""Drawing tokens: truncation without a full sort, and one keyed uniform a row by inverse CDF.

Legend: R rows, V vocabulary, M rows of one group, K tokens of a row, U buckets.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from tabom.decoding.config import DecodingConfig
from tabom.vocabulary.softmax import LEAST, RunningSoftmax
from tabom.vocabulary.tiles import LOWEST

PREFIX = 64  # tokens looked at first; enough wherever a model is at all sure
# Rows that need more are cut into buckets of the logit's distance to the greatest, in nats; only
# the bucket in which the nucleus ends is sorted. The last one holds all that is farther away.
BUCKETS, SPAN = 1024, 40.0


def is_truncated(vocab_size: int, config: DecodingConfig) -> bool:
    """Whether top_p or top_k leave any token out."""
    has_top_k = config.top_k is not None and config.top_k < vocab_size
    return has_top_k or _nucleus(config) is not None


def _nucleus(config: DecodingConfig) -> float | None:
    return config.top_p if config.top_p is not None and config.top_p < 1 else None


def kept_tokens(
    logits_RV: Tensor, softmax: RunningSoftmax, config: DecodingConfig
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The tokens of each row that a nucleus, then the k best, leave: groups of rows.

    logits_RV: float32, before the temperature. softmax: of the row after it, which gives the true
        normaliser. A token stays if the probability before it, in descending order (of equal ones
        the lowest id first), does not exceed top_p; so the best one always stays. Ties with the
        k-th value stay.
    Yields: row_M, the rows of this group; ids_MK, in rising order; float32 logits_MK after the
        temperature, `LOWEST` where a row has fewer than K tokens (their ids mean nothing).
    Source: the rule of Dream's published sampler, in float64 (the normaliser to 1e-7).
    """
    vocab_size, temperature = logits_RV.shape[1], config.temperature
    row_M = torch.arange(len(logits_RV), device=logits_RV.device)
    if vocab_size > PREFIX:
        value_RK, id_RK = logits_RV.topk(PREFIX, dim=-1)
        id_RK, place_RK = id_RK.sort(dim=-1)
        value_RK = value_RK.gather(1, place_RK).div_(temperature).clamp_(min=LOWEST)
        value_RK, place_RK = value_RK.sort(dim=-1, descending=True, stable=True)
        keep_RK = _prefix(value_RK, softmax, config)
        # What is outside the prefix is no greater than its last value: where a kept one equals
        # that, tokens out of sight may belong to it, or come before it.
        last_R1 = keep_RK.sum(dim=-1, keepdim=True).sub_(1).clamp_(min=0)
        last_R = value_RK.gather(1, last_R1).squeeze(1)
        is_done_R = last_R > value_RK[:, -1]
        if bool(is_done_R.any()):
            keep_MK, value_MK = keep_RK[is_done_R], value_RK[is_done_R]
            id_MK = id_RK.gather(1, place_RK)[is_done_R].masked_fill(~keep_MK, vocab_size)
            id_MK, place_MK = id_MK.sort(dim=-1)
            value_MK = value_MK.masked_fill(~keep_MK, LOWEST).gather(1, place_MK)
            longest = max(2, int(keep_MK.sum(dim=-1).max()))  # a margin needs two
            yield row_M[is_done_R], id_MK[:, :longest], value_MK[:, :longest]
        row_M = row_M[~is_done_R]
    for part_M in row_M.split(max(1, len(logits_RV) // 8)):  # a few float64 tensors of them
        if len(part_M):
            value_MV = logits_RV[part_M].div_(temperature).clamp_(min=LOWEST)
            keep_MV = _whole(value_MV, softmax.greatest_R[part_M], config)
            (m, token), place, shape = _places(keep_MV)
            value_MK = value_MV.new_full(shape, LOWEST)
            id_MK = torch.full(shape, vocab_size, device=value_MV.device)
            value_MK[m, place], id_MK[m, place] = value_MV[m, token], token
            yield part_M, id_MK, value_MK


def _prefix(value_RK: Tensor, softmax: RunningSoftmax, config: DecodingConfig) -> Tensor:
    """Which of the values, in falling order, stay: a prefix of each row."""
    keep_RK, top_k = torch.ones_like(value_RK, dtype=torch.bool), config.top_k
    if (top_p := _nucleus(config)) is not None:
        p_RK = (value_RK.double() - softmax.greatest_R.double()[:, None]).exp_()
        p_RK.div_(softmax.total_R[:, None])
        keep_RK = p_RK.cumsum(dim=-1).sub_(p_RK) <= top_p
    if top_k is not None and top_k <= value_RK.shape[1]:
        keep_RK &= value_RK >= value_RK[:, top_k - 1 : top_k]
    return keep_RK


def _whole(value_MV: Tensor, greatest_M: Tensor, config: DecodingConfig) -> Tensor:
    """Which tokens of whole rows stay, bool `[M, V]`, without sorting them."""
    keep_MV, top_k = torch.ones_like(value_MV, dtype=torch.bool), config.top_k
    if (top_p := _nucleus(config)) is not None:
        lag_MV = greatest_M[:, None] - value_MV
        # Rising with the lag, so equal values share a bucket. (The clamp at 0 is for NaN.)
        bucket_MV = (lag_MV * (BUCKETS / SPAN)).clamp_(max=BUCKETS - 1).long().clamp_(min=0)
        weight_MV = lag_MV.neg_().clamp_(min=LEAST).exp_().double()
        mass_MU = weight_MV.new_zeros(len(value_MV), BUCKETS).scatter_add_(1, bucket_MV, weight_MV)
        limit_M1 = top_p * mass_MU.sum(dim=1, keepdim=True)
        before_MU = mass_MU.cumsum(dim=1).sub_(mass_MU)
        edge_M1 = (before_MU <= limit_M1).sum(dim=1, keepdim=True).sub_(1).clamp_(min=0)
        keep_MV = bucket_MV < edge_M1
        (m, token), place, shape = _places(bucket_MV == edge_M1)
        value_MK = value_MV.new_full(shape, -torch.inf)
        weight_MK = weight_MV.new_zeros(shape)
        value_MK[m, place], weight_MK[m, place] = value_MV[m, token], weight_MV[m, token]
        place_MK = value_MK.sort(dim=1, descending=True, stable=True).indices
        weight_MK = weight_MK.gather(1, place_MK)
        before_MK = before_MU.gather(1, edge_M1) + weight_MK.cumsum(dim=1).sub_(weight_MK)
        stays_MK = torch.empty_like(before_MK, dtype=torch.bool)
        stays_MK.scatter_(1, place_MK, before_MK <= limit_M1)
        keep_MV[m, token] = stays_MK[m, place]
    if top_k is not None and top_k < value_MV.shape[1]:
        keep_MV &= value_MV >= value_MV.topk(top_k, dim=1).values[:, -1:]
    return keep_MV


def _places(mask_MV: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor, tuple[int, int]]:
    """Rows and columns of the true values, the place of each in its row, and a shape for all."""
    m, column = mask_MV.nonzero(as_tuple=True)
    count_M = mask_MV.sum(dim=1)
    place = torch.arange(len(m), device=m.device) - (count_M.cumsum(dim=0) - count_M)[m]
    return (m, column), place, (len(mask_MV), max(2, int(count_M.max())))


def draw(logits_RV: Tensor, uniform_R: Tensor) -> Tensor:
    """One column a row, int64 `[R]`: the first whose cumulative probability exceeds the uniform.

    logits_RV: of tokens in the order of their ids; those without probability may be left out.
    uniform_R: float64 in [0, 1). The row's draw depends on nothing but its logits and uniform, so
    it is the same in every batch.
    """
    cumulative_RV = logits_RV.double().softmax(dim=-1).cumsum(dim=-1)
    total_R = cumulative_RV[:, -1]
    # Rounding must not carry the point to the total: no token lies beyond it.
    point_R = torch.minimum(
        uniform_R.to(total_R) * total_R, torch.nextafter(total_R, torch.zeros_like(total_R))
    )
    return torch.searchsorted(cumulative_RV, point_R[:, None], right=True).squeeze(-1)
