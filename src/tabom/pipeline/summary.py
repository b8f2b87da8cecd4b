"""From the folders of a study to one summary: what `summary.json` and the report say."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from tabom.core import configs, env
from tabom.core.atomic import read_json
from tabom.core.manifest import Manifest, read_manifest
from tabom.diagnostics.curves import reveal_curve
from tabom.evaluation.compare import Mean, compare_arms
from tabom.evaluation.records import EvaluationRecord, read_records, summarize
from tabom.evaluation.stats import LEVEL
from tabom.report.data import SCHEMA
from tabom.stages.evaluate import FIELDS, RECORDS, num_shown, read_evaluated
from tabom.stages.recipe import ArmConfig, Recipe
from tabom.stages.study import ArmRun, Plan
from tabom.trajectory.verdicts import REASONS

LABELS = {
    "in_domain": ("In-domain", "share of held-out prompts answered right"),
    "out_of_domain": ("Out-of-domain", "mean over the general tasks: what was not forgotten"),
    "forgetting": ("Forgetting", "mean loss against the base over the out-of-domain sets"),
    "tds": ("TDS", "variance of the entropies over the masked slots (TABOM eq. 10-11)"),
    "order_agreement": (
        "Order agreement",
        "share of slot pairs whose entropies follow the base's decoding order",
    ),
    "kendall_tau": ("Kendall tau", "rank correlation of entropies with the base's decoding order"),
}
BETTER = {"forgetting": "lower", "tds": "none", "premature_commit": "lower"}
DETAILS = ("forgetting", "kendall_tau")
SCALARS = ("tds", "order_agreement", "kendall_tau")


def summarize_study(recipe: Recipe, plan: Plan, *, command: str) -> dict[str, Any]:
    """The whole summary of a finished study (the contract is `tabom.report.data`)."""
    runs = {(r.arm.name, r.seed): read_records(r.evaluate.folder / RECORDS) for r in plan.runs}
    notes = {(r.arm.name, r.seed): read_json(r.evaluate.folder / FIELDS) for r in plan.runs}
    scalars = {(r.arm.name, r.seed): _scalars(recipe, r) for r in plan.runs}
    base = recipe.base_arm.name if recipe.base_arm is not None else None
    rows = compare_arms(runs, base=base, scalars=scalars) if recipe.evaluation.sets else []
    means = {row.arm: row.means for row in rows}
    keys = list(dict.fromkeys(k for row in rows for k in row.means))
    manifests = {s.folder: read_manifest(s.folder) for s in plan.stages}
    arms = []
    for arm in recipe.arms:
        own = [r for r in plan.runs if r.arm == arm]
        arms.append(
            {
                "name": arm.name,
                "objective": _objective(arm),
                "data": arm.data if arm.is_trained else "none",
                "means": {k: describe_mean(m) for k, m in means.get(arm.name, {}).items()},
                "seeds": [_seed(r, runs, scalars, manifests) for r in own],
            }
        )
    return {
        "schema": SCHEMA,
        "name": recipe.name,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(sum(m.seconds for m in manifests.values() if m is not None), 1),
        "command": command,
        "recipe": configs.to_plain(recipe),
        "versions": env.versions(),
        "hardware": env.hardware(),
        "level": LEVEL,
        "seeds": list(recipe.seeds),
        "base_arm": base or "",
        "metrics": [describe_metric(k) for k in keys],
        "arms": arms,
        "collection": [_collection(seed, plan, manifests) for seed in recipe.seeds],
        "sets": _sets(runs),
        "curves": {
            "tds": _tds_curves(recipe, notes),
            "entropy": _entropy_curves(recipe, plan),
            "loss_ratio": _loss_ratios(plan),
            "training": _training_curves(plan),
        },
        "examples": _examples(recipe, plan, notes),
        "notes": [],
    }


def _objective(arm: ArmConfig) -> dict[str, Any]:
    return {"preset": arm.objective, **arm.options} if arm.is_trained else {}


def _scalars(recipe: Recipe, run: ArmRun) -> dict[str, float]:
    notes = read_json(run.evaluate.folder / FIELDS)
    in_domain = [s.name for s in recipe.evaluation.sets if s.role == "in_domain"]
    averages = [notes["tds"][n]["average"] for n in in_domain if n in notes["tds"]]
    found: dict[str, float] = {}
    if averages:
        found["tds"] = float(np.mean(averages))
    if run.diagnose is not None:
        result = read_json(run.diagnose.folder / "diagnostics.json")
        found |= {k: result[k] for k in SCALARS if k in result}
    return found


def describe_metric(key: str) -> dict[str, Any]:
    """A key of `compare_arms` as a column of the report."""
    stem, _, speed = key.partition("@")
    if stem.startswith("set:"):
        label, text = stem[4:], "share answered right on this set alone"
    else:
        label, text = LABELS.get(stem, (stem.replace("_", " ").capitalize(), ""))
    if speed:
        label, text = f"{label}, {speed} a step", f"{text}, revealing {speed} slots a step"
    return {
        "key": key,
        "label": label,
        "help": text,
        "unit": "" if stem in SCALARS else "%",
        "better": BETTER.get(stem, "higher"),
        "is_detail": stem.startswith("set:") or stem in DETAILS,
    }


def describe_mean(mean: Mean) -> dict[str, Any]:
    """A mean as the report shows it: shares in percent, what is not finite left out."""
    plain = asdict(mean)
    is_share = plain.pop("is_share")
    for name in ("mean", "low", "high", "delta", "delta_low", "delta_high"):
        value = plain[name]
        if value is not None and not np.isfinite(value):
            plain[name] = None
        elif value is not None and is_share:
            plain[name] = 100 * value
    return plain


def _seed(
    run: ArmRun,
    runs: dict[tuple[str, int | None], list[EvaluationRecord]],
    scalars: dict[tuple[str, int | None], dict[str, float]],
    manifests: dict[Path, Manifest | None],
) -> dict[str, Any]:
    key = (run.arm.name, run.seed)
    means = compare_arms({key: runs[key]}, base=None, scalars={key: scalars[key]})[0].means
    trained = None if run.train is None else manifests[run.train.folder]
    evaluated = manifests[run.evaluate.folder]
    seconds = {} if evaluated is None else {"evaluate": evaluated.seconds}
    if trained is not None:
        seconds["train"] = trained.seconds
    return {
        "seed": run.seed,
        "metrics": {k: m.mean * (100 if m.is_share else 1) for k, m in means.items()},
        "counts": {} if trained is None else {"train_examples": trained.counts["num_examples"]},
        "seconds": seconds,
    }


def _collection(seed: int, plan: Plan, manifests: dict[Path, Manifest | None]) -> dict[str, Any]:
    collected = manifests[plan.collect[seed].folder]
    verified = manifests[plan.verify[seed].folder]
    if collected is None or verified is None:
        return {"seed": seed}
    number = collected.counts["num_trajectories"]
    return {
        "seed": seed,
        "prompts": number,
        "reasons": {r: verified.counts.get(r, 0) for r in REASONS},
        "seconds": collected.seconds,
        "trajectories_per_hour": round(3600 * number / max(collected.seconds, 1e-9)),
    }


def _sets(runs: dict[tuple[str, int | None], list[EvaluationRecord]]) -> list[dict[str, Any]]:
    records = next(iter(runs.values()), [])
    sets = {s.set: s for s in summarize(records)} if records else {}
    return [
        {"name": s.set, "role": s.role, "num_documents": s.num_documents} for s in sets.values()
    ]


def _tds_curves(recipe: Recipe, notes: dict[tuple[str, int | None], Any]) -> list[dict[str, Any]]:
    """The first in-domain set's curve of each arm, averaged over seeds."""
    name = next((s.name for s in recipe.evaluation.sets if s.role == "in_domain"), None)
    curves = []
    for arm in recipe.arms:
        rows = [
            n["tds"][name]["mean_K"]
            for (own, _), n in notes.items()
            if own == arm.name and name in n["tds"]
        ]
        if rows:
            curves.append({"arm": arm.name, "values": _mean_rows(rows)})
    return curves


def _mean_rows(rows: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Mean over rows of unequal length that may hold gaps."""
    width = max(len(r) for r in rows)
    table = np.full((len(rows), width), np.nan)
    for i, row in enumerate(rows):
        table[i, : len(row)] = [np.nan if v is None else v for v in row]
    counts = (~np.isnan(table)).sum(axis=0)
    sums = np.nansum(table, axis=0)
    return [float(s / c) if c else None for s, c in zip(sums, counts, strict=True)]


def _entropy_curves(recipe: Recipe, plan: Plan) -> list[dict[str, Any]]:
    """Entropy at reveal against the step, over the in-domain responses of each arm's seeds."""
    curves = []
    for arm in recipe.arms:
        steps, entropies = [], []
        for run in plan.runs:
            if run.arm != arm:
                continue
            for record, t in read_evaluated(run.evaluate.folder):
                if record.role == "in_domain":
                    steps.append(t.step_N)
                    entropies.append(t.entropy_N)
        if not steps:
            continue
        curve = reveal_curve(steps, entropies)
        shown = np.flatnonzero(curve.count_K)
        curves.append(
            {
                "arm": arm.name,
                "steps": shown.tolist(),
                "mean": curve.mean_K[shown].tolist(),
                "low": curve.lower_K[shown].tolist(),
                "high": curve.upper_K[shown].tolist(),
            }
        )
    return curves


def _loss_ratios(plan: Plan) -> dict[str, Any]:
    values: dict[str, list[list[float | None]]] = {}
    ratios: list[float] = []
    for run in plan.runs:
        if run.diagnose is None:
            continue
        result = read_json(run.diagnose.folder / "diagnostics.json")
        if "loss_ratio" in result:
            ratios = result["mask_ratios"]
            values.setdefault(run.arm.name, []).append(result["loss_ratio"])
    return {
        "ratios": ratios,
        "values": [{"arm": arm, "values": _mean_rows(rows)} for arm, rows in values.items()],
    }


def _training_curves(plan: Plan) -> list[dict[str, Any]]:
    curves = []
    for run in plan.runs:
        path = None if run.train is None else run.train.folder / "metrics.jsonl"
        if path is None or not path.is_file():
            continue
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        points = [
            {k: v for k, v in row.items() if isinstance(v, int | float)}
            for row in rows
            if "loss" in row
        ]
        curves.append({"arm": run.arm.name, "seed": run.seed, "points": points})
    return curves


def _examples(
    recipe: Recipe,
    plan: Plan,
    notes: dict[tuple[str, int | None], Any],
) -> list[dict[str, Any]]:
    """A few responses of every arm (its first seed) for the viewer, the same prompts for each."""
    examples = []
    most = num_shown(recipe.decoding.max_new_tokens)
    for arm in recipe.arms:
        run = next((r for r in plan.runs if r.arm == arm), None)
        if run is None:
            continue
        kept = notes[arm.name, run.seed]
        shown: dict[str, int] = {}
        for record, t in read_evaluated(run.evaluate.folder):
            limit = most if record.role == "in_domain" else 1
            if t.id not in kept["fields"] or shown.get(record.set, 0) >= limit:
                continue
            if kept.get("set_of", {}).get(t.id, record.set) != record.set:
                continue
            shown[record.set] = shown.get(record.set, 0) + 1
            examples.append(
                {
                    "arm": arm.name,
                    "set": record.set,
                    "prompt": t.prompt,
                    "reference": t.reference,
                    "response": t.response,
                    "is_correct": bool(record.correct),
                    "tokens": kept["tokens"][t.id],
                    "step": t.step_N.tolist(),
                    "entropy": t.entropy_N.tolist(),
                    "field": kept["fields"][t.id],
                }
            )
    return examples
