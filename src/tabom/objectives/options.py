"""What a recipe may set of an objective: one dataclass of options for each kind of context."""

from dataclasses import dataclass
from typing import Literal

from tabom.core.errors import ConfigError
from tabom.objectives.contexts import OrderPrefix, Sampler, StepPrefix, UniformMask
from tabom.objectives.release import ReleasePrefix
from tabom.objectives.slots import Filler
from tabom.objectives.weights import Kind, Reduction, Weighting


@dataclass(frozen=True, kw_only=True)
class TargetOptions:
    """Which slots are targets, and how their losses are added up."""

    reduction: Literal["response", "token", "sum"] = "response"
    """Mean over a response's targets, over the batch's, or their sum; see `Objective`."""
    filler: Literal["supervise", "ignore", "first_k"] = "supervise"
    """What to do with the slots behind the first end token; see `Filler`."""
    filler_k: int = 0
    """How many of them are targets under "first_k"."""

    def slots(self) -> Filler:
        return Filler(policy=self.filler, k=self.filler_k)


@dataclass(frozen=True, kw_only=True)
class MaskOptions(TargetOptions):
    """Random masks."""

    context: Literal["uniform_mask", "bernoulli"] = "uniform_mask"
    """k ~ U{1..n} slots, or each slot with t ~ U[eps, 1]."""
    eps: float = 0.0
    """Least masking probability of "bernoulli"."""
    schedule: Literal["linear", "cosine"] = "linear"
    """Of "bernoulli": a slot is masked with probability t, or with cos(pi/2 (1 - t))."""
    weighting: Kind = "one"
    """Weight of a target: "one", "inv_p" (one over the masking probability), "linear" (1 - t),
    "scheduler" (of the schedule, as dLLM), or "cart" (by the visible tokens near it)."""
    cart_p: float = 0.3
    """Of "cart": a visible token at distance d adds p/2 (1 - p)^(d - 1)."""
    cart_pads: bool = False
    """Pads of the prompt count as visible under "cart", as published."""
    focal_gamma: float = 0.0
    """Each cross-entropy is multiplied by alpha (1 - p)^gamma; 0: it is not."""
    focal_alpha: float = 0.25
    """Alpha of the same."""
    reduction: Reduction = "response"  # type: ignore[assignment]
    """As without random masks, or "length", "labelled", "batch"; see `Objective`."""

    def sampler(self) -> UniformMask:
        return UniformMask(
            kind="count" if self.context == "uniform_mask" else "bernoulli",
            schedule=self.schedule,
            eps=self.eps,
            filler=self.slots(),
        )

    def weights(self) -> Weighting:
        return Weighting(
            kind=self.weighting, schedule=self.schedule, p=self.cart_p, pads=self.cart_pads
        )


@dataclass(frozen=True, kw_only=True)
class LladaOptions(MaskOptions):
    """Random masks as LLaDA's fine-tuning draws and weighs them."""

    context: Literal["uniform_mask", "bernoulli"] = "bernoulli"
    eps: float = 1e-3
    weighting: Kind = "inv_p"
    reduction: Reduction = "length"  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class DreamOptions(MaskOptions):
    """Random masks as Dream's fine-tuning draws and weighs them."""

    context: Literal["uniform_mask", "bernoulli"] = "bernoulli"
    weighting: Kind = "inv_p"
    reduction: Reduction = "token"  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class DllmOptions(MaskOptions):
    """Random masks as dLLM's trainer draws and weighs them."""

    context: Literal["uniform_mask", "bernoulli"] = "bernoulli"
    eps: float = 1e-3
    weighting: Kind = "scheduler"
    reduction: Reduction = "labelled"  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class KlOptions(MaskOptions):
    """Random masks, and a penalty on leaving the base."""

    kl_weight: float = 0.1
    """Weight of the divergence from the base."""
    kl_beta: float = 0.0
    """0: KL(base || model). 1: KL(model || base). Between: Jensen-Shannon."""
    kl_over: Literal["target", "masked"] = "target"
    """On which slots: the targets, or all masked ones."""


@dataclass(frozen=True, kw_only=True)
class WindowOptions(TargetOptions):
    """A cut in decoding order and the next tokens after it."""

    context: Literal["order_prefix", "step_prefix", "segment"] = "order_prefix"
    """Cuts anywhere, only between steps, or up to a random later state as dInfer (then `window`
    and `cut_rule` have no meaning)."""
    window: int = 32
    """W, in tokens (in steps under the release's rule)."""
    cut_rule: Literal["shortened", "full_window", "release"] = "shortened"
    """Whether a window may end with the response; the latter two with "order_prefix" only."""

    def sampler(self) -> Sampler:
        if self.context != "order_prefix" and self.cut_rule != "shortened":
            raise ConfigError(
                f"cut_rule {self.cut_rule!r} goes with context 'order_prefix', not with "
                f"{self.context!r}; leave cut_rule out or change the context"
            )
        if self.context == "segment":
            return StepPrefix(window=None, filler=self.slots())
        if self.context == "step_prefix":
            return StepPrefix(window=self.window, filler=self.slots())
        if self.cut_rule == "release":
            return ReleasePrefix(window=self.window, filler=self.slots())
        return OrderPrefix(window=self.window, cut_rule=self.cut_rule, filler=self.slots())


@dataclass(frozen=True, kw_only=True)
class RankOptions(WindowOptions):
    """The window's options and those of the ranking term."""

    rank_weight: float = 1.0
    """Lambda."""
    margin: float = 0.2
    """Gamma, in nats."""
    rank_side: Literal["both", "later", "earlier"] = "both"
    """Whose entropy moves: both tokens' of a pair, or one's."""


@dataclass(frozen=True, kw_only=True)
class BoltzmannOptions(WindowOptions):
    """The window's options and those of the next-slot term."""

    next_slot_weight: float = 1.0
    """Weight of the term."""
    beta: float = 1.0
    """Inverse temperature."""
    candidates: Literal["all", "eligible"] = "all"
    """Which masked slots may come next: all, or those that may be targets."""


@dataclass(frozen=True, kw_only=True)
class ListwiseOptions(WindowOptions):
    """The window's options and those of a likelihood of its order."""

    order_weight: float = 1.0
    """Weight of the term."""
    beta: float = 1.0
    """Inverse temperature."""
    draws: int = 0
    """Slots of the window whose order counts; 0: all of it. Not with "sets"."""
    sets: bool = False
    """Whether the slots of one step are a set without an order, and only the next step counts."""
    candidates: Literal["all", "eligible"] = "all"
    """Which masked slots may come next: all, or those that may be targets."""


@dataclass(frozen=True, kw_only=True)
class TwoContextOptions(TargetOptions):
    """A share of the responses is asked at random masks, the others along the trajectory."""

    share: float = 0.75
    """Share of the responses at random masks."""
    window: int = 4
    """W of the others, in tokens."""
    next_slot_weight: float = 0.5
    """Weight of the next-slot term, which only states of the trajectory have."""
    beta: float = 1.0
    """Its inverse temperature."""
    rank_weight: float = 0.0
    """Weight of the ranking term in place of or beside it."""
    margin: float = 0.2
    """Gamma of the ranking term, in nats."""


@dataclass(frozen=True, kw_only=True)
class ReleaseOptions:
    """What the authors' training script takes. Windows are in steps."""

    window: int = 32
    """Steps whose tokens are targets."""
    rank_window: int | None = None
    """Steps of them that are ranked; null for the whole window."""
    rank_weight: float = 1.0
    """Lambda."""
    margin: float = 0.1
    """Gamma, in nats."""
    supervise_padding: bool = True
    """Whether slots that hold `pad_id` may be targets; false needs pad_id."""
    pad_id: int | None = None
    """The token id that is never a target without supervise_padding."""
