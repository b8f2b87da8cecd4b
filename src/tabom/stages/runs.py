"""What `tabom run` and `tabom evaluate` left behind, read for a comparison."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tabom.core import configs
from tabom.core.atomic import read_json
from tabom.core.errors import ConfigError, DataError, StageError
from tabom.core.manifest import read_manifest
from tabom.evaluation.comparison import Comparison, compare
from tabom.evaluation.manifest import EVALUATION
from tabom.evaluation.manifest import HELD_OUT as CHECK
from tabom.evaluation.records import read_records
from tabom.evaluation.results import RECORDS
from tabom.evaluation.scores import EvaluatedRun, Leak, Manifests
from tabom.evaluation.stats import LEVEL
from tabom.stages.recipe import ArmConfig

RECIPE = "recipe.yaml"  # these two lie in the folder of a study
HELD_OUT = "held_out.json"


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
            runs.append(load_evaluation(folder, arm=own, seed=None, is_base=False))
    return _seeded(_merged(runs))


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
            load_evaluation(
                root / "base" / "evaluate", arm=prefix + base.name, seed=None, is_base=True
            )
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
                runs.append(
                    load_evaluation(folder, arm=prefix + arm.name, seed=seed, is_base=False)
                )
    if not runs:
        raise StageError(f"{root}: a run without any evaluation; finish it: tabom run {root}")
    path = root / HELD_OUT
    check = read_json(path) if path.is_file() else {}
    return [with_held_out(run, check) for run in runs]


def with_held_out(run: EvaluatedRun, check: Mapping[str, Any]) -> EvaluatedRun:
    """A run of a study with what the study's held-out check found; the base was not trained."""
    if run.is_base:
        return run
    notes, leaks = tuple(check.get("notes") or ()), _leaks(check.get("sets") or ())
    return replace(run, held_out_notes=notes, leaks=leaks)


def _leaks(found: Iterable[Mapping[str, Any]]) -> tuple[Leak, ...]:
    leaks = (
        Leak(
            set=str(one["name"]),
            num_prompts=one.get("num_evaluation", 0),
            num_exact=one.get("num_exact", 0),
            num_near=one.get("num_near", 0),
        )
        for one in found
        if "name" in one
    )
    return tuple(leak for leak in leaks if leak.num_exact or leak.num_near)


def load_evaluation(
    folder: Path,
    *,
    arm: str,
    seed: int | None = None,
    is_base: bool = False,
    scalars: Mapping[str, float] | None = None,
) -> EvaluatedRun:
    """The finished evaluation in a folder. scalars: further numbers of the run.

    Raises: StageError if there is none; DataError if it is broken.
    """
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
    manifests = _manifests(folder / EVALUATION)
    checks = [one[CHECK] for paces in manifests.values() for one in paces.values()
              if one.get(CHECK)]  # fmt: skip
    return EvaluatedRun(
        arm=arm,
        seed=seed,
        records=records,
        scalars=scalars or {},
        manifests=manifests,
        is_base=is_base,
        held_out_notes=tuple(dict.fromkeys(check["note"] for check in checks)),
        leaks=tuple(dict.fromkeys(_leaks(checks))),
    )


def _manifests(path: Path) -> Manifests:
    content = read_json(path)
    paces = list(content.values()) if isinstance(content, dict) else [None]
    if not all(
        isinstance(each, dict) and all(isinstance(one, dict) for one in each.values())
        for each in paces
    ):
        raise DataError(
            f"{path}: not the manifests of an evaluation, by set and by pace; was the file "
            "edited? Evaluate again"
        )
    return dict(content)


def _merged(runs: Sequence[EvaluatedRun]) -> list[EvaluatedRun]:
    """Evaluations of one arm (and seed) that share no set at one pace, as one."""
    merged: list[EvaluatedRun] = []
    for run in runs:
        for i, other in enumerate(merged):
            is_same = (other.arm, other.seed) == (run.arm, run.seed)
            if is_same and run.cells().keys().isdisjoint(other.cells()):
                names = {**other.manifests, **run.manifests}
                merged[i] = replace(
                    other,
                    records=[*other.records, *run.records],
                    manifests={
                        n: {**other.manifests.get(n, {}), **run.manifests.get(n, {})} for n in names
                    },
                    held_out_notes=other.held_out_notes + run.held_out_notes,
                    leaks=other.leaks + run.leaks,
                )
                break
        else:
            merged.append(run)
    return merged


def _seeded(runs: Sequence[EvaluatedRun]) -> list[EvaluatedRun]:
    """Several evaluations of one arm get a seed each, so that none stands for another."""
    counts = Counter(run.arm for run in runs)
    used: dict[str, set[int]] = {arm: set() for arm in counts}
    seeded = []
    for run in runs:
        if counts[run.arm] > 1:
            seed = run.seed
            if seed is None or seed in used[run.arm]:
                seed = next(i for i in range(len(runs) + 1) if i not in used[run.arm])
            used[run.arm].add(seed)
            run = replace(run, seed=seed)
        seeded.append(run)
    return seeded


def comparison_of(
    given: Sequence[str],
    *,
    base: str | None = None,
    in_domain: Sequence[str] = (),
    ks: Sequence[int] | None = None,
    level: float = LEVEL,
) -> Comparison:
    """Compare the evaluations in some folders.

    given: see `load_runs`. base: the arm that changes are taken against; None: the untrained arm of
        a run, else the first one. in_domain, ks, level: see `compare`.
    Raises: TabomError if a folder is none of ours, or documents differ.
    """
    runs = load_runs(given)
    names = list(dict.fromkeys(run.arm for run in runs))
    if base is None and len(names) > 1:
        base = next((run.arm for run in runs if run.is_base), names[0])
    return compare(runs, base=base, in_domain=in_domain, ks=ks, level=level)


def default_folder(given: Sequence[str]) -> Path:
    """Where a comparison is written if nothing is said: beside the first run's results."""
    return _split(given[0])[1] / "compare"
