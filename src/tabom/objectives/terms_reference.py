"""Terms beyond the label: certainty, and comparisons with a reference model.

Legend: R gathered rows, B contexts.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from tabom.core.errors import ConfigError, ObjectiveError
from tabom.objectives.batch import Context
from tabom.objectives.rows import Rows
from tabom.objectives.terms import Metrics
from tabom.vocabulary.divergence import DivergenceKind

Spread = Literal["response", "token"]


def spread_count(context: Context, rows_R: Tensor, spread: Spread) -> float:
    """How many responses have such rows, or how many rows there are."""
    if spread == "token":
        return float(rows_R.sum())
    return float((context.per_response(rows_R.float()) > 0).sum())


def spread_sum(value_R: Tensor, rows_R: Tensor, context: Context, spread: Spread) -> Tensor:
    """Sum over responses of the mean over such rows, or the sum over the rows."""
    value_R = torch.where(rows_R, value_R, 0.0)
    if spread == "token":
        return value_R.sum()
    size_B = context.per_response(rows_R.to(value_R.dtype))
    return (context.per_response(value_R) / size_B.clamp(min=1)).sum()


@dataclass(frozen=True, kw_only=True)
class Certainty:
    """Mean entropy, at a temperature, of the targets whose token is already the likeliest.

    temperature: of the softmax whose entropy is taken; it sharpens below 1.
    per: the mean is over such slots of a "response" (one without any adds 0 and still counts), or
        of the whole "micro_batch", as published: which slots these are is known only after the
        forward pass, so that a mean over the global batch cannot be had in one.
    Metrics: `certain` (share of targets whose token is the likeliest).
    Source: dParallel's certainty-forcing loss; d3LLM.
    """

    name: ClassVar[str] = "certainty"
    sets: ClassVar[tuple[str, ...]] = ("right",)
    temperature: float = 0.5
    per: Literal["response", "micro_batch"] = "response"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be above 0, got {self.temperature}")

    def count(self, context: Context) -> float:
        targets_R = context.of_set("right")
        if self.per == "micro_batch":
            return float(bool(targets_R.any()))
        return spread_count(context, targets_R, "response")

    def value(self, rows: Rows, context: Context) -> tuple[Tensor, Metrics]:
        if rows.is_best_R is None:
            raise ObjectiveError("the certainty term needs to know where the label is likeliest")
        target_R = context.of_set("right")
        certain_R = target_R & rows.is_best_R
        entropy_R = rows.tempered(self.temperature).entropy_R
        spread: Spread = "token" if self.per == "micro_batch" else "response"
        total = spread_sum(entropy_R, certain_R, context, spread)
        if self.per == "micro_batch":
            total = total / certain_R.sum().clamp(min=1)
        return total, {"certain": (certain_R.sum(), target_R.sum())}


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Mean divergence of the model from the reference on a set of slots.

    over: "target", "masked" (every slot that is still hidden), or a set of the sampler ("far").
    reduction: mean per "response", then over responses; or over all "token"s.
    chosen: only so many slots of the set per response, those with the greatest logits under the
        reference; 0: all of them. Their sum is then divided by the responses (d-OPSD).
    The other options: see `DivergenceKind`.
    Metrics: `kl_token`, over the slots.
    Source: TAD, d-OPSD; with the base as reference a penalty on leaving it.
    """

    name: ClassVar[str] = "kl"
    over: str = "target"
    reduction: Spread = "response"
    beta: float = 0.0
    temperature: float = 1.0
    top_k: int = 0
    clip: float | None = None
    clip_what: Literal["entry", "token"] = "token"
    chosen: int = 0

    def __post_init__(self) -> None:
        self._kind()
        if self.chosen < 0:
            raise ConfigError(f"chosen must be at least 0 slots, got {self.chosen}")

    @property
    def sets(self) -> tuple[str, ...]:
        return (self.over,)

    def _kind(self) -> DivergenceKind:
        return DivergenceKind(
            beta=self.beta,
            temperature=self.temperature,
            top_k=self.top_k,
            clip=self.clip,
            clip_what=self.clip_what,
        )

    def count(self, context: Context) -> float:
        spread: Spread = "response" if self.chosen else self.reduction
        return spread_count(context, context.of_set(self.over), spread)

    def value(self, rows: Rows, context: Context) -> tuple[Tensor, Metrics]:
        asked_R = context.of_set(self.over)
        if self.chosen:
            asked_R = self._choose(rows, context, asked_R)
        # Of all rows, since picking out the asked ones would wait for the device.
        value_R = rows.divergence(self._kind()) * self.temperature**2
        spread: Spread = "token" if self.chosen else self.reduction
        total = spread_sum(value_R, asked_R, context, spread)
        seen_R = torch.where(asked_R, value_R.detach(), 0.0)
        return total, {"kl_token": (seen_R.sum(), asked_R.sum())}

    def _choose(self, rows: Rows, context: Context, asked_R: Tensor) -> Tensor:
        """The `chosen` rows of each response with the greatest raw logits of the reference."""
        best_R = rows.reference_logits().amax(-1).masked_fill(~asked_R, -torch.inf)
        same_RR = context.row_batch_R.unsqueeze(1) == context.row_batch_R
        place_R = torch.arange(len(best_R), device=best_R.device)
        is_ahead_RR = (best_R > best_R.unsqueeze(1)) | (
            (best_R == best_R.unsqueeze(1)) & (place_R < place_R.unsqueeze(1))
        )
        return asked_R & ((same_RR & is_ahead_RR).sum(1) < self.chosen)


@dataclass(frozen=True, kw_only=True)
class DirectDiscrimination:
    """Tell the data's tokens from the reference's own, relative to the reference (DDO).

    With a (and a') the mean log-probability of the finished tokens over a response's set under the
    model (the reference), and f, f' that of the reference's likeliest tokens:
    softplus(-beta (a - a')) + alpha softplus(beta (f - f')), mean over responses.
    Metrics: `ddo_margin`, a - a' - (f - f') per response.
    Source: T3D (its eq. 9 and code).
    """

    name: ClassVar[str] = "ddo"
    over: str = "ddo"
    alpha: float = 0.5
    beta: float = 0.1

    @property
    def sets(self) -> tuple[str, ...]:
        return (self.over,)

    def __post_init__(self) -> None:
        if self.alpha < 0 or not self.beta > 0:
            raise ConfigError(
                f"ddo alpha must be at least 0 and beta above 0, got {self.alpha} and {self.beta}"
            )

    def count(self, context: Context) -> float:
        return spread_count(context, context.of_set(self.over), "response")

    def value(self, rows: Rows, context: Context) -> tuple[Tensor, Metrics]:
        asked_R = context.of_set(self.over)
        assert rows.label_R is not None
        fake_R = rows.reference_tokens()
        real_R = rows.of_reference(rows.label_R) - rows.ce_R
        false_R = rows.of_reference(fake_R) - rows.cross_entropy(fake_R)
        size_B = context.per_response(asked_R.to(real_R.dtype))

        def mean_B(value_R: Tensor) -> Tensor:
            return context.per_response(torch.where(asked_R, value_R, 0.0)) / size_B.clamp(min=1)

        real_B, false_B = mean_B(real_R), mean_B(false_R)
        loss_B = softplus(-self.beta * real_B) + self.alpha * softplus(self.beta * false_B)
        has_B = size_B > 0
        total = torch.where(has_B, loss_B, 0.0).sum()
        margin_B = torch.where(has_B, (real_B - false_B).detach(), 0.0)
        return total, {"ddo_margin": (margin_B.sum(), has_B.sum())}
