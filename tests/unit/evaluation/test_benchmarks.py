"""The five benchmarks: prompts, extraction, judges, documents."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabom.core.errors import ConfigError, DataError
from tabom.evaluation.benchmark import Benchmark
from tabom.evaluation.benchmarks import get_benchmark, gsm8k, ifeval, math500, names
from tabom.evaluation.harness import benchmarks as bridge
from tabom.evaluation.harness import folder
from tabom.trajectory.verdicts import Verdict
from tabom.verify.checker import Response


def verdicts(name: str, texts: list[str], row: dict[str, Any], number: int = 0) -> list[Verdict]:
    """What judge `number` of a benchmark says of some responses to one document."""
    benchmark = get_benchmark(name)
    judge = list(benchmark.judges([row]).values())[number]
    reference = benchmark.reference(row)
    return list(judge.judge_many(Response(text=t, reference=reference, row=row) for t in texts))


def marks(found: list[Verdict]) -> list[int]:
    return [int(verdict.is_accepted) for verdict in found]


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
    row = {"question": "?", "answer": "work\n#### 1,234"}
    assert marks(verdicts("gsm8k", [response], row)) == [flexible]
    assert marks(verdicts("gsm8k", [response], row, 1)) == [strict]


@pytest.mark.parametrize("gold", ["#### ", "", "x\n#### none"])
def test_a_gold_answer_that_is_no_number_is_unverifiable(gold: str) -> None:
    for number in (0, 1):
        found = verdicts("gsm8k", ["The answer is .", "so ..", "5"], {"answer": gold}, number)
        assert {verdict.reason for verdict in found} == {"unverifiable"}


TEXT = st.text(alphabet="The answer is.,$-0123456789# \nabX", max_size=60)


@settings(deadline=None)
@given(response=TEXT, gold=st.integers(-5000, 5000))
def test_numbers_as_lm_eval_takes_them(response: str, gold: int) -> None:
    from lm_eval.api.metrics import exact_match_fn
    from lm_eval.filters.extraction import RegexFilter

    ignore = [",", "\\$", "(?s).*#### ", "\\.$"]
    for ours, pattern, select in (
        (gsm8k.judge_stated, r"The answer is (\-?[0-9\.\,]+).", 0),
        (gsm8k.judge_last, r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1),
    ):
        taken = RegexFilter(regex_pattern=pattern, group_select=select).apply([[response]], [{}])
        theirs = exact_match_fn(
            predictions=[taken[0][0]],
            references=[f"{gold:,}"],
            regexes_to_ignore=ignore,
            ignore_case=True,
        )["exact_match"]
        found = ours(Response(text=response, reference=f"{gold:,}"))
        assert found.is_accepted == bool(theirs)


# -- MATH -----------------------------------------------------------------------------------------


def test_formulas() -> None:
    responses = [r"so \boxed{\frac{1}{2}}", "I get $0.5$", "it may be 7", "nothing"]
    row = {"problem": "?", "answer": r"\frac{1}{2}"}
    found = verdicts("math500", responses, row)
    assert marks(found) == [1, 1, 0, 0]
    assert marks(verdicts("math500", responses, row, 1)) == [1, 0, 0, 0]
    assert [v.reason for v in found] == ["accepted", "accepted", "wrong", "no_answer"]
    assert [v.detail for v in found[2:]] == ["7", ""]
    (unverifiable,) = verdicts("math500", ["1"], {"problem": "?", "answer": ""})
    assert unverifiable.reason == "unverifiable"


def test_a_formula_without_end_does_not_hold_an_evaluation_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(math500, "WHOLE_S", 1.5)
    responses, row = [r"\boxed{9^{9^{9^9}}}", r"\boxed{3}"], {"problem": "?", "answer": "3"}
    assert marks(verdicts("math500", responses, row)) == [0, 1]
    # Not in this process, whose memory and clock an evaluation needs.
    monkeypatch.setattr("math_verify.parse", None)
    assert marks(verdicts("math500", responses[1:], row)) == [1]


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
    found = verdicts("humaneval", responses, HUMANEVAL)
    assert marks(found) == [1, 0, 1, 1, 0, 0]
    assert found[1].reason == "wrong"
    assert "root(4) == 2" in found[1].detail


def test_mbpp_runs_its_asserts() -> None:
    responses = [
        "def twice(n):\n    return 2 * n\n",
        "def twice(n):\n    return n + 2\n",
        "```python\ndef twice(n):\n    return n + n\n```\ntwice",
        "import os\nos._exit(0)",
        "",
    ]
    found = verdicts("mbpp", responses, MBPP)
    assert marks(found) == [1, 0, 1, 0, 0]
    assert found[-1].reason == "no_answer"
    needs = {**MBPP, "test_setup_code": "two = 2"}
    assert marks(verdicts("mbpp", ["def twice(n): return two * n"], needs)) == [1]


def test_mbpp_imports_and_setup_run_behind_the_program() -> None:
    row = {
        "text": "?",
        "test_list": ["assert math.isclose(size(box), 0.5)"],
        "test_setup_code": "box = Box(0.5)",
        "test_imports": ["import math"],
    }
    program = "class Box:\n    def __init__(self, a): self.a = a\ndef size(box): return box.a\n"
    assert marks(verdicts("mbpp", [program, program.replace("box.a", "1")], row)) == [1, 0]
    (found,) = verdicts("mbpp", [program], {"text": "?", "test_list": []})
    assert found.reason == "unverifiable"
    assert found.detail.startswith("the row has no tests")


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
    found = verdicts("ifeval", responses, doc)
    assert marks(found) == [1, 0, 0, 0, 1]  # loosely: without its first line
    assert marks(verdicts("ifeval", responses, doc, 1)) == [1, 0, 0, 0, 0]
    assert found[2].detail == "length_constraints:number_words"
    assert ifeval.instructions_followed(doc, responses[1], kind="loose") == [False, True]
    numbers = get_benchmark("ifeval").numbers(doc, responses[1])
    assert numbers == {"instructions": 2, "instructions_loose": 1, "instructions_strict": 1}
    # Over all instructions, not over documents.
    assert bridge.ratio([(1, 2), (1, 1)]) == pytest.approx(2 / 3)


def test_missing_tables_are_named_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    ifeval.require(["punctuation:no_comma"])
    monkeypatch.setattr(ifeval, "_has_tables", lambda: False)
    ifeval.require(["punctuation:no_comma"])
    with pytest.raises(ConfigError, match=r"number_sentences.*punkt_tab"):
        ifeval.require(["length_constraints:number_sentences"])
    with pytest.raises(DataError, match="'length:none'"):
        ifeval.require(["length:none"])


# -- documents ------------------------------------------------------------------------------------


def test_local_documents(documents: Path) -> None:
    found = get_benchmark("mbpp").documents(str(documents))
    assert found[1]["test_list"] == ["assert last([1]) == 1", "assert last([1, 2]) == 2"]
    for name in names():
        assert get_benchmark(name).identity(str(documents))["file"] == f"{name}.jsonl"
    assert get_benchmark("gsm8k").identity(None)["hub"] == "openai/gsm8k"


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
    hub, local = (get_benchmark("gsm8k").documents(where) for where in (None, str(tmp_path)))
    assert json.dumps(hub) == json.dumps(local)


def test_the_sanitized_edition_of_mbpp(tmp_path: Path) -> None:
    row = {"prompt": "Twice.", "test_list": ["assert f(1) == 2"], "test_imports": ["import math"]}
    (tmp_path / "mbpp.jsonl").write_text(json.dumps(row) + "\n")
    (found,) = get_benchmark("mbpp").documents(str(tmp_path))
    assert (found["text"], found["test_imports"]) == ("Twice.", ["import math"])


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ('{"question": "a"}', "line 2: column 'answer' must be text"),
        ('{"question": "", "answer": "1"}', "line 2: column 'question' must be text and not empty"),
        ('{"question": "a", "answer": 7}', "line 2: column 'answer'"),
        ("[1]", "line 2: expected an object"),
        ("{", "line 2: not JSON"),
        ('{"question": "a", "answer": "\\ud800"}', "line 2: not UTF-8 text"),
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, line: str, text: str) -> None:
    good = json.dumps({"question": "a", "answer": "#### 1", "more": 1})
    (tmp_path / "gsm8k.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(DataError, match=text):
        get_benchmark("gsm8k").documents(str(tmp_path))


def test_a_file_of_bytes_is_named(tmp_path: Path) -> None:
    (tmp_path / "gsm8k.jsonl").write_bytes(b'\xff\xfe{"question"')
    with pytest.raises(DataError, match=r"gsm8k\.jsonl, line 1: not UTF-8 text"):
        get_benchmark("gsm8k").documents(str(tmp_path))


def test_no_documents(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no file .*gsm8k\.jsonl; it should hold .* question, answer"
    ):
        get_benchmark("gsm8k").documents(str(tmp_path))
    (tmp_path / "gsm8k.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no row"):
        get_benchmark("gsm8k").documents(str(tmp_path))
    with pytest.raises(DataError, match=r"openai/gsm8k.*--data_dir"):
        get_benchmark("gsm8k").documents()


def test_task_files_say_what_their_benchmarks_say() -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    paths = {path.stem: path for path in folder().glob("*_tabom.yaml") if path.stem[0] != "_"}
    assert sorted(paths) == sorted(f"{name}_tabom" for name in names())
    for name in names():
        benchmark, config = get_benchmark(name), load_yaml(paths[f"{name}_tabom"])
        generation = config["generation_kwargs"]
        assert tuple(generation["until"]) == benchmark.until
        assert generation["max_gen_toks"] == benchmark.max_new_tokens
        # Named as the judges are: a metric, and the filter that takes the answer.
        filters, metrics = (
            [each[key] for each in config[part]]
            for part, key in (("filter_list", "name"), ("metric_list", "metric"))
        )
        for judge in benchmark.judges([]) if name != "math500" else ():
            metric, _, filter_name = judge.partition(",")
            assert metric in metrics
            assert filter_name in filters


def test_prompts_as_published() -> None:
    prompt = get_benchmark("gsm8k").prompt({"question": "How many?"})
    assert prompt == "Q: How many?\nA:"
    assert get_benchmark("math500").prompt({"problem": "x"}) == "Problem:\nx\n\nSolution:"
    mbpp = get_benchmark("mbpp").prompt({"text": "Do it.", "test_list": ["a", "b", "c", "d"]})
    assert mbpp == (
        "You are an expert Python programmer, and here is your task:\nDo it.\nYour code should "
        "pass these tests:\na\nb\nc"
    )
    asked = get_benchmark("humaneval")
    assert asked.prompt(HUMANEVAL).endswith("passes the tests:\n```" + HUMANEVAL["prompt"])
    assert asked.opening(HUMANEVAL).endswith("```python\n" + HUMANEVAL["prompt"] + "\n")


# -- one of one's own -----------------------------------------------------------------------------


def test_a_benchmark_is_found_by_name_or_by_path(monkeypatch: pytest.MonkeyPatch) -> None:
    assert names() == ["gsm8k", "humaneval", "ifeval", "math500", "mbpp"]
    assert get_benchmark("tabom.evaluation.benchmarks.gsm8k:BENCHMARK") is get_benchmark("gsm8k")
    with pytest.raises(ConfigError, match=r"'gsm8'; did you mean 'gsm8k'"):
        get_benchmark("gsm8")
    with pytest.raises(ConfigError, match="no_such_module"):
        get_benchmark("no_such_module:X")
    with pytest.raises(ConfigError, match="expected a Benchmark"):
        get_benchmark("tabom.evaluation.benchmarks.gsm8k:STRICT")


def test_what_a_file_must_say() -> None:
    class Own(Benchmark):
        name, hub = "own", "me/own"
        columns = {"question": str}  # noqa: RUF012
        max_new_tokens = 8

    own = Own()
    assert own.opening({}) == own.reference({}) == ""
    assert own.question({"question": "Why?"}) == "Why?"
    with pytest.raises(NotImplementedError):
        own.prompt({})
