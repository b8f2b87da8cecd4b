"""Compare evaluations: a table, a test per task, pass@k, speed, and whether all were alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from tabom.core import env
from tabom.core.errors import ConfigError
from tabom.evaluation.compare import ArmRow, compare_arms
from tabom.evaluation.manifest import differences
from tabom.evaluation.pairing import Cell, place_of
from tabom.evaluation.passk import (
    Boundary,
    PassAtK,
    boundary,
    collapse,
    has_samples,
    pass_curve,
    split_id,
    tally,
)
from tabom.evaluation.records import EvaluationRecord, Speed, summarize
from tabom.evaluation.stats import LEVEL, NUM_RESAMPLES, mcnemar_p
from tabom.pipeline.runs import EvaluatedRun, load_runs, with_roles
from tabom.pipeline.summary import describe_mean, describe_metric
from tabom.report.data import SCHEMA


@dataclass(frozen=True, kw_only=True)
class TaskTest:
    """McNemar's test of one run against the base on one set at one speed.

    wins: documents that the arm alone has right; losses: the base alone. p: exact, two-sided.
    """

    arm: str
    seed: int | None
    set: str
    speed: Speed
    num_documents: int
    wins: int
    losses: int
    p: float


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Accuracy and cost of one arm on one set at one speed, over its seeds.

    schedule: what sets the speed, for people: "2" tokens a step, "threshold 0.9", "factor 1".
    """

    arm: str
    set: str
    speed: Speed
    schedule: str
    accuracy: float
    tokens_per_forward: float
    num_forwards: float


@dataclass(frozen=True, kw_only=True)
class Samples:
    """pass@k of one arm on one set, and what it solves that the base does not."""

    arm: str
    set: str
    speed: Speed
    curve: list[PassAtK]
    boundary: Boundary | None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A key in which two evaluation manifests differ, and the sets where they do."""

    arm: str
    key: str
    base: Any
    own: Any
    sets: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that `tabom compare` says. rows: see `compare_arms`. held_out: (arm, what its
    held-out check found)."""

    base: str | None
    level: float
    roles: dict[str, str]
    rows: list[ArmRow]
    tests: list[TaskTest]
    speeds: list[Pace]
    samples: list[Samples]
    differences: list[Difference]
    held_out: list[tuple[str, str]]

    @property
    def table_keys(self) -> list[str]:
        """The columns as in the paper: each role's sets, then their mean; at one speed, then at
        the others; forgetting last."""
        known = list(dict.fromkeys(key for row in self.rows for key in row.means))
        speeds = dict.fromkeys(_speed(k) for k in known if k.startswith("set:") or "domain" in k)
        keys: list[str] = []
        # Tokens a step by their number, then schedules by their name.
        for speed in sorted(speeds, key=lambda t: (t != "" and not t.isdigit(), len(t), t)):
            for role in ("in_domain", "out_of_domain"):
                suffix = f"@{speed}" if speed else ""
                sets = [f"set:{name}{suffix}" for name, r in self.roles.items() if r == role]
                own = [k for k in sets if k in known]
                mean = f"{role}{suffix}"
                keys += [*own, *([mean] if mean in known else [])]
        return keys + [k for k in ("forgetting",) if k in known]


def compare_runs(
    given: Sequence[str],
    *,
    base: str | None = None,
    in_domain: Sequence[str] = (),
    ks: Sequence[int] | None = None,
    level: float = LEVEL,
    num_resamples: int = NUM_RESAMPLES,
) -> Comparison:
    """Compare the evaluations in some folders.

    given, in_domain: see `load_runs` and `with_roles`. base: the arm that deltas are taken
        against; None: the untrained arm of a run, else the first one. ks: of pass@k.
    Raises: TabomError if a folder is none of ours, or documents differ.
    """
    runs = with_roles(load_runs(given), in_domain)
    names = list(dict.fromkeys(run.arm for run in runs))
    compared = _common_cells(runs)
    if base is None:
        base = next((run.arm for run in runs if run.is_base), names[0])
    elif base not in names:
        raise ConfigError(f"--base {base!r} is none of the arms {', '.join(names)}")
    records = {
        (run.arm, run.seed): [r for r in collapse(run.records) if (r.set, r.speed) in compared]
        for run in runs
    }
    rows = compare_arms(
        records,
        base=base if len(names) > 1 else None,
        level=level,
        num_resamples=num_resamples,
    )
    bases = [run for run in runs if run.arm == base]
    return Comparison(
        base=base if len(names) > 1 else None,
        level=level,
        roles={r.set: r.role for run in runs for r in run.records},
        rows=rows,
        tests=_tests(runs, bases),
        speeds=_speeds(runs),
        samples=_samples(runs, base, ks=ks, level=level, num_resamples=num_resamples),
        differences=_differences(runs, bases[0]),
        held_out=list(
            dict.fromkeys((run.arm, note) for run in runs for note in run.held_out_notes)
        ),
    )


def _common_cells(runs: Sequence[EvaluatedRun]) -> set[Cell]:
    """The sets at the speeds that every run has; of a set without any, all, which is an error."""
    cells = [set(_cells(run.records)) for run in runs]
    shared = set.intersection(*cells)
    names = {name for name, _ in shared}
    return shared | {cell for cell in set.union(*cells) if cell[0] not in names}


def _partner(run: EvaluatedRun, bases: Sequence[EvaluatedRun]) -> EvaluatedRun:
    return next((b for b in bases if b.seed == run.seed), bases[0])


def _cells(records: Sequence[EvaluationRecord]) -> dict[Cell, list[EvaluationRecord]]:
    cells: dict[Cell, list[EvaluationRecord]] = {}
    for record in records:
        cells.setdefault((record.set, record.speed), []).append(record)
    return cells


def _tests(runs: Sequence[EvaluatedRun], bases: Sequence[EvaluatedRun]) -> list[TaskTest]:
    """On the first sample of each document: the test is of zeros and ones."""
    tests = []
    for run in runs:
        if run.arm == bases[0].arm:
            continue
        others = _cells(_partner(run, bases).records)
        for cell, own in _cells(run.records).items():
            if cell not in others:  # a speed of the arm alone
                continue
            first = {r.id: r.correct for r in own if split_id(r.id)[1] == 0}
            there = {r.id: r.correct for r in others[cell] if split_id(r.id)[1] == 0}
            arm_D = np.array([first[d] for d in sorted(first)])
            base_D = np.array([there[d] for d in sorted(first)])
            tests.append(
                TaskTest(
                    arm=run.arm,
                    seed=run.seed,
                    set=cell[0],
                    speed=cell[1],
                    num_documents=len(first),
                    wins=int((arm_D > base_D).sum()),
                    losses=int((arm_D < base_D).sum()),
                    p=mcnemar_p(arm_D, base_D),
                )
            )
    return tests


def _speeds(runs: Sequence[EvaluatedRun]) -> list[Pace]:
    groups: dict[tuple[str, str, Speed], list[Any]] = {}
    schedules: dict[tuple[str, str, Speed], str] = {}
    arms: dict[str, int] = {}
    sets: dict[str, int] = {}
    for run in runs:
        for summary in summarize(run.records):
            key = (run.arm, summary.set, summary.speed)
            groups.setdefault(key, []).append(summary)
            arms.setdefault(run.arm, len(arms))
            sets.setdefault(summary.set, len(sets))
            schedules.setdefault(key, run.schedule_of(summary.set, str(summary.speed)))
    return [
        Pace(
            arm=arm,
            set=name,
            speed=speed,
            schedule=schedules[arm, name, speed],
            accuracy=float(np.mean([s.accuracy.estimate for s in group])),
            tokens_per_forward=float(np.mean([s.tokens_per_forward for s in group])),
            num_forwards=float(np.mean([s.num_forwards for s in group])),
        )
        # Of an arm on a set, the slow ones first.
        for (arm, name, speed), group in sorted(
            groups.items(),
            key=lambda item: (arms[item[0][0]], sets[item[0][1]], _forwards(item[1])),
        )
    ]


def _forwards(group: Sequence[Any]) -> float:
    return -float(np.mean([s.num_forwards for s in group]))


def _samples(
    runs: Sequence[EvaluatedRun], base: str, *, ks: Sequence[int] | None, **options: Any
) -> list[Samples]:
    """Samples of several seeds of an arm are pooled: each is one more draw of what it reaches."""
    tallies: dict[tuple[str, Cell], list[EvaluationRecord]] = {}
    for run in runs:
        for cell, records in _cells(run.records).items():
            tallies.setdefault((run.arm, cell), []).extend(records)
    counted = {key: tally(records) for key, records in tallies.items()}
    if ks is None and not has_samples({str(k): v for k, v in counted.items()}):
        return []
    found = []
    for (arm, cell), own in counted.items():
        there = None if arm == base else counted.get((base, cell))
        most = min(n for n, _ in own.values())
        if ks is not None and max(ks) > most:
            raise ConfigError(
                f"pass@{max(ks)} needs as many samples of each document; arm {arm!r} has {most} on "
                f"{cell[0]!r} (tabom evaluate --num_samples)"
            )
        found.append(
            Samples(
                arm=arm,
                set=cell[0],
                speed=cell[1],
                curve=pass_curve(own, there, ks=ks, **options),
                boundary=None if there is None else boundary(own, there),
            )
        )
    return found


def _differences(runs: Sequence[EvaluatedRun], base: EvaluatedRun) -> list[Difference]:
    found: dict[tuple[str, str, str, str], tuple[Any, Any, list[str]]] = {}
    for run in runs:
        if run is base:
            continue
        for name, speeds in run.manifests.items():
            for speed, own in speeds.items():
                there = base.manifests.get(name, {}).get(speed)
                if there is None:
                    continue
                for key, (first, second) in differences(there, own).items():
                    place = (run.arm, key, repr(first), repr(second))
                    found.setdefault(place, (first, second, []))[2].append(f"{name}@{speed}")
    return [
        Difference(arm=arm, key=key, base=first, own=second, sets=tuple(dict.fromkeys(sets)))
        for (arm, key, _, _), (first, second, sets) in found.items()
    ]


def _speed(key: str) -> str:
    return key.partition("@")[2]


def report_summary(comparison: Comparison, *, name: str, command: str) -> dict[str, Any]:
    """The comparison as the summary that the report is drawn from (`tabom.report.data`)."""
    keys = comparison.table_keys
    counts = {
        key.removeprefix("set:").partition("@")[0]: mean.num_documents
        for key, mean in comparison.rows[0].means.items()
        if key.startswith("set:")
    }
    return {
        "schema": SCHEMA,
        "name": name,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "versions": env.versions(),
        "level": comparison.level,
        "base_arm": comparison.base or "",
        "metrics": [describe_metric(key) for key in keys],
        "arms": [
            {
                "name": row.arm,
                "means": {k: describe_mean(m) for k, m in row.means.items() if k in keys},
            }
            for row in comparison.rows
        ],
        "sets": [
            {"name": n, "role": role, "num_documents": counts.get(n, 0)}
            for n, role in comparison.roles.items()
        ],
        "notes": notes(comparison),
    }


def notes(comparison: Comparison) -> list[str]:
    """What a reader of the table must know, a sentence each."""
    lines = [
        f"{d.arm}: evaluated with {d.key} = {d.own!r}, the base with {d.base!r} "
        f"({', '.join(d.sets)})."
        for d in comparison.differences
    ]
    for test in comparison.tests:
        if not test.wins and not test.losses:
            continue  # no document changed: the table says it
        seed = "" if test.seed is None else f", seed {test.seed}"
        lines.append(
            f"{test.arm}{seed} on {test.set} at {place_of(test.speed)}: "
            f"{test.wins} documents gained, {test.losses} lost of {test.num_documents} "
            f"(McNemar p = {test.p:.3g})."
        )
    found: dict[str, list[str]] = {}
    for arm, note in comparison.held_out:
        found.setdefault(note, []).append(arm)
    lines += [f"{', '.join(arms)}: {note}" for note, arms in found.items()]
    speeds: dict[str, set[Speed]] = {}
    for pace in comparison.speeds:
        speeds.setdefault(pace.set, set()).add(pace.speed)
    lines += [
        f"{p.arm} on {p.set}, {p.schedule}{' tokens a step' if p.schedule.isdigit() else ''}: "
        f"{p.tokens_per_forward:.2f} tokens per forward, accuracy {100 * p.accuracy:.1f}."
        for p in comparison.speeds
        if len(speeds[p.set]) > 1
    ]
    for item in comparison.samples:
        if item.boundary is not None:
            b = item.boundary
            lines.append(
                f"{item.arm} on {item.set}: {len(b.gained)} documents solved within "
                f"{b.num_samples} samples that {b.num_base_samples} samples of the base never "
                f"solve, {len(b.lost)} the other way round."
            )
    return lines


def default_folder(given: Sequence[str]) -> Path:
    """Where a comparison is written if nothing is said: beside the first run's results."""
    text = given[0]
    _, equals, folder = text.partition("=")
    return Path(folder if equals and not Path(text).exists() else text) / "compare"
