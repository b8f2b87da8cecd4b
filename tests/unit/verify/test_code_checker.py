"""Code verdicts: the three kinds of rows, and reasons with details."""

import re

import pytest

from tabom.core.errors import ConfigError
from tabom.trajectory.verdicts import Verdict
from tabom.verify.checker import Checker, Response
from tabom.verify.checkers import build_checker
from tabom.verify.code import judge_code
from tabom.verify.config import VerifierConfig
from tabom.verify.row_tests import row_tests

MBPP = {"test_list": ["assert add(1, 2) == 3", "assert add(2, 2) == 4"]}
PROGRAM = {"tests": [{"input": "1 2\n", "output": "3\n"}, {"input": "5 5", "output": "10"}]}
ADD = "```python\ndef add(a, b):\n    return a + b\n```"
SUM = "```python\nprint(sum(map(int, input().split())))\n```"


@pytest.fixture
def judge(sandbox):
    def call(response, row, has_end=True):
        found = judge_code(Response(text=response, row=row, ended=has_end), sandbox=sandbox)
        return found.reason, found.detail

    return call


def test_mbpp_rows(judge):
    assert judge(ADD, MBPP) == ("accepted", "2 tests")
    assert judge(ADD.replace("a + b", "a * b + 1"), MBPP) == ("wrong", "assert add(2, 2) == 4")
    assert judge("```python\ndef plus(a, b):\n    return a + b\n```", MBPP) == (
        "wrong",
        "the code defines no add",
    )


def test_mbpp_setup_and_imports_run_before_the_asserts(judge):
    row = {
        "test_list": ["assert math.isclose(half(ONE), 0.5)"],
        "test_setup_code": "ONE = 1",
        "test_imports": ["import math"],
    }
    assert judge("```python\ndef half(x): return x / 2\n```", row) == ("accepted", "1 tests")


def test_humaneval_rows(judge):
    row = {
        "prompt": 'def inc(x):\n    """One more."""\n',
        "entry_point": "inc",
        "test": "def check(candidate):\n    assert candidate(1) == 2\n"
        "    assert candidate(5) == 6, 'five'\n",
    }
    assert judge("    return x + 1\n", row)[0] == "accepted"
    assert judge("    return 2\n", row) == ("wrong", "assert inc(5) == 6, 'five'")
    raised = judge("    return y\n", row)
    assert raised == (
        "wrong",
        "assert inc(1) == 2: raised NameError: name 'y' is not defined",
    )


def test_program_rows(judge):
    assert judge(SUM, PROGRAM) == ("accepted", "2 tests")
    assert judge("```python\nprint(3)\n```", PROGRAM) == (
        "wrong",
        "test 2: printed '3', wanted '10'",
    )
    assert judge("```python\ninput()\ninput()\n```", PROGRAM) == (
        "wrong",
        "test 1: raised EOFError: EOF when reading a line",
    )
    assert judge("```python\nimport sys\nsys.exit(3)\n```", PROGRAM) == (
        "wrong",
        "test 1: raised RuntimeError: ended with status 3",
    )
    ends = SUM.replace("\n```", "\nexit()\n```")  # of site, which the interpreter leaves out
    assert "exit()" in ends
    assert judge(ends, PROGRAM) == ("accepted", "2 tests")
    spaced = "```python\nprint(sum(map(int, input().split())), ' ')\nprint()\n\n```"
    assert judge(spaced, PROGRAM)[0] == "accepted"
    main = (
        "```python\ndef main():\n    print(sum(map(int, input().split())))\n\n{}\n    main()\n```"
    )
    main = main.format("if __name__ == '__main__':")
    assert judge(main, PROGRAM)[0] == "accepted"


def test_each_program_test_starts_afresh(judge):
    row = {"tests": [{"input": "", "output": "0"}] * 3}
    code = "```python\nimport os\nprint(len([n for n in os.listdir() if n == 'left']))\nn = 1\n```"
    assert judge(code, row)[0] == "accepted"


def test_tests_as_json_and_lines_as_lists():
    row = {"tests": '[{"input": ["1", "2"], "output": 3}]'}
    assert row_tests(row).tests == ({"input": "1\n2", "output": "3"},)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({}, "the row has no tests"),
        ({"test_list": []}, "the row has no tests"),
        ({"test_list": "assert f(1)"}, "test_list must be a list of assert statements"),
        ({"test": "def check(c): pass"}, "the row has no tests"),
        ({"test": "assert f(1)", "entry_point": "f"}, "test defines no check"),
        ({"tests": "[not json"}, "tests is text that is no JSON"),
        ({"tests": [{"input": "1"}]}, r"tests\[0\] has no input and output"),
        ({"test_list": ["assert f(1"]}, "a test does not compile: SyntaxError"),
    ],
)
def test_rows_without_usable_tests_are_unverifiable(judge, row, text):
    reason, detail = judge("```python\ndef f(x): return x\n```", row)
    assert reason == "unverifiable"
    assert re.match(text, detail), detail


@pytest.mark.parametrize(
    ("response", "has_end", "reason"),
    [
        ("", True, "no_answer"),
        ("I do not know.", True, "no_answer"),
        ("I do not", False, "truncated"),
        ("```python\ndef add(a, b):\n    return a +", False, "truncated"),
        ("```python\ndef add(a, b):\n    return a +", True, "wrong"),
        ("```python\ndef add(a, b):\n    return a", False, "truncated"),  # it may have gone on
        ("```python\ndef add(a, b):\n    return a\n```\nand", False, "wrong"),  # the code is whole
        ("```python\ndef add(a, b):\n    return a + b", False, "accepted"),
    ],
)
def test_truncation(judge, response, has_end, reason):
    assert judge(response, MBPP, has_end)[0] == reason


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ("while True: pass", "no end within 2 s in assert add(1, 2) == 3"),
        ("import os; os._exit(0)", "the program ended before its tests did in assert add(1, 2)"),
        ("return [0] * 10**12", "assert add(1, 2) == 3: raised MemoryError"),
        ("return add(a, b)", "assert add(1, 2) == 3: raised RecursionError"),
        ("import socket; socket.create_connection(('192.0.2.1', 80))", "raised OSError"),
        ("import shutil; shutil.rmtree('/usr')", "raised"),
        ("import numpy", "raised ModuleNotFoundError: No module named 'numpy'"),
    ],
)
def test_hostile_and_broken_functions_are_wrong_with_a_reason(judge, body, detail):
    reason, found = judge(f"```python\ndef add(a, b):\n    {body}\n```", MBPP)
    assert reason == "wrong"
    assert detail in found


def test_humaneval_solutions_pass_and_empty_bodies_fail(rows, sandbox):
    """All 164 with TABOM_DATA: about 6 s each way on two cores."""
    config = VerifierConfig(type="code", num_workers=2)
    checker = build_checker(config)
    assert (checker.name, checker.num_parallel) == ("code", 2)
    data = rows("HumanEval.jsonl")

    def reasons(body):
        given = [Response(text=body(row), row=row) for row in data]
        return [v.reason for v in checker.judge_many(given)]

    assert set(reasons(lambda row: row["canonical_solution"])) == {"accepted"}
    assert set(reasons(lambda row: "    pass\n")) == {"wrong"}
    fenced = "Sure:\n```python\n{}\n```\nThat is it."
    whole = reasons(lambda row: fenced.format(row["prompt"] + row["canonical_solution"]))
    assert set(whole) == {"accepted"}


def test_many_keep_their_order_and_run_side_by_side():
    import threading
    import time

    running, most, lock = 0, 0, threading.Lock()
    read = []

    def slow(response):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.03 if response.text == "0" else 0.005)
        with lock:
            running -= 1
        return Verdict("accepted", response.text)

    def stream():
        for i in range(40):
            read.append(i)
            yield Response(text=str(i), num_holes=int(i == 7))

    checker = Checker(name="slow", judge=slow, num_parallel=4)
    verdicts = checker.judge_many(stream())
    first = next(verdicts)
    assert first == Verdict("accepted", "0", "slow")
    assert len(read) <= 17  # not all are held at a time
    rest = list(verdicts)
    assert [v.detail for v in rest if v.is_accepted] == [str(i) for i in range(1, 40) if i != 7]
    assert rest[6].reason == "truncated"  # a hole is seen here as well
    assert 2 <= most <= 4


def test_an_error_of_the_users_is_passed_on():
    def broken(response):
        raise ConfigError("gone")

    checker = Checker(name="broken", judge=broken, num_parallel=2)
    with pytest.raises(ConfigError, match="gone"):
        list(checker.judge_many([Response(text="x")]))


def test_simple_checkers_stream_one_at_a_time():
    read = []

    def stream():
        for i in range(3):
            read.append(i)
            yield Response(text="x", reference="x")

    verdicts = build_checker(VerifierConfig()).judge_many(stream())
    assert next(verdicts).reason == "accepted"
    assert read == [0]
