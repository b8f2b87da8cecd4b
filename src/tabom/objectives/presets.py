"""Every objective by name: a function from the options that a recipe may set to an `Objective`.

A new preset is one function below; one of the user's own is any function of that form, named in a
recipe as "package.module:function". Its parameter's type says which options there are.
"""

import difflib
import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Any, Literal, get_type_hints

from tabom.core.configs import build
from tabom.core.errors import ConfigError
from tabom.core.hooks import load_function
from tabom.objectives.compose import Objective, Reduction
from tabom.objectives.contexts import OrderPrefix, Sampler, StepPrefix, UniformMask
from tabom.objectives.release import ReleasePrefix
from tabom.objectives.slots import Filler
from tabom.objectives.terms import CrossEntropy, NextSlot, Ranking, Term


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
    weighting: Literal["one", "inv_p"] = "one"
    """Weight of a target: one, or one over the masking probability."""
    reduction: Reduction = "response"  # type: ignore[assignment]
    """As without random masks, or "length": a sum over the slots that may be targets."""


@dataclass(frozen=True, kw_only=True)
class LladaOptions(MaskOptions):
    """Random masks as LLaDA's fine-tuning draws and weighs them."""

    context: Literal["uniform_mask", "bernoulli"] = "bernoulli"
    eps: float = 1e-3
    weighting: Literal["one", "inv_p"] = "inv_p"
    reduction: Reduction = "length"  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class DreamOptions(MaskOptions):
    """Random masks as Dream's fine-tuning draws and weighs them."""

    context: Literal["uniform_mask", "bernoulli"] = "bernoulli"
    weighting: Literal["one", "inv_p"] = "inv_p"
    reduction: Reduction = "token"  # type: ignore[assignment]


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


def nelbo(options: MaskOptions) -> Objective:
    """Random masks, mean over masked tokens (SFT; TABOM eq. 1)."""
    return Objective(
        sampler=UniformMask(
            kind="count" if options.context == "uniform_mask" else "bernoulli",
            eps=options.eps,
            filler=options.slots(),
        ),
        terms=((1.0, CrossEntropy()),),
        reduction=options.reduction,
        weighting=options.weighting,
    )


def sft_llada(options: LladaOptions) -> Objective:
    """Random masks weighted by 1/p over the response length, as LLaDA's SFT."""
    return nelbo(options)


def sft_dream(options: DreamOptions) -> Objective:
    """Random masks weighted by 1/t, mean over the batch's masked tokens, as Dream's SFT."""
    return nelbo(options)


def trajectory_ce(options: WindowOptions) -> Objective:
    """Cross-entropy of the next window of the trajectory (TABOM without ranking)."""
    return _windows(options)


def dinfer(options: TargetOptions) -> Objective:
    """Compressed transitions: all tokens between two random states (dInfer)."""
    return Objective(
        sampler=StepPrefix(window=None, filler=options.slots()),
        terms=((1.0, CrossEntropy()),),
        reduction=options.reduction,
    )


def tabom(options: RankOptions) -> Objective:
    """Trajectory cross-entropy and pairwise entropy ranking (TABOM eq. 9)."""
    ranking = Ranking(margin=options.margin, side=options.rank_side)
    return _windows(options, (options.rank_weight, ranking))


def boltzmann(options: BoltzmannOptions) -> Objective:
    """Trajectory cross-entropy and the exact likelihood of the slot revealed next."""
    next_slot = NextSlot(beta=options.beta, candidates=options.candidates)
    return _windows(options, (options.next_slot_weight, next_slot))


def tabom_release(options: ReleaseOptions) -> Objective:
    """TABOM exactly as the authors' training script computes it."""
    policy: Literal["supervise", "not_pad"] = (
        "supervise" if options.supervise_padding else "not_pad"
    )
    return Objective(
        sampler=ReleasePrefix(
            window=options.window,
            rank_window=options.rank_window,
            filler=Filler(policy=policy, pad_id=options.pad_id),
        ),
        terms=((1.0, CrossEntropy()), (options.rank_weight, Ranking(margin=options.margin))),
        reduction="token",
    )


def _windows(options: WindowOptions, *more: tuple[float, Term]) -> Objective:
    return Objective(
        sampler=options.sampler(),
        terms=((1.0, CrossEntropy()), *more),
        reduction=options.reduction,
    )


PRESETS: dict[str, Callable[[Any], Objective]] = {
    preset.__name__: preset
    for preset in (
        nelbo, sft_llada, sft_dream, trajectory_ce, dinfer, tabom, boltzmann, tabom_release,
    )
}  # fmt: skip


def build_objective(name: str, **overrides: Any) -> Objective:
    """The preset `name` with some of its options replaced.

    name: of `PRESETS`, or "package.module:function" of a function of its own.
    overrides: options of that preset by name, plain values as a recipe holds them.
    Raises: ConfigError for an unknown preset or option (with the nearest match and what there
        is), or for a value that the option may not have.
    """
    preset = load_function(name) if ":" in name else PRESETS.get(name)
    if preset is None:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"unknown objective {name!r}{hint} (known: {', '.join(PRESETS)}, or a function of your "
            "own as package.module:function)"
        )
    options = build(options_of(preset, name=name), overrides, where=name)
    try:
        objective = preset(options)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    if not isinstance(objective, Objective):
        found = type(objective).__name__
        raise ConfigError(f"objective {name!r} gave a {found}, expected an Objective")
    return replace(objective, name=name, options=asdict(options))


def options_of(preset: Callable[[Any], Objective], *, name: str) -> type[Any]:
    """The options of a preset: the dataclass that its one parameter is annotated with.

    Raises: ConfigError for a function of another form.
    """
    hints = get_type_hints(preset)
    types = [hints.get(parameter) for parameter in inspect.signature(preset).parameters]
    if len(types) != 1 or not isinstance(types[0], type) or not is_dataclass(types[0]):
        raise ConfigError(
            f"objective {name!r}: expected a function of one parameter that is annotated with a "
            "dataclass of its options, such as `options: WindowOptions`"
        )
    return types[0]
