"""Runs beside each other: their documents in one order, and arrays of what each answered.

Legend: S seeds, D documents.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tabom.core.errors import ConfigError, DataError
from tabom.evaluation.records import EvaluationRecord, Pace
from tabom.evaluation.stats import Floats, pass_at_k

IN_DOMAIN, OUT_OF_DOMAIN = "in_domain", "out_of_domain"
Cell = tuple[str, Pace]  # an evaluation set at one pace
Manifests = Mapping[str, Mapping[str, Any]]  # set -> pace -> evaluation manifest


@dataclass(frozen=True, kw_only=True)
class Leak:
    """Prompts of a set that were trained on: equal ones, and more that overlap with one."""

    set: str
    num_prompts: int
    num_exact: int
    num_near: int


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluatedRun:
    """One evaluated model. seed: None where it was not trained, or has no seed of its own.

    scalars: further numbers of the run. manifests: how each set was evaluated. is_base: the
    untrained model of a study. held_out_notes, leaks: what its held-out check found.
    """

    arm: str
    seed: int | None
    records: Sequence[EvaluationRecord]
    scalars: Mapping[str, float] = field(default_factory=dict)
    manifests: Manifests = field(default_factory=dict)
    is_base: bool = False
    held_out_notes: tuple[str, ...] = ()
    leaks: tuple[Leak, ...] = ()

    def __str__(self) -> str:
        return f"arm {self.arm!r}" + ("" if self.seed is None else f", seed {self.seed}")

    def cells(self) -> dict[Cell, list[EvaluationRecord]]:
        """The records by set and pace."""
        cells: dict[Cell, list[EvaluationRecord]] = {}
        for record in self.records:
            cells.setdefault((record.set, record.pace), []).append(record)
        return cells


Partners = Sequence[tuple[EvaluatedRun, EvaluatedRun]]
Samples = Sequence[EvaluationRecord]  # of one document
Score = Callable[[Samples], float]  # NaN where it does not apply


def accuracy(samples: Samples) -> float:
    """The share of right ones."""
    return sum(record.correct for record in samples) / len(samples)


def metric(name: str) -> Score:
    """The mean of a metric over the samples that have it."""

    def score(samples: Samples) -> float:
        known = [v for record in samples if (v := record.metrics.get(name)) is not None]
        return sum(known) / len(known) if known else math.nan

    return score


def pass_at(k: int) -> Score:
    """The chance that one of k samples is right, where there are as many."""

    def score(samples: Samples) -> float:
        num_right = sum(record.correct == 1 for record in samples)
        return pass_at_k(len(samples), num_right, k) if len(samples) >= k else math.nan

    return score


class Scores:
    """The runs of every arm on the cells that are compared.

    arms: name -> its runs. cells: every set at every pace that all runs have; a set without a
    common pace keeps all its own, which is an error. roles: of the sets. slowest: pace of each.
    """

    def __init__(
        self, runs: Sequence[EvaluatedRun], *, base: str | None, in_domain: Sequence[str] = ()
    ) -> None:
        self.base = base
        self.arms: dict[str, list[EvaluatedRun]] = {}
        for run in runs:
            self.arms.setdefault(run.arm, []).append(run)
        if base is not None and base not in self.arms:
            raise ConfigError(f"the base {base!r} is none of the arms {', '.join(self.arms)}")
        self.roles = _roles(runs, in_domain)
        # Under one schedule an arm, its paces go by tokens a step: k1 is compared with t09.
        paces = {(run.arm, *cell) for run in runs for cell in run.cells()}
        self._has_schedules = len({(a, s, p.tokens_per_step) for a, s, p in paces}) < len(paces)
        # run -> cell -> document -> its samples, documents in the order of their ids
        self.samples = {
            run: {
                self.folded(cell): _by_document(group, run) for cell, group in run.cells().items()
            }
            for run in runs
        }
        # What all have is compared. A set that some run has at no common pace keeps its cells, so
        # that the check below names the run which lacks it.
        every = dict.fromkeys(cell for cells in self.samples.values() for cell in cells)
        common = set(every).intersection(*self.samples.values())
        names = {name for name, _ in common}
        self.cells = [cell for cell in every if cell in common or cell[0] not in names]
        self.slowest: dict[str, Pace] = {}
        for name, pace in self.cells:
            self.slowest[name] = min(self.slowest.get(name, pace), pace)
        for arm, group in self.arms.items():
            base_of = dict(self.to_base(arm))
            for run in group:
                for cell in self.cells:
                    self._check(cell, run, group[0], base_of.get(run))

    def folded(self, cell: Cell) -> Cell:
        """The cell by which a set at a pace is compared."""
        return cell if self._has_schedules else (cell[0], Pace(cell[1].tokens_per_step))

    def to_base(self, arm: str) -> Partners:
        """Each run of an arm with the base's run that it is compared with; none for the base."""
        if self.base is None or arm == self.base:
            return []
        found = partners(self.arms[arm], self.arms[self.base])
        if len(found) < len(self.arms[arm]):
            seeds = [[str(run.seed) for run in self.arms[name]] for name in (arm, self.base)]
            raise DataError(
                f"arm {arm!r} has the seeds {', '.join(seeds[0])}, the base {self.base!r} has "
                f"{', '.join(seeds[1])}; evaluate the base under each of them too, or once for all"
            )
        return found

    def values(self, run: EvaluatedRun, cells: Sequence[Cell], score: Score) -> list[Floats]:
        """Per cell the score of each document, `[D]`, in the order of the ids."""
        return [
            np.array([score(samples) for samples in self.samples[run][cell].values()])
            for cell in cells
        ]

    def is_crossed(self, runs: Sequence[EvaluatedRun], cells: Sequence[Cell]) -> bool:
        """Whether all runs answered the same documents."""
        first = self.samples[runs[0]]
        return all(self.samples[run][c].keys() == first[c].keys() for run in runs for c in cells)

    def _check(
        self, cell: Cell, run: EvaluatedRun, first: EvaluatedRun, base: EvaluatedRun | None
    ) -> None:
        where = f"set {cell[0]!r} at {cell[1].label}"
        own, theirs = self.samples[run].get(cell), self.samples[first].get(cell, {})
        if own is None:
            raise DataError(f"{run}: not evaluated on {where}; evaluate every arm on the same sets")
        if len(own) != len(theirs):
            raise DataError(
                f"arm {run.arm!r}: {where} has {len(own)} documents under seed {run.seed}, "
                f"{len(theirs)} under seed {first.seed}; evaluate on as many"
            )
        if base is not None and self.samples[base].get(cell, {}).keys() != own.keys():
            raise DataError(
                f"{run}: {where} has other documents than the base; changes are paired, so "
                "evaluate both on the same prompts"
            )


def partners(runs: Sequence[EvaluatedRun], others: Sequence[EvaluatedRun]) -> Partners:
    """Runs of two arms by equal seeds; an arm with one run stands for all seeds of the other."""
    # A base is often evaluated once, since no seed changes it.
    by_seed = {run.seed: run for run in others}
    pairs = [(run, by_seed[run.seed]) for run in runs if run.seed in by_seed]
    if len(pairs) == len(runs):
        return pairs
    if len(others) == 1:
        return [(run, others[0]) for run in runs]
    return [(runs[0], other) for other in others] if len(runs) == 1 else pairs


def _roles(runs: Sequence[EvaluatedRun], in_domain: Sequence[str]) -> dict[str, str]:
    """The role of each set: as recorded, or in domain if it is named and else out of domain."""
    roles: dict[str, str] = {}
    for record in (record for run in runs for record in run.records):
        if roles.setdefault(record.set, record.role) != record.role and not in_domain:
            raise DataError(f"evaluation set {record.set!r} is both in and out of domain")
    for name in in_domain:
        if name not in roles:
            raise ConfigError(f"--in_domain names {name!r}; the sets are {', '.join(roles)}")
    if not in_domain:
        return roles
    return {name: IN_DOMAIN if name in in_domain else OUT_OF_DOMAIN for name in roles}


def _by_document(
    records: Sequence[EvaluationRecord], run: EvaluatedRun
) -> dict[str, list[EvaluationRecord]]:
    found: dict[str, list[EvaluationRecord]] = {}
    for record in sorted(records, key=lambda record: (record.id, record.sample)):
        # Sorted, so that equal samples of a document stand beside each other.
        samples = found.setdefault(record.id, [])
        if samples and samples[-1].sample == record.sample:
            raise DataError(f"{run}: {record.id!r} of {record.set!r} occurs twice")
        samples.append(record)
    return found
