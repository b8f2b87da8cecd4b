"""Drawing tokens: temperature, truncation, and one keyed uniform a row by inverse CDF.

Legend: R rows, V vocabulary.
"""

import torch
from torch import Tensor

# Stands for "no probability". Finite, so that p * log p of such a token is 0 and not NaN.
LOWEST = torch.finfo(torch.float32).min


def truncate(logits_RV: Tensor, *, top_p: float | None, top_k: int | None) -> Tensor:
    """Tokens outside the nucleus, then outside the k best, set to `LOWEST`.

    logits_RV: float32, already divided by the temperature.
    top_p: a token stays if the probability before it, in descending order, does not exceed top_p
        (so the best one always stays). top_k: ties with the k-th value stay.
    Source: the rule of Dream's published sampler.
    """
    if top_p is not None and top_p < 1:
        sorted_RV, order_RV = logits_RV.sort(dim=-1, descending=True, stable=True)
        probability_RV = sorted_RV.softmax(dim=-1)
        drop_sorted_RV = probability_RV.cumsum(dim=-1) - probability_RV > top_p
        drop_RV = torch.zeros_like(drop_sorted_RV).scatter(-1, order_RV, drop_sorted_RV)
        logits_RV = logits_RV.masked_fill(drop_RV, LOWEST)
    if top_k is not None and top_k < logits_RV.shape[-1]:
        kth_R1 = logits_RV.topk(top_k, dim=-1).values[:, -1:]
        logits_RV = logits_RV.masked_fill(logits_RV < kth_R1, LOWEST)
    return logits_RV


def draw(logits_RV: Tensor, uniform_R: Tensor) -> Tensor:
    """One token a row, int64 `[R]`: the first whose cumulative probability exceeds the uniform.

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
