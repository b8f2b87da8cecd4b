"""Policy terms: functions of the tokens' log-probabilities, old ones, and an advantage.

Legend: R gathered rows, B contexts. A context is one "row" of the policy papers: a state of one
response with the slots that it reveals next.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tabom.core.errors import ConfigError
from tabom.objectives.batch import Context
from tabom.objectives.rows import Rows
from tabom.objectives.terms import Metrics

Per = Literal["targets", "length", "sum", "token"]


def _log_ratio(rows: Rows, context: Context, *, bound: float | None) -> Tensor:
    """log p - log p_old of each row; without stored ones the ratio is 1 with its gradient."""
    old_R = context.old_logp_R
    log_p_R = -rows.ce_R
    ratio_R = log_p_R - (log_p_R.detach() if old_R is None else old_R.to(log_p_R.dtype))
    return ratio_R if bound is None else ratio_R.clamp(-bound, bound)


def _reduce(value_R: Tensor, context: Context, per: Per) -> Tensor:
    target_R = context.of_set("target")
    sum_B = context.per_response(torch.where(target_R, value_R, 0.0))
    if per == "targets":
        sum_B = sum_B / context.per_response(target_R.to(sum_B.dtype)).clamp(min=1)
    elif per == "length":
        sum_B = sum_B / context.input_ids_BN.shape[1]
    return sum_B.sum()


def _count(context: Context, per: Per) -> float:
    target_R = context.of_set("target")
    if per == "token":
        return float(target_R.sum())
    has_B = context.per_response(target_R.float()) > 0
    return float(has_B.sum())


@dataclass(frozen=True, kw_only=True)
class ClippedPolicy:
    """-min(rho A, clip(rho, 1 - low, 1 + high) A) of the target tokens, rho = p / p_old.

    low, high: the clip. dual_clip: where A < 0 the loss of a token is at most -A times it.
    per: a context's sum over its targets is divided by their number ("targets"), by the slots of
        the response ("length") or by nothing ("sum"), then averaged over contexts; "token":
        averaged over all target tokens.
    temperature: of the softmax that the tokens were sampled from.
    log_bound: log-ratios are clamped to it (SDAR's script: 10).
    only_judged: contexts whose advantage is 0 are not counted (JustGRPO).
    Without advantages in the data A is 1.
    Metrics: `clipped` (share of target tokens without a gradient).
    Source: TraceRL, JustGRPO, DARE.
    """

    name: ClassVar[str] = "policy"
    sets: ClassVar[tuple[str, ...]] = ("target",)
    low: float = 0.2
    high: float = 0.2
    dual_clip: float | None = None
    per: Per = "targets"
    temperature: float = 1.0
    log_bound: float | None = None
    only_judged: bool = False

    def __post_init__(self) -> None:
        if not (0 <= self.low < 1 and self.high >= 0 and self.temperature > 0):
            raise ConfigError(
                f"clip must be at least 0 (below 1 downwards) and temperature above 0, got "
                f"{self.low}, {self.high} and {self.temperature}"
            )
        if self.dual_clip is not None and self.dual_clip <= 1:
            raise ConfigError(f"dual_clip must be above 1, got {self.dual_clip}")

    def count(self, context: Context) -> float:
        if self.only_judged and context.advantage_B is not None:
            return float((context.advantage_B != 0).sum())
        return _count(context, self.per)

    def value(self, rows: Rows, context: Context) -> tuple[Tensor, Metrics]:
        rows = rows.tempered(self.temperature)
        ratio_R = _log_ratio(rows, context, bound=self.log_bound).exp()
        if context.advantage_B is None:
            advantage_R = torch.ones_like(ratio_R)
        else:
            advantage_R = context.advantage_B.to(ratio_R.dtype)[context.row_batch_R]
        gain_R = ratio_R * advantage_R
        clipped_R = ratio_R.clamp(1 - self.low, 1 + self.high) * advantage_R
        loss_R = -torch.minimum(gain_R, clipped_R)
        if self.dual_clip is not None:
            capped_R = torch.minimum(loss_R, -advantage_R * self.dual_clip)
            loss_R = torch.where(advantage_R < 0, capped_R, loss_R)
        target_R = context.of_set("target")
        is_clipped_R = target_R & (clipped_R < gain_R).detach()
        metrics = {"clipped": (is_clipped_R.sum(), target_R.sum())}
        return _reduce(loss_R, context, self.per), metrics


@dataclass(frozen=True, kw_only=True)
class PolicyDrift:
    """How far the tokens' log-probabilities left those of the model that decoded them.

    kind: "k3": exp(-d) - 1 + d with d = log p - log p_old (never negative). "k1": d.
    per, log_bound: as of `ClippedPolicy`.
    Source: TraceRL (a sum per context: its weight depends on how many slots a context asks).
    """

    name: ClassVar[str] = "drift"
    sets: ClassVar[tuple[str, ...]] = ("target",)
    kind: Literal["k3", "k1"] = "k3"
    per: Per = "sum"
    log_bound: float | None = None

    def count(self, context: Context) -> float:
        return _count(context, self.per)

    def value(self, rows: Rows, context: Context) -> tuple[Tensor, Metrics]:
        drift_R = _log_ratio(rows, context, bound=self.log_bound)
        value_R = drift_R if self.kind == "k1" else torch.expm1(-drift_R) + drift_R
        return _reduce(value_R, context, self.per), {}
