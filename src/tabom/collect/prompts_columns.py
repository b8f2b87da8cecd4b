"""Which columns of a row hold the prompt, the gold answer and the full human answer.

A row of a data set that is known by its columns is read as that set; any other by the names that
are common. Options of the prompt source come before both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tabom.core.errors import DataError

PROMPT_COLUMNS = (
    "prompt",
    "messages",
    "question",
    "instruction",
    "problem",
    "query",
    "conversations",
    "input",
)
REFERENCE_COLUMNS = ("reference", "final_answer", "answer", "solution", "target", "output")
GROUND_TRUTH_COLUMNS = ("ground_truth",)

# Names of the two speakers outside the chat format.
_ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A data set known by its columns.

    name: for people. has: columns that tell it. prompt, reference, ground_truth: candidates, the
    first that is there and filled is taken; no reference where a verifier reads the row's tests.
    """

    name: str
    has: frozenset[str]
    prompt: tuple[str, ...]
    reference: tuple[str, ...]
    ground_truth: tuple[str, ...]


SHAPES = (
    # MixChain-Z-PRM12K: `answer` is the whole solution, `target` its result.
    Shape(
        name="MixChain-Z",
        has=frozenset({"question", "answer", "target", "solution_0"}),
        prompt=("question",),
        reference=("target",),
        ground_truth=("answer", "solution_0"),
    ),
    # MATH and MATH-500; without `answer` the result is the box in `solution`.
    Shape(
        name="MATH",
        has=frozenset({"problem", "solution"}),
        prompt=("problem",),
        reference=("answer", "final_answer", "solution"),
        ground_truth=("solution",),
    ),
    # MBPP; `prompt` in its sanitized edition.
    Shape(
        name="MBPP",
        has=frozenset({"code", "test_list"}),
        prompt=("text", "prompt"),
        reference=(),
        ground_truth=("code",),
    ),
    Shape(
        name="HumanEval",
        has=frozenset({"prompt", "canonical_solution", "entry_point", "test"}),
        prompt=("prompt",),
        reference=(),
        ground_truth=("canonical_solution",),
    ),
)
_ANY = Shape(
    name="any",
    has=frozenset(),
    prompt=PROMPT_COLUMNS,
    reference=REFERENCE_COLUMNS,
    ground_truth=GROUND_TRUTH_COLUMNS,
)


def shape_of(row: Mapping[str, Any]) -> Shape:
    """The data set whose columns a row has, or the one with the common names."""
    return next((shape for shape in SHAPES if shape.has <= set(row)), _ANY)


def find_column(
    row: Mapping[str, Any], name: str | None, candidates: tuple[str, ...], option: str, where: str
) -> str | None:
    """The column that `option` names, else the first candidate that is filled, else None.

    Raises: DataError naming the option if the column it names is not there.
    """
    if name is not None:
        if name not in row:
            raise DataError(
                f"{where}: no column {name!r} ({option}); the columns are {', '.join(row)}"
            )
        return name
    return next((c for c in candidates if row.get(c) not in (None, "", [])), None)


def answer_text(value: Any) -> str:
    """A gold answer as text: a list of one is that one, several are listed with commas."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(answer_text(item) for item in value)
    return str(value)


def chat_messages(value: Any, where: str) -> list[dict[str, str]]:
    """Chat messages in one form: {role, content}, {from, value}, or columns of them.

    value: a list of mappings, or a mapping of lists as some readers give it. Speakers such as
    HUMAN and gpt become user and assistant; content in parts becomes their text.
    Raises: DataError if it is none of these.
    """
    if isinstance(value, Mapping):
        columns = {name: list(items) for name, items in value.items() if isinstance(items, list)}
        if len({len(items) for items in columns.values()}) != 1:
            raise DataError(f"{where}: expected a list of {{role, content}} messages")
        value = [
            dict(zip(columns, items, strict=True)) for items in zip(*columns.values(), strict=True)
        ]
    messages = []
    for item in value:
        role = item.get("role", item.get("from")) if isinstance(item, Mapping) else None
        content = item.get("content", item.get("value")) if isinstance(item, Mapping) else None
        if isinstance(content, list):
            parts = [p.get("text") if isinstance(p, Mapping) else p for p in content]
            texts = [p for p in parts if isinstance(p, str)]
            content = "\n".join(texts) if len(texts) == len(parts) else None
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(f"{where} must be a list of {{role, content}} messages")
        role = role.lower()
        messages.append({"role": _ROLES.get(role, role), "content": content})
    return messages
