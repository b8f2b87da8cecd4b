"""The data sets of the paper and their like, read by their columns."""

import json
from pathlib import Path
from typing import Any

import pytest

from tabom.collect.prompts import Prompt, PromptSource, load_prompts
from tabom.core.errors import DataError

DATA = Path(__file__).parents[2] / "data"


def read(tmp_path: Path, row: dict[str, Any], **options: Any) -> Prompt:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (prompt,) = load_prompts(PromptSource(path=str(path), **options), seed=0)
    return prompt


def test_mixchain_z_prm12k(tmp_path: Path) -> None:
    """Its `answer` is the whole solution; the result, which a verifier compares, is `target`."""
    row = {
        "question": "What is 1 + 1?",
        "answer": "Adding gives $\\boxed{2}$.",
        "target": "2",
        "solution_0": "Adding gives $\\boxed{2}$.",
        "solution_1": "2",
        "correct_1": True,
    }
    prompt = read(tmp_path, row)
    assert (prompt.prompt, prompt.reference) == ("What is 1 + 1?", "2")
    assert prompt.ground_truth == "Adding gives $\\boxed{2}$."


@pytest.mark.parametrize(("extra", "reference"), [({"answer": "2"}, "2"), ({}, "So $\\boxed{2}$")])
def test_math(tmp_path: Path, extra: dict[str, str], reference: str) -> None:
    row = {"problem": "1 + 1?", "solution": "So $\\boxed{2}$", "level": "Level 1", **extra}
    prompt = read(tmp_path, row)
    assert (prompt.prompt, prompt.reference) == ("1 + 1?", reference)
    assert prompt.ground_truth == "So $\\boxed{2}$"


@pytest.mark.parametrize("column", ["text", "prompt"])
def test_mbpp(tmp_path: Path, column: str) -> None:
    row = {
        "task_id": 2,
        column: "Write add.",
        "code": "def add(a, b): return a + b",
        "test_list": ["assert add(1, 2) == 3"],
        "test_setup_code": "",
    }
    prompt = read(tmp_path, row, id_column="task_id")
    assert (prompt.id, prompt.prompt, prompt.reference) == ("2", "Write add.", "")
    assert prompt.ground_truth == "def add(a, b): return a + b"
    assert prompt.row["test_list"] == ["assert add(1, 2) == 3"]


def test_humaneval_keeps_its_prompt_where_a_template_changes_it() -> None:
    source = PromptSource(path=str(DATA / "HumanEval.jsonl"), limit=1)
    (bare,) = load_prompts(source, seed=0)
    assert bare.prompt.startswith("from typing import List")
    assert bare.ground_truth.startswith("    for idx, elem")
    assert "prompt" not in bare.row
    source = PromptSource(path=source.path, limit=1, template="Complete:\n{prompt}")
    (asked,) = load_prompts(source, seed=0)
    assert asked.prompt == "Complete:\n" + bare.prompt
    assert asked.row["prompt"] == bare.prompt
    assert {"test", "entry_point"} <= set(asked.row)


def test_gsm8k() -> None:
    (prompt,) = load_prompts(PromptSource(path=str(DATA / "gsm8k_train.jsonl"), limit=1), seed=0)
    assert prompt.reference == prompt.ground_truth
    assert prompt.reference.endswith("#### 72")


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]},
        {"messages": [{"role": "HUMAN", "content": "u"}, {"role": "ASSISTANT", "content": "a"}]},
        {"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]},
        {"messages": {"role": ["user", "assistant"], "content": ["u", "a"]}},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "u"}]},
                {"role": "assistant", "content": ["a"], "tool_calls": None},
            ]
        },
    ],
)
def test_chats_of_every_kind(tmp_path: Path, row: dict[str, Any]) -> None:
    """Ling-Coder-SFT names its speakers HUMAN and ASSISTANT."""
    prompt = read(tmp_path, {"mid": "1", "tags": ["x"], **row})
    assert prompt.prompt == [{"role": "user", "content": "u"}]
    assert (prompt.text, prompt.ground_truth) == ("u", "a")


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": [{"type": "image"}]}],
        ["hello"],
        {"role": ["user"], "content": []},
        {"role": "user"},
        [{"role": "assistant", "content": "a"}],
    ],
)
def test_chats_that_are_none_name_the_row(tmp_path: Path, messages: Any) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl, row 0: messages.*role, content"):
        read(tmp_path, {"messages": messages})


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (["7"], "7"),
        (["1", "2"], "1, 2"),
        (7, "7"),
        (0, "0"),
        (None, ""),
        ([], ""),
    ],
)
def test_answers_as_lists_and_numbers(tmp_path: Path, answer: Any, reference: str) -> None:
    assert read(tmp_path, {"question": "q", "final_answer": answer}).reference == reference


def test_options_come_before_what_is_known(tmp_path: Path) -> None:
    row = {"problem": "p", "solution": "s", "answer": "a", "hint": "h", "other": "o"}
    prompt = read(
        tmp_path, row, prompt_column="hint", reference_column="other", ground_truth_column="answer"
    )
    assert (prompt.prompt, prompt.reference, prompt.ground_truth) == ("h", "o", "a")
