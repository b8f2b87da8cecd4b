"""Where prompts come from: a JSONL, Parquet or CSV file, a `datasets` id, or a Python function."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from tabom.collect.prompts_columns import answer_text, chat_messages, find_column, shape_of
from tabom.core import keys
from tabom.core.configs import Bound, Count, check
from tabom.core.errors import ConfigError, DataError
from tabom.core.hooks import load_function
from tabom.core.identity import FILE
from tabom.core.rows import read_rows

FILE_READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}


@dataclass(frozen=True, kw_only=True)
class PromptSource:
    """Names the prompts of a run. Exactly one of path, dataset_name and function."""

    path: str | None = field(default=None, metadata=FILE)
    """A local .jsonl, .json, .parquet or .csv file with one prompt a row."""
    dataset_name: str | None = None
    """A `datasets` id or a local dataset folder."""
    dataset_config: str | None = None
    """The configuration of that dataset."""
    dataset_split: str = "train"
    """The split of that dataset."""
    function: str | None = None
    """"package.module:function" returning a list of rows; it is given args, and seed unless args
    has one."""
    args: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the function."""
    prompt_column: str | None = None
    """Column of the prompt, a string or a list of chat messages; found if null."""
    reference_column: str | None = None
    """Column of the gold answer that the verifier compares with; found if null."""
    ground_truth_column: str | None = None
    """Column of the full human answer (the SFT-GT arm); found if null, else the reference."""
    id_column: str | None = None
    """Column of a unique key; null: the row number."""
    template: str | None = None
    """Text around the prompt, such as "{prompt}\\nThink step by step."."""
    limit: Count | None = None
    """Take this many rows."""
    offset: Annotated[int, Bound(">=", 0)] = 0
    """Leave out this many rows first."""
    shuffle: bool = False
    """Take rows in an order drawn with the run's seed."""

    def __post_init__(self) -> None:
        check(self)
        given = [n for n in ("path", "dataset_name", "function") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ConfigError(
                "prompts need exactly one of path, dataset_name and function; got "
                + (" and ".join(given) if given else "none")
            )


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt and what is known of its answer.

    id: unique in its source. prompt: user text or chat messages. reference: the gold answer that
    a verifier compares with ("" if none). ground_truth: the data set's own full response ("" if
    none). row: the source row, for verifiers and diagnostics that need more; without the prompt
    itself, unless a template changed that.
    """

    id: str
    prompt: str | list[dict[str, str]]
    reference: str = ""
    ground_truth: str = ""
    task: str = ""
    row: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The user's text: the prompt itself, or the last user message."""
        if isinstance(self.prompt, str):
            return self.prompt
        users = [m["content"] for m in self.prompt if m.get("role") == "user"]
        return users[-1] if users else ""


def load_prompts(source: PromptSource, *, seed: int) -> list[Prompt]:
    """Read, select and normalise the prompts of a source.

    seed: of the run; given to a function source and used by `shuffle`.
    Raises: DataError naming the file and the row; ConfigError for a wrong column or function.
    """
    where, rows = _rows(source, seed)
    chosen = np.arange(len(rows))
    if source.shuffle:
        chosen = np.argsort(keys.uniform(seed, chosen, keys.text_key("shuffle")), kind="stable")
    chosen = chosen[source.offset :][: source.limit]
    if len(chosen) == 0:
        raise DataError(
            f"{where}: no prompts left of {len(rows)} rows with offset {source.offset} "
            f"and limit {source.limit}"
        )
    if source.limit is not None and len(chosen) < source.limit:
        raise DataError(
            f"{where}: {source.limit} prompts were asked for, {len(chosen)} are there "
            f"({len(rows)} rows, offset {source.offset}); lower prompts.limit"
        )
    prompts = [_prompt(source, rows[i], int(i), where) for i in chosen]
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise DataError(f"{where}: the id {prompt.id!r} occurs twice; ids must be unique")
        seen.add(prompt.id)
    return prompts


def prompts_content(prompts: Sequence[Prompt]) -> str:
    """A content id of prompts as they were read, wherever they came from: a hub's name may move."""
    rows = [{**vars(p), "row": dict(p.row)} for p in prompts]
    return keys.content_id(
        *(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str) for row in rows)
    )


def _rows(source: PromptSource, seed: int) -> tuple[str, Any]:
    if source.function is not None:
        function = load_function(source.function)
        rows = _call(function, source, seed)
        return source.function, rows
    import datasets

    if source.path is not None:
        path = Path(source.path)
        if not path.is_file():
            raise DataError(f"prompts.path: no file {source.path}")
        if path.suffix == ".jsonl":
            # Not through `datasets`: its errors name neither the row nor the reason.
            return str(path), [row.cells() for row in read_rows(path)]
        reader = FILE_READERS.get(path.suffix)
        if reader is None:
            raise ConfigError(
                f"prompts.path: {path.name} is not one of {', '.join(FILE_READERS)} files"
            )
        try:
            return str(path), datasets.load_dataset(reader, data_files=str(path), split="train")
        except Exception as error:  # many kinds; the reason is often in what caused it
            cause = error.__cause__ or error
            raise DataError(f"{path}: not a {path.suffix} file of rows ({cause})") from error
    assert source.dataset_name is not None
    try:
        data = datasets.load_dataset(
            source.dataset_name, source.dataset_config, split=source.dataset_split
        )
    except Exception as error:  # datasets raises many kinds, offline ones too
        raise DataError(
            f"prompts.dataset_name: {source.dataset_name!r} (split {source.dataset_split!r}) could "
            f"not be loaded: {error}"
        ) from error
    return source.dataset_name, data


def _call(function: Callable[..., Any], source: PromptSource, seed: int) -> list[Any]:
    try:
        rows = function(**{"seed": seed, **source.args})
    except TypeError as error:
        raise ConfigError(
            f"prompts.function {source.function}: {error}; prompts.args gave "
            f"{sorted(source.args)} (and seed)"
        ) from error
    if not isinstance(rows, Iterable):
        raise ConfigError(f"prompts.function {source.function} returned no list of rows")
    return list(rows)


def _prompt(source: PromptSource, row: Mapping[str, Any], index: int, where: str) -> Prompt:
    at = f"{where}, row {index}"
    if not isinstance(row, Mapping):
        raise DataError(f"{at}: a row must be a mapping of columns, got {type(row).__name__}")
    shape = shape_of(row)
    column = find_column(row, source.prompt_column, shape.prompt, "prompts.prompt_column", at)
    if column is None:
        raise DataError(
            f"{at}: no prompt: none of the columns {', '.join(shape.prompt)} is there and filled "
            f"(columns: {', '.join(row)}); name it with prompts.prompt_column"
        )
    name = find_column(
        row, source.reference_column, shape.reference, "prompts.reference_column", at
    )
    reference = "" if name is None else answer_text(row[name])
    name = find_column(
        row, source.ground_truth_column, shape.ground_truth, "prompts.ground_truth_column", at
    )
    ground_truth = reference if name is None else answer_text(row[name])
    prompt = row[column]
    kept = {k: v for k, v in row.items() if k != column}
    if isinstance(prompt, list | Mapping):
        messages = chat_messages(prompt, f"{at}: {column}")
        if messages and messages[-1]["role"] == "assistant":
            ground_truth = ground_truth or messages[-1]["content"]
            messages = messages[:-1]
        if not messages:
            raise DataError(f"{at}: {column} must be a list of {{role, content}} messages")
        prompt = messages
    else:
        if isinstance(prompt, bool) or prompt != prompt:
            raise DataError(f"{at}: {column} is {prompt!r}, expected the prompt's text")
        prompt = str(prompt)
        if not prompt.strip():
            raise DataError(f"{at}: the prompt is empty")
        if source.template is not None:
            kept[column] = prompt  # a verifier may need it: a program goes on where it ends
            prompt = source.template.replace("{prompt}", prompt)
    identifier = row.get(source.id_column or "id")
    if source.id_column is not None and identifier is None:
        raise DataError(f"{at}: no value in the column {source.id_column!r} (prompts.id_column)")
    return Prompt(
        id=str(identifier) if identifier is not None else f"row-{index}",
        prompt=prompt,
        reference=reference,
        ground_truth=ground_truth,
        task=str(row.get("task", "")),
        row=kept,
    )
