"""The five tasks: extraction, metrics, documents."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabom.core.errors import ConfigError, DataError
from tabom.evaluation.tasks import (
    NAMES,
    answers,
    code,
    data,
    folder,
    instructions,
    judged,
    mathematics,
)


def marks(verdicts: list[list[dict[str, Any]]]) -> list[list[int]]:
    return [[v["correct"] for v in samples] for samples in verdicts]


# -- GSM8K ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "flexible", "strict"),
    [
        ("so 3+4=7. The answer is 1,234.", 1, 1),
        ("The answer is $1234", 1, 0),
        ("1234 is more than 5", 0, 0),
        ("The answer is 1234. Then 7", 0, 1),
        ("It costs $1,234.", 1, 0),
        ("no number", 0, 0),
        ("", 0, 0),
    ],
)
def test_numbers(response: str, flexible: int, strict: int) -> None:
    docs = [{"answer": "work\n#### 1,234"}]
    assert marks(answers.flexible([[response]], docs)) == [[flexible]]
    assert marks(answers.strict([[response]], docs)) == [[strict]]


@pytest.mark.parametrize("gold", ["#### ", "", "x\n#### none"])
def test_a_gold_answer_that_is_no_number_is_unverifiable(gold: str) -> None:
    for judge in (answers.flexible, answers.strict):
        found = judge([["The answer is .", "so ..", "5"]], [{"answer": gold}])
        assert {v["reason"] for v in found[0]} == {"unverifiable"}
        assert marks(found) == [[0, 0, 0]]


TEXT = st.text(alphabet="The answer is.,$-0123456789# \nabX", max_size=60)


@settings(deadline=None)
@given(response=TEXT, gold=st.integers(-5000, 5000))
def test_numbers_as_lm_eval_takes_them(response: str, gold: int) -> None:
    from lm_eval.api.metrics import exact_match_fn
    from lm_eval.filters.extraction import RegexFilter

    ignore = [",", "\\$", "(?s).*#### ", "\\.$"]
    for ours, pattern, select in (
        (answers.strict, r"The answer is (\-?[0-9\.\,]+).", 0),
        (answers.flexible, r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1),
    ):
        taken = RegexFilter(regex_pattern=pattern, group_select=select).apply([[response]], [{}])
        theirs = exact_match_fn(
            predictions=[taken[0][0]],
            references=[f"{gold:,}"],
            regexes_to_ignore=ignore,
            ignore_case=True,
        )["exact_match"]
        assert marks(ours([[response]], [{"answer": f"x #### {gold:,}"}])) == [[int(theirs)]]


# -- MATH -----------------------------------------------------------------------------------------


def test_formulas() -> None:
    responses = [r"so \boxed{\frac{1}{2}}", "I get $0.5$", "it may be 7", "nothing"]
    docs = [{"answer": r"\frac{1}{2}"}]
    assert marks(answers.math_whole([responses], docs)) == [[1, 1, 0, 0]]
    assert marks(answers.math_stated([responses], docs)) == [[1, 0, 0, 0]]
    judged = answers.math_whole([responses], docs)[0]
    assert [v["reason"] for v in judged] == ["accepted", "accepted", "wrong", "no_answer"]
    assert [v["answer"] for v in judged[2:]] == ["7", ""]
    assert answers.math_whole([["1"]], [{"answer": ""}])[0][0]["reason"] == "unverifiable"


def test_a_formula_without_end_does_not_hold_an_evaluation_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mathematics, "_WHOLE_S", 1.5)
    responses = [r"\boxed{9^{9^{9^9}}}", r"\boxed{3}"]
    assert marks(answers.math_whole([responses], [{"answer": "3"}])) == [[0, 1]]
    # Not in this process, whose memory and clock an evaluation needs.
    monkeypatch.setattr("math_verify.parse", None)
    assert marks(answers.math_whole([responses[1:]], [{"answer": "3"}])) == [[1]]


# -- code -----------------------------------------------------------------------------------------

HUMANEVAL = {
    "prompt": 'import math\n\n\ndef root(x):\n    """The root of x."""\n',
    "test": "def check(candidate):\n    assert candidate(4) == 2\n    assert candidate(9) == 3\n",
    "entry_point": "root",
}
MBPP = {"text": "?", "test_list": ["assert twice(2) == 4", "assert twice(0) == 0"]}


def test_humaneval_goes_on_from_the_prompt_or_starts_anew() -> None:
    responses = [
        "    return math.sqrt(x)\n```\nThis is right.",
        "    return x\n",
        "```python\ndef root(x):\n    return x ** 0.5\n```",
        "    return math.sqrt(x)\n\nprint('done')",
        "    raise SystemExit(0)\n",
        "",
    ]
    found = code.humaneval([responses], [HUMANEVAL])
    assert marks(found) == [[1, 0, 1, 1, 0, 0]]
    assert found[0][1]["reason"] == "wrong"
    assert "candidate(4) == 2" in found[0][1]["detail"]


def test_mbpp_runs_its_asserts() -> None:
    responses = [
        "def twice(n):\n    return 2 * n\n",
        "def twice(n):\n    return n + 2\n",
        "```python\ndef twice(n):\n    return n + n\n```\ntwice",
        "import os\nos._exit(0)",
        "",
    ]
    found = code.mbpp([responses], [MBPP])
    assert marks(found) == [[1, 0, 1, 0, 0]]
    assert [v["reason"] for v in found[0]][-1] == "no_answer"
    needs = {**MBPP, "test_setup_code": "two = 2"}
    assert marks(code.mbpp([["def twice(n): return two * n"]], [needs])) == [[1]]


def test_mbpp_imports_and_setup_run_behind_the_program() -> None:
    row = {
        "text": "?",
        "test_list": ["assert math.isclose(size(box), 0.5)"],
        "test_setup_code": "box = Box(0.5)",
        "test_imports": ["import math"],
    }
    program = "class Box:\n    def __init__(self, a): self.a = a\ndef size(box): return box.a\n"
    assert marks(code.mbpp([[program, program.replace("box.a", "1")]], [row])) == [[1, 0]]
    found = code.mbpp([[program]], [{"text": "?", "test_list": []}])
    assert (found[0][0]["reason"], found[0][0]["detail"]) == (
        "unverifiable",
        "the row has no tests",
    )


def test_judging_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[Any] = []

    class Bar:
        def __init__(self, **settings: Any) -> None:
            self.settings, self.n = settings, 0
            bars.append(self)

        def __enter__(self) -> None: ...

        def __exit__(self, *_: Any) -> None: ...

        def update(self) -> None:
            self.n += 1

    monkeypatch.setattr(judged, "tqdm", Bar)
    answers.math_stated([["1", "2"], ["3"]], [{"answer": "1"}, {"answer": "3"}])
    token = judged.QUIET.set(True)
    code.mbpp([["def twice(n): return 2 * n"]], [MBPP])
    judged.QUIET.reset(token)
    assert [(b.settings["desc"], b.settings["total"], b.n) for b in bars] == [
        ("judge formulas", 3, 3),
        ("judge programs", 1, 1),
    ]
    assert [b.settings["disable"] for b in bars] == [None, True]


def test_nothing_of_code_eval_is_fetched() -> None:
    assert not [m for m in sys.modules if m.startswith("lm_eval.tasks.humaneval")]
    for path in folder().glob("*.yaml"):
        assert "code_eval" not in path.read_text()


# -- IFEval ---------------------------------------------------------------------------------------


def test_instructions_are_lm_evals() -> None:
    doc = {
        "key": 1,
        "prompt": "p",
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        # As `datasets` gives them: every key in every row, most of them None.
        "kwargs": [
            {"num_words": None, "relation": None},
            {"num_words": 3, "relation": "at least"},
        ],
    }
    responses = ["one two three", "one, two three", "one two", "", "a,\nb c d"]
    found = instructions.judge([responses], [doc])
    assert marks(found) == [[1, 0, 0, 0, 1]]  # loosely: without its first line
    assert [v["strict"] for v in found[0]] == [1, 0, 0, 0, 0]
    assert found[0][2]["detail"] == "length_constraints:number_words"
    assert found[0][1]["each_loose"] == [0, 1]
    metrics = judged.ifeval(doc, found)
    assert metrics["prompt_level_loose_acc"] == 0.4
    assert judged.flat_mean([[1, 0], [1]]) == pytest.approx(2 / 3)


def test_missing_tables_are_named_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    instructions.require(["punctuation:no_comma"])
    monkeypatch.setattr(instructions, "_has_tables", lambda: False)
    instructions.require(["punctuation:no_comma"])
    with pytest.raises(ConfigError, match=r"number_sentences.*punkt_tab"):
        instructions.require(["length_constraints:number_sentences"])
    with pytest.raises(DataError, match="'length:none'"):
        instructions.require(["length:none"])


# -- documents ------------------------------------------------------------------------------------


def test_local_documents(documents: Path) -> None:
    found = data.load(documents="mbpp", data_dir=str(documents), version=1.0)["test"]
    assert found[1]["test_list"] == ["assert last([1]) == 1", "assert last([1, 2]) == 2"]
    for name in NAMES:
        before = data.data_identity(name, str(documents))
        assert before["file"] == f"{name.removesuffix('_tabom')}.jsonl"
    assert data.data_identity("gsm8k_tabom", None)["hub"] == "openai/gsm8k"
    assert data.data_identity("arc", None) == {"task": "arc"}


def test_documents_are_the_same_wherever_they_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's rows have more columns, in another order: the hash of what is asked is equal."""
    import datasets

    row = {"answer": "#### 1", "question": "How many?", "more": 1}
    (tmp_path / "gsm8k.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list([row])
    )
    hub = data.load(documents="gsm8k")["test"]
    local = data.load(documents="gsm8k", data_dir=str(tmp_path))["test"]
    assert json.dumps(hub[0]) == json.dumps(local[0])


def test_the_sanitized_edition_of_mbpp(tmp_path: Path) -> None:
    row = {"prompt": "Twice.", "test_list": ["assert f(1) == 2"], "test_imports": ["import math"]}
    (tmp_path / "mbpp.jsonl").write_text(json.dumps(row) + "\n")
    (found,) = data.load(documents="mbpp", data_dir=str(tmp_path))["test"]
    assert (found["text"], found["test_imports"]) == ("Twice.", ["import math"])


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ('{"question": "a"}', "line 2: column 'answer' must be text"),
        ('{"question": "", "answer": "1"}', "line 2: column 'question' must be text and not empty"),
        ('{"question": "a", "answer": 7}', "line 2: column 'answer'"),
        ("[1]", "line 2: a row must be a JSON object"),
        ("{", "line 2: not JSON"),
        ('{"question": "a", "answer": "\\ud800"}', "line 2: not UTF-8 text"),
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, line: str, text: str) -> None:
    good = json.dumps({"question": "a", "answer": "#### 1", "more": 1})
    (tmp_path / "gsm8k.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(DataError, match=text):
        data.load(documents="gsm8k", data_dir=str(tmp_path))


def test_a_file_of_bytes_is_named(tmp_path: Path) -> None:
    (tmp_path / "gsm8k.jsonl").write_bytes(b'\xff\xfe{"question"')
    with pytest.raises(DataError, match=r"gsm8k\.jsonl, line 1: not UTF-8 text"):
        data.load(documents="gsm8k", data_dir=str(tmp_path))


def test_no_documents(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no file .*gsm8k\.jsonl; it should hold .* question, answer"
    ):
        data.load(documents="gsm8k", data_dir=str(tmp_path))
    (tmp_path / "gsm8k.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no row"):
        data.load(documents="gsm8k", data_dir=str(tmp_path))
    with pytest.raises(DataError, match=r"openai/gsm8k.*--data_dir"):
        data.load(documents="gsm8k")


def test_task_files_are_ours_and_whole() -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    assert sorted(p.stem for p in folder().glob("*.yaml")) == sorted(NAMES)
    for name in NAMES:
        config = load_yaml(folder() / f"{name}.yaml")
        assert config["task"] == name
        metric, _, filter_name = config["metadata"]["primary"].rpartition(",")
        assert metric in [m["metric"] for m in config["metric_list"]]
        assert filter_name in [f["name"] for f in config["filter_list"]]
    prompt = load_yaml(folder() / "gsm8k_tabom.yaml")["doc_to_text"]
    assert prompt == "Q: {{question}}\nA:"
