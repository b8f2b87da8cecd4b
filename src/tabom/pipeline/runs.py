"""What `tabom run` and `tabom evaluate` left behind, read for a comparison."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tabom.core import configs
from tabom.core.atomic import read_json
from tabom.core.errors import ConfigError, DataError, StageError
from tabom.core.manifest import read_manifest
from tabom.evaluation.manifest import EVALUATION
from tabom.evaluation.records import EvaluationRecord, read_records
from tabom.pipeline.recipe import ArmConfig
from tabom.pipeline.run import RECIPE
from tabom.pipeline.work import RECORDS

Manifests = Mapping[str, Mapping[str, Any]]  # set -> tokens a step -> evaluation manifest


@dataclass(frozen=True, kw_only=True)
class EvaluatedRun:
    """One evaluation. seed: None where the arm was not trained, or has no seed of its own."""

    arm: str
    seed: int | None
    folder: Path
    records: list[EvaluationRecord]
    manifests: Manifests
    is_base: bool


def load_runs(given: Sequence[str]) -> list[EvaluatedRun]:
    """The evaluations in some folders, in that order.

    given: folders of `tabom run` (all its arms and seeds) or of `tabom evaluate` (one arm, called
        as the folder is); "NAME=FOLDER" names it (an arm, or the arms' prefix). Several folders of
        one name are seeds of one arm.
    Raises: StageError for a folder that holds neither; ConfigError if nothing was given.
    """
    if not given:
        raise ConfigError("nothing to compare: name folders of `tabom run` or `tabom evaluate`")
    studies = [_split(text) for text in given if (_split(text)[1] / RECIPE).is_file()]
    runs: list[EvaluatedRun] = []
    for text in given:
        name, folder = _split(text)
        if (folder / RECIPE).is_file():
            prefix = f"{name or folder.name}: " if name or len(studies) > 1 else ""
            runs += _study(folder, prefix)
        else:
            own = name or folder.resolve().name
            taken = [r.seed for r in runs if r.arm == own]
            run = _evaluation(folder, arm=own, seed=None, is_base=False)
            runs.append(run if not taken else replace(run, seed=len(taken)))
    return _seeded(runs)


def with_roles(runs: Sequence[EvaluatedRun], in_domain: Sequence[str]) -> list[EvaluatedRun]:
    """The runs with these sets in domain and all others out of domain; none given: as recorded."""
    if not in_domain:
        return list(runs)
    known = {r.set for run in runs for r in run.records}
    unknown = sorted(set(in_domain) - known)
    if unknown:
        raise ConfigError(
            f"--in_domain names {unknown[0]!r}; the sets are {', '.join(sorted(known))}"
        )
    inside = set(in_domain)
    return [
        replace(
            run,
            records=[
                replace(r, role="in_domain" if r.set in inside else "out_of_domain")
                for r in run.records
            ],
        )
        for run in runs
    ]


def _split(text: str) -> tuple[str | None, Path]:
    name, equals, folder = text.partition("=")
    if equals and not Path(text).exists():
        return name, Path(folder)
    return None, Path(text)


def _study(root: Path, prefix: str) -> list[EvaluatedRun]:
    recipe = configs.load_yaml(root / RECIPE)
    arms = {}
    for row in recipe.get("arms") or []:
        arm = ArmConfig(name=row["name"], objective=row.get("objective"))
        arms[arm.slug] = arm
    base = next((arm for arm in arms.values() if not arm.is_trained), None)
    runs = []
    if base is not None and (root / "base" / "evaluate").is_dir():
        runs.append(
            _evaluation(root / "base" / "evaluate", arm=prefix + base.name, seed=None, is_base=True)
        )
    seeds = sorted(
        (int(m[1]), path)
        for path in root.glob("seed-*")
        if (m := re.fullmatch(r"seed-(-?\d+)", path.name))
    )
    for seed, path in seeds:
        for slug, arm in arms.items():
            folder = path / slug / "evaluate"
            if folder.is_dir():
                runs.append(_evaluation(folder, arm=prefix + arm.name, seed=seed, is_base=False))
    if not runs:
        raise StageError(f"{root}: a run without any evaluation; finish it: tabom run {root}")
    return runs


def _evaluation(folder: Path, *, arm: str, seed: int | None, is_base: bool) -> EvaluatedRun:
    found = read_manifest(folder) if folder.is_dir() else None
    if found is None or found.stage != "evaluate":
        what = (
            "there is no such folder"
            if not folder.is_dir()
            else "it has no manifest.json"
            if found is None
            else f"it holds stage {found.stage!r}"
        )
        raise StageError(
            f"{folder}: {what}; expected the output folder of a finished `tabom run` or "
            "`tabom evaluate`"
        )
    records = read_records(folder / RECORDS)
    if not records:
        raise DataError(f"{folder / RECORDS}: there is no record in it")
    path = folder / EVALUATION
    manifests: Manifests = read_json(path) if path.is_file() else _derived(found.settings, found)
    return EvaluatedRun(
        arm=arm,
        seed=seed,
        folder=folder,
        records=records,
        manifests=manifests,
        is_base=is_base,
    )


def _derived(settings: Mapping[str, Any], found: Any) -> Manifests:
    """For a folder of before evaluation manifests: what the stage's own manifest says."""
    manifests: dict[str, dict[str, Any]] = {}
    for item in settings.get("sets") or []:
        for speed, decoding in zip(item["tokens_per_step"], item["decoding"], strict=True):
            manifests.setdefault(item["name"], {})[str(speed)] = {
                "decoding": decoding,
                "seed": settings.get("seed"),
                "dtype": (settings.get("model") or {}).get("dtype"),
                "data": item["prompts"],
                "verifier": item["verifier"],
                "versions": found.versions,
            }
    return manifests


def _seeded(runs: Sequence[EvaluatedRun]) -> list[EvaluatedRun]:
    """Several evaluations of one arm get a seed each, so that none stands for another."""
    several = {run.arm for run in runs if sum(r.arm == run.arm for r in runs) > 1}
    used: dict[str, set[int]] = {arm: set() for arm in several}
    seeded = []
    for run in runs:
        if run.arm in several:
            seed = run.seed
            if seed is None or seed in used[run.arm]:
                seed = next(i for i in range(len(runs) + 1) if i not in used[run.arm])
            used[run.arm].add(seed)
            run = replace(run, seed=seed)
        seeded.append(run)
    return seeded
