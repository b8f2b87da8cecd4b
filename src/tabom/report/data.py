"""What a report is made from: the contract of `summary.json` plus its details.

Every part but `schema`, `name`, `metrics` and `arms` may be missing or empty; the report then
leaves the section out. A number that is None, NaN or infinite is shown as absent.

Legend: N response slots, K steps (model calls).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from tabom.core.errors import DataError

SCHEMA = 1


class Metric(TypedDict, total=False):
    """One column of the study. Values are in `unit`: with "%" they are already 0 to 100."""

    key: str  # "in_domain", "in_domain@2" (2 tokens a step), "out_of_domain", "tds", ...
    label: str
    help: str
    unit: str
    better: Literal["higher", "lower", "none"]
    digits: int  # decimals shown; default 1 for "%", else 3
    is_detail: bool  # shown in a table of its own, folded away, and not in the terminal


class Mean(TypedDict, total=False):
    """A mean over seeds and documents, its interval, and the change against the base arm."""

    mean: float
    low: float
    high: float
    delta: float | None
    delta_low: float | None
    delta_high: float | None
    num_seeds: int
    num_documents: int


class ArmSeed(TypedDict, total=False):
    """One arm of one seed."""

    seed: int
    metrics: dict[str, float]
    counts: dict[str, int]  # prompts, accepted, train_examples
    seconds: dict[str, float]  # train, evaluate


class Arm(TypedDict, total=False):
    """One objective of the study; arms are listed in the order in which they were declared."""

    name: str
    objective: dict[str, Any]
    data: str  # self_distilled | ground_truth | none
    means: dict[str, Mean]
    seeds: list[ArmSeed]


class Collection(TypedDict, total=False):
    """What one seed collected; `reasons` counts the verdicts."""

    seed: int
    prompts: int
    reasons: dict[str, int]
    seconds: float
    trajectories_per_hour: float


class TaskSet(TypedDict, total=False):
    """One evaluation set."""

    name: str
    role: str
    num_documents: int


class Curves(TypedDict, total=False):
    """Lines to draw; a None inside `values` is a gap.

    tds: [{arm, values}] one value a step. entropy: [{arm, steps, mean, low, high}] nats at reveal.
    loss_ratio: {ratios, values: [{arm, values}]}. training: [{arm, seed, points: [{step, ...}]}].
    """

    tds: list[dict[str, Any]]
    entropy: list[dict[str, Any]]
    loss_ratio: dict[str, Any]
    training: list[dict[str, Any]]


class Example(TypedDict, total=False):
    """One decoded response. `field[k][n]` is the predictive entropy (nats) of slot n at the model
    call of step k, before it reveals; None where the slot is visible already."""

    arm: str
    set: str
    prompt: str
    reference: str
    response: str
    is_correct: bool
    tokens: list[str]  # N texts, one a slot
    step: list[int]  # N, -1 never revealed
    entropy: list[float | None]  # N, nats at reveal
    field: list[list[float | None]] | None  # K x N


class Summary(TypedDict, total=False):
    """The content of `summary.json` plus `collection`, `curves` and `examples`."""

    schema: int
    name: str
    created: str
    seconds: float  # of all stages together, also of those that ran side by side
    command: str
    recipe: dict[str, Any]
    versions: dict[str, Any]
    hardware: dict[str, Any]
    level: float  # of the intervals, e.g. 0.95; not named in the text where missing
    seeds: list[int]
    base_arm: str
    arms: list[Arm]
    metrics: list[Metric]
    collection: list[Collection]
    sets: list[TaskSet]
    curves: Curves
    examples: list[Example]
    notes: list[str]


def check_summary(summary: Mapping[str, Any]) -> None:
    """Raise DataError at the first thing in `summary` that cannot be shown as it claims to be.

    Checked: schema, name, unique arms, a known base arm, metrics of the means, lengths of the
    curves and of the examples. Missing optional parts are fine.
    """
    if summary.get("schema") != SCHEMA:
        raise DataError(
            f"summary: schema is {summary.get('schema')!r}, this version reads {SCHEMA}; "
            "make the summary again with `tabom run`"
        )
    if not isinstance(summary.get("name"), str):
        raise DataError("summary: `name` is missing; expected the text that names the run")
    names = [arm.get("name") for arm in _items(summary, "arms")]
    if any(not isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise DataError(f"summary: arms are named {names}; expected one unique text each")
    base = summary.get("base_arm")
    if base and names and base not in names:
        raise DataError(f"summary: base_arm {base!r} is none of the arms {names}")
    keys = [metric.get("key") for metric in _items(summary, "metrics")]
    if None in keys or len(set(keys)) != len(keys):
        raise DataError(f"summary: metrics have the keys {keys}; expected one unique key each")
    for arm in _items(summary, "arms"):
        unknown = sorted(set(arm.get("means") or {}) - set(keys))
        if unknown:
            raise DataError(
                f"summary: arm {arm['name']!r} has means for {unknown}, "
                f"which `metrics` does not describe; it has {keys}"
            )
    _check_curves(summary.get("curves") or {})
    for index, example in enumerate(_items(summary, "examples")):
        _check_example(f"summary: example {index}", example)


def _items(summary: Mapping[str, Any], key: str) -> Sequence[Any]:
    return summary.get(key) or ()


def _check_curves(curves: Mapping[str, Any]) -> None:
    for line in curves.get("entropy") or ():
        sizes = {name: len(line[name]) for name in ("steps", "mean", "low", "high") if name in line}
        if len(set(sizes.values())) > 1:
            raise DataError(f"summary: entropy curve of {line.get('arm')!r} has lengths {sizes}")
    ratio = curves.get("loss_ratio") or {}
    for line in ratio.get("values") or ():
        if len(line["values"]) != len(ratio["ratios"]):
            raise DataError(
                f"summary: loss ratio of {line.get('arm')!r} has {len(line['values'])} values "
                f"for {len(ratio['ratios'])} mask ratios"
            )


def _check_example(where: str, example: Mapping[str, Any]) -> None:
    n = len(example.get("tokens") or ())
    for name in ("step", "entropy"):
        if len(example.get(name) or ()) != n:
            raise DataError(
                f"{where} ({example.get('arm')!r}): {len(example.get(name) or ())} values of "
                f"`{name}` for {n} tokens"
            )
    for k, row in enumerate(example.get("field") or ()):
        if len(row) != n:
            raise DataError(f"{where}: field row {k} has {len(row)} values for {n} tokens")


def number(value: Any) -> float | None:
    """`value` as a finite float, or None where it is absent, NaN or infinite."""
    if value is None or isinstance(value, bool):
        return None
    value = float(value)
    return value if math.isfinite(value) else None


def clean(value: Any) -> Any:
    """A copy in plain JSON types: tuples become lists, NaN and infinities None, the rest text."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        # Half of a surrogate pair (a truncated response) cannot be written as UTF-8.
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, Mapping):
        return {clean(str(key)): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    try:
        return number(value)
    except (TypeError, ValueError):
        return str(value)


def split_metrics(summary: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """The metrics of the main table, and those that are details."""
    metrics = _items(summary, "metrics")
    main = [m for m in metrics if not m.get("is_detail")]
    return main, [m for m in metrics if m.get("is_detail")]


def main_metric(summary: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The metric by which arms are put in order: `in_domain`, or else the first one."""
    metrics: Sequence[Mapping[str, Any]] = _items(summary, "metrics")
    found = [metric for metric in metrics if metric["key"] == "in_domain"]
    return next(iter([*found, *metrics]), None)


def mean_of(arm: Mapping[str, Any], key: str) -> dict[str, float | None]:
    """The six numbers of one cell, each a finite float or None."""
    mean = (arm.get("means") or {}).get(key) or {}
    names = ("mean", "low", "high", "delta", "delta_low", "delta_high")
    return {name: number(mean.get(name)) for name in names}


def measured_order(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The arms from best to worst by the main metric; arms without it last, ties as declared."""
    arms = list(_items(summary, "arms"))
    metric = main_metric(summary)
    if metric is None:
        return arms
    sign = 1 if metric.get("better") == "lower" else -1

    def place(arm: Mapping[str, Any]) -> tuple[bool, float]:
        mean = mean_of(arm, metric["key"])["mean"]
        return mean is None, sign * (mean or 0.0)

    return sorted(arms, key=place)
