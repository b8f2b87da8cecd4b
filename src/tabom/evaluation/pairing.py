"""Runs of arms beside the base's, paired by document: the matrices that intervals are taken of.

Legend: S seeds, D documents.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tabom.core.errors import DataError
from tabom.evaluation.records import EvaluationRecord, Speed
from tabom.evaluation.stats import Floats

Run = tuple[str, int | None]  # arm, seed; the base may have the single seed None
Cell = tuple[str, Speed]  # set, speed
Table = dict[Cell, dict[str, EvaluationRecord]]  # by cell, then by id


def table_of(records: Sequence[EvaluationRecord], *, run: Run) -> Table:
    """The records of one run by set, speed and id."""
    table: Table = {}
    for record in records:
        cell = table.setdefault((record.set, record.speed), {})
        if record.id in cell:
            raise DataError(
                f"arm {run[0]!r}, seed {run[1]}: {record.id!r} of {record.set!r} occurs twice"
            )
        cell[record.id] = record
    return table


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """Scores of one arm on some cells. values: per cell `[S, D]`, NaN where a metric does not
    apply. differences: to the base, likewise; None for the base. is_crossed: all seeds saw the
    same documents."""

    values: list[Floats]
    differences: list[Floats] | None
    is_crossed: bool


class Pairing:
    """The runs of one arm, each with the base's run that it is compared with."""

    def __init__(
        self,
        tables: Mapping[Run, Table],
        *,
        arm: str,
        seeds: Sequence[int | None],
        base: str | None,
        base_seeds: Sequence[int | None],
    ) -> None:
        self.arm, self.seeds = arm, seeds
        self.own = [tables[arm, s] for s in seeds]
        self.base: list[Table] | None = None
        if base is not None and base != arm:
            partners = partner_seeds(seeds, base_seeds, arm=arm, base=base)
            self.base = [tables[base, s] for s in partners]

    def scores(self, cells: Sequence[Cell], *, metric: str | None) -> Scores:
        """metric: None is correctness, else a name in the records' metrics."""
        values, differences, is_crossed = [], [], True
        for cell in cells:
            ids = [self._ids(cell, i) for i in range(len(self.own))]
            is_crossed = is_crossed and all(row == ids[0] for row in ids)
            own_SD = _matrix(self.own, cell, ids, metric)
            values.append(own_SD)
            if self.base is not None:
                differences.append(own_SD - _matrix(self.base, cell, ids, metric))
        return Scores(
            values=values,
            differences=None if self.base is None else differences,
            is_crossed=is_crossed,
        )

    def _ids(self, cell: Cell, i: int) -> list[str]:
        """The documents of one set under one seed; the same for arm and base."""
        where = f"set {cell[0]!r} at {place_of(cell[1])}"
        arm = f"arm {self.arm!r}" + ("" if self.seeds[i] is None else f", seed {self.seeds[i]}")
        own = self.own[i].get(cell)
        if own is None:
            raise DataError(f"{arm}: not evaluated on {where}; evaluate every arm on the same sets")
        if len(own) != len(self.own[0][cell]):
            raise DataError(
                f"arm {self.arm!r}: {where} has {len(own)} documents under seed {self.seeds[i]}, "
                f"{len(self.own[0][cell])} under seed {self.seeds[0]}; evaluate on as many"
            )
        if self.base is not None and self.base[i].get(cell, {}).keys() != own.keys():
            raise DataError(
                f"{arm}: {where} has other documents than the "
                "base; deltas are paired, so evaluate both on the same prompts"
            )
        return sorted(own)


def place_of(speed: Speed) -> str:
    """A speed in words."""
    return speed.schedule or f"{speed.tokens_per_step} tokens a step"


def _matrix(
    tables: Sequence[Table], cell: Cell, ids: Sequence[Sequence[str]], metric: str | None
) -> Floats:
    def score(record: EvaluationRecord) -> float:
        value = record.correct if metric is None else record.metrics.get(metric)
        return math.nan if value is None else float(value)

    return np.array(
        [[score(table[cell][i]) for i in row] for table, row in zip(tables, ids, strict=True)]
    )


def partner_seeds(
    seeds: Sequence[int | None], base_seeds: Sequence[int | None], *, arm: str, base: str
) -> list[int | None]:
    """For each seed of an arm, the base's: the same seed, or the only one that the base has."""
    partners = []
    for seed in seeds:
        if seed in base_seeds:
            partners.append(seed)
        elif len(base_seeds) == 1:
            partners.append(base_seeds[0])
        else:
            raise DataError(
                f"arm {arm!r} has seed {seed}, the base {base!r} has {list(base_seeds)}; "
                "evaluate the base under that seed too, or once for all seeds"
            )
    return partners
