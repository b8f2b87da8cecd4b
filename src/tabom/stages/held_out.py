"""The held-out check: evaluation prompts against the prompts that were trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tabom.collect.held_out import Overlap, find_overlap
from tabom.collect.prompts import PromptSource, load_prompts
from tabom.core import configs
from tabom.core.errors import DataError
from tabom.core.identity import identity
from tabom.models.config import ModelConfig
from tabom.stages.recipe import Recipe
from tabom.stages.trained_on import CARD, training_prompts


def check_held_out(recipe: Recipe, *, known: dict[str, Any] | None = None) -> dict[str, Any]:
    """What each evaluation set shares with the training prompts of all seeds.

    known: an earlier result; given back as it is if it was about the same prompts.
    Returns: `sets`, with the counts and the first rows that are shared, `notes` for the report, and
        a fingerprint of what was compared.
    Raises: DataError if `evaluation.held_out_check` is error and anything is shared.
    """
    config = recipe.evaluation
    if config.held_out_check == "off" or all(one.task is not None for one in config.sets):
        return {"sets": [], "notes": [], "fingerprint": ""}
    compared = configs.fingerprint(
        {
            "training": [identity(recipe.prompts), list(recipe.seeds)],
            "evaluation": identity(config),
            "check": config.held_out_check,
        }
    )
    if known is not None and known.get("fingerprint") == compared:
        return known
    training: dict[str, None] = {}
    for seed in recipe.seeds:
        training.update(dict.fromkeys(_texts(recipe.prompts, seed=seed)))
    overlaps = [
        find_overlap(
            list(training), one.questions(seed=config.seed, data_dir=config.data_dir), name=one.name
        )
        for one in config.sets
        if one.task is None
    ]
    shared = [overlap for overlap in overlaps if overlap.num_found]
    if shared and config.held_out_check == "error":
        raise DataError(
            "evaluation prompts are not held out. "
            + " ".join(overlap.describe() for overlap in shared)
            + " Leave them out of the training prompts (prompts.offset, another split), or set "
            "evaluation.held_out_check to warn."
        )
    return {
        "sets": [_plain(overlap) for overlap in overlaps],
        "notes": _notes(overlaps, shared),
        "fingerprint": compared,
    }


def tasks_held_out(
    documents: Mapping[str, Sequence[str]], *, trained: Sequence[Path]
) -> dict[str, dict[str, Any]]:
    """What the documents of tasks share with the prompts of each training behind a model.

    documents: task -> its questions. trained: folders of adapters or trained models; none: the
        base as it came, of which nothing is known or asked.
    Returns: per task the counts (`num_exact`, `num_near`, first rows) where they could be taken,
        and a `note` for people in any case. {} for the base.
    """
    if not trained:
        return {}
    found = [training_prompts(folder) for folder in trained]
    unknown = [one.source for one in found if one.texts is None]
    if unknown:
        why = f"Held-out check: not done, the training prompts are unknown ({'; '.join(unknown)})."
        return {task: {"note": why} for task in documents}
    training = list(dict.fromkeys(text for one in found for text in one.texts or ()))
    result = {}
    for task, questions in documents.items():
        overlap = find_overlap(training, questions, name=task)
        result[task] = {
            **_plain(overlap),
            "training": [one.source for one in found],
            "note": overlap.describe(),
        }
    return result


def trainings(model: ModelConfig, trained: Path | None) -> list[Path]:
    """The folders of all trainings behind a model: its own, its adapter's, the arm's."""
    own = Path(model.model_name_or_path)
    found = [own] if (own / CARD).is_file() else []
    return [*found, *(Path(p) for p in (model.adapter, trained) if p is not None)]


def _texts(source: PromptSource, *, seed: int) -> list[str]:
    # Without the template: an instruction around every prompt would be shared by all.
    return [prompt.text for prompt in load_prompts(replace(source, template=None), seed=seed)]


def _notes(overlaps: Sequence[Overlap], shared: Sequence[Overlap]) -> list[str]:
    if shared:
        return [overlap.describe() for overlap in shared]
    total = sum(overlap.num_evaluation for overlap in overlaps)
    return [
        f"Held-out check: none of the {total} evaluation prompts occurs in the "
        f"{overlaps[0].num_training} training prompts."
    ]


def _plain(overlap: Overlap) -> dict[str, Any]:
    return {
        "name": overlap.name,
        "num_evaluation": overlap.num_evaluation,
        "num_training": overlap.num_training,
        "num_exact": len(overlap.exact),
        "num_near": len(overlap.near),
        "exact": overlap.exact[:20],
        "near": overlap.near[:20],
    }
