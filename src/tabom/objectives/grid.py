"""Objectives written out in a recipe: contexts and terms by name, and mixtures of them.

objective: mixture
options:
  parts:
    - {share: 0.75, objective: nelbo}
    - share: 0.25
      context: {kind: order_prefix, window: 4}
      terms: [{term: ce}, {term: next_slot, weight: 0.5}]
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tabom.core.configs import build
from tabom.core.errors import ConfigError
from tabom.core.hooks import load_function
from tabom.objectives.block_contexts import BlockMask, Complement, EarliestMasked
from tabom.objectives.compose import Objective
from tabom.objectives.contexts import OrderPrefix, StepPrefix, UniformMask
from tabom.objectives.mixture import Mixture, Part
from tabom.objectives.reference import Reference
from tabom.objectives.step_contexts import HintedState, Horizon, StepGroups
from tabom.objectives.terms import CrossEntropy, Ranking
from tabom.objectives.terms_order import NextSlot, OrderLikelihood, RevealedSet
from tabom.objectives.terms_policy import ClippedPolicy, PolicyDrift
from tabom.objectives.terms_reference import Certainty, DirectDiscrimination, Divergence
from tabom.objectives.weights import Reduction, Weighting

CONTEXTS: dict[str, type[Any]] = {
    "uniform_mask": UniformMask,
    "order_prefix": OrderPrefix,
    "step_prefix": StepPrefix,
    "block_mask": BlockMask,
    "earliest_masked": EarliestMasked,
    "horizon": Horizon,
    "step_groups": StepGroups,
    "hinted_state": HintedState,
}
TERMS: dict[str, type[Any]] = {
    term.name: term
    for term in (
        CrossEntropy, Ranking, NextSlot, OrderLikelihood, RevealedSet, Certainty, Divergence,
        DirectDiscrimination, ClippedPolicy, PolicyDrift,
    )
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PartOptions:
    """One part of a mixture: a preset with its options, or a context with its terms."""

    share: float | None = None
    """Share of the responses; left out of all parts: each response is asked by every part."""
    label: str = ""
    """Behind the names of its losses; parts without one are pooled."""
    objective: str | None = None
    """A preset, or a function of your own as package.module:function."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of that preset."""
    context: dict[str, Any] = field(default_factory=dict)
    """{kind: ..., and its settings}; "complement: true" asks what it shows instead."""
    terms: list[dict[str, Any]] = field(default_factory=list)
    """[{term: ..., weight: 1, and its settings}, ...]"""
    reduction: Reduction = "response"
    """How the cross-entropy is added up; see `Objective`."""
    weighting: Weighting = field(default_factory=Weighting)
    """What a target weighs; see `Weighting`."""


@dataclass(frozen=True, kw_only=True)
class MixtureOptions:
    """Parts of a mixture, and the model that their terms compare with."""

    parts: list[PartOptions] = field(default_factory=lambda: [PartOptions(objective="nelbo")])
    """The objectives, each with its share."""
    reference: Literal["none", "base", "snapshot"] = "none"
    """The model as training found it, or as it was a few steps ago."""
    reference_every: int = 10
    """Optimiser steps between two snapshots."""
    hint: bool = False
    """Whether the reference also reads the data's answer."""


def mix(options: MixtureOptions, build_objective: Callable[..., Any]) -> Mixture:
    """The mixture that the options write out. build_objective: makes a preset by its name."""
    parts = tuple(
        _part(part, f"parts[{i}]", build_objective) for i, part in enumerate(options.parts)
    )
    references = {part.objective.reference for part in parts} - {None}
    if options.reference != "none":
        references = {
            Reference(kind=options.reference, every=options.reference_every, hint=options.hint)
        }
    if len(references) > 1:
        raise ConfigError(
            "the parts of a mixture name different references; set reference for all of them"
        )
    return Mixture(parts=parts, reference=next(iter(references), None))


def _part(options: PartOptions, where: str, build_objective: Callable[..., Any]) -> Part:
    if (options.objective is None) == (not options.terms):
        raise ConfigError(f"{where}: give either objective, or context with terms")
    if options.objective is None:
        objective = _written_out(options, where)
    else:
        if options.context:
            raise ConfigError(f"{where}: context goes with terms; {options.objective} has its own")
        built = build_objective(options.objective, **options.options)
        if not isinstance(built, Objective):
            raise ConfigError(f"{where}: {options.objective} is a mixture itself; write its parts")
        objective = replace(built, options={})
    return Part(objective=objective, share=options.share, label=options.label)


def _written_out(options: PartOptions, where: str) -> Objective:
    settings = dict(options.context)
    is_complement = settings.pop("complement", False)
    sampler = _made(CONTEXTS, settings, key="kind", where=f"{where}.context")
    terms = []
    for i, entry in enumerate(options.terms):
        term, here = dict(entry), f"{where}.terms[{i}]"
        weight = term.pop("weight", 1.0)
        if not isinstance(weight, int | float) or isinstance(weight, bool):
            raise ConfigError(f"{here}.weight must be a number, got {weight!r}")
        terms.append((float(weight), _made(TERMS, term, key="term", where=here)))
    return Objective(
        sampler=Complement(of=sampler) if is_complement else sampler,
        terms=tuple(terms),
        reduction=options.reduction,
        weighting=options.weighting,
    )


def _made(known: Mapping[str, type[Any]], settings: dict[str, Any], *, key: str, where: str) -> Any:
    """An object by the name under `key` (or a class as package.module:Class) and its settings."""
    name = settings.pop(key, None)
    if isinstance(name, str) and ":" in name:
        kind: Any = load_function(name)
    elif name in known:
        kind = known[name]
    else:
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{where}.{key} is {name!r}{hint} (known: {', '.join(known)})")
    return build(kind, settings, where=where)
