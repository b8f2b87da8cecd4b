"""What belongs to a prompt is in it, whatever columns it is spread over; what is left is named."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from tabom.collect.prompts import Prompt, PromptSource, load_prompts, require_ground_truth
from tabom.core.errors import ConfigError, DataError

CHAT = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "good day"},
    {"role": "user", "content": "how are you"},
    {"role": "assistant", "content": "fine"},
]


def read(tmp_path: Path, row: dict[str, Any], **options: Any) -> Prompt:
    (prompt,) = read_all(tmp_path, row, **options)
    return prompt


def read_all(tmp_path: Path, *rows: dict[str, Any], **options: Any) -> list[Prompt]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return load_prompts(PromptSource(path=str(path), **options), seed=0)


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"instruction": "Sort.", "input": "3 1 2", "output": "1 2 3"}, "Sort.\n\n3 1 2"),
        ({"instruction": "Square.", "input": 7, "output": 49}, "Square.\n\n7"),
        ({"instruction": "Say hi.", "input": "", "output": "hi"}, "Say hi."),
        ({"instruction": "Who?", "context": "Ada wrote it.", "response": "Ada"},
         "Who?\n\nAda wrote it."),
        ({"question": "When?", "context": "In 1843.", "answer": "1843"}, "When?\n\nIn 1843."),
        ({"question": "Largest?", "choices": ["ant", "whale"], "answer": 1},
         "Largest?\n\nA. ant\nB. whale"),
        ({"question": "Best?", "options": {"A": "x", "B": "y"}, "answer": "B"},
         "Best?\n\nA. x\nB. y"),
        ({"question": "Why?", "answerKey": "2",
          "choices": {"text": ["no", "yes"], "label": ["1", "2"]}}, "Why?\n\n1. no\n2. yes"),
        ({"question": "True?", "passage": "It rains.", "answer": True}, "True?\n\nIt rains."),
        ({"problem": "Solve it.", "context": "x is 3.", "answer": 3}, "Solve it.\n\nx is 3."),
        ({"question": "Whose?", "article": "Ada's.", "options": ["a", "b"], "answer": "A"},
         "Whose?\n\nAda's.\n\nA. a\nB. b"),
        ({"instruction": "Be exact.", "question": "How many?", "answer": "3"},
         "Be exact.\n\nHow many?"),
        ({"question": "Which?", "A": "x", "B": "y", "C": "z", "answer": "C"},
         "Which?\n\nA. x\nB. y\nC. z"),
        ({"question": "Which?", "option_b": "y", "option_a": "x", "answer": "b"},
         "Which?\n\nA. x\nB. y"),
        ({"question": "Which?", "opa": "x", "opb": "y", "cop": 1}, "Which?\n\nA. x\nB. y"),
        ({"question": "Which?", "choice1": "x", "choice2": "y", "answer": "1"},
         "Which?\n\n1. x\n2. y"),
        # One letter is no choice, and small ones are variables.
        ({"question": "a + b?", "a": 3, "b": 4, "A": "x", "answer": 7}, "a + b?"),
        # A `prompt` is a whole one.
        ({"prompt": "p", "context": "c", "answer": "a"}, "p"),
    ],
)  # fmt: skip
def test_known_layouts_are_composed(tmp_path: Path, row: dict[str, Any], prompt: str) -> None:
    found = read(tmp_path, row)
    assert (found.prompt, found.question) == (prompt, prompt)
    assert set(row) - set(found.row) <= {"instruction", "question", "prompt"}


@pytest.mark.parametrize(
    ("row", "reference"),
    [
        ({"question": "q", "choices": ["ant", "whale"], "answer": 1}, "B"),
        ({"question": "q", "choices": ["ant", "whale"], "answer": "A"}, "A"),
        ({"question": "q", "choices": {"text": ["n", "y"], "label": ["1", "2"]}, "answerKey": "2"},
         "2"),
        ({"question": "q", "answer": 1}, "1"),
        ({"question": "q", "A": "x", "B": "y", "answer": 1}, "B"),
        ({"prompt": "q", "response": {"role": "assistant", "content": "r"}}, "r"),
        ({"prompt": "q", "answer": {"x": 3}}, '{"x": 3}'),
        ({"prompt": "q", "completion": "c"}, "c"),
        ({"prompt": "q", "response": "r"}, "r"),
        ({"prompt": "q", "chosen": "good", "rejected": "bad"}, "good"),
        ({"prompt": "q", "chosen": CHAT, "rejected": CHAT[:2]}, "fine"),
        ({"messages": CHAT}, "fine"),
        ({"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]}, "a"),
    ],
)  # fmt: skip
def test_known_answers(tmp_path: Path, row: dict[str, Any], reference: str) -> None:
    found = read(tmp_path, row)
    assert (found.reference, found.ground_truth) == (reference, reference)


def test_the_reference_and_the_full_answer_may_be_two_columns(tmp_path: Path) -> None:
    found = read(tmp_path, {"question": "q", "answer": "4", "response": "2 + 2 = 4"})
    assert (found.reference, found.ground_truth) == ("4", "2 + 2 = 4")


def test_a_system_message_and_earlier_turns_have_columns_of_their_own(tmp_path: Path) -> None:
    row = {
        "system": "Be short.",
        "instruction": "And then?",
        "input": "x",
        "output": "o",
        "history": [["one", "two"], ["three", "four"]],
    }
    found = read(tmp_path, row)
    said = ["Be short.", "one", "two", "three", "four", "And then?\n\nx"]
    assert [m["content"] for m in found.prompt] == said
    assert [m["role"] for m in found.prompt] == [
        "system", "user", "assistant", "user", "assistant", "user"
    ]  # fmt: skip
    assert (found.text, found.question) == ("And then?\n\nx", "And then?\n\nx")
    row = {"system_prompt": "Be kind.", "messages": CHAT, "history": CHAT[:2]}
    found = read(tmp_path, row)
    assert [m["content"] for m in found.prompt] == ["Be kind.", "hello", "good day"] + [
        m["content"] for m in CHAT[:3]
    ]
    own = [{"role": "system", "content": "mine"}, *CHAT]
    assert read(tmp_path, {"system": "other", "messages": own}).prompt == own[:-1]


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "i", "input": ["x"]},
        {"question": "q", "context": {"title": ["t"]}},
        {"question": "q", "choices": 4},
        {"question": "q", "choices": {"text": ["a"], "label": 3}},
        {"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "A"]}},
        {"question": "q", "choices": [str(i) for i in range(27)]},
        {"instruction": "i", "system": ["s"]},
        {"instruction": "i", "history": "earlier"},
        {"instruction": "i", "history": [["one"]]},
        {"instruction": "i", "history": [["one", 2]]},
    ],
)
def test_parts_of_other_types_are_not_left_out_in_silence(
    tmp_path: Path, row: dict[str, Any]
) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl, row 0"):
        read(tmp_path, row)


def test_a_named_prompt_column_is_the_whole_prompt(tmp_path: Path) -> None:
    row = {"instruction": "i", "input": "x", "system": "s", "output": "o"}
    assert read(tmp_path, row, prompt_column="instruction").prompt == "i"


def test_columns_that_are_in_no_prompt_and_no_answer_are_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {"id": 1, "instruction": "i", "input": "x", "output": "o", "level": 3},
        {"id": 2, "instruction": "i", "output": "o", "hint": "h", "context": "", "notes": None},
    ]
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            read_all(tmp_path, *rows)
    (record,) = caplog.records
    assert record.getMessage().endswith("the columns level, hint")
    assert read_all(tmp_path, *rows)[0].row["level"] == 3  # a verifier may read it


def test_a_template_goes_around_the_last_user_message(tmp_path: Path) -> None:
    template = "{prompt}\nThink step by step."
    found = read(tmp_path, {"messages": CHAT}, template=template)
    assert [m["content"] for m in found.prompt] == [
        "hello", "good day", "how are you\nThink step by step."
    ]  # fmt: skip
    assert (found.text, found.question) == ("how are you\nThink step by step.", "how are you")
    row = {"instruction": "Add {x}.", "input": "1 2", "output": "3"}
    found = read(tmp_path, row, template="Q: {prompt}")
    assert (found.prompt, found.question) == ("Q: Add {x}.\n\n1 2", "Add {x}.\n\n1 2")
    assert found.row["instruction"] == "Add {x}."
    for wrong in ("Think step by step.", "", "{ prompt }", "{Prompt}"):
        with pytest.raises(ConfigError, match=r"template .*\{prompt\}"):
            PromptSource(path="x.jsonl", template=wrong)


def test_every_turn_is_a_prompt_if_asked_for(tmp_path: Path) -> None:
    row = {"id": "a", "system": "s", "messages": CHAT}
    first, last = read_all(tmp_path, row, turns="all")
    assert (first.id, last.id) == ("a-turn-0", "a-turn-1")
    assert [m["content"] for m in first.prompt] == ["s", "hello"]
    assert [m["content"] for m in last.prompt] == ["s", "hello", "good day", "how are you"]
    assert [p.ground_truth for p in (first, last)] == ["good day", "fine"]
    first, last = read_all(tmp_path, {**row, "answer": "5"}, turns="all")
    assert [p.reference for p in (first, last)] == ["good day", "5"]  # of the conversation's end
    (only,) = read_all(tmp_path, {"prompt": "p", "answer": "x"}, turns="all")
    assert (only.id, only.prompt, only.ground_truth) == ("row-0", "p", "x")
    # The last turn may be answered in a column: no answer goes to another turn's question.
    pairs = {"query": "now", "response": "r", "history": [["one", "two"]]}
    for row in (pairs, {"messages": CHAT[:3], "answer": "r"}):
        found = read_all(tmp_path, row, turns="all")
        assert [p.question for p in found] == (
            ["one", "now"] if row is pairs else ["hello", "how are you"]
        )
        assert [p.ground_truth for p in found] == ["two" if row is pairs else "good day", "r"]
    (opened,) = read_all(tmp_path, {"messages": [CHAT[1], CHAT[2]]}, turns="all")
    assert (opened.question, opened.ground_truth) == ("how are you", "")


def test_what_tools_say_is_text(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
    chat = [
        {"role": "user", "content": "1 + 2, and 3 + 4?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "name": "add", "content": "3"},
        {"role": "tool", "name": "add", "content": [{"type": "text", "text": "7"}]},
        {"role": "assistant", "content": "3 and 7", "tool_calls": None},
    ]
    asked = '{"name": "add", "arguments": {"a": 1, "b": 2}}'
    found = read(tmp_path, {"messages": chat}, template="{prompt} Think.")
    assert [(m["role"], m["content"]) for m in found.prompt] == [
        ("user", "1 + 2, and 3 + 4? Think."), ("assistant", asked), ("user", "3\n7")
    ]  # fmt: skip
    assert (found.question, found.ground_truth) == ("1 + 2, and 3 + 4?", "3 and 7")
    first, last = read_all(tmp_path, {"messages": chat}, turns="all")
    assert (first.ground_truth, last.ground_truth) == (asked, "3 and 7")
    spoken = {**chat[1], "content": "Let me see.", "tool_calls": [call["function"], call]}
    first, _ = read_all(tmp_path, {"messages": [chat[0], spoken, *chat[2:]]}, turns="all")
    assert first.ground_truth == f"Let me see.\n{asked}\n{asked}"
    said = [("human", "q"), ("function_call", "f()"), ("observation", "o"), ("gpt", "a")]
    found = read(tmp_path, {"conversations": [{"from": who, "value": v} for who, v in said]})
    assert [m["role"] for m in found.prompt] == ["user", "assistant", "user"]
    for wrong in ("f(1)", [{"function": {"arguments": "{}"}}], [3]):
        row = {"messages": [chat[0], {**chat[1], "tool_calls": wrong}, chat[4]]}
        with pytest.raises(DataError, match="messages"):
            read_all(tmp_path, row)
    broken = {**call, "function": {"name": "add", "arguments": "{a: 1"}}
    first, _ = read_all(
        tmp_path,
        {"messages": [chat[0], {**chat[1], "tool_calls": [broken]}, *chat[2:]]},
        turns="all",
    )
    assert first.ground_truth == '{"name": "add", "arguments": "{a: 1"}'


def test_csv_and_packed_files(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "x.csv").write_text("id,prompt,answer\n007,18,None\n008,NA,1.50\n009,q,\n")
    found = load_prompts(PromptSource(path=str(tmp_path / "x.csv")), seed=0)
    assert [(p.id, p.prompt, p.reference) for p in found] == [
        ("007", "18", "None"), ("008", "NA", "1.50"), ("009", "q", "")
    ]  # fmt: skip
    packed = tmp_path / "x.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"prompt": "p", "answer": "a"}\n'))
    assert load_prompts(PromptSource(path=str(packed)), seed=0)[0].prompt == "p"
    plain = tmp_path / "x.json"
    plain.write_text('[{"prompt": "a"}, {"prompt": "b"}]')
    assert [p.prompt for p in load_prompts(PromptSource(path=str(plain)), seed=0)] == ["a", "b"]


@pytest.mark.parametrize("option", ["path", "dataset_name"])
def test_folders_of_save_to_disk(tmp_path: Path, option: str) -> None:
    import datasets

    train = datasets.Dataset.from_list([{"prompt": "t", "answer": "1"}])
    test = datasets.Dataset.from_list([{"prompt": "u", "answer": "2"}])
    train.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=train, test=test).save_to_disk(tmp_path / "both")

    def prompts(name: str, **options: Any) -> list[str]:
        source = PromptSource(**{option: str(tmp_path / name)}, **options)
        return [str(p.prompt) for p in load_prompts(source, seed=0)]

    assert prompts("one") == ["t"]
    assert prompts("both") == ["t"]
    assert prompts("both", dataset_split="test") == ["u"]
    with pytest.raises(DataError, match=r"both.*'dev'"):
        prompts("both", dataset_split="dev")
    # A split that is not there is not some other one.
    for name, split in (("one", "test"), ("one", "train[:1]"), ("both", "test[:1]")):
        with pytest.raises(DataError, match=rf"{name}.*its splits are train.*offset"):
            prompts(name, dataset_split=split)


def test_a_missing_answer_names_the_flag_and_the_columns(tmp_path: Path) -> None:
    prompts = read_all(tmp_path, {"prompt": "p", "gold": "g", "level": 1})
    source = PromptSource(path=str(tmp_path / "rows.jsonl"))
    with pytest.raises(DataError, match=r"rows\.jsonl.*--ground_truth_column.*gold, level"):
        require_ground_truth(prompts, source)
    with pytest.raises(DataError, match=r"'golden'.*--reference_column.*prompt, gold"):
        read(tmp_path, {"prompt": "p", "gold": "g"}, reference_column="golden")
    with pytest.raises(DataError, match=r"row 0: no prompt.*--prompt_column.*ask, gold"):
        read(tmp_path, {"ask": "p", "gold": "g"})
