"""Prompts from files, datasets and functions; errors that name the row."""

import json
from pathlib import Path
from typing import Any

import pytest

from tabom.collect.prompts import (
    PromptSource,
    load_prompts,
    prompts_content,
)
from tabom.core.errors import ConfigError, DataError
from tabom.core.identity import identity


def jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return str(path)


def rows_of(*, seed: int, num: int) -> list[dict[str, Any]]:
    return [{"id": f"{seed}-{i}", "prompt": f"p{i}", "reference": str(i)} for i in range(num)]


def test_gsm8k_columns_are_found(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "g.jsonl", [{"question": "2+2?", "answer": "2+2\n#### 4"}])
    (prompt,) = load_prompts(PromptSource(path=path), seed=0)
    assert (prompt.id, prompt.prompt, prompt.text) == ("row-0", "2+2?", "2+2?")
    assert prompt.reference == prompt.ground_truth == "2+2\n#### 4"
    assert prompt.row == {"answer": "2+2\n#### 4"}


def test_roles_of_data_sets_become_those_of_chat_templates(tmp_path: Path) -> None:
    # inclusionAI/Ling-Coder-SFT has HUMAN and ASSISTANT; a template knows user and assistant.
    turns = [{"role": "HUMAN", "content": "hi"}, {"role": "ASSISTANT", "content": "ho"}]
    path = jsonl(tmp_path / "m.jsonl", [{"messages": turns}])
    (prompt,) = load_prompts(PromptSource(path=str(path)), seed=0)
    assert prompt.prompt == [{"role": "user", "content": "hi"}]
    assert (prompt.text, prompt.ground_truth) == ("hi", "ho")


def test_messages_lose_the_assistant_turn_which_is_the_ground_truth(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
    ]
    path = jsonl(tmp_path / "m.jsonl", [{"messages": turns}])
    (prompt,) = load_prompts(PromptSource(path=path), seed=0)
    assert prompt.prompt == turns[:2]
    assert (prompt.text, prompt.ground_truth, prompt.reference) == ("u", "a", "a")


def test_template_columns_and_ids(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t.jsonl", [{"q": "hi {x}", "gold": 7, "long": "so 7", "key": 3}])
    source = PromptSource(
        path=path,
        prompt_column="q",
        reference_column="gold",
        ground_truth_column="long",
        id_column="key",
        template="Say: {prompt}!",
    )
    (prompt,) = load_prompts(source, seed=0)
    assert prompt.prompt == "Say: hi {x}!"
    assert (prompt.id, prompt.reference, prompt.ground_truth) == ("3", "7", "so 7")


def test_parquet_and_csv_and_dataset_folders_read_alike(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    table = pa.Table.from_pylist([{"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": "2"}])
    folder = tmp_path / "set"
    folder.mkdir()
    pyarrow.parquet.write_table(table, folder / "train.parquet")
    pyarrow.csv.write_csv(table, tmp_path / "x.csv")
    expected = [("a", "1"), ("b", "2")]
    for source in (
        PromptSource(path=str(folder / "train.parquet")),
        PromptSource(path=str(tmp_path / "x.csv")),
        PromptSource(dataset_name=str(folder)),
    ):
        assert [(p.prompt, p.reference) for p in load_prompts(source, seed=0)] == expected


def test_function_source_is_given_the_seed_unless_args_pin_it() -> None:
    name = "tabom.toyworld.tasks:prompts"
    args = {"task": "sort", "split": "train", "num": 3}
    first = load_prompts(PromptSource(function=name, args=args), seed=1)
    other = load_prompts(PromptSource(function=name, args=args), seed=2)
    pinned = load_prompts(PromptSource(function=name, args={**args, "seed": 1}), seed=2)
    assert [p.id for p in first] != [p.id for p in other]
    assert [p.id for p in first] == [p.id for p in pinned]


def test_shuffle_is_a_permutation_keyed_by_the_seed(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "s.jsonl", [{"prompt": f"p{i}"} for i in range(30)])
    whole = PromptSource(path=path, shuffle=True)
    a = [p.prompt for p in load_prompts(whole, seed=1)]
    b = [p.prompt for p in load_prompts(whole, seed=2)]
    assert sorted(a) == sorted(b) == sorted(f"p{i}" for i in range(30))
    assert a != b
    part = PromptSource(path=path, shuffle=True, offset=5, limit=10)
    assert [p.prompt for p in load_prompts(part, seed=1)] == a[5:15]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{bad"], "line 1: not JSON"),
        ([{"prompt": "a"}, "[1]"], "line 2: expected an object of columns"),
        ([{"prompt": "a"}, {"x": 1}], "row 1: no prompt"),
        ([{"prompt": "  "}], "row 0: the prompt is empty"),
        ([{"messages": [{"role": "user"}]}], "row 0: messages must be a list"),
        ([{"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"}], "'a' occurs twice"),
        ([], "0 are there .0 rows"),
        (['{"prompt": "a \\ud800"}'], "line 1: not UTF-8 text .*surrogates not allowed"),
        (['{"prompt": ' + "[" * 9000 + "]" * 9000 + "}"], "line 1: not JSON"),
        ([{"prompt": True}], "row 0: prompt is True, expected the prompt's text"),
        (['{"prompt": NaN}'], "row 0: no prompt"),
    ],
)
def test_malformed_rows_are_named(tmp_path: Path, lines: list[Any], message: str) -> None:
    path = jsonl(tmp_path / "bad.jsonl", lines)
    with pytest.raises(DataError, match=message) as error:
        load_prompts(PromptSource(path=path), seed=0)
    assert "bad.jsonl" in str(error.value)


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    (tmp_path / "bom.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n')
    source = PromptSource(path=str(tmp_path / "bom.jsonl"))
    assert [p.prompt for p in load_prompts(source, seed=0)] == ["a"]


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    for name, data in (("a.jsonl", b'{"prompt": "\xe9"}'), ("a.parquet", b"PAR1"), ("a.csv", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=name):
            load_prompts(PromptSource(path=str(tmp_path / name)), seed=0)


def test_wrong_sources_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exactly one of path, dataset_name and function"):
        PromptSource()
    with pytest.raises(ConfigError, match="got path and function"):
        PromptSource(path="x", function="a:b")
    with pytest.raises(DataError, match=r"no file nowhere\.jsonl"):
        load_prompts(PromptSource(path="nowhere.jsonl"), seed=0)
    text = tmp_path / "x.xyz"
    text.write_text("hi")
    with pytest.raises(ConfigError, match=r"is not one of \.jsonl"):
        load_prompts(PromptSource(path=str(text)), seed=0)
    path = jsonl(tmp_path / "few.jsonl", [{"prompt": "a"}])
    with pytest.raises(DataError, match="5 prompts were asked for, 1 are there"):
        load_prompts(PromptSource(path=path, limit=5), seed=0)
    with pytest.raises(DataError, match="no column 'q'"):
        load_prompts(PromptSource(path=path, prompt_column="q"), seed=0)
    with pytest.raises(ConfigError, match=r"prompts\.args gave"):
        load_prompts(
            PromptSource(function="tabom.toyworld.tasks:prompts", args={"nonsense": 1}), seed=0
        )


def test_identity_follows_the_content(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "i.jsonl", [{"prompt": "a"}])
    first = identity(PromptSource(path=path))
    assert identity(PromptSource(path=path)) == first
    jsonl(tmp_path / "i.jsonl", [{"prompt": "b"}])
    assert identity(PromptSource(path=path)) != first


def test_content_is_what_was_read_and_not_its_name(tmp_path: Path) -> None:
    """A dataset of a name may change; the hash that an evaluation manifest carries then does."""
    row = {"question": "2+2?", "answer": "4"}

    def content(name: str, **changes: Any) -> str:
        path = jsonl(tmp_path / name, [{**row, **changes}, {**row, "question": "3+3?"}])
        return prompts_content(load_prompts(PromptSource(path=path), seed=0))

    assert content("a.jsonl") == content("b.jsonl")
    assert len({content("a.jsonl"), content("c.jsonl", answer="5"), content("d.jsonl", x=1)}) == 3
