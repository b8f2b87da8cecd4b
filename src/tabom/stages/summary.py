"""From the folders of a study to one report: what `summary.json` and the page say."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import zip_longest
from typing import Any

import numpy as np

from tabom.core import env
from tabom.core.atomic import read_json
from tabom.core.manifest import check_file, read_manifest
from tabom.core.rows import MalformedRowError, Row, read_rows
from tabom.diagnostics.curves import reveal_curve
from tabom.evaluation.compare import compare
from tabom.evaluation.comparison import FORGETTING, NET_LOSS, Comparison
from tabom.evaluation.records import Pace, read_table
from tabom.evaluation.results import FIELDS, RECORDS, num_shown, read_evaluated
from tabom.evaluation.scores import IN_DOMAIN, EvaluatedRun
from tabom.report.data import (
    Arm,
    Collected,
    Curve,
    Curves,
    Example,
    Report,
    SeedWork,
    TrainingLog,
)
from tabom.stages.recipe import ArmConfig, Recipe
from tabom.stages.runs import load_evaluation
from tabom.stages.stage import Stage
from tabom.stages.study import ArmRun, Plan
from tabom.trajectory.verdicts import REASONS

DETAILS = (FORGETTING, NET_LOSS, "kendall_tau")  # folded away, as single sets are
SCALARS = ("tds", "order_agreement", "kendall_tau")


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """One arm under one seed, with the numbers that lie beside its records."""

    run: ArmRun
    fields: Mapping[str, Any]
    diagnostics: Mapping[str, Any]

    @classmethod
    def of(cls, run: ArmRun) -> "_Measured":
        fields = read_json(run.evaluate.output.checked() / FIELDS)
        path = None if run.diagnose is None else run.diagnose.output.checked() / "diagnostics.json"
        return cls(run=run, fields=fields, diagnostics={} if path is None else read_json(path))


def summarize_study(
    recipe: Recipe, plan: Plan, *, command: str, held_out: Mapping[str, Any]
) -> Report:
    """The report of a finished study. held_out: what its check found, as `check_held_out`."""
    measured = [_Measured.of(run) for run in plan.runs]
    names = [s.name for s in recipe.evaluation.sets if s.role == IN_DOMAIN]
    # A study without evaluation sets still has its training to show.
    comparison, runs = Comparison(), []
    if recipe.evaluation.sets:
        base = recipe.base_arm.name if recipe.base_arm is not None else None
        runs = [_evaluated(m, names, held_out) for m in measured]
        comparison = compare(runs, base=base)
    by_arm = {arm.name: [m for m in measured if m.run.arm == arm] for arm in recipe.arms}
    return Report(
        name=recipe.name,
        comparison=comparison,
        columns=[k for k in comparison.keys if not k.set and k.kind not in DETAILS],
        details=[k for k in comparison.keys if k.set or k.kind in DETAILS],
        created=now(),
        seconds=round(sum(_seconds(stage) for stage in plan.stages), 1),
        command=command,
        recipe=recipe.public(),
        versions=env.versions(),
        hardware=env.hardware(),
        seeds=recipe.seeds,
        arms=[_arm(arm, _reasons(by_arm[arm.name], names)) for arm in recipe.arms],
        work=[_work(run) for run in plan.runs],
        collection=[_collection(seed, plan) for seed in recipe.seeds],
        curves=Curves(
            tds=_tds_curves(by_arm, names[:1]),
            entropy=_entropy_curves(by_arm),
            loss_ratio=_loss_ratios(by_arm),
            difficulty=_difficulty(runs, names),
            training=_training_logs(plan),
        ),
        examples=_examples(recipe, by_arm),
    )


def now() -> str:
    """The time in UTC, for people and for parsers."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _evaluated(measured: _Measured, names: Sequence[str], check: Mapping[str, Any]) -> EvaluatedRun:
    """One run for the comparison. names: of the in-domain sets."""
    run, tds = measured.run, measured.fields["tds"]
    averages = [_float(tds[name]["average"]) for name in names if name in tds]
    found = {"tds": float(np.mean(averages))} if averages else {}
    found |= {k: _float(v) for k, v in measured.diagnostics.items() if k in SCALARS}
    return load_evaluation(
        run.evaluate.folder,
        arm=run.arm.name,
        seed=run.seed,
        is_base=not run.arm.is_trained,
        scalars=found,
        check=check,
    )


def _float(value: Any) -> float:
    """A number of a file, where NaN is written as null."""
    return math.nan if value is None else float(value)


def _arm(arm: ArmConfig, reasons: Mapping[str, int]) -> Arm:
    objective = {"preset": arm.objective, **arm.options} if arm.is_trained else {}
    data = arm.data if arm.is_trained else "none"
    return Arm(name=arm.name, objective=objective, data=data, reasons=reasons)


def _reasons(found: Sequence[_Measured], names: Sequence[str]) -> Mapping[str, int]:
    """Counts of the verdicts on the answers to some sets, each at its slowest pace."""
    counts: Counter[str] = Counter()
    columns = ("set", *Pace._fields, "reason")
    for one in found if names else ():
        table = read_table(one.run.evaluate.output.home / RECORDS, columns)
        groups = table.group_by(list(columns)).aggregate([([], "count_all")]).to_pylist()
        for name in names:
            own = [(Pace(*(g[n] for n in Pace._fields)), g) for g in groups if g["set"] == name]
            slowest = min((pace for pace, _ in own), default=None)
            counts.update({g["reason"]: g["count_all"] for pace, g in own if pace == slowest})
    return counts


def _counts(stage: Stage) -> Mapping[str, Any]:
    found = read_manifest(stage.folder)
    return {} if found is None else found.counts


def _seconds(stage: Stage) -> float:
    found = read_manifest(stage.folder)
    return 0.0 if found is None else found.seconds


def _work(run: ArmRun) -> SeedWork:
    return SeedWork(
        arm=run.arm.name,
        seed=run.seed,
        num_examples=None if run.train is None else _counts(run.train)["num_examples"],
        train_seconds=None if run.train is None else _seconds(run.train),
        evaluate_seconds=_seconds(run.evaluate),
    )


def _collection(seed: int, plan: Plan) -> Collected:
    verdicts, seconds = _counts(plan.verify[seed]), _seconds(plan.collect[seed])
    number = _counts(plan.collect[seed])["num_trajectories"]
    return Collected(
        seed=seed,
        num_prompts=number,
        reasons={reason: verdicts.get(reason, 0) for reason in REASONS},
        seconds=seconds,
        trajectories_per_hour=round(3600 * number / max(seconds, 1e-9)),
    )


def _tds_curves(by_arm: Mapping[str, list[_Measured]], names: Sequence[str]) -> list[Curve]:
    """The first in-domain set's curve of each arm, averaged over seeds."""
    curves = []
    for arm, found in by_arm.items():
        rows = [m.fields["tds"][n]["mean_K"] for m in found for n in names if n in m.fields["tds"]]
        y = _mean_rows(rows)
        curves.append(Curve(arm=arm, x=list(range(len(y))), y=y))
    return [curve for curve in curves if curve.x]


def _loss_ratios(by_arm: Mapping[str, list[_Measured]]) -> list[Curve]:
    curves = []
    for arm, found in by_arm.items():
        known = [m.diagnostics for m in found if "loss_ratio" in m.diagnostics]
        if known:
            y = _mean_rows([one["loss_ratio"] for one in known])
            curves.append(Curve(arm=arm, x=known[-1]["mask_ratios"], y=y))
    return curves


def _difficulty(runs: Sequence[EvaluatedRun], names: Sequence[str]) -> list[Curve]:
    """Of each arm over its seeds: percent right by the records' difficulty, first in-domain set
    that has one, at its slowest pace."""
    right: dict[str, dict[float, list[float]]] = {}
    for run in runs:
        there = [c for c in run.answers if c[0] in names and "difficulty" in run.answers[c].metrics]
        if not there:
            continue
        answers = run.answers[min((c for c in there if c[0] == there[0][0]), key=lambda c: c[1])]
        levels = right.setdefault(run.arm, {})
        pairs = zip(answers.metrics["difficulty"].tolist(), answers.correct_A.tolist(), strict=True)
        for level, is_right in pairs:
            if not math.isnan(level):
                levels.setdefault(level, []).append(is_right)
    return [
        Curve(
            arm=arm,
            x=sorted(levels),
            y=[100 * float(np.mean(levels[level])) for level in sorted(levels)],
        )
        for arm, levels in right.items()
    ]


def _mean_rows(rows: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Mean over rows of unequal length that may hold gaps."""
    columns = ([v for v in column if v is not None] for column in zip_longest(*rows))
    return [sum(column) / len(column) if column else None for column in columns]


def _entropy_curves(by_arm: Mapping[str, list[_Measured]]) -> list[Curve]:
    """Entropy at reveal against the step, over the in-domain responses of each arm's seeds."""
    curves = []
    for arm, found in by_arm.items():
        pairs = (pair for m in found for pair in read_evaluated(m.run.evaluate.output.home))
        # Only what the curve needs is kept; the trajectories themselves may be many.
        own = [(t.step_N, t.entropy_N) for record, t in pairs if record.role == IN_DOMAIN]
        if own:
            curve = reveal_curve([step for step, _ in own], [entropy for _, entropy in own])
            shown = np.flatnonzero(curve.count_K)
            y, low, high = (
                values_K[shown].tolist()
                for values_K in (curve.mean_K, curve.lower_K, curve.upper_K)
            )
            curves.append(Curve(arm=arm, x=shown.tolist(), y=y, low=low, high=high))
    return curves


METRICS = "metrics.jsonl"  # what a training logged


def _training_logs(plan: Plan) -> list[TrainingLog]:
    logs = []
    for run in plan.runs:
        path = None if run.train is None else run.train.output.home / METRICS
        found = read_manifest(path.parent) if path is not None else None
        if path is not None and found is not None and METRICS in found.files:
            check_file(path, found.files[METRICS])
            rows = [cells for cells in map(_cells, read_rows(path)) if "loss" in cells]
            points = [{k: v for k, v in r.items() if isinstance(v, int | float)} for r in rows]
            logs.append(TrainingLog(arm=run.arm.name, seed=run.seed, points=points))
    return logs


def _cells(row: Row) -> dict[str, Any]:
    """A logged line; {} where a kill tore it."""
    try:
        return row.cells()
    except MalformedRowError:
        return {}


def _examples(recipe: Recipe, by_arm: Mapping[str, list[_Measured]]) -> list[Example]:
    """A few responses of every arm (its first seed) for the viewer, the same prompts for each."""
    examples = []
    most = num_shown(recipe.decoding.max_new_tokens)
    for arm, found in by_arm.items():
        shown: dict[str, int] = {}
        for record, t in read_evaluated(found[0].run.evaluate.output.home) if found else ():
            kept, name = found[0].fields, record.set
            if t.id not in kept["fields"] or kept["set_of"].get(t.id) != name:
                continue
            # A few of the trained task, one of each other: a field is N x N numbers.
            shown[name] = shown.get(name, 0) + 1
            if shown[name] > (most if record.role == IN_DOMAIN else 1):
                continue
            examples.append(
                Example(
                    arm=arm,
                    set=name,
                    prompt=t.prompt,
                    reference=t.reference or "",
                    response=t.response,
                    is_correct=bool(record.correct),
                    tokens=kept["tokens"][t.id],
                    step=t.step_N.tolist(),
                    entropy=t.entropy_N.tolist(),
                    field=kept["fields"][t.id],
                )
            )
    return examples
