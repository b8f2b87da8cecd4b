"""Every objective by name: a context, a list of terms, and the options that a recipe may set."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tabom.core.configs import build
from tabom.core.errors import ConfigError
from tabom.objectives.compose import Objective
from tabom.objectives.contexts import OrderPrefix, Sampler, StepPrefix, UniformMask
from tabom.objectives.release import ReleasePrefix
from tabom.objectives.slots import Filler
from tabom.objectives.terms import CrossEntropy, NextSlot, Ranking, Term

FillerPolicy = Literal["supervise", "ignore", "first_k"]


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """Random masks.

    context: "uniform_mask" (k ~ U{1..n} slots) or "bernoulli" (each slot with t ~ U[eps, 1]).
    eps: least masking probability. weighting: "one", or "inv_p" (one over the probability).
    reduction: see `Objective`. filler, filler_k: see `Filler`.
    """

    context: Literal["uniform_mask", "bernoulli"] = "uniform_mask"
    eps: float = 0.0
    weighting: Literal["one", "inv_p"] = "one"
    reduction: Literal["response", "token", "sum", "length"] = "response"
    filler: FillerPolicy = "supervise"
    filler_k: int = 0


@dataclass(frozen=True, kw_only=True)
class SegmentOptions:
    """Two states of a trajectory: the first is the context, the tokens between are the targets."""

    reduction: Literal["response", "token", "sum"] = "response"
    filler: FillerPolicy = "supervise"
    filler_k: int = 0


@dataclass(frozen=True, kw_only=True)
class WindowOptions:
    """A cut in decoding order and the next tokens after it.

    context: "order_prefix" (cuts anywhere), "step_prefix" (only between steps) or "segment" (up
        to a random later state, as dInfer; `window` and `cut_rule` then have no meaning).
    window: W, in tokens (in steps under the release's rule).
    cut_rule: "shortened", "full_window", or "release"; the latter two with "order_prefix" only.
    """

    context: Literal["order_prefix", "step_prefix", "segment"] = "order_prefix"
    window: int = 32
    cut_rule: Literal["shortened", "full_window", "release"] = "shortened"
    reduction: Literal["response", "token", "sum"] = "response"
    filler: FillerPolicy = "supervise"
    filler_k: int = 0


@dataclass(frozen=True, kw_only=True)
class RankOptions(WindowOptions):
    """The window's options and the ranking term's: lambda, gamma (nats), whose entropy moves."""

    rank_weight: float = 1.0
    margin: float = 0.2
    rank_side: Literal["both", "later", "earlier"] = "both"

    def __post_init__(self) -> None:
        _check_weight("rank_weight", self.rank_weight)


@dataclass(frozen=True, kw_only=True)
class BoltzmannOptions(WindowOptions):
    """The window's options and the next-slot term's: its weight, beta, and who may come next."""

    next_slot_weight: float = 1.0
    beta: float = 1.0
    candidates: Literal["all", "eligible"] = "all"

    def __post_init__(self) -> None:
        _check_weight("next_slot_weight", self.next_slot_weight)


@dataclass(frozen=True, kw_only=True)
class ReleaseOptions:
    """What the authors' training script takes. Windows are in steps.

    rank_window: null for the whole window. supervise_padding: whether slots that hold `pad_id`
        may be targets; false needs pad_id.
    """

    window: int = 32
    rank_window: int | None = None
    rank_weight: float = 1.0
    margin: float = 0.1
    supervise_padding: bool = True
    pad_id: int | None = None

    def __post_init__(self) -> None:
        _check_weight("rank_weight", self.rank_weight)


def _check_weight(name: str, value: float) -> None:
    if not 0 <= value < float("inf"):
        raise ConfigError(f"{name} must be a number of at least 0, got {value}")


def _uniform(o: MaskOptions) -> Sampler:
    kind: Literal["count", "bernoulli"] = "count" if o.context == "uniform_mask" else "bernoulli"
    return UniformMask(kind=kind, eps=o.eps, filler=_filler(o))


def _segment(o: SegmentOptions) -> Sampler:
    return StepPrefix(window=None, filler=_filler(o))


def _window(o: WindowOptions) -> Sampler:
    filler = _filler(o)
    if o.context != "order_prefix" and o.cut_rule != "shortened":
        raise ConfigError(
            f"cut_rule {o.cut_rule!r} goes with context 'order_prefix', not with {o.context!r}; "
            "leave cut_rule out or change the context"
        )
    if o.context == "segment":
        return StepPrefix(window=None, filler=filler)
    if o.context == "step_prefix":
        return StepPrefix(window=o.window, filler=filler)
    if o.cut_rule == "release":
        return ReleasePrefix(window=o.window, filler=filler)
    return OrderPrefix(window=o.window, cut_rule=o.cut_rule, filler=filler)


def _release(o: ReleaseOptions) -> Sampler:
    policy: Literal["supervise", "not_pad"] = "supervise" if o.supervise_padding else "not_pad"
    filler = Filler(policy=policy, pad_id=o.pad_id)
    return ReleasePrefix(window=o.window, rank_window=o.rank_window, filler=filler)


def _filler(o: MaskOptions | SegmentOptions | WindowOptions) -> Filler:
    return Filler(policy=o.filler, k=o.filler_k)


def _ce(o: Any) -> tuple[tuple[float, Term], ...]:
    return ((1.0, CrossEntropy()),)


def _ce_rank(o: Any) -> tuple[tuple[float, Term], ...]:
    side: Any = getattr(o, "rank_side", "both")  # the release has no such option
    return ((1.0, CrossEntropy()), (o.rank_weight, Ranking(margin=o.margin, side=side)))


def _ce_next(o: BoltzmannOptions) -> tuple[tuple[float, Term], ...]:
    term = NextSlot(beta=o.beta, candidates=o.candidates)
    return ((1.0, CrossEntropy()), (o.next_slot_weight, term))


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One row of the table: what it is, its options with their defaults, how it is built."""

    title: str
    options: type
    sampler: Callable[[Any], Sampler]
    terms: Callable[[Any], tuple[tuple[float, Term], ...]]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)  # fields of Objective without an option


PRESETS: dict[str, Preset] = {
    "nelbo": Preset(
        title="random masks, mean over masked tokens (SFT; TABOM eq. 1)",
        options=MaskOptions,
        sampler=_uniform,
        terms=_ce,
    ),
    "sft_llada": Preset(
        title="random masks weighted by 1/p over the response length, as LLaDA's SFT",
        options=MaskOptions,
        sampler=_uniform,
        terms=_ce,
        defaults={
            "context": "bernoulli",
            "eps": 1e-3,
            "weighting": "inv_p",
            "reduction": "length",
        },
    ),
    "sft_dream": Preset(
        title="random masks weighted by 1/t, mean over the batch's masked tokens, as Dream's SFT",
        options=MaskOptions,
        sampler=_uniform,
        terms=_ce,
        defaults={"context": "bernoulli", "weighting": "inv_p", "reduction": "token"},
    ),
    "trajectory_ce": Preset(
        title="cross-entropy of the next window of the trajectory (TABOM without ranking)",
        options=WindowOptions,
        sampler=_window,
        terms=_ce,
    ),
    "dinfer": Preset(
        title="compressed transitions: all tokens between two random states (dInfer)",
        options=SegmentOptions,
        sampler=_segment,
        terms=_ce,
    ),
    "tabom": Preset(
        title="trajectory cross-entropy and pairwise entropy ranking (TABOM eq. 9)",
        options=RankOptions,
        sampler=_window,
        terms=_ce_rank,
    ),
    "boltzmann": Preset(
        title="trajectory cross-entropy and the exact likelihood of the slot revealed next",
        options=BoltzmannOptions,
        sampler=_window,
        terms=_ce_next,
    ),
    "tabom_release": Preset(
        title="TABOM exactly as the authors' training script computes it",
        options=ReleaseOptions,
        sampler=_release,
        terms=_ce_rank,
        fixed={"reduction": "token"},
    ),
}


def build_objective(name: str, **overrides: Any) -> Objective:
    """The preset `name` with some of its options replaced.

    overrides: options of that preset by name, plain values as a recipe holds them.
    Raises: ConfigError for an unknown preset or option (with the nearest match and what there
        is), or for a value that the option may not have.
    """
    preset = PRESETS.get(name)
    if preset is None:
        near = difflib.get_close_matches(str(name), PRESETS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"unknown objective {name!r}{hint} (known: {', '.join(PRESETS)})")
    options: Any = build(preset.options, {**preset.defaults, **overrides}, where=name)
    try:
        sampler, terms = preset.sampler(options), preset.terms(options)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    settings = {
        key: getattr(options, key) for key in ("reduction", "weighting") if hasattr(options, key)
    }
    return Objective(
        name=name,
        sampler=sampler,
        terms=terms,
        options=asdict(options),
        **{**settings, **preset.fixed},
    )
