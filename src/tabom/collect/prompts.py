"""Where prompts come from: a file of rows, a `datasets` id or folder, or a Python function."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tabom.collect.columns import Messages, RowReader, is_filled, lone_column, tools_as_text
from tabom.core import keys
from tabom.core.configs import Bound, Count, Settings, expand_home
from tabom.core.errors import ConfigError, DataError
from tabom.core.hooks import load_function
from tabom.core.identity import FILE
from tabom.core.rows import SUFFIXES, read_rows

log = logging.getLogger(__name__)
_SAMPLE = 1000  # rows that are composed where the others are as they are
PLACE = "{prompt}"  # where a template puts the prompt
# Columns that name a row, or that a verifier reads: it is no surprise that no prompt holds them.
_QUIET = {"id", "task", "test", "tests", "test_list", "entry_point", "test_setup_code"}


@dataclass(frozen=True, kw_only=True)
class PromptSource(Settings):
    """Names the prompts of a run. Exactly one of path, dataset_name and function."""

    path: str | None = field(default=None, metadata=FILE)
    """A local .jsonl, .json, .csv (each also .gz) or .parquet file with one prompt a row, or a
    folder that save_to_disk of `datasets` wrote."""
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
    """Column that is the whole prompt, a string or a list of chat messages; null: found, and an
    input, context, choices, system message or history beside it is part of the prompt."""
    reference_column: str | None = None
    """Column of the gold answer that the verifier compares with; found if null."""
    ground_truth_column: str | None = None
    """Column of the full human answer (the SFT-GT arm); found if null, else the reference."""
    id_column: str | None = None
    """Column of a unique key; null: the row number."""
    template: str | None = None
    """Text around the prompt, or around the last user message of a chat, such as
    "{prompt}\\nThink step by step."."""
    turns: Literal["last", "all"] = "last"
    """Make a prompt of the last turn of a chat, or of all that the assistant answered, each with
    its answer."""
    limit: Count | None = None
    """Take this many rows."""
    offset: Annotated[int, Bound(">=", 0)] = 0
    """Leave out this many rows first."""
    shuffle: bool = False
    """Take rows in an order drawn with the run's seed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expand_home(self, "path", "dataset_name")
        given = [n for n in ("path", "dataset_name", "function") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ConfigError(
                "prompts need exactly one of path, dataset_name and function; got "
                + (" and ".join(given) if given else "none")
            )
        if self.template is not None and PLACE not in self.template:
            raise ConfigError(
                f"prompts.template {self.template!r} has no {PLACE}, so no prompt would be in it"
            )


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt and what is known of its answer.

    id: unique in its source. prompt: user text or chat messages. question: what the user says in
    it (last), without the template. reference: the gold answer that a verifier compares with (""
    if none). ground_truth: the data set's own full response ("" if none). row: the source row, for
    verifiers and diagnostics that need more; without the column that is the prompt itself.
    """

    id: str
    prompt: str | Messages
    question: str = ""
    reference: str = ""
    ground_truth: str = ""
    task: str = ""
    row: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The user's text, template included: the prompt itself, or the last user message."""
        if isinstance(self.prompt, str):
            return self.prompt
        users = [m["content"] for m in self.prompt if m.get("role") == "user"]
        return users[-1] if users else ""

    @property
    def num_characters(self) -> int:
        """Of all its messages: what is known of its length before it is tokenized."""
        said = self.prompt
        return len(said) if isinstance(said, str) else sum(len(m["content"]) for m in said)


class PromptRows(Sequence[Prompt]):
    """The chosen prompts of a source, each composed when it is asked for.

    Reading all of them in turn (`list`) checks every row. A prompt alone costs its own row, so that
    a worker pays for the prompts of its chunks and not for all.
    """

    def __init__(self, source: PromptSource, *, seed: int) -> None:
        """seed: of the run; given to a function source and used by `shuffle`.

        Raises: DataError naming the file; ConfigError for a wrong column or function.
        """
        self._source = source
        self._where, self._rows = where, rows = _rows(source, seed)
        chosen = np.arange(len(rows))
        if source.shuffle:
            # A sort of keyed draws: the permutation depends on the seed and the number of rows.
            chosen = np.argsort(keys.uniform(seed, chosen, keys.text_key("shuffle")), kind="stable")
        self._chosen = chosen[source.offset :][: source.limit]
        if len(self._chosen) < (source.limit or 1):
            raise DataError(
                f"{where}: {source.limit or 'some'} prompts were asked for, {len(self._chosen)} "
                f"are there ({len(rows)} rows, offset {source.offset}); lower prompts.limit or "
                "prompts.offset"
            )
        self._reader = RowReader(
            prompt_column=source.prompt_column,
            reference_column=source.reference_column,
            ground_truth_column=source.ground_truth_column,
        )
        # With every turn a row is several prompts, so only reading all tells which is which.
        self._all: list[Prompt] | None = None
        self._all = [*iter(self)] if source.turns == "all" else None

    def __len__(self) -> int:
        return len(self._chosen if self._all is None else self._all)

    def __getitem__(self, number: Any) -> Any:
        if self._all is not None:
            return self._all[number]
        return self._composed(self._chosen[number])[0]

    def __iter__(self) -> Iterator[Prompt]:
        seen: set[str] = set()
        columns: dict[str, None] = {}
        for row in self._chosen:
            for prompt in self._composed(row, columns):
                if prompt.id in seen:
                    raise DataError(
                        f"{self._where}: the id {prompt.id!r} occurs twice; ids must be unique"
                    )
                seen.add(prompt.id)
                yield prompt
        self._tell_unused(columns)

    def _tell_unused(self, columns: Iterable[str]) -> None:
        # The rows of a function are what its author made them; there is nothing to be surprised at.
        used = self._reader.used | _QUIET | {self._source.id_column}
        unused = [c for c in columns if c not in used]
        if unused and self._source.function is None:
            _say_once(f"{self._where}: in no prompt and no answer: the columns {', '.join(unused)}")

    def lengths(self) -> tuple[pa.Array, np.ndarray]:
        """The id of each prompt, and its length in characters (int64).

        Of a table with one column of text for the prompt both are taken from the columns, and a row
        is checked when it is asked for; else every prompt is composed once.
        """
        if (found := self._by_columns()) is not None:
            return found
        pairs = [(prompt.id, prompt.num_characters) for prompt in self]
        characters = np.array([number for _, number in pairs], dtype=np.int64)
        return pa.array([name for name, _ in pairs], pa.string()), characters

    def _by_columns(self) -> tuple[pa.Array, np.ndarray] | None:
        rows, source, name = self._rows, self._source, self._source.id_column or "id"
        if self._all is not None or not hasattr(rows, "column_names"):  # no table of `datasets`
            return None
        column = lone_column(rows.column_names, source.prompt_column)
        has_id = name in rows.column_names
        if column is None or not (has_id or source.id_column is None):
            return None
        filled: dict[str, None] = {}
        for row in self._chosen[:_SAMPLE]:
            self._composed(row, filled)
        self._tell_unused(filled)
        template = source.template or PLACE
        times = template.count(PLACE)
        around = len(template) - times * len(PLACE)
        ids, characters = [], []
        columns = rows.select_columns([column, name] if has_id else [column])
        for table in columns.with_format("arrow").iter(batch_size=_SAMPLE * 100):
            text = table[column]
            kinds = {str(table[n].type) for n in table.column_names}
            if not kinds <= {"string", "large_string", "int64", "int32"} or "string" not in str(
                text.type
            ):
                return None
            is_blank = pc.equal(pc.utf8_trim_whitespace(text), "")
            if any(c.null_count for c in table.columns) or pc.any(is_blank).as_py():
                return None
            characters.append(pc.utf8_length(text).to_numpy() * times + around)
            if has_id:
                ids.append(table[name].cast(pa.string()).combine_chunks())
        found = np.concatenate(characters).astype(np.int64)[self._chosen]
        if has_id:
            chosen = pa.chunked_array(ids).take(pa.array(self._chosen)).combine_chunks()
            return (chosen, found) if pc.count_distinct(chosen).as_py() == len(chosen) else None
        numbers = pa.array(self._chosen).cast(pa.string())
        return pc.binary_join_element_wise("row", numbers, "-"), found

    def _composed(self, number: Any, columns: dict[str, None] | None = None) -> list[Prompt]:
        row, at = self._rows[int(number)], f"{self._where}, row {number}"
        if not isinstance(row, Mapping):
            raise DataError(f"{at}: a row must be a mapping of columns, got {type(row).__name__}")
        if columns is not None:
            columns |= dict.fromkeys(name for name in row if is_filled(row[name]))
        return _prompts(self._source, self._reader, row, at)


def load_prompts(source: PromptSource, *, seed: int) -> list[Prompt]:
    """Read, select and normalise the prompts of a source.

    Columns that no prompt and no answer is made of are named in the log.
    seed: of the run; given to a function source and used by `shuffle`.
    Raises: DataError naming the file and the row; ConfigError for a wrong column or function.
    """
    return list(PromptRows(source, seed=seed))


_said: set[str] = set()


def _say_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        log.warning(text)


def prompts_content(prompts: Sequence[Prompt]) -> str:
    """A content id of prompts as they were read, wherever they came from: a hub's name may move."""
    rows = [{**vars(p), "row": dict(p.row)} for p in prompts]
    return keys.content_id(
        *(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str) for row in rows)
    )


def require_ground_truth(prompts: Sequence[Prompt], source: PromptSource) -> None:
    """Raises: DataError, naming the flag and the columns, if no prompt has a human answer."""
    if any(prompt.ground_truth for prompt in prompts):
        return
    name = source.path or source.dataset_name or source.function
    columns = ", ".join(dict.fromkeys(c for prompt in prompts for c in prompt.row))
    raise DataError(
        f"{name}: no row has an answer to train on; name its column with --ground_truth_column "
        f"(beside the prompt there are the columns {columns or 'none'})"
    )


def _rows(source: PromptSource, seed: int) -> tuple[str, Any]:
    """The source's name, and its rows as something with a length and an index."""
    if source.function is not None:
        return source.function, _call(load_function(source.function), source, seed)
    name = source.path or source.dataset_name
    assert name is not None
    path = Path(name)
    if source.path is not None and not path.exists():
        raise DataError(f"prompts.path: no file {source.path}")
    if source.path is not None and path.is_file() and path.suffix != ".parquet":
        if not path.name.endswith(SUFFIXES):
            raise ConfigError(
                f"prompts.path: {path.name} is not one of {', '.join(SUFFIXES)} files"
            )
        return name, [row.cells() for row in read_rows(path)]
    import datasets

    try:
        if path.is_file():  # through `datasets`, which need not hold the rows in memory
            return name, datasets.load_dataset("parquet", data_files=name, split="train")
        # What save_to_disk leaves: load_dataset would read its Arrow files as another kind of data.
        if any((path / mark).is_file() for mark in ("state.json", "dataset_dict.json")):
            return name, _split_of(datasets.load_from_disk(name), source.dataset_split)
        return name, datasets.load_dataset(name, source.dataset_config, split=source.dataset_split)
    except Exception as error:  # datasets raises many kinds, offline ones too
        cause = error.__cause__ or error
        raise DataError(
            f"prompts: {name!r} (split {source.dataset_split!r}) could not be loaded: {cause}"
        ) from error


def _split_of(saved: Any, split: str) -> Any:
    """One split of what save_to_disk left: a mapping of splits, or one split alone."""
    splits = saved if isinstance(saved, Mapping) else {str(saved.split or "train"): saved}
    if split in splits:
        return splits[split]
    # One that was saved alone is what the folder holds; `train` is only the default.
    if not isinstance(saved, Mapping) and split == "train":
        return saved
    raise DataError(
        f"its splits are {', '.join(splits)}; take rows of one with prompts.offset and limit"
    )


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


def _prompts(
    source: PromptSource, reader: RowReader, row: Mapping[str, Any], at: str
) -> list[Prompt]:
    """The prompt of a row; with `turns: all` one for each turn that the assistant answered."""
    column, messages = reader.conversation(row, at)
    reference, ground_truth = reader.answers(row, at)
    identifier = row.get(source.id_column or "id")
    if source.id_column is not None and identifier is None:
        raise DataError(f"{at}: no value in the column {source.id_column!r} (prompts.id_column)")
    name = str(identifier) if identifier is not None else f"row-{at.rpartition(' ')[2]}"
    # Where the conversation is cut: what the assistant says there is the answer to the rest.
    ends = [len(messages) - (messages[-1]["role"] == "assistant")]
    if source.turns == "all":
        inner = [i for i, m in enumerate(messages) if m["role"] == "assistant" and i > 0]
        # The last turn may be answered in a column of its own, and is that of these answers.
        is_answered = bool(reference or ground_truth) and ends[0] == len(messages)
        ends = inner + ends if is_answered else inner or ends
    prompts = []
    for turn, end in enumerate(ends):
        answer = messages[end]["content"] if end < len(messages) else ""
        asked, is_last = messages[:end], end == ends[-1]
        question = next((m["content"] for m in reversed(asked) if m["role"] == "user"), None)
        if question is None:
            raise DataError(f"{at}: {column}: no user among the {{role, content}} messages")
        asked = tools_as_text(_templated(asked, source.template))
        is_chat = isinstance(row[column], list | Mapping)
        prompt = asked if is_chat or len(asked) > 1 else asked[0]["content"]
        # The column is left out of the row if it says the same as the prompt, word for word.
        is_column = is_chat or str(row[column]) == prompt
        prompts.append(
            Prompt(
                id=name if len(ends) == 1 else f"{name}-turn-{turn}",
                prompt=prompt,
                question=question,
                reference=(reference if is_last else "") or answer,
                ground_truth=(ground_truth if is_last else "") or answer,
                task=str(row.get("task", "")),
                row={k: v for k, v in row.items() if not (is_column and k == column)},
            )
        )
    return prompts


def _templated(messages: Messages, template: str | None) -> Messages:
    """The messages with the template around the last one of the user."""
    if template is None:
        return messages
    last = max(i for i, m in enumerate(messages) if m["role"] == "user")
    content = template.replace(PLACE, messages[last]["content"])
    return [*messages[:last], {"role": "user", "content": content}, *messages[last + 1 :]]
