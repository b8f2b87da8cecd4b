"""The terms of an objective, as local sums over responses, and what they show of training.

Legend: B batch, R gathered rows, W window, M masked slots.

A term is a frozen set of settings. `value` gets the losses of the rows (nats, with gradient) and
returns the local sum that `Objective.total` divides by a global count.
Everything is a tensor operation of fixed shape: no loop over the batch, no host sync.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from tabom.core.errors import ConfigError
from tabom.objectives.batch import Context
from tabom.objectives.rows import Rows

Metrics = Mapping[str, tuple[Tensor, Tensor]]  # detached (sum, count), scalars or vectors


class Term(Protocol):
    """What an objective needs from a term."""

    @property
    def name(self) -> str: ...

    def count(self, context: Context) -> float:
        """What the sum is divided by, of this batch's share; from the context alone."""
        ...

    def value(self, rows: Rows, context: Context) -> tuple[Tensor, Metrics]: ...


def pick(value_R: Tensor, index: Tensor) -> Tensor:
    """Rows by index, 0 where the index is -1 (also when there are no rows at all)."""
    return torch.cat([value_R, value_R.new_zeros(1)])[index]


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """sum_R weight * ce; the reduction inside a response is folded into the weights.

    focal_gamma, focal_alpha: each ce becomes alpha (1 - e^-ce)^gamma ce; gamma 0 leaves it.
    Metrics: `ce_token` and `entropy_token` (means over target rows), and `entropy_by_position`
    (a vector: mean entropy at each position of the window, in decoding order).
    Source: TABOM eq. 1 and the first part of eq. 9.
    """

    name: ClassVar[str] = "ce"
    focal_gamma: float = 0.0
    focal_alpha: float = 0.25

    def __post_init__(self) -> None:
        if self.focal_gamma < 0 or not self.focal_alpha > 0:
            raise ConfigError(
                f"focal_gamma must be at least 0 and focal_alpha above 0, got {self.focal_gamma} "
                f"and {self.focal_alpha}"
            )

    def count(self, context: Context) -> float:
        return context.counts[self.name]  # the reduction's, known when the weights are

    def value(self, rows: Rows, context: Context) -> tuple[Tensor, Metrics]:
        ce_R, weight_R = rows.ce_R, context.ce_weight_R
        loss_R = ce_R
        if self.focal_gamma > 0:
            loss_R = self.focal_alpha * (-(-ce_R).expm1()) ** self.focal_gamma * ce_R
        # A row that only another term needs must not spoil the sum, whatever its value.
        is_target_R = weight_R > 0
        total = torch.where(is_target_R, loss_R * weight_R, 0.0).sum()
        count = is_target_R.sum()
        entropy_R = rows.entropy_R.detach()
        metrics = {
            "ce_token": (torch.where(is_target_R, ce_R.detach(), 0.0).sum(), count),
            "entropy_token": (torch.where(is_target_R, entropy_R, 0.0).sum(), count),
        }
        if context.window_BW.shape[1] > 0:
            metrics["entropy_by_position"] = (
                pick(entropy_R, context.window_BW).sum(0),
                (context.window_BW >= 0).sum(0),
            )
        return total, metrics


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Mean over a response's window pairs (i revealed before j) of max(0, h_i - h_j + margin).

    margin: gamma >= 0, nats. side: whose entropy moves: "both", or only the "later" or "earlier"
        token's (the other is detached).
    Metrics: `hinge_active` (share of pairs with a gradient) and `order_agreement` (share of pairs
    with h_i < h_j), over pairs.
    Source: TABOM eq. 8, all entropies from the one forward at the context.
    """

    name: ClassVar[str] = "rank"
    margin: float = 0.2
    side: Literal["both", "later", "earlier"] = "both"

    def __post_init__(self) -> None:
        if self.margin < 0:
            raise ConfigError(f"margin must be at least 0 nats, got {self.margin}")

    def count(self, context: Context) -> float:
        return float(pairs(context.window_BW, context.pair_BWW).any(2).any(1).sum())

    def value(self, rows: Rows, context: Context) -> tuple[Tensor, Metrics]:
        pair_BWW = pairs(context.window_BW, context.pair_BWW)
        entropy_BW = pick(rows.entropy_R, context.window_BW)
        earlier_BW1 = entropy_BW.unsqueeze(2)
        later_B1W = entropy_BW.unsqueeze(1)
        if self.side == "later":
            earlier_BW1 = earlier_BW1.detach()
        elif self.side == "earlier":
            later_B1W = later_B1W.detach()
        gap_BWW = earlier_BW1 - later_B1W
        hinge_BWW = torch.where(pair_BWW, (gap_BWW + self.margin).relu(), 0.0)
        num_pairs_B = pair_BWW.sum((1, 2))
        total = (hinge_BWW.sum((1, 2)) / num_pairs_B.clamp(min=1)).sum()
        num_pairs = num_pairs_B.sum()
        metrics = {
            "hinge_active": ((hinge_BWW.detach() > 0).sum(), num_pairs),
            "order_agreement": (((gap_BWW.detach() < 0) & pair_BWW).sum(), num_pairs),
        }
        return total, metrics


def pairs(window_BW: Tensor, pair_BWW: Tensor | None) -> Tensor:
    """bool [B, W, W]: both tokens exist, i comes before j, and their order is known."""
    exists_BW = window_BW >= 0
    both_BWW = (exists_BW.unsqueeze(2) & exists_BW.unsqueeze(1)).triu(1)
    return both_BWW if pair_BWW is None else both_BWW & pair_BWW
