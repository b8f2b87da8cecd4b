"""Arms side by side: in and out of domain, deltas to the base, forgetting.

Legend: S seeds, D documents.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tabom.core.errors import DataError
from tabom.evaluation.pairing import Cell, Pairing, Run, Table, partner_seeds, table_of
from tabom.evaluation.records import EvaluationRecord, Speed
from tabom.evaluation.stats import (
    LEVEL,
    NUM_RESAMPLES,
    Floats,
    Interval,
    macro_interval,
    t_interval,
)

Runs = Mapping[Run, Sequence[EvaluationRecord]]
_ROLES = ("in_domain", "out_of_domain")


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over seeds and documents, and its change against the base.

    mean, low, high: with its interval. delta, delta_low, delta_high: arm - base, paired by
    document (and by seed where the base has it); None for the base itself, or without one.
    num_seeds, num_documents: what the mean is over (0 documents: one number a seed).
    is_share: a mean of zeros and ones, to be shown in percent.
    """

    mean: float
    low: float | None
    high: float | None
    delta: float | None = None
    delta_low: float | None = None
    delta_high: float | None = None
    num_seeds: int
    num_documents: int = 0
    is_share: bool = True


@dataclass(frozen=True, kw_only=True)
class ArmRow:
    """One arm. means: by key, see `compare_arms`."""

    arm: str
    num_seeds: int
    means: dict[str, Mean]


def compare_arms(
    runs: Runs,
    *,
    base: str | None,
    scalars: Mapping[Run, Mapping[str, float]] | None = None,
    level: float = LEVEL,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> list[ArmRow]:
    """One row per arm, in the order of `runs`.

    runs: the records of each (arm, seed). base: the arm that deltas are taken against; it has the
        same seeds as the others, or one run that stands for all.
    scalars: further numbers of each run, such as TDS.
    Keys of a row's means:
        in_domain, out_of_domain: accuracy at the least tokens per step of each set, the mean over
            the sets of that role (each set counts alike);
        in_domain@K, out_of_domain@K: at K tokens per step (or under the schedule K), over the sets
            measured at K, wherever K is not the least of every set;
        set:NAME, set:NAME@K: one set alone;
        forgetting: mean over the out-of-domain sets of max(0, base - arm), the accuracies being
            means over seeds; no interval;
        every metric of the records: mean over in-domain sets at their least tokens per step;
        every key of `scalars`: mean over seeds, Student's t interval.
    Intervals of accuracies and metrics: bootstrap over seeds x documents (`macro_interval`).
    Raises: DataError if the arms were measured on different sets or documents.
    """
    tables = {run: table_of(records, run=run) for run, records in runs.items()}
    seeds: dict[str, list[int | None]] = {}
    for arm, run_seed in tables:
        seeds.setdefault(arm, []).append(run_seed)
    if base is not None and base not in seeds:
        raise DataError(f"the base arm {base!r} is not among the arms {list(seeds)}")
    roles = _roles(runs.values())
    accuracy_keys, metric_keys = _accuracy_keys(tables, roles), _metric_keys(runs, roles)
    bases: Mapping[str, Mean] = {}
    rows: list[ArmRow] = []
    order = list(seeds) if base is None else [base, *(a for a in seeds if a != base)]
    for arm in order:
        pairing = Pairing(
            tables, arm=arm, seeds=seeds[arm], base=base, base_seeds=seeds.get(base or "", [])
        )

        def mean(cells: Sequence[Cell], metric: str | None, pairing: Pairing = pairing) -> Mean:
            return _mean(
                pairing, cells, metric, level=level, num_resamples=num_resamples, seed=seed
            )

        means: dict[str, Mean] = {}
        for key, cells in accuracy_keys.items():
            means[key] = mean(cells, None)
        if base is not None and "out_of_domain" in means:
            means["forgetting"] = _forgetting(means, bases or means, roles, len(seeds[arm]))
        for metric, cells in metric_keys.items():
            _check_new(metric, means)
            means[metric] = mean(cells, metric)
        for key in _scalar_keys(scalars or {}):
            _check_new(key, means)
            means[key] = _scalar(scalars or {}, key, arm, seeds, base, level)
        if arm == base:
            bases = means
        rows.append(ArmRow(arm=arm, num_seeds=len(seeds[arm]), means=means))
    return sorted(rows, key=lambda row: list(seeds).index(row.arm))


def _check_new(key: str, means: Mapping[str, Mean]) -> None:
    if key in means:
        raise DataError(
            f"two numbers of the comparison are called {key!r}; give the metric or the scalar "
            "another name"
        )


def _roles(runs: Iterable[Sequence[EvaluationRecord]]) -> dict[str, str]:
    roles: dict[str, str] = {}
    for records in runs:
        for record in records:
            if roles.setdefault(record.set, record.role) != record.role:
                raise DataError(f"evaluation set {record.set!r} is both in and out of domain")
    return roles


def _accuracy_keys(tables: Mapping[Run, Table], roles: Mapping[str, str]) -> dict[str, list[Cell]]:
    cells = list(dict.fromkeys(cell for table in tables.values() for cell in table))
    least = {name: min(k for other, k in cells if other == name) for name in roles}
    keys: dict[str, list[Cell]] = {}
    for role in _ROLES:
        here = [cell for cell in cells if roles[cell[0]] == role]
        first = [cell for cell in here if cell[1] == least[cell[0]]]
        if first:
            keys[role] = first
        for speed in sorted({k for _, k in here}):
            at_speed = [cell for cell in here if cell[1] == speed]
            if at_speed != first:
                keys[f"{role}@{speed}"] = at_speed
    for name, speed in cells:
        suffix = "" if speed == least[name] else f"@{speed}"
        keys[f"set:{name}{suffix}"] = [(name, speed)]
    return keys


def _metric_keys(runs: Runs, roles: Mapping[str, str]) -> dict[str, list[Cell]]:
    keys: dict[str, list[Cell]] = {}
    least: dict[str, Speed] = {}
    for records in runs.values():
        for r in records:
            least[r.set] = min(least.get(r.set, r.speed), r.speed)
    for records in runs.values():
        for r in records:
            if roles[r.set] != "in_domain" or r.speed != least[r.set]:
                continue
            for name, value in r.metrics.items():
                cell = (r.set, r.speed)
                if value is not None and cell not in keys.setdefault(name, []):
                    keys[name].append(cell)
    return {name: cells for name, cells in keys.items() if cells}


def _mean(
    pairing: Pairing,
    cells: Sequence[Cell],
    metric: str | None,
    *,
    level: float,
    num_resamples: int,
    seed: int,
) -> Mean:
    scores = pairing.scores(cells, metric=metric)

    def interval(arrays: Sequence[Floats]) -> Interval:
        return macro_interval(
            arrays,
            is_crossed=scores.is_crossed,
            level=level,
            num_resamples=num_resamples,
            seed=seed,
        )

    own = interval(scores.values)
    delta = None if scores.differences is None else interval(scores.differences)
    known = np.concatenate([v[~np.isnan(v)] for v in scores.values])
    return Mean(
        mean=own.estimate,
        low=own.low,
        high=own.high,
        delta=None if delta is None else delta.estimate,
        delta_low=None if delta is None else delta.low,
        delta_high=None if delta is None else delta.high,
        num_seeds=len(pairing.seeds),
        num_documents=sum(v.shape[1] for v in scores.values),
        # Accuracies also where each document's is a mean over several samples.
        is_share=metric is None or bool(np.isin(known, (0.0, 1.0)).all()),
    )


def _forgetting(
    means: Mapping[str, Mean], bases: Mapping[str, Mean], roles: Mapping[str, str], num_seeds: int
) -> Mean:
    losses = [
        max(0.0, bases[f"set:{name}"].mean - means[f"set:{name}"].mean)
        for name, role in roles.items()
        if role == "out_of_domain"
    ]
    return Mean(mean=float(np.mean(losses)), low=None, high=None, num_seeds=num_seeds)


def _scalar_keys(scalars: Mapping[Run, Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(key for numbers in scalars.values() for key in numbers))


def _scalar(
    scalars: Mapping[Run, Mapping[str, float]],
    key: str,
    arm: str,
    seeds: Mapping[str, Sequence[int | None]],
    base: str | None,
    level: float,
) -> Mean:
    def number(run: Run) -> float:
        return scalars.get(run, {}).get(key, math.nan)

    own = [number((arm, s)) for s in seeds[arm]]
    result = t_interval(own, level=level)
    delta = None
    if base is not None and arm != base:
        partners = partner_seeds(seeds[arm], seeds[base], arm=arm, base=base)
        others = [number((base, s)) for s in partners]
        delta = t_interval(np.subtract(own, others), level=level)
    return Mean(
        mean=result.estimate,
        low=result.low,
        high=result.high,
        delta=None if delta is None else delta.estimate,
        delta_low=None if delta is None else delta.low,
        delta_high=None if delta is None else delta.high,
        num_seeds=len(own),
        is_share=False,
    )
