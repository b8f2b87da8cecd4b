"""What `tabom run` and `tabom evaluate` left behind, read for a comparison."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tabom.core import configs
from tabom.core.atomic import read_json
from tabom.core.errors import ConfigError, DataError, StageError
from tabom.core.manifest import read_manifest
from tabom.evaluation.manifest import EVALUATION, HELD_OUT
from tabom.evaluation.records import EvaluationRecord, read_records
from tabom.stages.evaluate import RECORDS
from tabom.stages.recipe import ArmConfig
from tabom.stages.run import HELD_OUT as HELD_OUT_FILE
from tabom.stages.run import RECIPE

Manifests = Mapping[str, Mapping[str, Any]]  # set -> tokens a step -> evaluation manifest


@dataclass(frozen=True, kw_only=True)
class EvaluatedRun:
    """One evaluation. seed: None where the arm was not trained, or has no seed of its own.

    manifests: by set and by speed. held_out_notes: what its held-out check found.
    """

    arm: str
    seed: int | None
    folder: Path
    records: list[EvaluationRecord]
    manifests: Manifests
    is_base: bool
    held_out_notes: tuple[str, ...] = ()

    def schedule_of(self, name: str, speed: str) -> str:
        """What sets the pace of a set, for people: under a threshold, tokens a step do not."""
        decoding = self.manifests.get(name, {}).get(speed, {}).get("decoding", {})
        kind = decoding.get("schedule", "fixed")
        if kind in ("threshold", "factor"):
            return f"{kind} {decoding.get(kind):g}"
        if kind == "official":
            steps = decoding.get("steps")
            return "official" if steps is None else f"official, {steps} steps"
        return speed


def load_runs(given: Sequence[str]) -> list[EvaluatedRun]:
    """The evaluations in some folders, in that order.

    given: folders of `tabom run` (all its arms and seeds) or of `tabom evaluate` (one arm, called
        as the folder is); "NAME=FOLDER" names it (an arm, or the arms' prefix). Several folders of
        one name are seeds of one arm; those that hold other sets, speeds or schedules than a seed
        has so far belong to that seed.
    Raises: StageError for a folder that holds neither; ConfigError if nothing was given.
    """
    if not given:
        raise ConfigError("nothing to compare: name folders of `tabom run` or `tabom evaluate`")
    twice = [where for where, n in Counter(map(_where, given)).items() if n > 1]
    if twice:
        raise ConfigError(f"{twice[0][1]} is given twice under one name; its samples count once")
    studies = [_split(text) for text in given if (_split(text)[1] / RECIPE).is_file()]
    runs: list[EvaluatedRun] = []
    for text in given:
        name, folder = _split(text)
        if (folder / RECIPE).is_file():
            prefix = f"{name or folder.name}: " if name or len(studies) > 1 else ""
            runs += _study(folder, prefix)
        else:
            own = name or folder.resolve().name
            runs.append(_evaluation(folder, arm=own, seed=None, is_base=False))
    return _seeded(_merged(_with_schedules(runs)))


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


def _where(text: str) -> tuple[str | None, Path]:
    name, folder = _split(text)
    return name, folder.resolve()


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
    path = root / HELD_OUT_FILE
    notes = tuple(read_json(path).get("notes") or ()) if path.is_file() else ()
    runs = [run if run.is_base else replace(run, held_out_notes=notes) for run in runs]
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
    manifests: Manifests = _read(path) if path.is_file() else _derived(found.settings, found)
    return EvaluatedRun(
        arm=arm,
        seed=seed,
        folder=folder,
        records=records,
        manifests=manifests,
        is_base=is_base,
        held_out_notes=tuple(
            dict.fromkeys(
                one[HELD_OUT]["note"]
                for speeds in manifests.values()
                for one in speeds.values()
                if one.get(HELD_OUT)
            )
        ),
    )


def _read(path: Path) -> Manifests:
    content = read_json(path)
    speeds = list(content.values()) if isinstance(content, dict) else [None]
    if not all(
        isinstance(each, dict) and all(isinstance(one, dict) for one in each.values())
        for each in speeds
    ):
        raise DataError(
            f"{path}: not the manifests of an evaluation, by set and by speed; was the file "
            "edited? Evaluate again"
        )
    return dict(content)


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


def _with_schedules(runs: Sequence[EvaluatedRun]) -> list[EvaluatedRun]:
    """The runs with a schedule in their records, if any arm was evaluated under several.

    Where each arm has one (k1 against t09), its cells go by tokens a step, and are compared.
    """
    seen: dict[tuple[str, str, int], set[str]] = {}
    for run in runs:
        for r in run.records:
            found = run.schedule_of(r.set, str(r.tokens_per_step))
            seen.setdefault((run.arm, r.set, r.tokens_per_step), set()).add(found)
    if all(len(schedules) == 1 for schedules in seen.values()):
        return list(runs)

    def schedule(run: EvaluatedRun, name: str, speed: str) -> str:
        found = run.schedule_of(name, speed)
        return "" if found == speed else found

    return [
        replace(
            run,
            records=[
                replace(r, schedule=schedule(run, r.set, str(r.tokens_per_step)))
                for r in run.records
            ],
            manifests={
                name: {schedule(run, name, speed) or speed: one for speed, one in speeds.items()}
                for name, speeds in run.manifests.items()
            },
        )
        for run in runs
    ]


def _merged(runs: Sequence[EvaluatedRun]) -> list[EvaluatedRun]:
    """Evaluations of one arm (and seed) that share no set at one speed, as one."""
    merged: list[EvaluatedRun] = []
    for run in runs:
        cells = {(r.set, r.speed) for r in run.records}
        for i, other in enumerate(merged):
            is_same = (other.arm, other.seed) == (run.arm, run.seed)
            if is_same and cells.isdisjoint((r.set, r.speed) for r in other.records):
                names = {**other.manifests, **run.manifests}
                merged[i] = replace(
                    other,
                    records=other.records + run.records,
                    manifests={
                        n: {**other.manifests.get(n, {}), **run.manifests.get(n, {})} for n in names
                    },
                    held_out_notes=other.held_out_notes + run.held_out_notes,
                )
                break
        else:
            merged.append(run)
    return merged


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
