"""What `tabom collect`, `tabom evaluate` or `tabom run` left, as a library to look through."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tabom.core import configs
from tabom.core.errors import StageError
from tabom.core.manifest import read_manifest
from tabom.report.browse import Answer, Item, Library
from tabom.stages.runs import RECIPE, evaluations_of
from tabom.stages.verify import verdicts_file
from tabom.trajectory.record import Trajectory
from tabom.trajectory.store import TrajectoryStore
from tabom.trajectory.verdicts import Verdict, read_verdicts


def open_library(
    folder: Path, *, verdicts: Path | None = None, model_name_or_path: str | None = None
) -> Library:
    """What is in a folder.

    verdicts: what `tabom verify` wrote of a collection. model_name_or_path: whose tokenizer turns
        ids into texts; None: of a run its base, else ids are shown as numbers.
    Raises: StageError for a folder that holds none of these.
    """
    recipe = folder / RECIPE
    if recipe.is_file():
        given = configs.load_yaml(recipe).get("model") or {}
        return Library(
            folder.resolve().name,
            _of_run(folder),
            tokens=_tokens(model_name_or_path or given.get("model_name_or_path")),
        )
    found = read_manifest(folder)
    if found is not None and found.stage == "evaluate":
        items = _of_evaluations({folder.resolve().name: folder})
    elif found is not None and found.stage == "collect":
        items = _of_collection(
            folder, {} if verdicts is None else read_verdicts(verdicts_file(verdicts))
        )
    else:
        raise StageError(
            f"{folder}: nothing to look through; give the folder of a finished `tabom collect` or "
            "`tabom evaluate`, or of a `tabom run`"
        )
    return Library(folder.resolve().name, items, tokens=_tokens(model_name_or_path))


def _of_collection(folder: Path, verdicts: dict[str, Verdict]) -> list[Item]:
    store = TrajectoryStore(folder)
    items = []
    for i, t in enumerate(store):
        verdict = verdicts.get(t.id)
        reason = "" if verdict is None else verdict.reason
        answer = _answer(
            "collected", t, reason, reason == "accepted", partial(store.__getitem__, i)
        )
        items.append(
            Item(
                id=t.id,
                set=t.task,
                prompt=t.prompt,
                reference=t.reference,
                difficulty=_difficulty(t.row),
                answers={answer.arm: answer},
            )
        )
    return items


def _of_run(root: Path) -> list[Item]:
    """Every arm's first seed; the prompts that the sets of all arms share stand together."""
    folders: dict[str, Path] = {}
    for folder, arm, _ in evaluations_of(root):
        if read_manifest(folder) is not None:
            folders.setdefault(arm.name, folder)
    if not folders:
        raise StageError(f"{root}: no evaluation of this run is finished")
    return _of_evaluations(folders)


def _of_evaluations(folders: dict[str, Path]) -> list[Item]:
    from tabom.evaluation.results import TRAJECTORIES, read_evaluated

    items: dict[tuple[str, str], Item] = {}
    for arm, folder in folders.items():
        store = TrajectoryStore(folder / TRAJECTORIES)
        for i, (record, t) in enumerate(read_evaluated(folder)):
            key = record.set, record.id
            if key not in items:
                items[key] = Item(
                    id=record.id,
                    set=record.set,
                    prompt=t.prompt,
                    reference=t.reference,
                    difficulty=record.metrics.get("difficulty", _difficulty(t.row)),
                )
            # Of several samples the first is shown.
            load = partial(store.__getitem__, i)
            answer = _answer(arm, t, record.reason, bool(record.correct), load)
            items[key].answers.setdefault(arm, answer)
    return list(items.values())


def _answer(
    arm: str, t: Trajectory, reason: str, is_right: bool, load: Callable[[], Trajectory]
) -> Answer:
    return Answer(
        arm=arm,
        response=t.response,
        reason=reason,
        is_right=is_right,
        length=t.num_revealed,
        num_forwards=t.num_forwards,
        load=load,
    )


def _difficulty(row: dict[str, Any]) -> float | None:
    """A number that the data calls difficulty or level."""
    for name in ("difficulty", "level"):
        value = row.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None


def _tokens(name: str | None) -> Callable[[Sequence[int]], list[str]] | None:
    if name is None:
        return None
    from tabom.models.checkpoint import Checkpoint

    tokenizer = Checkpoint.find(name, weights=False).tokenizer(is_required=False)
    if tokenizer is None:
        return None

    def texts(ids: Iterable[int]) -> list[str]:
        return [str(tokenizer.decode([i])) for i in ids]

    return texts
