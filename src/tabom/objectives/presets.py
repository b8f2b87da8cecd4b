"""Every objective by name: a function from the options that a recipe may set to an `Objective`.

A new preset is one function below; one of the user's own is any function of that form, named in a
recipe as "package.module:function". Its parameter's type says which options there are.
"""

import difflib
import inspect
from collections.abc import Callable
from dataclasses import asdict, is_dataclass, replace
from typing import Any, Literal, get_type_hints

from tabom.core.configs import build
from tabom.core.errors import ConfigError
from tabom.core.hooks import load_function
from tabom.objectives.compose import Objective
from tabom.objectives.contexts import OrderPrefix, StepPrefix, UniformMask
from tabom.objectives.grid import MixtureOptions, mix
from tabom.objectives.mixture import AnyObjective, Mixture, Part
from tabom.objectives.options import (
    BoltzmannOptions,
    DllmOptions,
    DreamOptions,
    KlOptions,
    ListwiseOptions,
    LladaOptions,
    MaskOptions,
    RankOptions,
    ReleaseOptions,
    TargetOptions,
    TwoContextOptions,
    WindowOptions,
)
from tabom.objectives.published import d3llm, d_opsd, dparallel, justgrpo, t3d, tad, tracerl
from tabom.objectives.reference import Reference
from tabom.objectives.release import ReleasePrefix
from tabom.objectives.slots import Filler
from tabom.objectives.terms import CrossEntropy, Ranking, Term
from tabom.objectives.terms_order import NextSlot, OrderLikelihood, RevealedSet
from tabom.objectives.terms_reference import Divergence


def nelbo(options: MaskOptions) -> Objective:
    """Random masks, mean over masked tokens (SFT; TABOM eq. 1)."""
    ce = CrossEntropy(focal_gamma=options.focal_gamma, focal_alpha=options.focal_alpha)
    return Objective(
        sampler=options.sampler(),
        terms=((1.0, ce),),
        reduction=options.reduction,
        weighting=options.weights(),
    )


def nelbo_kl(options: KlOptions) -> Objective:
    """Random masks with a divergence from the base (SFT as a control of forgetting)."""
    divergence = Divergence(beta=options.kl_beta, over=options.kl_over)
    plain = nelbo(options)
    return replace(
        plain, terms=(*plain.terms, (options.kl_weight, divergence)), reference=Reference()
    )


def sft_llada(options: LladaOptions) -> Objective:
    """Random masks weighted by 1/p over the response length, as LLaDA's SFT."""
    return nelbo(options)


def sft_dream(options: DreamOptions) -> Objective:
    """Random masks weighted by 1/t, mean over the batch's masked tokens, as Dream's SFT."""
    return nelbo(options)


def sft_dllm(options: DllmOptions) -> Objective:
    """Random masks weighted by the noise schedule over the labelled slots, as dLLM's SFT."""
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


def boltzmann_listwise(options: ListwiseOptions) -> Objective:
    """Trajectory cross-entropy and the likelihood of the window's order, or of the next step."""
    shared: dict[str, Any] = {"beta": options.beta, "candidates": options.candidates}
    if options.sets:
        return _windows(options, (options.order_weight, RevealedSet(**shared)))
    order = OrderLikelihood(draws=options.draws, **shared)
    return _windows(options, (options.order_weight, order))


def two_contexts(options: TwoContextOptions) -> Mixture:
    """Content from random masks, order from states of the trajectory, in one step (ours)."""
    filler, terms = options.slots(), [(1.0, CrossEntropy())]
    order: list[tuple[float, Term]] = [
        (options.next_slot_weight, NextSlot(beta=options.beta)),
        (options.rank_weight, Ranking(margin=options.margin)),
    ]
    content = Objective(
        sampler=UniformMask(filler=filler), terms=tuple(terms), reduction=options.reduction
    )
    along = Objective(
        sampler=OrderPrefix(window=options.window, filler=filler),
        terms=(*terms, *(term for term in order if term[0] != 0)),
        reduction=options.reduction,
    )
    return Mixture(
        parts=(
            Part(objective=content, share=options.share),
            Part(objective=along, share=1 - options.share),
        )
    )


def mixture(options: MixtureOptions) -> Mixture:
    """Parts with shares, written out in the recipe."""
    return mix(options, build_objective)


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


PRESETS: dict[str, Callable[[Any], AnyObjective]] = {
    preset.__name__: preset
    for preset in (
        nelbo, nelbo_kl, sft_llada, sft_dream, sft_dllm, trajectory_ce, dinfer, tabom, boltzmann,
        boltzmann_listwise, two_contexts, tabom_release, mixture, t3d, dparallel, d3llm, tad,
        tracerl, justgrpo, d_opsd,
    )
}  # fmt: skip


def build_objective(name: str, **overrides: Any) -> AnyObjective:
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
    if not isinstance(objective, Objective | Mixture):
        found = type(objective).__name__
        raise ConfigError(f"objective {name!r} gave a {found}, expected an Objective")
    if isinstance(objective, Mixture):  # its parts speak for it in messages
        parts = (replace(p, objective=replace(p.objective, name=name)) for p in objective.parts)
        objective = replace(objective, parts=tuple(parts))
    return replace(objective, name=name, options=asdict(options))


def options_of(preset: Callable[..., Any], *, name: str) -> type[Any]:
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
