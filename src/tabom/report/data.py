"""What a report is made from: a comparison, and what else a run left to be shown.

Every part but the name may be missing; the page then leaves its section out. A number that is None,
NaN or infinite is shown as absent.

Legend: N response slots, K steps (model calls).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from tabom.core.errors import DataError
from tabom.core.plain import to_plain
from tabom.evaluation.comparison import Comparison, MetricKey

SCHEMA = 2


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What an arm is, beside its numbers.

    data: self_distilled, ground_truth or none. reasons: counts of the verdicts on its answers in
        domain, at the slowest pace, over its seeds.
    """

    name: str
    objective: Mapping[str, Any] = field(default_factory=dict)
    data: str = ""
    reasons: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SeedWork:
    """What one arm took under one seed; None where it was not trained."""

    arm: str
    seed: int | None
    num_examples: int | None = None
    train_seconds: float | None = None
    evaluate_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What one seed collected. reasons: counts of the verdicts."""

    seed: int
    num_prompts: int | None = None
    reasons: Mapping[str, int] = field(default_factory=dict)
    seconds: float | None = None
    trajectories_per_hour: float | None = None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of an arm; a None in y is a gap. low, high: a band around it."""

    arm: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()


@dataclass(frozen=True, kw_only=True)
class TrainingLog:
    """The logged numbers of one training. points: one mapping a logged step, with `step`."""

    arm: str
    seed: int | None
    points: Sequence[Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Lines to draw, an arm each.

    tds: nats squared by step. entropy: nats at reveal by step. loss_ratio: by share of masked
    slots. difficulty: share of right answers by difficulty, where the records have one.
    """

    tds: Sequence[Curve] = ()
    entropy: Sequence[Curve] = ()
    loss_ratio: Sequence[Curve] = ()
    difficulty: Sequence[Curve] = ()
    training: Sequence[TrainingLog] = ()


@dataclass(frozen=True, kw_only=True)
class Example:
    """One decoded response.

    tokens, step, entropy: N texts, steps of reveal (-1 never) and nats at reveal. field: K x N, the
    predictive entropy of each slot at the model call of step k, None where the slot is visible.
    """

    arm: str
    set: str
    prompt: str
    reference: str = ""
    response: str = ""
    is_correct: bool | None = None
    tokens: Sequence[str] = ()
    step: Sequence[int] = ()
    entropy: Sequence[float | None] = ()
    field: Sequence[Sequence[float | None]] | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything one page shows.

    columns, details: the metrics of the main table and of the one that is folded away. notes: what
    a reader should know. seconds: of all stages together, also of those that ran side by side.
    """

    name: str
    comparison: Comparison = field(default_factory=Comparison)
    columns: Sequence[MetricKey] = ()
    details: Sequence[MetricKey] = ()
    created: str = ""
    seconds: float | None = None
    command: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    hardware: Mapping[str, Any] = field(default_factory=dict)
    seeds: Sequence[int] = ()
    arms: Sequence[Arm] = ()
    work: Sequence[SeedWork] = ()
    collection: Sequence[Collected] = ()
    curves: Curves = Curves()
    examples: Sequence[Example] = ()
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        for key in (*self.columns, *self.details):
            if key not in self.comparison.keys:
                raise DataError(f"report {self.name!r}: no arm has a number for {key}")

    def to_json(self) -> dict[str, Any]:
        """The content of `summary.json`: all but the examples, in plain JSON types."""
        content = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "examples"}
        result: dict[str, Any] = to_plain({"schema": SCHEMA, **content})
        return result


def number(value: Any) -> float | None:
    """`value` as a finite float, or None where it is absent, NaN or infinite."""
    if value is None or isinstance(value, bool):
        return None
    value = float(value)
    return value if math.isfinite(value) else None
