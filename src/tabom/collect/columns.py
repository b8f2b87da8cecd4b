"""Which columns of a row make up the prompt, and which hold the gold answer and the human answer.

A row of a data set that is known by its columns is read as that set; any other by the names that
are common. What belongs to a question (an input, a context, choices, a system message, earlier
turns) is part of the prompt. Options of the prompt source come before all of it.
"""

import json
import re
import string
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

from tabom.core.errors import DataError

Messages = list[dict[str, str]]

PROMPT_COLUMNS = (
    *("prompt", "messages", "question", "instruction"),
    *("problem", "query", "conversations", "input"),
)
REFERENCE_COLUMNS = (
    *("reference", "final_answer", "answer", "answerKey", "solution", "target", "output"),
    *("completion", "response", "chosen"),
)
GROUND_TRUTH_COLUMNS = ("ground_truth", "completion", "response", "chosen")

# Prompt column -> columns that belong to it; each that is filled follows after a blank line.
_QUESTION = (*("input", "context", "passage", "article", "document"), "choices", "options")
_BESIDE = dict.fromkeys(("instruction", "question", "query", "problem"), _QUESTION)
_IN_FRONT = "instruction"  # of a question, where both are there
# Choices that have a column each: A, option_b, choice1, opc.
_CHOICE_COLUMN = re.compile(r"(?:[Oo]ption|[Cc]hoice|op)[_ ]?([A-Ha-h1-8])|([A-H])")
_SYSTEM = ("system", "system_prompt", "system_message")
_HISTORY = "history"

# Names of the two speakers outside the chat format.
_ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    **dict.fromkeys(("function", "observation", "tool_response", "ipython"), "tool"),
}


class Layout(NamedTuple):
    """A data set known by its columns.

    has: columns that tell it. prompt, reference, ground_truth: candidates, the first that is there
    and filled is taken; no reference where a verifier reads the row's tests.
    """

    has: set[str]
    prompt: tuple[str, ...]
    reference: tuple[str, ...]
    ground_truth: tuple[str, ...]


# In this order: MixChain-Z-PRM12K, where `answer` is the whole solution and `target` its result;
# MATH and MATH-500, where without `answer` the result is the box in `solution`; MBPP, whose
# sanitized edition has `prompt`; HumanEval.
LAYOUTS = (
    Layout(
        {"question", "answer", "target", "solution_0"},
        ("question",),
        ("target",),
        ("answer", "solution_0"),
    ),
    Layout(
        {"problem", "solution"}, ("problem",), ("answer", "final_answer", "solution"), ("solution",)
    ),
    Layout({"code", "test_list"}, ("text", "prompt"), (), ("code",)),
    Layout(
        {"prompt", "canonical_solution", "entry_point", "test"},
        ("prompt",),
        (),
        ("canonical_solution",),
    ),
)
_ANY = Layout(set(), PROMPT_COLUMNS, REFERENCE_COLUMNS, GROUND_TRUTH_COLUMNS)


@dataclass(kw_only=True)
class RowReader:
    """Reads the prompt and the answers of rows, and remembers which columns it took.

    prompt_column, reference_column, ground_truth_column: as in the prompt source; None: found. A
    prompt column that was named is the whole prompt.
    """

    prompt_column: str | None = None
    reference_column: str | None = None
    ground_truth_column: str | None = None
    used: set[str] = field(default_factory=set)

    def conversation(self, row: Mapping[str, Any], at: str) -> tuple[str, Messages]:
        """The prompt's column, and the row as chat messages, what comes before it included.

        at: the row's place, for errors. Raises: DataError if there is no prompt, or it is no text.
        """
        candidates = _layout_of(row).prompt
        column = self._find(row, self.prompt_column, candidates, "prompt_column", at)
        if column is None:
            raise DataError(
                f"{at}: no prompt: none of the columns {', '.join(candidates)} is there and "
                f"filled; name it with --prompt_column; {_columns(row)}"
            )
        value, is_whole = row[column], self.prompt_column is not None
        if isinstance(value, list | Mapping):
            messages = chat_messages(value, f"{at}: {column}")
            if not messages:
                raise DataError(f"{at}: {column} must be a list of {{role, content}} messages")
        else:
            if isinstance(value, bool) or value != value:
                raise DataError(f"{at}: {column} is {value!r}, expected the prompt's text")
            parts = [str(value)] if str(value).strip() else []
            if not is_whole:
                parts = [*self._in_front(row, column), *parts, *self._beside(row, column, at)]
            if not parts:
                raise DataError(f"{at}: the prompt is empty")
            messages = [{"role": "user", "content": "\n\n".join(parts)}]
        # A column that was named is the prompt as it is: nothing is put before it or behind it.
        before = [] if is_whole else self._before(row, messages, at)
        return column, [*before, *messages]

    def answers(self, row: Mapping[str, Any], at: str) -> tuple[str, str]:
        """The gold answer that a verifier compares with, and the full human answer; "" if none."""
        layout = _layout_of(row)
        name = self._find(row, self.reference_column, layout.reference, "reference_column", at)
        reference = "" if name is None else answer_text(row[name], choices=_choices_of(row))
        name = self._find(
            row, self.ground_truth_column, layout.ground_truth, "ground_truth_column", at
        )
        return reference, reference if name is None else answer_text(row[name])

    def _find(
        self,
        row: Mapping[str, Any],
        name: str | None,
        candidates: Sequence[str],
        flag: str,
        at: str,
    ) -> str | None:
        """The column that the flag names, else the first candidate that is filled, else None."""
        if name is not None and name not in row:
            raise DataError(f"{at}: no column {name!r} (--{flag}); {_columns(row)}")
        found = name or next((c for c in candidates if is_filled(row.get(c))), None)
        if found is not None:
            self.used.add(found)
        return found

    def _in_front(self, row: Mapping[str, Any], column: str) -> list[str]:
        """An instruction that says what to do with the question."""
        text = row.get(_IN_FRONT)
        if column == _IN_FRONT or column not in _BESIDE or not isinstance(text, str) or not text:
            return []
        self.used.add(_IN_FRONT)
        return [text]

    def _beside(self, row: Mapping[str, Any], column: str, at: str) -> list[str]:
        parts = []
        for name in _BESIDE.get(column, ()):
            if not is_filled(row.get(name)):
                continue
            text = row[name]
            if name in ("choices", "options"):
                choices = _choices_of(row)
                text = "\n".join(f"{label}. {choice}" for label, choice in choices.items())
            elif isinstance(text, int | float) and not isinstance(text, bool):
                text = str(text)
            if not isinstance(text, str) or not text:
                raise DataError(
                    f"{at}: {name} beside {column} is {str(row[name])[:40]!r}, expected text or "
                    "choices; --prompt_column takes one column alone"
                )
            self.used.add(name)
            parts.append(text)
        spread = _choice_columns(row) if column in _BESIDE and not _choices_of_one(row) else {}
        self.used.update(spread)
        if spread:
            parts.append("\n".join(f"{label}. {row[name]}" for name, label in spread.items()))
        return parts

    def _before(self, row: Mapping[str, Any], messages: Messages, at: str) -> Messages:
        """The system message and the earlier turns that have columns of their own."""
        before: Messages = []
        name = next((n for n in _SYSTEM if is_filled(row.get(n))), None)
        if name is not None and messages[0]["role"] != "system":
            if not isinstance(row[name], str):
                raise DataError(f"{at}: {name} is {str(row[name])[:40]!r}, expected text")
            before.append({"role": "system", "content": row[name]})
            self.used.add(name)
        if is_filled(row.get(_HISTORY)):
            before += chat_messages(row[_HISTORY], f"{at}: {_HISTORY}")
            self.used.add(_HISTORY)
        return before


def lone_column(columns: Collection[str], named: str | None) -> str | None:
    """The column that is the whole prompt of each row that fills it.

    columns: of all rows. named: by the user.
    Returns: None if that depends on the row, or more columns belong to the prompt.
    """
    found = named or next((c for c in _layout_of(columns).prompt if c in columns), None)
    if named is None:
        others = {*columns} - {found}
        beside = {*_QUESTION, _IN_FRONT, *_SYSTEM, _HISTORY}
        if beside & others or any(map(_CHOICE_COLUMN.fullmatch, others)):
            return None
    return found if found in columns else None


def _layout_of(row: Collection[str]) -> Layout:
    """The data set whose columns a row has, or the one with the common names."""
    return next((layout for layout in LAYOUTS if layout.has <= set(row)), _ANY)


def is_filled(value: Any) -> bool:
    """Whether a cell says anything: not nothing, NaN, or an empty text, list or mapping."""
    return value is not None and value == value and value not in ("", [], {})


def _columns(row: Mapping[str, Any]) -> str:
    return f"the columns are {', '.join(map(str, row))}"


def _choices_of(row: Mapping[str, Any]) -> dict[str, str]:
    """label -> choice, of one column of choices or of a column for each."""
    spread = _choice_columns(row)
    return _choices_of_one(row) or {label: str(row[name]) for name, label in spread.items()}


def _choice_columns(row: Mapping[str, Any]) -> dict[str, str]:
    """column -> label of choices that have a column each; of one kind of name, two or more."""
    kinds: dict[str, dict[str, str]] = {}
    for name in row:
        match = _CHOICE_COLUMN.fullmatch(name)
        if match is not None and is_filled(row[name]):
            label = (match[1] or match[2]).upper()
            kinds.setdefault(name[:-1], {})[name] = label
    return next((dict(sorted(found.items())) for found in kinds.values() if len(found) > 1), {})


def _choices_of_one(row: Mapping[str, Any]) -> dict[str, str]:
    """label -> choice, of a list of texts, {"text": [...], "label": [...]} or {"A": ...}."""
    value = next((row[n] for n in ("choices", "options") if is_filled(row.get(n))), None)
    labels: Any = string.ascii_uppercase
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        labels, value = value.get("label", labels), value["text"]
    elif isinstance(value, Mapping):
        labels, value = list(value), list(value.values())
    if not isinstance(value, list) or not isinstance(labels, list | str):
        return {}
    found = dict(zip(map(str, labels), map(str, value), strict=False))
    return found if len(found) == len(value) else {}  # too few labels, or one that comes twice


def answer_text(value: Any, *, choices: Mapping[str, str] | None = None) -> str:
    """A gold answer as text: a list of one is that one, several are listed with commas.

    Of chat messages it is what the assistant said last. choices: label -> choice; an answer that
    is a number of one of them becomes its label.
    """
    if value is None:
        return ""
    # Data sets number the right choice from 0; only its label stands in the prompt.
    if choices and type(value) is int and 0 <= value < len(choices):
        return list(choices)[value]
    if isinstance(value, Mapping):
        # One message, the answers of a reading test, or something that only a verifier knows.
        known = next((value[n] for n in ("content", "text", "value") if n in value), None)
        return json.dumps(value, default=str) if known is None else answer_text(known)
    if isinstance(value, list | tuple):
        if value and all(isinstance(item, Mapping) for item in value):
            said = chat_messages(value, "answer")
            return next((m["content"] for m in reversed(said) if m["role"] == "assistant"), "")
        return ", ".join(answer_text(item) for item in value)
    return str(value)


def chat_messages(value: Any, where: str) -> Messages:
    """Chat messages in one form: {role, content}, {from, value}, columns of them, or pairs.

    value: a list of mappings, or a mapping of lists as some readers give it, or a list of
        [what the user said, what the model said]. Speakers such as HUMAN and gpt become user and
        assistant, whatever answers a call "tool"; content in parts becomes their text, and a call
        a line of JSON with its name and arguments.
    Raises: DataError if it is none of these.
    """
    wrong = DataError(f"{where} must be a list of {{role, content}} messages")
    if isinstance(value, Mapping):
        columns = {name: items for name, items in value.items() if isinstance(items, list)}
        if len({len(items) for items in columns.values()}) != 1:
            raise wrong
        value = [
            dict(zip(columns, items, strict=True)) for items in zip(*columns.values(), strict=True)
        ]
    messages: Messages = []
    for item in value if isinstance(value, list) else [None]:
        said: list[tuple[Any, Any]] = [(None, None)]
        if isinstance(item, Mapping):
            said = [(item.get("role", item.get("from")), item.get("content", item.get("value")))]
        elif isinstance(item, list | tuple) and len(item) == 2:
            said = list(zip(("user", "assistant"), item, strict=True))
        for role, content in said:
            if isinstance(content, list):
                parts: list[Any] = [p.get("text") if isinstance(p, Mapping) else p for p in content]
                content = "\n".join(parts) if {type(part) for part in parts} == {str} else None
            if isinstance(item, Mapping) and is_filled(item.get("tool_calls")):
                content = _with_calls(content, item["tool_calls"])
            if not isinstance(role, str) or not isinstance(content, str):
                raise wrong
            messages.append({"role": _ROLES.get(role.lower(), role.lower()), "content": content})
    return messages


def _with_calls(content: Any, calls: Any) -> str | None:
    """What a message says and, line by line, what it calls; None if these are no calls."""
    if not (content is None or isinstance(content, str)):
        return None
    lines = [content] if content else []
    for call in calls if isinstance(calls, list | tuple) else [None]:
        asked = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(asked, Mapping) or not isinstance(asked.get("name"), str):
            return None
        arguments = asked.get("arguments")
        if isinstance(arguments, str):  # JSON already, unless the model wrote something else
            with suppress(json.JSONDecodeError):
                arguments = json.loads(arguments)
        said = {"name": asked["name"], "arguments": arguments}
        lines.append(json.dumps(said, ensure_ascii=False))
    return "\n".join(lines)


def tools_as_text(messages: Messages) -> Messages:
    """The messages with what tools answered as text of the user, which every template takes."""
    told: Messages = []
    for is_tool, group in groupby(messages, key=lambda message: message["role"] == "tool"):
        if is_tool:
            content = "\n".join(message["content"] for message in group)
            told.append({"role": "user", "content": content})
        else:
            told += group
    return told
