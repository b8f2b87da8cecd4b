"""The terms of an objective, as local sums over responses, and what they show of training.

Legend: B batch, R gathered rows, W window, M masked slots.

A term is a frozen set of settings. `value` gets one cross-entropy and one entropy (nats, with
gradient) per row and returns the local sum that `Objective.total` divides by a global count.
Everything is a tensor operation of fixed shape: no loop over the batch, no host sync.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from tabom.core.errors import ConfigError, ObjectiveError
from tabom.objectives.batch import Context

Metrics = Mapping[str, tuple[Tensor, Tensor]]  # detached (sum, count), scalars or vectors


class Term(Protocol):
    """What an objective needs from a term."""

    @property
    def name(self) -> str: ...

    def count(self, context: Context) -> float:
        """What the sum is divided by, of this batch's share; from the context alone."""
        ...

    def value(
        self, ce_R: Tensor, entropy_R: Tensor, context: Context
    ) -> tuple[Tensor, Metrics]: ...


def pick(value_R: Tensor, index: Tensor) -> Tensor:
    """Rows by index, 0 where the index is -1 (also when there are no rows at all)."""
    return torch.cat([value_R, value_R.new_zeros(1)])[index]


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """sum_R weight * ce; the reduction inside a response is folded into the weights.

    Metrics: `ce_token` and `entropy_token` (means over target rows), and `entropy_by_position`
    (a vector: mean entropy at each position of the window, in decoding order).
    Source: TABOM eq. 1 and the first part of eq. 9.
    """

    name: ClassVar[str] = "ce"

    def count(self, context: Context) -> float:
        return context.counts[self.name]  # the reduction's, known when the weights are

    def value(self, ce_R: Tensor, entropy_R: Tensor, context: Context) -> tuple[Tensor, Metrics]:
        weight_R = context.ce_weight_R
        # A row that only another term needs must not spoil the sum, whatever its value.
        is_target_R = weight_R > 0
        total = torch.where(is_target_R, ce_R * weight_R, 0.0).sum()
        count = is_target_R.sum()
        entropy_R = entropy_R.detach()
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

    def value(self, ce_R: Tensor, entropy_R: Tensor, context: Context) -> tuple[Tensor, Metrics]:
        pair_BWW = pairs(context.window_BW, context.pair_BWW)
        entropy_BW = pick(entropy_R, context.window_BW)
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


@dataclass(frozen=True, kw_only=True)
class NextSlot:
    """-log of the Boltzmann probability of the slot revealed next, among all masked slots.

    beta h(r*) + log sum_{q masked} exp(-beta h(q)): exact, and its product over a trajectory is
    the Plackett-Luce likelihood of the observed order.
    beta: inverse temperature > 0. candidates: "all" masked slots that take part, end-token filler
        included; or only those that are "eligible" as targets under the filler policy.
    Metrics: `next_slot_probability` of the true slot, over responses that have one.
    Source: docs/objectives.md; the Boltzmann form of TABOM eq. 3 and 5, for one decision.
    """

    name: ClassVar[str] = "next_slot"
    beta: float = 1.0
    candidates: Literal["all", "eligible"] = "all"

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ConfigError(f"beta must be above 0, got {self.beta}")

    def count(self, context: Context) -> float:
        return 0.0 if context.next_B is None else float((context.next_B >= 0).sum())

    def value(self, ce_R: Tensor, entropy_R: Tensor, context: Context) -> tuple[Tensor, Metrics]:
        if context.masked_BM is None or context.next_B is None:
            raise ObjectiveError(
                "the next-slot term got a context without masked_BM and next_B; draw the context "
                "with the objective that holds the term"
            )
        exists_B = context.next_B >= 0
        # Rows without a candidate get one of energy 0: no -inf - -inf in the gradient.
        is_candidate_BM = (context.masked_BM >= 0) | ~exists_B.unsqueeze(1)
        energy_BM = self.beta * pick(entropy_R, context.masked_BM)
        log_z_B = (-energy_BM).masked_fill(~is_candidate_BM, -torch.inf).logsumexp(1)
        nll_B = self.beta * pick(entropy_R, context.next_B) + log_z_B
        nll_B = torch.where(exists_B, nll_B, 0.0)
        probability_B = torch.where(exists_B, (-nll_B.detach()).exp(), 0.0)
        return nll_B.sum(), {"next_slot_probability": (probability_B.sum(), exists_B.sum())}
