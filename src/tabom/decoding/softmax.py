"""Softmax statistics of rows over a vocabulary: whole rows, and running ones tile by tile.

Both hold the weights e^(z - max), never divided by their sum, and keep the greatest weight (1) out
of the sum of the others: 1 + rest in float32 forgets what tells very certain slots from each other.

Legend: R rows, V vocabulary, T columns of one vocabulary tile, K tokens.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

# Stands for "no probability". Finite, so that p * log p of such a token is 0 and not NaN.
LOWEST = torch.finfo(torch.float32).min
# The last exponent whose exponential is no subnormal number: on a CPU those cost 10 to 30 times.
LEAST = -87.0
# A sum of all that was cut off at LEAST stays below this, for any vocabulary.
NOTHING = 1e-30


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """A softmax that is never divided out: `weight_RV / total_R`.

    log_weight_RV: float32, logits less the row's greatest. weight_RV: their exponentials.
    rest_R: float64, the sum of all weights but the greatest, which is 1.
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


class RunningSoftmax:
    """Greatest token, entropy, probabilities and margin of rows whose logits come in tiles.

    Exact: with a new greatest logit the sums are scaled to it, in float64, and all their terms are
    non-negative. Weights below e^-87 count as e^-87; a sum of such alone counts as nothing.

    greatest_R: float32 logit, token_R: its id (the lowest of equal ones). second_R: float32, the
    greatest of the other logits; None unless asked for.
    """

    def __init__(self, num_rows: int, *, device: torch.device, has_second: bool = False) -> None:
        self.greatest_R = torch.full((num_rows,), LOWEST, device=device)
        self.token_R = torch.zeros(num_rows, dtype=torch.long, device=device)
        # Of all weights but the greatest: their sum, and their sum weighted by (greatest - z).
        self.rest_R = torch.zeros(num_rows, dtype=torch.float64, device=device)
        self.spread_R = torch.zeros_like(self.rest_R)
        self.second_R = self.greatest_R.clone() if has_second else None

    def add_(self, logits_RT: Tensor, scratch_RT: Tensor, *, first_id: int) -> None:
        """Take in the logits of the tokens from `first_id` on.

        logits_RT: float32, overwritten. scratch_RT: float32 of the same shape, overwritten.
        """
        tile_R = logits_RT.amax(dim=-1)
        # A maximum with its place costs ten times one without: only rows that need it are asked.
        row_M = (tile_R > self.greatest_R).nonzero().squeeze(1)
        column_M = logits_RT[row_M].max(dim=-1).indices
        if self.second_R is not None:
            two = torch.stack([self.greatest_R, self.second_R], dim=-1)
            two_RT = torch.cat([two, logits_RT.topk(min(2, logits_RT.shape[1]), dim=-1).values], -1)
            self.second_R = two_RT.topk(2, dim=-1).values[:, 1]
        self._raise_to(torch.maximum(tile_R, self.greatest_R), row_M)
        self.token_R[row_M] = first_id + column_M
        log_weight_RT = logits_RT.sub_(self.greatest_R[:, None]).clamp_(min=LEAST)
        weight_RT = torch.exp(log_weight_RT, out=scratch_RT)
        weight_RT[row_M, column_M] = 0.0
        self.rest_R += weight_RT.sum(dim=-1)
        self.spread_R -= weight_RT.mul_(log_weight_RT).sum(dim=-1)

    def with_token(self, logit_R: Tensor, *, token: int) -> "RunningSoftmax":
        """A copy that has one token more."""
        new = copy.copy(self)
        for name, value in vars(self).items():
            setattr(new, name, None if value is None else value.clone())
        logit_R = logit_R.float()
        if new.second_R is not None:
            least_R = torch.minimum(logit_R, self.greatest_R)
            new.second_R = torch.maximum(new.second_R, least_R)
        is_tie_R = (logit_R == self.greatest_R) & (token < self.token_R)
        new.token_R[(logit_R > self.greatest_R) | is_tie_R] = token
        is_new_R = logit_R > self.greatest_R
        new._raise_to(torch.maximum(logit_R, self.greatest_R), is_new_R.nonzero().squeeze(1))
        lag_R = (new.greatest_R - logit_R).clamp(max=-LEAST).double()
        weight_R = (-lag_R).exp().masked_fill(is_new_R, 0.0)
        new.rest_R += weight_R
        new.spread_R += weight_R * lag_R
        return new

    def entropy_nats(self) -> Tensor:
        """Float32 `[R]`, accurate to about 1e-7 of its size or 1e-6 nats."""
        rest_R = self._rest()
        is_nothing_R = (rest_R == 0) & torch.isfinite(self.spread_R)  # what is not finite shows
        spread_R = self.spread_R.masked_fill(is_nothing_R, 0.0)
        return (rest_R.log1p() + spread_R / (1 + rest_R)).float()

    def probability(self, logit_R: Tensor) -> Tensor:
        """Float32 `[R]`, of the token with this logit."""
        weight_R = (logit_R.float() - self.greatest_R).double().exp()
        return (weight_R / (1 + self._rest())).float()

    def margin(self) -> Tensor:
        """Float32 `[R]`, the greatest probability less the second."""
        assert self.second_R is not None
        lag_R = (self.second_R - self.greatest_R).double()
        return (-lag_R.expm1() / (1 + self._rest())).float()

    def _rest(self) -> Tensor:
        return self.rest_R.masked_fill(self.rest_R < NOTHING, 0.0)

    def _raise_to(self, greatest_R: Tensor, row_M: Tensor) -> None:
        """Make `greatest_R` what weights are relative to; it is greater in `row_M` alone."""
        lag_M = greatest_R[row_M].double() - self.greatest_R[row_M].double()
        total_M, scale_M = 1 + self.rest_R[row_M], (-lag_M).exp()
        self.spread_R[row_M] = (self.spread_R[row_M] + lag_M * total_M) * scale_M
        self.rest_R[row_M] = total_M * scale_M
        self.greatest_R = greatest_R
