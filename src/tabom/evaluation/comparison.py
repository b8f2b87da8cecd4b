"""One comparison: every arm beside the base and beside every other arm, as typed rows.

`tabom run` and `tabom compare` both take their numbers, their tables and their words from here.

Legend: S seeds, D documents.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

from tabom.evaluation.scores import (
    IN_DOMAIN,
    OUT_OF_DOMAIN,
    Leak,
)
from tabom.evaluation.stats import (
    LEVEL,
    Estimate,
)

SET, FORGETTING, NET_LOSS = "set", "forgetting", "net_loss"
DIFFICULTY = "difficulty"  # a metric that is of the prompt and says nothing of an arm


@dataclass(frozen=True)
class MetricKey:
    """What a number measures.

    kind: IN_DOMAIN or OUT_OF_DOMAIN, the mean accuracy over the sets of that role; SET, the
        accuracy on one; FORGETTING or NET_LOSS; "pass@4" on one set; else the name of a metric of
        the records or of a number of the run, such as "tds".
    set: name of the set, "" for what is no number of a single one.
    pace: "" at the slowest pace of each set, else the pace as text, "2" or "threshold 0.9".
    """

    kind: str
    set: str = ""
    pace: str = ""

    @property
    def is_accuracy(self) -> bool:
        return self.kind in (IN_DOMAIN, OUT_OF_DOMAIN) or self.set != ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number of one arm: the mean over seeds and documents, and its change against the base.

    change: arm - base, paired by document (and by seed where the base has it). by_seed: the mean of
    each seed. num_documents: 0 where there is one number a seed. is_share: show it in percent.
    """

    arm: str
    key: MetricKey
    value: Estimate
    change: Estimate | None = None
    by_seed: tuple[float, ...]
    num_documents: int = 0
    is_share: bool = True


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two arms on one metric, paired by document and seed. difference: first - second.

    p: McNemar's exact test, where the metric is one set's accuracy under one seed.
    sign: 1 or -1 where the difference can be told from zero, else 0. The interval must leave zero
    out, and where there is a p, it must lie below 1 - level too.
    """

    first: str
    second: str
    key: MetricKey
    difference: Estimate
    p: float | None
    sign: int


@dataclass(frozen=True, kw_only=True)
class Place:
    """An arm on a set at a pace ("2", "threshold 0.9"). seed: None for all of them, or no seed."""

    arm: str
    set: str
    pace: str
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class TaskTest(Place):
    """One run against the base on one set.

    gained: documents that it alone has right; lost: the base alone. change: with its score
    interval. p: McNemar's, exact.
    """

    num_documents: int
    gained: int
    lost: int
    change: Estimate
    p: float


@dataclass(frozen=True, kw_only=True)
class Cost(Place):
    """Accuracy and cost, means over seeds."""

    accuracy: float
    tokens_per_forward: float
    num_forwards: float


@dataclass(frozen=True, kw_only=True)
class Boundary(Place):
    """What one model solves within k samples and the base does not within as many, and the reverse.

    gained, lost: documents. both, neither: how many.
    """

    k: int
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    both: int
    neither: int


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A setting in which an arm was evaluated otherwise than the base, and the sets where."""

    arm: str
    key: str
    base: Any
    own: Any
    sets: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class EvaluatedSet:
    """One evaluation set of the comparison, with the documents of one seed."""

    name: str
    role: str
    num_documents: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that is known about some arms. base: the arm that changes are against, or None.

    seeds: of each arm, in the order of the rows' `by_seed`. held_out: arm, what its check found.
    leaks: arm, the sets of which it was trained on a prompt.
    """

    base: str | None = None
    level: float = LEVEL
    seeds: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    sets: Sequence[EvaluatedSet] = ()
    rows: Sequence[Row] = ()
    pairs: Sequence[Pair] = ()
    tests: Sequence[TaskTest] = ()
    costs: Sequence[Cost] = ()
    boundaries: Sequence[Boundary] = ()
    differences: Sequence[Difference] = ()
    held_out: Sequence[tuple[str, str]] = ()
    leaks: Sequence[tuple[str, Leak]] = ()

    def __repr__(self) -> str:
        sets = ", ".join(item.name for item in self.sets)
        return f"Comparison({', '.join(self.arms)}; base {self.base!r}; sets {sets})"

    def _repr_html_(self) -> str:
        """For notebooks: each arm's numbers and changes against the base, with their intervals."""
        heads = [" ".join(part for part in vars(key).values() if part) for key in self.keys]
        lines = [f"<tr><th></th>{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr>"]
        for arm in self.arms:
            rows = [self.row(arm, key) for key in self.keys]
            cells = "".join(f"<td>{'' if row is None else _told(row)}</td>" for row in rows)
            lines.append(f"<tr><th>{escape(arm)}</th>{cells}</tr>")
        return f"<table>{''.join(lines)}</table>"

    @property
    def arms(self) -> list[str]:
        return list(self.seeds)

    @property
    def keys(self) -> list[MetricKey]:
        return list(dict.fromkeys(row.key for row in self.rows))

    def row(self, arm: str, key: MetricKey | None) -> Row | None:
        """The number of an arm, if it has one that is finite."""
        found = (row for row in self.rows if row.arm == arm and row.key == key)
        return next((row for row in found if math.isfinite(row.value.value)), None)

    def pair(self, first: str, second: str, key: MetricKey) -> Pair | None:
        """The paired difference first - second, whichever way round it was taken."""
        for pair in self.pairs:
            if pair.key == key and {pair.first, pair.second} == {first, second}:
                return pair if pair.first == first else _turned(pair)
        return None


def _told(row: Row) -> str:
    """A number and its change with their intervals, shares in percent."""
    unit = 100 if row.is_share else 1
    lines = []
    for estimate, form in ((row.value, ".1f"), (row.change, "+.1f")):
        if estimate is not None:
            ends = f" [{unit * estimate.low:{form}}, {unit * estimate.high:{form}}]"
            lines.append(f"{unit * estimate.value:{form}}{ends if estimate.has_interval else ''}")
    return "<br>".join(lines)


def _turned(pair: Pair) -> Pair:
    return replace(
        pair, first=pair.second, second=pair.first, difference=-pair.difference, sign=-pair.sign
    )
