"""Objectives of other projects, each a function from its options as in `presets`.

Where the official code has a fault, ours does what the paper means; docs/objectives.md lists each.
Means are over the whole optimiser step where theirs are over a micro-batch.
"""

from dataclasses import dataclass
from typing import Literal

from tabom.objectives.block_contexts import BlockMask, Complement, EarliestMasked
from tabom.objectives.compose import Objective
from tabom.objectives.contexts import Sampler
from tabom.objectives.mixture import Mixture, Part
from tabom.objectives.reference import Reference
from tabom.objectives.slots import Filler
from tabom.objectives.step_contexts import HintedState, Horizon, StepGroups
from tabom.objectives.terms import CrossEntropy, Term
from tabom.objectives.terms_policy import ClippedPolicy, PolicyDrift
from tabom.objectives.terms_reference import Certainty, DirectDiscrimination, Divergence


@dataclass(frozen=True, kw_only=True)
class T3dOptions:
    """As published for SDAR-4B on mathematics."""

    block: int = 8
    """Slots of a block in which the order counts."""
    level: int = 4
    """Slots of a level of the path."""
    ddo_weight: float = 1.0
    """Weight of the discrimination term."""
    path_weight: float = 0.2
    """Weight of the path's cross-entropy."""
    alpha: float = 0.5
    """Weight of the reference's own tokens in the discrimination term."""
    beta: float = 0.1
    """Slope of the same."""
    noise: float = 0.1
    """Share of the hidden slots that show a random token."""
    kept_filler: int = 2
    """Slots of the filler that the discrimination term keeps."""
    reference_every: int = 10
    """Optimiser steps between two snapshots of the reference."""


@dataclass(frozen=True, kw_only=True)
class DparallelOptions:
    """dParallel's for LLaDA; Dream's has block null and certainty_weight 1."""

    block: int | None = 32
    """Slots of the block that is asked; null: the whole response."""
    ratio: float = 0.5005
    """Chance that a slot of the block is masked."""
    certainty_weight: float = 2.0
    """Weight of the entropy of what is already right."""
    temperature: float = 0.5
    """Of the softmax of that entropy."""
    certainty_per: Literal["response", "micro_batch"] = "response"
    """Its mean is over a response's slots, or over a micro-batch's, as published."""
    filler: Literal["supervise", "ignore"] = "supervise"
    """Whether the slots behind the first end token are targets."""


@dataclass(frozen=True, kw_only=True)
class D3llmOptions(DparallelOptions):
    """d3LLM's; LLaDA's has certainty_weight 2 and first_only, Dream's neither."""

    end_block: int | None = None
    """Slots of the block at the end of training; null: as at its start."""
    ratio: float = 0.8
    """The masked share is uniform between ratio * progress and ratio."""
    certainty_weight: float = 1.0
    first_only: bool = False
    """Certainty in the first of the two contexts only."""
    release: bool = False
    """The state has one visible token more than the formula says, as the published records."""


@dataclass(frozen=True, kw_only=True)
class TadOptions:
    """TAD's for LLaDA; Dream's has steps 6."""

    steps: int = 8
    """Steps of the horizon whose tokens are targets."""
    ce_weight: float = 1.0
    """Weight of their cross-entropy."""
    kl_weight: float = 1.0
    """Weight of the divergence from the teacher on all later slots."""
    temperature: float = 1.0
    """Of both softmaxes of the divergence."""
    hint: bool = True
    """Whether the teacher (the base) also reads the data's answer."""
    filler: Literal["supervise", "ignore"] = "supervise"
    """Whether the slots behind the first end token are targets."""


@dataclass(frozen=True, kw_only=True)
class PolicyOptions:
    """Losses of policy gradients; advantages come with the data, else each is 1."""

    clip: float = 0.2
    """Ratios count up to 1 - clip and 1 + clip."""
    drift_weight: float = 0.01
    """Weight of the divergence from the model that decoded."""
    per: Literal["targets", "length", "token"] = "targets"
    """A context's sum is divided by its targets or by all slots; or all targets are averaged."""
    dual_clip: float | None = None
    """Bound on the loss of a token with a negative advantage, times the advantage."""


@dataclass(frozen=True, kw_only=True)
class TracerlOptions(PolicyOptions):
    """TraceRL's."""

    group: int = 8
    """Steps whose tokens are asked at once (its shrink)."""


@dataclass(frozen=True, kw_only=True)
class JustgrpoOptions(PolicyOptions):
    """JustGRPO's: left to right, a token at a time."""

    drift_weight: float = 0.0
    per: Literal["targets", "length", "token"] = "length"
    temperature: float = 1.0
    """The tokens were sampled at."""


@dataclass(frozen=True, kw_only=True)
class DopsdOptions:
    """d-OPSD's for GSM8K."""

    block: int = 32
    """Slots of a block of the decoding."""
    tokens: int = 2
    """Slots that a decision reveals."""
    share: float = 0.25
    """Share of the next block that the teacher is shown."""
    positions: Literal["teacher", "student"] = "teacher"
    """Slots by the teacher's greatest logits, or those the student revealed."""
    beta: float = 1.0
    """0: KL(teacher || model). 1: KL(model || teacher). Between: Jensen-Shannon."""
    top_k: int = 20
    """Tokens of the teacher that are compared; 0: all."""
    clip: float | None = 0.05
    """Bound on the divergence of a token, or of an entry of the vocabulary."""
    clip_what: Literal["token", "entry"] = "token"
    """Published: entry, which no longer has its minimum where the two agree."""


def t3d(options: T3dOptions) -> Objective:
    """Direct discriminative optimisation against a snapshot, and a path term (T3D)."""
    kept = options.kept_filler
    sampler = EarliestMasked(
        block=options.block,
        level=options.level,
        noise=options.noise,
        filler=Filler(policy="first_k", k=kept) if kept else Filler(policy="ignore"),
    )
    ddo = DirectDiscrimination(alpha=options.alpha, beta=options.beta)
    return Objective(
        sampler=sampler,
        terms=((options.path_weight, CrossEntropy()), (options.ddo_weight, ddo)),
        reduction="sum",
        reference=Reference(kind="snapshot", every=options.reference_every),
    )


def dparallel(options: DparallelOptions) -> Mixture:
    """A masked part of a block and its complement, with certainty where right (dParallel)."""
    filler = Filler(policy=options.filler)
    sampler = BlockMask(block=options.block, ratio=options.ratio, filler=filler)
    return _with_complement(sampler, options)


def d3llm(options: D3llmOptions) -> Mixture:
    """The part of a block that is revealed last and its complement, with certainty (d3LLM)."""
    sampler = BlockMask(
        block=options.block,
        end_block=options.end_block,
        order=True,
        ratio=options.ratio,
        end_ratio=options.ratio,
        release=options.release,
        filler=Filler(policy=options.filler),
    )
    return _with_complement(sampler, options, scale=0.25, first_only=options.first_only)


def _with_complement(
    sampler: Sampler, options: DparallelOptions, *, scale: float = 1.0, first_only: bool = False
) -> Mixture:
    certainty = Certainty(temperature=options.temperature, per=options.certainty_per)
    ce: tuple[float, Term] = (scale, CrossEntropy())
    both = (ce, (scale * options.certainty_weight, certainty))
    first = Objective(sampler=sampler, terms=both, reduction="token")
    second = Objective(
        sampler=Complement(of=sampler), terms=(ce,) if first_only else both, reduction="token"
    )
    return Mixture(parts=(Part(objective=first), Part(objective=second, label="complement")))


def tad(options: TadOptions) -> Objective:
    """The next steps' tokens, and a teacher's distribution on all later slots (TAD)."""
    far = Divergence(over="far", reduction="token", temperature=options.temperature)
    return Objective(
        sampler=Horizon(steps=options.steps, filler=Filler(policy=options.filler)),
        terms=((options.ce_weight, CrossEntropy()), (options.kl_weight, far)),
        reduction="token",
        reference=Reference(hint=options.hint),
    )


def tracerl(options: TracerlOptions) -> Objective:
    """Clipped policy gradient on the tokens of a few steps (TraceRL)."""
    return _policy(StepGroups(group=options.group), options, temperature=1.0)


def justgrpo(options: JustgrpoOptions) -> Objective:
    """Clipped policy gradient on one token, left to right (JustGRPO)."""
    sampler = StepGroups(group=1, order="left_to_right", filler=Filler())
    return _policy(sampler, options, temperature=options.temperature)


def _policy(sampler: Sampler, options: PolicyOptions, *, temperature: float) -> Objective:
    policy = ClippedPolicy(
        low=options.clip,
        high=options.clip,
        per=options.per,
        dual_clip=options.dual_clip,
        temperature=temperature,
    )
    terms: list[tuple[float, Term]] = [(1.0, policy)]
    if options.drift_weight:
        terms.append((options.drift_weight, PolicyDrift()))
    return Objective(sampler=sampler, terms=tuple(terms))


def d_opsd(options: DopsdOptions) -> Objective:
    """The base, shown some of what comes later, as the teacher of the next decision (d-OPSD)."""
    by_teacher = options.positions == "teacher"
    divergence = Divergence(
        over="block" if by_teacher else "target",
        chosen=options.tokens,
        beta=options.beta,
        top_k=options.top_k,
        clip=options.clip,
        clip_what=options.clip_what,
    )
    sampler = HintedState(block=options.block, tokens=options.tokens, share=options.share)
    return Objective(sampler=sampler, terms=((1.0, divergence),), reference=Reference())
