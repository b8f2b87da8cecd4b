"""Runs beside each other: their documents in one order, and arrays of what each answered.

Legend: S seeds, D documents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tabom.core.errors import ConfigError, DataError
from tabom.evaluation.answers import Answers, Cell, Score
from tabom.evaluation.records import Pace
from tabom.evaluation.stats import Floats

IN_DOMAIN, OUT_OF_DOMAIN = "in_domain", "out_of_domain"
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

    answers: by set and pace. scalars: further numbers of the run. manifests: how each set was
    evaluated. is_base: the untrained model of a study. held_out_notes, leaks: what its held-out
    check found.
    """

    arm: str
    seed: int | None
    answers: Mapping[Cell, Answers]
    scalars: Mapping[str, float] = field(default_factory=dict)
    manifests: Manifests = field(default_factory=dict)
    is_base: bool = False
    held_out_notes: tuple[str, ...] = ()
    leaks: tuple[Leak, ...] = ()

    def __str__(self) -> str:
        return f"arm {self.arm!r}" + ("" if self.seed is None else f", seed {self.seed}")


Partners = Sequence[tuple[EvaluatedRun, EvaluatedRun]]


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
        paces = {(run.arm, *cell) for run in runs for cell in run.answers}
        self._has_schedules = len({(a, s, p.tokens_per_step) for a, s, p in paces}) < len(paces)
        self.answers = {run: {self.folded(c): a for c, a in run.answers.items()} for run in runs}
        # What all have is compared. A set that some run has at no common pace keeps its cells, so
        # that the check below names the run which lacks it.
        every = dict.fromkeys(cell for cells in self.answers.values() for cell in cells)
        common = set(every).intersection(*self.answers.values())
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
        return [score(self.answers[run][cell]) for cell in cells]

    def is_crossed(self, runs: Sequence[EvaluatedRun], cells: Sequence[Cell]) -> bool:
        """Whether all runs answered the same documents."""
        first = self.answers[runs[0]]
        return all(first[c].asks_the_same(self.answers[run][c]) for run in runs for c in cells)

    def _check(
        self, cell: Cell, run: EvaluatedRun, first: EvaluatedRun, base: EvaluatedRun | None
    ) -> None:
        where = f"set {cell[0]!r} at {cell[1].label}"
        own, theirs = self.answers[run].get(cell), self.answers[first].get(cell)
        if own is None or theirs is None:
            raise DataError(f"{run}: not evaluated on {where}; evaluate every arm on the same sets")
        if own.num_documents != theirs.num_documents:
            raise DataError(
                f"arm {run.arm!r}: {where} has {own.num_documents} documents under seed "
                f"{run.seed}, {theirs.num_documents} under seed {first.seed}; evaluate on as many"
            )
        there = None if base is None else self.answers[base].get(cell)
        if base is not None and (there is None or not there.asks_the_same(own)):
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
    for (name, _), answers in (pair for run in runs for pair in run.answers.items()):
        if roles.setdefault(name, answers.role) != answers.role and not in_domain:
            raise DataError(f"evaluation set {name!r} is both in and out of domain")
    for name in in_domain:
        if name not in roles:
            raise ConfigError(f"--in_domain names {name!r}; the sets are {', '.join(roles)}")
    if not in_domain:
        return roles
    return {name: IN_DOMAIN if name in in_domain else OUT_OF_DOMAIN for name in roles}
