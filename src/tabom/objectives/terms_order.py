"""Likelihoods of the observed order: the next slot, the next few, and what one step reveals.

Legend: B contexts, R gathered rows, M masked slots, W window, K nodes of a quadrature.

At a state, slot r is revealed next with probability proportional to exp(-beta h(r)) among the
masked slots. Drawn on without replacement this is the Plackett-Luce model: exponential clocks of
rates exp(-beta h), of which the first few to ring are the slots revealed.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tabom.core.errors import ConfigError, ObjectiveError
from tabom.objectives.batch import Context
from tabom.objectives.rows import Rows
from tabom.objectives.terms import Metrics, pick

Candidates = Literal["all", "eligible"]


def _masked(context: Context) -> tuple[Tensor, Tensor]:
    if context.masked_BM is None or context.next_B is None:
        raise ObjectiveError(
            "an order term got a context without masked_BM and next_B; draw the context with the "
            "objective that holds the term"
        )
    return context.masked_BM, context.next_B


def _check_beta(beta: float) -> None:
    if not beta > 0:
        raise ConfigError(f"beta must be above 0, got {beta}")


@dataclass(frozen=True, kw_only=True)
class NextSlot:
    """-log of the Boltzmann probability of the slot revealed next, among all masked slots.

    beta h(r*) + log sum_{q masked} exp(-beta h(q)): exact, and its product over a trajectory is
    the Plackett-Luce likelihood of the observed order.
    beta: inverse temperature > 0. candidates: "all" masked slots that take part, end-token filler
        included; or only those that are "eligible" as targets under the filler policy.
    A response with a negative advantage A pays -|A| log(1 - p) instead of -A log p: the decision
    of a wrong answer becomes less likely, and the loss stays bounded below.
    Metrics: `next_slot_probability` of the true slot, over responses that have one.
    Source: docs/objectives.md; the Boltzmann form of TABOM eq. 3 and 5, for one decision.
    """

    name: ClassVar[str] = "next_slot"
    beta: float = 1.0
    candidates: Candidates = "all"

    def __post_init__(self) -> None:
        _check_beta(self.beta)

    def count(self, context: Context) -> float:
        return 0.0 if context.next_B is None else float((context.next_B >= 0).sum())

    def value(self, rows: Rows, context: Context) -> tuple[Tensor, Metrics]:
        masked_BM, next_B = _masked(context)
        exists_B = next_B >= 0
        # Rows without a candidate get one of energy 0: no -inf - -inf in the gradient.
        is_candidate_BM = (masked_BM >= 0) | ~exists_B.unsqueeze(1)
        energy_BM = self.beta * pick(rows.entropy_R, masked_BM)
        log_z_B = (-energy_BM).masked_fill(~is_candidate_BM, -torch.inf).logsumexp(1)
        nll_B = self.beta * pick(rows.entropy_R, next_B) + log_z_B
        nll_B = torch.where(exists_B, nll_B, 0.0)
        probability_B = torch.where(exists_B, (-nll_B.detach()).exp(), 0.0)
        metrics = {"next_slot_probability": (probability_B.sum(), exists_B.sum())}
        return _weighed(nll_B, context).sum(), metrics


def _weighed(nll_B: Tensor, context: Context) -> Tensor:
    """Times the advantage; -log(1 - p) where it is negative."""
    if context.advantage_B is None:
        return nll_B
    advantage_B = context.advantage_B.to(nll_B.dtype)
    # A decision without an alternative (p = 1) cannot be made less likely.
    is_wrong_B = (advantage_B < 0) & (nll_B > 1e-6)
    safe_B = torch.where(is_wrong_B, nll_B, 1.0)
    unlikely_B = -(-(-safe_B).expm1()).log()
    return torch.where(is_wrong_B, -advantage_B * unlikely_B, advantage_B.clamp(min=0) * nll_B)


@dataclass(frozen=True, kw_only=True)
class OrderLikelihood:
    """-log of the Plackett-Luce probability of the first `draws` slots of the window, in order.

    sum_i [beta h(r_i) + log sum over masked slots not yet drawn of exp(-beta h)] / number of
    draws, all entropies from the one forward pass: the listwise form of the ranking term, and
    with one draw `NextSlot`.
    draws: slots of the window that are drawn; 0: all of it.
    candidates: as of `NextSlot`.
    Source: Plackett-Luce (ListMLE over a prefix); DCoLT's order likelihood with -beta h as score.
    """

    name: ClassVar[str] = "order"
    beta: float = 1.0
    draws: int = 0
    candidates: Candidates = "all"

    def __post_init__(self) -> None:
        _check_beta(self.beta)
        if self.draws < 0:
            raise ConfigError(f"draws must be at least 0, got {self.draws}")

    def _window(self, context: Context) -> Tensor:
        return context.window_BW[:, : self.draws or None]

    def count(self, context: Context) -> float:
        return float((self._window(context) >= 0).any(1).sum())

    def value(self, rows: Rows, context: Context) -> tuple[Tensor, Metrics]:
        masked_BM, _ = _masked(context)
        window_BW = self._window(context)
        drawn_BW = window_BW >= 0
        score_BM = (-self.beta * pick(rows.entropy_R, masked_BM)).masked_fill(
            masked_BM < 0, -torch.inf
        )
        score_BW = -self.beta * pick(rows.entropy_R, window_BW)
        # Slots outside the window compete in every draw, those inside until they are drawn.
        is_in_window_BM = (masked_BM.unsqueeze(2) == window_BW.unsqueeze(1)).any(2)
        is_outside_BM = ~is_in_window_BM & (masked_BM >= 0)
        outside_B = score_BM.masked_fill(~is_outside_BM, -1e30).logsumexp(1)
        later_BW = score_BW.masked_fill(~drawn_BW, -1e30).flip(1).logcumsumexp(1).flip(1)
        log_z_BW = torch.logaddexp(outside_B.unsqueeze(1), later_BW)
        nll_B = torch.where(drawn_BW, log_z_BW - score_BW, 0.0).sum(1)
        nll_B = nll_B / drawn_BW.sum(1).clamp(min=1)
        return _weighed(nll_B, context).sum(), {}


@dataclass(frozen=True, kw_only=True)
class RevealedSet:
    """-log of the probability that the slots of the next step are the first to be drawn, per slot.

    Their order inside the step is undefined, so all orders count: with rates l = exp(-beta h) and
    L the rest's sum, P = integral_0^inf L exp(-L t) prod_i (1 - exp(-l_i t)) dt, by the trapezoid
    rule in log t (relative error below 1e-9, tested against the sum over all orders). With one
    slot a step it is `NextSlot`. A step that reveals all that is left has probability 1.
    Source: order statistics of exponential clocks; docs/objectives.md.
    """

    name: ClassVar[str] = "next_set"
    sets: ClassVar[tuple[str, ...]] = ("next_step",)
    beta: float = 1.0
    candidates: Candidates = "all"

    def __post_init__(self) -> None:
        _check_beta(self.beta)

    def count(self, context: Context) -> float:
        return 0.0 if context.next_B is None else float((context.next_B >= 0).sum())

    def value(self, rows: Rows, context: Context) -> tuple[Tensor, Metrics]:
        masked_BM, next_B = _masked(context)
        now_R = context.of_set("next_step")
        is_masked_BM = masked_BM >= 0
        is_now_BM = is_masked_BM & pick(now_R.to(rows.entropy_R.dtype), masked_BM).bool()
        is_rest_BM = is_masked_BM & ~is_now_BM
        score_BM = -self.beta * pick(rows.entropy_R, masked_BM)
        has_B = (next_B >= 0) & is_rest_BM.any(1) & is_now_BM.any(1)
        # In units of the rest's rate the waiting time is exp(x), x from -40 to 4.
        rest_B = score_BM.masked_fill(~(is_rest_BM | ~has_B.unsqueeze(1)), -torch.inf).logsumexp(1)
        ratio_BM = torch.where(is_now_BM & has_B.unsqueeze(1), score_BM - rest_B.unsqueeze(1), 0.0)
        step = 44 / 352
        x_K = torch.arange(353, device=ratio_BM.device, dtype=ratio_BM.dtype) * step - 40
        wait_BMK = (ratio_BM.unsqueeze(2) + x_K).exp()
        log_rung_BMK = _log1mexp(wait_BMK)
        log_all_BK = torch.where(is_now_BM.unsqueeze(2), log_rung_BMK, 0.0).sum(1)
        log_p_B = (x_K - x_K.exp() + log_all_BK).logsumexp(1) + math.log(step)
        size_B = is_now_BM.sum(1).clamp(min=1)
        nll_B = torch.where(has_B, -log_p_B / size_B, 0.0)
        return _weighed(nll_B, context).sum(), {}


def _log1mexp(wait: Tensor) -> Tensor:
    """log(1 - exp(-wait)) for wait > 0, accurate at both ends."""
    small = wait < 0.7
    # Each branch gets a harmless value where the other one counts, so no gradient is NaN.
    near = (-(-torch.where(small, wait, 0.5)).expm1()).log()
    far = torch.log1p(-(-torch.where(small, 1.0, wait)).exp())
    return torch.where(small, near, far)
