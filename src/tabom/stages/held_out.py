"""The held-out check: evaluation prompts against the prompts that were trained on.

Before a study its recipe is checked; after an evaluation, what the trainings behind the model left:
the prompts they saw, in a file beside the adapter that travels with it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tabom.collect.held_out import Overlap, find_overlap
from tabom.collect.prompts import load_prompts
from tabom.core import configs
from tabom.core.atomic import replacing
from tabom.core.errors import DataError
from tabom.core.identity import identity
from tabom.core.keys import text_key
from tabom.models.config import ModelConfig
from tabom.stages.recipe import Recipe

TRAINED_ON = "trained_on.parquet"  # one column, `prompt`
_CARD = "tabom_manifest.json"  # what a training of ours leaves in a folder


def check_held_out(recipe: Recipe, *, known: dict[str, Any] | None = None) -> dict[str, Any]:
    """What each evaluation set shares with the training prompts of all seeds.

    known: an earlier result; given back as it is if it was about the same prompts.
    Returns: `sets`, with the counts and the first rows that are shared, `notes` for the report, and
        a fingerprint of what was compared.
    Raises: DataError if `evaluation.held_out_check` is error and anything is shared.
    """
    config = recipe.evaluation
    sets = [one for one in config.sets if one.task is None]  # lm-eval alone knows a task's
    if config.held_out_check == "off" or not sets:
        return {"sets": [], "notes": [], "fingerprint": ""}
    compared = configs.fingerprint(
        identity([recipe.prompts, recipe.seeds, config]), config.held_out_check
    )
    if known and known.get("fingerprint") == compared:
        return known
    # Without the template: an instruction around every prompt would be shared by all.
    prompts = (p for seed in recipe.seeds for p in load_prompts(recipe.prompts, seed=seed))
    training = list(dict.fromkeys(p.question or p.text for p in prompts))
    overlaps = [
        find_overlap(
            training, one.questions(seed=config.seed, data_dir=config.data_dir), name=one.name
        )
        for one in sets
    ]
    shared = [overlap for overlap in overlaps if overlap.num_found]
    notes = [overlap.describe() for overlap in shared or overlaps]
    if shared and config.held_out_check == "error":
        raise DataError(
            f"evaluation prompts are not held out. {' '.join(notes)} Leave them out of the "
            "training prompts (prompts.offset, another split), or set evaluation.held_out_check "
            "to warn."
        )
    return {"sets": [_plain(o) for o in overlaps], "notes": notes, "fingerprint": compared}


def held_out_of(
    documents: Mapping[str, Sequence[str]], *, trained: Sequence[Path]
) -> dict[str, dict[str, Any]]:
    """What the documents of sets share with the prompts of each training behind a model.

    documents: set -> its questions. trained: folders of adapters or trained models; none: the base
        as it came, of which nothing is known or asked.
    Returns: per set the counts (`num_exact`, `num_near`, first rows) where they could be taken,
        and a `note` for people in any case. {} for the base.
    """
    if not trained:
        return {}
    unknown = [folder.name for folder in trained if not (folder / TRAINED_ON).is_file()]
    if unknown:
        why = f"there is no {TRAINED_ON} in {', '.join(unknown)}"
        note = f"Held-out check: not done, the training prompts are unknown ({why})."
        return {name: {"note": note} for name in documents}
    training = list(dict.fromkeys(text for folder in trained for text in read_trained_on(folder)))
    overlaps = [find_overlap(training, texts, name=name) for name, texts in documents.items()]
    where = {"training": [folder.name for folder in trained]}
    return {o.name: {**_plain(o), **where, "note": o.describe()} for o in overlaps}


def trainings(model: ModelConfig, trained: Path | None) -> list[Path]:
    """The folders of all trainings behind a model: its own, its adapter's, the arm's."""
    own = Path(model.model_name_or_path)
    found = [own] if (own / _CARD).is_file() else []
    return [*found, *(Path(p) for p in (model.adapter, trained) if p is not None)]


def question_of(prompt: str, row: Mapping[str, Any]) -> str:
    """The user's own text of a collected prompt: without the template, where there is one."""
    question = row.get("question")
    return question if isinstance(question, str) and question and question in prompt else prompt


def write_trained_on(folder: Path, prompts: Callable[[], Iterable[pa.Array]]) -> None:
    """Write each prompt that was trained on once, in their order.

    prompts: gives them part by part; asked twice, so that keys are held and not texts.
    """
    found = [np.array([text_key(t) for t in part.to_pylist()], np.int64) for part in prompts()]
    joined = np.concatenate([np.empty(0, np.int64), *found])
    is_first = np.zeros(len(joined), dtype=bool)
    is_first[np.unique(joined, return_index=True)[1]] = True
    schema, start = pa.schema([("prompt", pa.string())]), 0
    with (
        replacing(folder / TRAINED_ON) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for part in prompts():
            fresh = part.filter(pa.array(is_first[start : start + len(part)]))
            writer.write_batch(pa.RecordBatch.from_arrays([fresh], schema=schema))
            start += len(part)


def read_trained_on(folder: Path) -> list[str]:
    """The prompts that a trained folder was trained on. DataError if the file is damaged."""
    path = folder / TRAINED_ON
    try:
        return list(pq.read_table(path, columns=["prompt"]).column(0).to_pylist())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error


def _plain(overlap: Overlap) -> dict[str, Any]:
    """For JSON: the counts, and the first rows of what is shared."""
    return {
        "name": overlap.name,
        "num_evaluation": overlap.num_evaluation,
        "num_training": overlap.num_training,
        "num_exact": len(overlap.exact),
        "num_near": len(overlap.near),
        "exact": overlap.exact[:20],
        "near": overlap.near[:20],
    }
