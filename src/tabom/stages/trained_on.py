"""Which prompts a trained model saw: training leaves them beside the adapter.

They travel with the folder, so that whoever evaluates the model, wherever, can tell whether the
evaluation prompts were held out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tabom.core.atomic import replacing
from tabom.core.errors import DataError

TRAINED_ON = "trained_on.parquet"  # one column, `prompt`
CARD = "tabom_manifest.json"  # goes with an adapter wherever it is copied


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """texts: the training prompts, None where they are unknown. source: where, or why not."""

    texts: list[str] | None
    source: str


def question_of(prompt: str, row: Mapping[str, Any]) -> str:
    """The user's own text of a collected prompt: without the template, where there is one."""
    question = row.get("question")
    return question if isinstance(question, str) and question and question in prompt else prompt


def write_trained_on(folder: Path, prompts: Iterable[str]) -> None:
    """Write each prompt once, in their order."""
    table = pa.table({"prompt": pa.array(list(dict.fromkeys(prompts)), type=pa.string())})
    with replacing(folder / TRAINED_ON) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def training_prompts(trained: Path) -> TrainedOn:
    """The prompts of a trained folder: an adapter's or a fully trained model's.

    Raises: DataError if the file is damaged.
    """
    path = trained / TRAINED_ON
    if not path.is_file():
        return TrainedOn(texts=None, source=f"there is no {TRAINED_ON} in {trained.name}")
    try:
        texts = pq.read_table(path, columns=["prompt"]).column(0).to_pylist()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error
    return TrainedOn(texts=texts, source=trained.name)
