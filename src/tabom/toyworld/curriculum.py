"""What the base model reads, in which order: two lessons, as data.

Left to itself a net this small does not find the look-up in a map in any time we have: maps are
uniform permutations, so until attention is right nothing pays. The first lesson therefore starts
with maps close to the alphabet (each node points to the next), where it pays to look at the node
before, and lets them become uniform. The second is the mixture the base is known for.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tabom.core.errors import ConfigError
from tabom.toyworld.alphabet import NODES
from tabom.toyworld.tasks import digest, make_example, pointer_example, split_of

WARMUP = "warmup"
WARMUP_NODES = (4, 10)
WARMUP_HOPS = (1, 9)


@dataclass(frozen=True)
class Lesson:
    """One run of the optimiser over one mixture.

    Attributes:
        name: part of every draw's key.
        num_steps: optimiser steps.
        batch_size: examples a step.
        learning_rate: after the warm-up.
        final_rate: share of `learning_rate` that the cosine ends at. A base stopped at full rate
            makes every later training look good, because any decay improves it.
        shares: task (or `WARMUP`) -> share of the examples.
        other_surface: share of the `hops` examples answered in the ground truth's surface. A base
            has seen how others write.
    """

    name: str
    num_steps: int
    batch_size: int
    learning_rate: float
    final_rate: float
    shares: Mapping[str, float] = field(default_factory=dict)
    other_surface: float = 0.0


MAPS = Lesson(
    name="maps",
    num_steps=1100,
    batch_size=64,
    learning_rate=3e-3,
    final_rate=0.5,
    shares={WARMUP: 1.0},
)
MIXTURE = Lesson(
    name="mixture",
    num_steps=1800,
    batch_size=96,
    learning_rate=3e-3,
    final_rate=0.05,
    shares={"reverse": 0.2, "sort": 0.24, "sudoku": 0.29, "hops": 0.255, "chain": 0.015},
    other_surface=0.06,
)
LESSONS: tuple[Lesson, ...] = (MAPS, MIXTURE)


def curriculum(*, chain_share: float) -> tuple[Lesson, ...]:
    """The two lessons with another share of the new domain in the mixture, at the cost of `hops`.

    The share decides how a base fails: with less it answers fewer chains right, and more of its
    wrong answers begin with a slot revealed too early.
    """
    both = MIXTURE.shares["hops"] + MIXTURE.shares["chain"]
    if not 0 <= chain_share < both:
        raise ConfigError(
            f"chain_share {chain_share} is taken from the share of hops; give 0 <= chain_share "
            f"< {both:g}"
        )
    hops_share = round(both - chain_share, 12)
    shares = {**MIXTURE.shares, "hops": hops_share, "chain": chain_share}
    return (MAPS, replace(MIXTURE, shares=shares))


# Two layers that have read the new domain until more of it gains nothing: right at one slot a step,
# wrong where several are revealed at once.
SATURATED = (
    MAPS,
    replace(
        MIXTURE,
        num_steps=10000,
        shares={"reverse": 0.19, "sort": 0.22, "sudoku": 0.26, "hops": 0.05, "chain": 0.28},
    ),
)
# Sums of few digits, and a little of the new domain.
ADDITION = (
    replace(
        MIXTURE,
        num_steps=3000,
        shares={"reverse": 0.2, "sort": 0.22, "sudoku": 0.25, "sums": 0.316, "addition": 0.014},
    ),
)


@dataclass(frozen=True)
class World:
    """How a base is made: its lessons and the layers of its net."""

    lessons: tuple[Lesson, ...]
    num_layers: int = 3


WORLDS = {"saturated": World(SATURATED, num_layers=2), "addition": World(ADDITION)}


def draw_pair(lesson: Lesson, *, seed: int, step: int, row: int) -> tuple[str, str]:
    """`(prompt, response)` for one place in one batch: a pure function of its arguments."""
    rng = random.Random(digest(f"{seed}/{lesson.name}/{step}/{row}"))
    (task,) = rng.choices(list(lesson.shares), list(lesson.shares.values()))
    if task == WARMUP:
        return _draw_warmup(rng, step=step)
    index = step * lesson.batch_size + row
    example = make_example(task, split="pretrain", seed=seed, index=index)
    if task == "hops" and rng.random() < lesson.other_surface:
        return example.prompt, example.ground_truth
    return example.prompt, example.reference


def _draw_warmup(rng: random.Random, *, step: int) -> tuple[str, str]:
    """A map of `step` degrees of disorder: a few swaps at first, later a uniform permutation."""
    max_swaps = min(12, max(0, (step - 100) // 30))
    uniform_share = (step - 200) / 800
    while True:
        nodes = sorted(rng.sample(NODES, rng.randint(*WARMUP_NODES)))
        targets = nodes[1:] + nodes[:1]
        if rng.random() < uniform_share:
            rng.shuffle(targets)
        else:
            for _ in range(rng.randint(0, max_swaps)):
                one, other = rng.randrange(len(nodes)), rng.randrange(len(nodes))
                targets[one], targets[other] = targets[other], targets[one]
        pointers = dict(zip(nodes, targets, strict=True))
        prompt, response, _ = pointer_example(
            pointers, start=rng.choice(nodes), num_hops=rng.randint(*WARMUP_HOPS)
        )
        if split_of(prompt) == "pretrain":
            return prompt, response
