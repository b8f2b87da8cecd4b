"""From the folders of a study to one report: what `summary.json` and the page say."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from tabom.core import configs, env
from tabom.core.atomic import read_json
from tabom.core.manifest import Manifest, read_manifest
from tabom.core.rows import MalformedRowError, Row, read_rows
from tabom.diagnostics.curves import reveal_curve
from tabom.evaluation.comparison import FORGETTING, NET_LOSS, Comparison, compare
from tabom.evaluation.results import FIELDS, num_shown, read_evaluated
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
from tabom.stages.study import ArmRun, Plan
from tabom.trajectory.verdicts import REASONS

DETAILS = (FORGETTING, NET_LOSS, "kendall_tau")  # folded away, as single sets are
SCALARS = ("tds", "order_agreement", "kendall_tau")
DIAGNOSTICS = "diagnostics.json"


def summarize_study(
    recipe: Recipe, plan: Plan, *, command: str, held_out: Mapping[str, Any]
) -> Report:
    """The report of a finished study. held_out: what its check found, as `check_held_out`."""
    fields = {
        run.evaluate.folder: read_json(run.evaluate.output.checked() / FIELDS) for run in plan.runs
    }
    base = recipe.base_arm.name if recipe.base_arm is not None else None
    comparison = Comparison()
    if recipe.evaluation.sets:
        runs = [_evaluated(recipe, run, fields[run.evaluate.folder], held_out) for run in plan.runs]
        comparison = compare(runs, base=base)
    keys = comparison.keys
    manifests = {s.folder: read_manifest(s.folder) for s in plan.stages}
    return Report(
        name=recipe.name,
        comparison=comparison,
        columns=[key for key in keys if not key.set and key.kind not in DETAILS],
        details=[key for key in keys if key.set or key.kind in DETAILS],
        created=now(),
        seconds=round(sum(m.seconds for m in manifests.values() if m is not None), 1),
        command=command,
        recipe=configs.to_plain(recipe),
        versions=env.versions(),
        hardware=env.hardware(),
        seeds=recipe.seeds,
        arms=[_arm(arm) for arm in recipe.arms],
        work=[_work(run, manifests) for run in plan.runs],
        collection=[_collection(seed, plan, manifests) for seed in recipe.seeds],
        curves=Curves(
            tds=_tds_curves(recipe, plan, fields),
            entropy=_entropy_curves(recipe, plan),
            loss_ratio=_loss_ratios(recipe, plan),
            training=_training_logs(plan),
        ),
        examples=_examples(recipe, plan, fields),
        notes=held_out.get("notes") or (),
    )


def now() -> str:
    """The time in UTC, for people and for parsers."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _arm(arm: ArmConfig) -> Arm:
    objective = {"preset": arm.objective, **arm.options} if arm.is_trained else {}
    return Arm(name=arm.name, objective=objective, data=arm.data if arm.is_trained else "none")


def _evaluated(
    recipe: Recipe, run: ArmRun, fields: Mapping[str, Any], check: Mapping[str, Any]
) -> EvaluatedRun:
    """One run with the numbers beside its records."""
    names = [s.name for s in recipe.evaluation.sets if s.role == IN_DOMAIN]
    averages = [_float(fields["tds"][n]["average"]) for n in names if n in fields["tds"]]
    scalars = {"tds": float(np.mean(averages))} if averages else {}
    found = {} if run.diagnose is None else read_json(run.diagnose.output.checked() / DIAGNOSTICS)
    scalars |= {name: _float(found[name]) for name in SCALARS if name in found}
    return load_evaluation(
        run.evaluate.folder,
        arm=run.arm.name,
        seed=run.seed,
        is_base=not run.arm.is_trained,
        scalars=scalars,
        check=check,
    )


def _float(value: Any) -> float:
    """A number of a file, where NaN is written as null."""
    return math.nan if value is None else float(value)


def _work(run: ArmRun, manifests: Mapping[Path, Manifest | None]) -> SeedWork:
    trained = None if run.train is None else manifests[run.train.folder]
    evaluated = manifests[run.evaluate.folder]
    return SeedWork(
        arm=run.arm.name,
        seed=run.seed,
        num_examples=None if trained is None else int(trained.counts["num_examples"]),
        train_seconds=None if trained is None else trained.seconds,
        evaluate_seconds=None if evaluated is None else evaluated.seconds,
    )


def _collection(seed: int, plan: Plan, manifests: Mapping[Path, Manifest | None]) -> Collected:
    collected = manifests[plan.collect[seed].folder]
    verified = manifests[plan.verify[seed].folder]
    if collected is None or verified is None:
        return Collected(seed=seed)
    number = int(collected.counts["num_trajectories"])
    return Collected(
        seed=seed,
        num_prompts=number,
        reasons={r: int(verified.counts.get(r, 0)) for r in REASONS},
        seconds=collected.seconds,
        trajectories_per_hour=round(3600 * number / max(collected.seconds, 1e-9)),
    )


def _tds_curves(recipe: Recipe, plan: Plan, fields: Mapping[Path, Any]) -> list[Curve]:
    """The first in-domain set's curve of each arm, averaged over seeds."""
    name = next((s.name for s in recipe.evaluation.sets if s.role == IN_DOMAIN), None)
    curves = []
    for arm in recipe.arms:
        found = [fields[run.evaluate.folder]["tds"] for run in plan.runs if run.arm == arm]
        rows = [tds[name]["mean_K"] for tds in found if name in tds]
        if rows:
            y = _mean_rows(rows)
            curves.append(Curve(arm=arm.name, x=list(range(len(y))), y=y))
    return curves


def _mean_rows(rows: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Mean over rows of unequal length that may hold gaps."""
    columns = ([v for v in column if v is not None] for column in zip_longest(*rows))
    return [sum(column) / len(column) if column else None for column in columns]


def _entropy_curves(recipe: Recipe, plan: Plan) -> list[Curve]:
    """Entropy at reveal against the step, over the in-domain responses of each arm's seeds."""
    curves = []
    for arm in recipe.arms:
        steps, entropies = [], []
        for run in (run for run in plan.runs if run.arm == arm):
            for record, t in read_evaluated(run.evaluate.folder):
                if record.role == IN_DOMAIN:
                    steps.append(t.step_N)
                    entropies.append(t.entropy_N)
        if not steps:
            continue
        curve = reveal_curve(steps, entropies)
        shown = np.flatnonzero(curve.count_K)
        curves.append(
            Curve(
                arm=arm.name,
                x=shown.tolist(),
                y=curve.mean_K[shown].tolist(),
                low=curve.lower_K[shown].tolist(),
                high=curve.upper_K[shown].tolist(),
            )
        )
    return curves


def _loss_ratios(recipe: Recipe, plan: Plan) -> list[Curve]:
    curves = []
    for arm in recipe.arms:
        folders = [r.diagnose.folder for r in plan.runs if r.arm == arm and r.diagnose is not None]
        found = [read_json(folder / DIAGNOSTICS) for folder in folders]
        known = [one for one in found if "loss_ratio" in one]
        if known:
            y = _mean_rows([one["loss_ratio"] for one in known])
            curves.append(Curve(arm=arm.name, x=known[-1]["mask_ratios"], y=y))
    return curves


def _training_logs(plan: Plan) -> list[TrainingLog]:
    logs = []
    for run in plan.runs:
        path = None if run.train is None else run.train.folder / "metrics.jsonl"
        if path is not None and path.is_file():
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


def _examples(recipe: Recipe, plan: Plan, fields: Mapping[Path, Any]) -> list[Example]:
    """A few responses of every arm (its first seed) for the viewer, the same prompts for each."""
    examples = []
    most = num_shown(recipe.decoding.max_new_tokens)
    for arm in recipe.arms:
        run = next((r for r in plan.runs if r.arm == arm), None)
        if run is None:
            continue
        kept = fields[run.evaluate.folder]
        shown: dict[str, int] = {}
        for record, t in read_evaluated(run.evaluate.folder):
            limit = most if record.role == IN_DOMAIN else 1
            if t.id not in kept["fields"] or shown.get(record.set, 0) >= limit:
                continue
            if kept.get("set_of", {}).get(t.id, record.set) != record.set:
                continue
            shown[record.set] = shown.get(record.set, 0) + 1
            examples.append(
                Example(
                    arm=arm.name,
                    set=record.set,
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
