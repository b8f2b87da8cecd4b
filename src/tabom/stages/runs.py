"""What `tabom run` and `tabom evaluate` left behind, read for a comparison."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tabom.core import configs
from tabom.core.atomic import read_json
from tabom.core.errors import ConfigError, StageError
from tabom.core.manifest import read_sealed
from tabom.core.place import place, subfolders
from tabom.evaluation.answers import answers_of
from tabom.evaluation.compare import compare
from tabom.evaluation.comparison import Comparison
from tabom.evaluation.manifest import EVALUATION
from tabom.evaluation.manifest import HELD_OUT as CHECK
from tabom.evaluation.records import SCORES, read_table
from tabom.evaluation.results import RECORDS
from tabom.evaluation.scores import EvaluatedRun, Leak
from tabom.stages.recipe import ArmConfig
from tabom.stages.stage import load_output

RECIPE = "recipe.yaml"  # these two lie in the folder of a study
HELD_OUT = "held_out.json"


def compare_folders(
    given: Sequence[str],
    *,
    base: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Comparison:
    """Compare the evaluations in some folders.

    given, storage_options: see `load_runs`. base: the arm that changes are taken against; None:
        the untrained arm of a run, else the first one. options: further ones of `compare`.
    Raises: TabomError if a folder is none of ours, or documents differ.
    """
    runs = load_runs(given, storage_options=storage_options)
    if base is None and len({run.arm for run in runs}) > 1:
        base = next((run.arm for run in runs if run.is_base), runs[0].arm)
    return compare(runs, base=base, **options)


def load_runs(
    given: Sequence[str], *, storage_options: Mapping[str, Any] | None = None
) -> list[EvaluatedRun]:
    """The evaluations in some folders or at URLs, in that order; see `core.place.place`.

    given: folders of `tabom run` (all its arms and seeds) or of `tabom evaluate` (one arm, called
        as the folder is; one in a study as the arm's); "NAME=FOLDER" names it (an arm, or the
        arms' prefix). Several folders of one name are seeds of one arm; those that hold other sets
        or paces than a seed has so far belong to that seed.
    Raises: StageError for a folder that holds neither; ConfigError if one is given twice.
    """
    folders = [named_folder(text, storage_options) for text in given]
    for (name, folder), number in Counter((n, f.resolve()) for n, f in folders).items():
        if number > 1:
            which = "" if name is None else f" under the name {name}"
            raise ConfigError(f"{folder} is given twice{which}; it counts once")
    num_studies = sum((folder / RECIPE).is_file() for _, folder in folders)
    runs: list[EvaluatedRun] = []
    for name, folder in folders:
        if not (folder / RECIPE).is_file():
            runs.append(load_evaluation(folder, arm=name or _arm_of(folder)))
        else:
            has_prefix = name or num_studies > 1
            runs += _study(folder, f"{name or folder.name}: " if has_prefix else "")
    return _seeded(_merged(runs))


def named_folder(
    text: str, storage_options: Mapping[str, Any] | None = None
) -> tuple[str | None, Path]:
    """ "NAME=FOLDER", or a folder alone, whose name may hold an equals sign."""
    name, equals, folder = text.partition("=")
    is_named = equals and "://" not in name and not Path(text).exists()
    return (name if is_named else None), place(folder if is_named else text, storage_options)


def evaluations_of(root: Path) -> list[tuple[Path, ArmConfig, int | None]]:
    """Every evaluation of a study: its folder, arm and seed, the base's first."""
    # The layout of a study is read from its recipe and its folders, not planned again: a recipe's
    # prompts and model need not be at hand where its results are compared.
    rows = configs.load_yaml(root / RECIPE).get("arms") or []
    arms = [ArmConfig(name=row["name"], objective=row.get("objective")) for row in rows]
    places: list[tuple[Path, ArmConfig, int | None]]
    places = [(root / "base", arm, None) for arm in arms if not arm.is_trained]
    seeds = (re.fullmatch(r"seed-(-?\d+)", name) for name in subfolders(root, "seed-"))
    for seed in sorted(int(match[1]) for match in seeds if match):
        places += [(root / f"seed-{seed}" / arm.slug, arm, seed) for arm in arms if arm.is_trained]
    there = [(folder / "evaluate", arm, seed) for folder, arm, seed in places]
    return [place for place in there if place[0].is_dir()]


def _study(root: Path, prefix: str) -> list[EvaluatedRun]:
    """Every finished evaluation of a study, the base's first."""
    check = read_held_out(root)
    runs = [
        load_evaluation(
            folder, arm=prefix + arm.name, seed=seed, is_base=not arm.is_trained, check=check
        )
        for folder, arm, seed in evaluations_of(root)
    ]
    if not runs:
        raise StageError(f"{root}: a run without any evaluation; finish it: tabom run {root}")
    return runs


def _arm_of(folder: Path) -> str:
    """The name of a folder; in a study every evaluation is called so, and lies in its arm's."""
    path = folder.resolve()
    return path.parent.name if path.name == "evaluate" and path.parent.name else path.name


def read_held_out(root: Path) -> dict[str, Any]:
    """What the held-out check of a study found; {} if it was not run. DataError if damaged."""
    return read_sealed(root / HELD_OUT) if (root / HELD_OUT).is_file() else {}


def load_evaluation(
    folder: Path,
    *,
    arm: str,
    seed: int | None = None,
    is_base: bool = False,
    scalars: Mapping[str, float] | None = None,
    check: Mapping[str, Any] | None = None,
) -> EvaluatedRun:
    """The finished evaluation in a folder.

    scalars: further numbers of the run. check: what the held-out check of a study found, for its
        trained arms; an evaluation that was run alone has its own.
    Raises: StageError if there is none; DataError if it is broken.
    """
    # Their hashes are compared here, so what is read below is what was written.
    output = load_output(folder, "evaluate").checked()
    manifests = read_json(output / EVALUATION)
    found = [one[CHECK] for paces in manifests.values() for one in paces.values() if CHECK in one]
    notes = [one["note"] for one in found]
    if check and not is_base:
        # The study's check is about all prompts of all seeds, and so takes in what one arm saw.
        whole = check.get("sets") or ()
        names = {one["name"] for one in whole}
        rest = [one for one in found if one.get("name") not in names]
        found = [*rest, *whole]
        notes = [*(one["note"] for one in rest), *(check.get("notes") or ())]
    return EvaluatedRun(
        arm=arm,
        seed=seed,
        answers=answers_of(read_table(output / RECORDS, SCORES), where=str(output / RECORDS)),
        scalars=scalars or {},
        manifests=manifests,
        is_base=is_base,
        held_out_notes=tuple(dict.fromkeys(notes)),
        leaks=tuple(_leaks(found)),
    )


def _leaks(found: Iterable[Mapping[str, Any]]) -> dict[Leak, None]:
    """What was trained on, once, of checks that found something."""
    leaks = (
        Leak(
            set=str(one["name"]),
            num_prompts=one["num_evaluation"],
            num_exact=one["num_exact"],
            num_near=one["num_near"],
        )
        for one in found
        if one.get("num_exact") or one.get("num_near")
    )
    return dict.fromkeys(leaks)


def _merged(runs: Sequence[EvaluatedRun]) -> list[EvaluatedRun]:
    """Evaluations of one arm (and seed) that share no set at one pace, as one."""
    merged: list[EvaluatedRun] = []
    for run in runs:
        # The first evaluation of the same model that has not answered these sets at these paces.
        for i, other in enumerate(merged):
            is_same = (other.arm, other.seed) == (run.arm, run.seed)
            if is_same and run.answers.keys().isdisjoint(other.answers):
                manifests = {name: dict(paces) for name, paces in other.manifests.items()}
                for name, paces in run.manifests.items():
                    manifests.setdefault(name, {}).update(paces)
                merged[i] = replace(
                    other,
                    answers={**other.answers, **run.answers},
                    manifests=manifests,
                    held_out_notes=other.held_out_notes + run.held_out_notes,
                    leaks=other.leaks + run.leaks,
                )
                break
        else:
            merged.append(run)
    return merged


def _seeded(runs: Sequence[EvaluatedRun]) -> list[EvaluatedRun]:
    """Several evaluations of one arm get a seed each, so that none stands for another."""
    # A seed that is taken, or none, gets the least free number.
    counts = Counter(run.arm for run in runs)
    used: dict[str, set[int]] = {arm: set() for arm in counts}
    seeded = []
    for run in runs:
        seed = run.seed
        if counts[run.arm] > 1:
            if seed is None or seed in used[run.arm]:
                seed = next(i for i in range(len(runs) + 1) if i not in used[run.arm])
            used[run.arm].add(seed)
        seeded.append(replace(run, seed=seed))
    return seeded
