"""Runs beside each other: their documents in one order, and arrays of what each answered.

Legend: S seeds, D documents.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tabom.core.errors import DataError
from tabom.evaluation.passk import collapse
from tabom.evaluation.records import EvaluationRecord, Pace
from tabom.evaluation.stats import Floats

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

    def schedule_of(self, name: str, pace: str) -> str:
        """What sets the pace of a set, for people: under a threshold, tokens a step do not."""
        decoding = self.manifests.get(name, {}).get(pace, {}).get("decoding", {})
        kind = decoding.get("schedule", "fixed")
        if kind in ("threshold", "factor"):
            return f"{kind} {decoding.get(kind):g}"
        if kind == "official":
            steps = decoding.get("steps")
            return "official" if steps is None else f"official, {steps} steps"
        return pace

    def cells(self) -> dict[Cell, list[EvaluationRecord]]:
        """The records by set and pace."""
        cells: dict[Cell, list[EvaluationRecord]] = {}
        for record in self.records:
            cells.setdefault((record.set, record.pace), []).append(record)
        return cells


Partners = Sequence[tuple[EvaluatedRun, EvaluatedRun]]


class Scores:
    """The runs of every arm on the cells that are compared.

    arms: name -> its runs. cells: every set at every pace that all runs have; a set without a
    common pace keeps all its own, which is an error. roles: of the sets. slowest: of each set.
    """

    def __init__(self, runs: Sequence[EvaluatedRun], *, base: str | None) -> None:
        self.base = base
        self.arms: dict[str, list[EvaluatedRun]] = {}
        for run in runs:
            self.arms.setdefault(run.arm, []).append(run)
        if base is not None and base not in self.arms:
            raise DataError(f"the base arm {base!r} is not among the arms {list(self.arms)}")
        self.roles = _roles(runs)
        self.samples = {run: run.cells() for run in runs}
        every = dict.fromkeys(cell for cells in self.samples.values() for cell in cells)
        common = set(every).intersection(*self.samples.values())
        names = {name for name, _ in common}
        self.cells = [cell for cell in every if cell in common or cell[0] not in names]
        self.slowest: dict[str, Pace] = {}
        for name, pace in self.cells:
            self.slowest[name] = min(self.slowest.get(name, pace), pace)
        self.documents = {
            run: {cell: _documents(cells[cell], run) for cell in self.cells if cell in cells}
            for run, cells in self.samples.items()
        }
        self._arrays: dict[tuple[EvaluatedRun, Cell, str], Floats] = {}
        self._check()

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

    def values(
        self, runs: Sequence[EvaluatedRun], cells: Sequence[Cell], metric: str
    ) -> list[Floats]:
        """Per cell the scores `[S, D]`, NaN where a metric does not apply.

        metric: "" is correctness, else a name in the records' metrics.
        """
        return [np.stack([self._scores(run, cell, metric) for run in runs]) for cell in cells]

    def _scores(self, run: EvaluatedRun, cell: Cell, metric: str) -> Floats:
        place = (run, cell, metric)
        if place not in self._arrays:
            records = self.documents[run][cell].values()
            found = (r.metrics.get(metric) if metric else r.correct for r in records)
            numbers = [math.nan if value is None else float(value) for value in found]
            self._arrays[place] = np.array(numbers)
        return self._arrays[place]

    def is_crossed(self, runs: Sequence[EvaluatedRun], cells: Sequence[Cell]) -> bool:
        """Whether all runs answered the same documents."""
        first = self.documents[runs[0]]
        return all(self.documents[run][c].keys() == first[c].keys() for run in runs for c in cells)

    def num_documents(self, name: str) -> int:
        """Documents of one set under one seed."""
        return len(next(iter(self.documents.values()))[name, self.slowest[name]])

    def _check(self) -> None:
        for arm, group in self.arms.items():
            base_of = dict(self.to_base(arm))
            for run in group:
                for cell in self.cells:
                    self._check_cell(run, group[0], base_of.get(run), cell)

    def _check_cell(
        self, run: EvaluatedRun, first: EvaluatedRun, base: EvaluatedRun | None, cell: Cell
    ) -> None:
        where = f"set {cell[0]!r} at {cell[1].label}"
        own, theirs = self.documents[run].get(cell), self.documents[first].get(cell, {})
        if own is None:
            raise DataError(f"{run}: not evaluated on {where}; evaluate every arm on the same sets")
        if len(own) != len(theirs):
            raise DataError(
                f"arm {run.arm!r}: {where} has {len(own)} documents under seed {run.seed}, "
                f"{len(theirs)} under seed {first.seed}; evaluate on as many"
            )
        if base is not None and self.documents[base].get(cell, {}).keys() != own.keys():
            raise DataError(
                f"{run}: {where} has other documents than the base; changes are paired, so "
                "evaluate both on the same prompts"
            )


def partners(runs: Sequence[EvaluatedRun], others: Sequence[EvaluatedRun]) -> Partners:
    """Runs of two arms by equal seeds; an arm with one run stands for all seeds of the other."""
    by_seed = {run.seed: run for run in others}
    pairs = [(run, by_seed[run.seed]) for run in runs if run.seed in by_seed]
    if len(pairs) == len(runs):
        return pairs
    if len(others) == 1:
        return [(run, others[0]) for run in runs]
    return [(runs[0], other) for other in others] if len(runs) == 1 else pairs


def _roles(runs: Sequence[EvaluatedRun]) -> dict[str, str]:
    roles: dict[str, str] = {}
    for record in (record for run in runs for record in run.records):
        if roles.setdefault(record.set, record.role) != record.role:
            raise DataError(f"evaluation set {record.set!r} is both in and out of domain")
    return roles


def _documents(
    records: Iterable[EvaluationRecord], run: EvaluatedRun
) -> dict[str, EvaluationRecord]:
    """One record a document, a mean over its samples, in the order of the ids."""
    seen: set[tuple[str, int]] = set()
    for record in records:
        if (record.id, record.sample) in seen:
            raise DataError(f"{run}: {record.id!r} of {record.set!r} occurs twice")
        seen.add((record.id, record.sample))
    return {r.id: r for r in sorted(collapse(list(records)), key=lambda r: r.id)}
