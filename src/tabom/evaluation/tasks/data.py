"""Documents of the tasks: JSONL files of a folder, or the data sets of the hub.

A folder is named by `data_dir` (`tabom evaluate --data_dir DIR`, or lm-eval's `--metadata
data_dir=DIR`); it holds `gsm8k.jsonl`, `math500.jsonl` and so on, with the columns of the data
sets on the hub.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tabom.core import keys
from tabom.core.errors import DataError
from tabom.core.rows import read_rows as read_file
from tabom.evaluation.harness import register  # noqa: F401  (lm-eval then knows the model `tabom`)
from tabom.evaluation.tasks import code, instructions


@dataclass(frozen=True, kw_only=True)
class Documents:
    """Where a task's documents come from, and what each must have.

    hub, config, split: of the data set on the hub. columns: needed, with their types.
    optional: kept where they are there. other_names: of a column, in another edition.
    """

    hub: str
    config: str | None
    split: str
    columns: Mapping[str, type]
    optional: tuple[str, ...] = ()
    other_names: Mapping[str, str] = field(default_factory=dict)


DOCUMENTS: dict[str, Documents] = {
    "gsm8k": Documents(
        hub="openai/gsm8k", config="main", split="test", columns={"question": str, "answer": str}
    ),
    "math500": Documents(
        hub="HuggingFaceH4/MATH-500",
        config=None,
        split="test",
        columns={"problem": str, "answer": str},
        optional=("solution",),
    ),
    "humaneval": Documents(
        hub="openai/openai_humaneval",
        config=None,
        split="test",
        columns={"task_id": str, "prompt": str, "test": str, "entry_point": str},
    ),
    "mbpp": Documents(
        hub="google-research-datasets/mbpp",
        config="full",
        split="test",
        columns={"text": str, "test_list": list},
        optional=("task_id", "test_setup_code", "test_imports"),
        other_names={"text": "prompt"},  # of the sanitized edition
    ),
    "ifeval": Documents(
        hub="google/IFEval",
        config=None,
        split="train",
        columns={"prompt": str, "instruction_id_list": list, "kwargs": list},
        optional=("key",),
    ),
}


def load(*, documents: str, data_dir: str | None = None, **_: Any) -> dict[str, Any]:
    """The documents of a task, for lm-eval.

    documents: a key of `DOCUMENTS`. data_dir: a folder with `<documents>.jsonl`; None takes the
    hub (or its cache). Other keyword arguments are the task's metadata.
    Raises: DataError naming the file and the line; also if what judges the task is not there, so
        that nothing is decoded in vain.
    """
    from datasets import Dataset, load_dataset

    source = DOCUMENTS[documents]
    if data_dir is not None:
        rows = read_rows(Path(data_dir), documents)
        data = Dataset.from_list(rows)
    else:
        try:
            hub = load_dataset(source.hub, source.config, split=source.split)
        except Exception as error:  # datasets raises many kinds, offline ones too
            raise DataError(
                f"the documents of {documents} ({source.hub}, split {source.split}) cannot be "
                f"loaded: {' '.join(str(error).split())[:200]}; give a folder that holds "
                f"{documents}.jsonl (--data_dir DIR; in lm-eval --metadata data_dir=DIR)"
            ) from error
        # As from a file: the same documents have the same hash wherever they come from.
        data = Dataset.from_list([_known(row, source) for row in hub])
    if documents in ("humaneval", "mbpp"):
        code.sandbox()
    elif documents == "ifeval":
        instructions.require({i for row in data["instruction_id_list"] for i in row})
    return {"test": data}


def read_rows(folder: Path, documents: str) -> list[dict[str, Any]]:
    """The rows of `<documents>.jsonl`, their needed and optional columns alone.

    Raises: DataError naming the file and the line.
    """
    source, path = DOCUMENTS[documents], folder / f"{documents}.jsonl"
    if not path.is_file():
        raise DataError(
            f"no file {path}; it should hold one JSON object a line with "
            f"{', '.join(source.columns)}"
        )
    rows: list[dict[str, Any]] = []
    for place, row in ((r.place, r.cells()) for r in read_file(path)):
        for name, other in source.other_names.items():
            row.setdefault(name, row.get(other))
        for name, kind in source.columns.items():
            if not isinstance(row.get(name), kind) or not row[name]:
                raise DataError(
                    f"{place}: column {name!r} must be "
                    f"{'text' if kind is str else 'a list'} and not empty, "
                    f"found {str(row.get(name))[:60]!r}"
                )
        rows.append(_known(row, source))
    if not rows:
        raise DataError(f"{path}: there is no row in it")
    return rows


def _known(row: Mapping[str, Any], source: Documents) -> dict[str, Any]:
    return {name: row.get(name) for name in (*source.columns, *source.optional)}


def data_identity(task: str, data_dir: str | None) -> dict[str, Any]:
    """What identifies a task's documents: a hash of the local file, or the name on the hub."""
    documents = task.removesuffix("_tabom")
    if documents not in DOCUMENTS or not task.endswith("_tabom"):
        return {"task": task}  # a task of lm-eval's own
    if data_dir is None:
        source = DOCUMENTS[documents]
        return {"hub": source.hub, "config": source.config, "split": source.split}
    path = Path(data_dir) / f"{documents}.jsonl"
    if not path.is_file():
        raise DataError(f"no file {path}")
    return {"file": path.name, "content": keys.content_id(path.read_bytes())}
