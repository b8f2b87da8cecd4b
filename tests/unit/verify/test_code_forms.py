# ruff: noqa: E501  the forms stand as models write them
"""Code as models write it: the forms in which a right program must be found, judged by its tests."""

import time

import pytest

from tabom.verify.checker import Response
from tabom.verify.code import judge_code
from tabom.verify.extract import extract_function, extract_program

ROW = {"test_list": ["assert add(1, 2) == 3", "assert add(2, 2) == 4"], "entry_point": "add"}
ADD = "def add(a, b):\n    return a + b\n"
EXAMPLES = [
    "n = int(input())", "text = open('data.txt').read()", "result = add(-1, 'x')", "raise ValueError",
    "while True:\n    pass", "for line in iter(input, ''):\n    print(line)", "import sys; sys.exit(1)",
    "print(add(10**9, 1))", "x, y = map(int, input().split())", "assert add(1, 1) == 3",
    "result = [add(i, None) for i in range(3)]", "exit()", "print(undefined_name)",
    "with open('x') as f:\n    f.read()", "import not_a_package", "1 / 0", "add", "'a remark'",
]  # fmt: skip
FORMS = {
    "a fence at the end of a line of prose": f"Here is the code: ```python\n{ADD}```\nDone.",
    "the same without a language": f"Here is the code:```\n{ADD}```",
    "a fence in a docstring": '```python\ndef add(a, b):\n    """Adds.\n\n    ```\n    add(1, 2)\n    ```\n'
    '    """\n    return a + b\n```\nDone.',
    "two blocks in a list": "1. Import:\n\n   ```python\n   import math\n   ```\n\n2. Then:\n\n   ```python\n"
    "   def add(a, b):\n       return a + b\n   ```\n",
    "a list with dashes": "- First:\n    ```python\n    import math\n    ```\n- Then:\n    ```python\n"
    "    def add(a, b):\n        return math.floor(a + b)\n    ```\n",
    "an output block behind": f"```python\n{ADD}print(add(1, 2))\n```\nOutput:\n```\n3\n```\n",
    "an output block named text": f"```python\n{ADD}```\n```text\n3\n```",
    "a draft in a thought": "<think>\n```python\ndef add(a, b):\n    return a - b\n```\nNo.</think>\n"
    f"```python\n{ADD}```",
    "a draft before": f"```python\ndef add(a, b):\n    return a - b\n```\nRather:\n```python\n{ADD}```",
    "an end token glued on": "```python\ndef add(a, b):\n    return a + b<|endoftext|>",
    "an end token behind the fence": f"```python\n{ADD}```<|im_end|>",
    "a fence glued on": "```python\ndef add(a, b):\n    return a + b```",
    "prose that begins with from": f"from what I can see, it adds.\n{ADD}",
    "prose that begins with import": f"import statements are needless here.\n\n{ADD}\nThat is it.",
    "constants before an unfenced def": "ZERO = 0\nLIST = [\n    1,\n]\n\ndef add(a, b):\n    return a + b + ZERO\n",
    "constants between prose": "Sure!\n\nZERO = 0\n\ndef add(a, b):\n    return a + b + ZERO\n\nIt works.",
    "a table that is filled": "```python\nTABLE = []\nTABLE.extend([0, 1])\ndef add(a, b):\n"
    "    return a + b + TABLE[0]\n```",
    "a builder that is called": "```python\nT = {}\ndef build():\n    T['z'] = 0\nbuild()\ndef add(a, b):\n"
    "    return a + b + T['z']\n```",
    "a match statement": "```python\nimport sys\nmatch sys.maxsize > 0:\n    case True:\n        ZERO = 0\n"
    "def add(a, b):\n    return a + b + ZERO\n```",
    "a walrus": "```python\n(K := 0)\ndef add(a, b):\n    return a + b + K\n```",
    "a line separator in a string": "```python\nS = 'a\u2028b\x0cc\u0085d'\ndef add(a, b):\n"
    "    return a + b + (len(S) - 7)\n```",
    "a form feed between functions": "```python\ndef zero():\n    return 0\n\x0c\ndef add(a, b):\n"
    "    return a + b + zero()\n```",
    "carriage returns": f"```python\r\n{ADD}```".replace("\n", "\r\n"),
    "statements on one line": "```python\nimport math; Z = 0; print(Z)\ndef add(a, b): return a + b + Z\n```",
    "a decorator and a future": "```python\nfrom __future__ import annotations\nimport functools\n"
    "@functools.cache\ndef add(a: Nothing, b) -> Nothing:\n    return a + b\n```",
    "a class with it": "```python\nclass Box:\n    def __init__(self, v): self.v = v\n"
    "def add(a, b):\n    return Box(a + b).v\n```",
    "python3 as the language": f"```python3\n{ADD}```",
    "tildes": f"~~~python\n{ADD}~~~",
    "bold before": f"**Solution**\n\n```python\n{ADD}```\n\n**Explanation**: it adds.",
    "a shell block first": f"```bash\npip install x\n```\n```python\n{ADD}```",
    "a guarded main": f"```python\n{ADD}\nif __name__ == '__main__':\n    print(add(*map(int, input().split())))\n```",
    "an alias": "```python\ndef plus(a, b):\n    return a + b\nadd = plus\n```",
    "in a try": "```python\ntry:\n    import numpy as np\nexcept ImportError:\n    np = None\n" + ADD + "```",
    "tabs": "```python\ndef add(a, b):\n\treturn a + b\n```",
}  # fmt: skip


@pytest.fixture
def judge(sandbox):
    return lambda response, row=ROW: judge_code(Response(text=response, row=row), sandbox=sandbox)


@pytest.mark.parametrize("name", FORMS)
def test_a_right_program_is_found(judge, name):
    verdict = judge(FORMS[name])
    assert verdict.is_accepted, (verdict, extract_function(FORMS[name], entry_point="add").code)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_behind_the_function_decides_nothing(judge, example):
    for response in (f"```python\n{ADD}\n{example}\n```", f"```python\n{ADD}{example}\nZ = 1\n```"):
        verdict = judge(response)
        assert verdict.is_accepted, (verdict, extract_function(response, entry_point="add").code)
    wrong = judge(f"```python\n{ADD.replace('+', '-')}\n{example}\n```")
    assert wrong.reason == "wrong"


def test_an_example_that_never_ends_is_stopped(judge):
    loop = "def add(a, b):\n    while a < 0:\n        pass\n    return a + b\n\nVALUES = [add(-1, 0)]\n"
    helper = "def values():\n    return VALUES\n"
    assert judge(f"```python\n{loop}{helper}```").is_accepted


@pytest.mark.parametrize(
    "row",
    [
        {"tests": "[]"}, {"tests": []}, {"test_list": [""]}, {"test_list": ["  "]},
        {"test_list": ["# assert add(1)"]}, {"test_list": ["add(1, 2) == 3"]},
        {"test_list": ["assert True"]}, {"test_list": ["assert (add(1, 2) == 4, 'no')"]},
        {"test_list": ["assert add(1, 2) == 4 or True"]}, {"test_list": ["assert 1 == 1"]},
        {"test_list": ["print(add(1, 2))"]}, {"test_list": ["pass"]},
        {"test_list": ["def test():\n    assert add(1, 2) == 4"]},
        {"test_list": ["if False:\n    assert add(1, 2) == 4"]},
        {"test_list": ["for i in []:\n    assert add(1, 2) == 4"]},
        {"test_list": ["assert sub(1, 2) == 4"], "entry_point": "add"},
        {"test": "def check(candidate):\n    pass\n", "entry_point": "add"},
        {"test": "def check(candidate):\n    assert True\n", "entry_point": "add"},
        {"test": "def check(candidate):\n    candidate(1, 2) == 3\n", "entry_point": "add"},
        {"test": "def check(candidate):\n    for x in []:\n        assert candidate(x, 1)\n",
         "entry_point": "add"},
        {"tests": [{"input": "1", "output": ""}]}, {"tests": [{"input": "", "output": " \n"}]},
        {"tests": "null"}, {"tests": {"inputs": [], "outputs": []}}, {"test_list": "assert add"},
        # Rows whose tests cannot be run are no fault of the program's.
        {"test_list": ["import numpy\nassert add(1, 2) == numpy.int64(3)"]},
        {"test_list": ["assert add(1, 2) == 3"], "test_imports": ["import numpy"]},
        {"test_list": ["assert add(1, 2) == 3"], "test_setup_code": "x = 1 / 0"},
        {"test_list": ["assert add(1, 2) == 3"], "test_setup_code": "x ="},
        {"test_list": ["assert close(add(1, 2), 3)"], "entry_point": "add"},
        {"test_list": ["assert add(1, LIMIT) == helper(3)"], "entry_point": "add"},
        {"test": "import numpy\ndef check(candidate):\n    assert candidate(1, 2) == 3\n",
         "entry_point": "add"},
        {"test": "def check(candidate):\n    x = helper()\n    assert candidate(1, 2) == x\n",
         "entry_point": "add"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("program", [ADD, "def add(a, b):\n    return None\n"])
def test_a_row_that_cannot_be_judged_is_unverifiable(judge, row, program):
    assert judge(f"```python\n{program}```", row).reason == "unverifiable"


@pytest.mark.parametrize(
    ("test", "right", "wrong"),
    [
        ("assert f(1) == 2", "return 2", "return 2.5"),
        ("assert f(1) == 2.5", "return 2.5", "return 2"),
        ("assert 2 == f(1)", "return 2", "return 3"),
        ("assert f(1) is None", "return None", "return 0"),
        ("assert f(1) is True", "return True", "return 1"),
        ("assert not f(1)", "return []", "return [0]"),
        ("assert f(1)", "return 'x'", "return ''"),
        ("assert f(1) != 3", "return 2", "return 3"),
        ("assert f(1) <= 3, 'message'", "return 3", "return 4"),
        ("assert f(1) in (1, 2)", "return 2", "return 3"),
        ("assert 3 in f(1)", "return [3]", "return [4]"),
        ("assert abs(f(1) - 0.5) < 1e-6", "return 0.5", "return 0.51"),
        ("assert math.isclose(f(1), 0.5, rel_tol=0.01)", "return 0.501", "return 0.51"),
        ("assert set(f(1)) == set([1, 2])", "return [2, 1, 1]", "return [1]"),
        ("assert f(1) == {'a': [1, (2, 3)], 'b': {4}}", "return {'b': {4}, 'a': [1, (2, 3)]}",
         "return {'b': {4}, 'a': [1, [2, 3]]}"),
        ("assert f(1) == (1, 2)", "return (1, 2)", "return [1, 2]"),
        ("assert f(1) == [1, 2]", "return [True, 2.0]", "return iter([1, 2])"),
        ("assert f(1) == 'ü\\u2028'", "return 'ü\\u2028'", "return 'u'"),
        ("assert f(1) == b'ab'", "return b'ab'", "return 'ab'"),
        ("assert f(1) == 10**20", "return 10**20", "return 10**20 + 1"),
        ("assert f(1) == {1: 2}", "import collections; return collections.Counter({1: 2})",
         "return {1: 3}"),
        ("assert f(1) == 0.5", "import fractions; return fractions.Fraction(1, 2)", "return 'x'"),
        ("assert list(f(1)) == [1]", "yield 1", "yield 2"),
        ("x = f(1)\nassert x == 2\nassert x != 3", "return 2", "return 3"),
        ("for i in range(3):\n    assert f(i) == i", "return x", "return 1"),
        ("assert f(f(1)) == f(2)", "return 2 * x", "return x + 3"),
        ("assert f(1) == 1 + 2j", "return 1 + 2j", "return 1"),
        ("assert all(f(i) for i in range(3))", "return True", "return x"),
    ],
)  # fmt: skip
def test_asserts_of_every_kind_tell_right_from_wrong(judge, test, right, wrong):
    row = {"test_list": [test], "test_imports": ["import math"], "entry_point": "f"}
    verdict = judge(f"```python\ndef f(x):\n    {right}\n```", row)
    assert verdict.is_accepted, verdict
    assert judge(f"```python\ndef f(x):\n    {wrong}\n```", row).reason == "wrong"


def test_a_program_is_the_last_block_of_python():
    program = "print(int(input()) + 1)\n"
    for behind in ("```\n3\n```", "```text\n3\n```", "Output:\n\n```output\n3\n```"):
        assert extract_program(f"```python\n{program}```\n{behind}").code == program
    thought = f"<think>```python\nprint(0)\n```</think>\n```python\n{program}```"
    assert extract_program(thought).code == program


@pytest.mark.parametrize(
    "bomb",
    [
        "f" + "()" * 400, "f" + "()" * 20000, "[" * 3000, "f(" * 3000, "x = " + "-" * 3000 + "1",
        "\n".join("(" + "a " * 2000 for _ in range(200)), "\n".join("x = [" for _ in range(200)),
        "```python\n" * 2000, "```" * 3000, "<think>" * 3000, "def add(a, b):\n" * 2000,
        "`" * 20000, "1. " * 3000, "> " * 3000, "a" * 500_000, "\x00", "\ud83d", "if 1:\n" * 90,
        "from " * 5000, "x =\n" * 3000, "<|" * 5000, "def add(a, b): return '''" * 500,
    ],
)  # fmt: skip
def test_a_bomb_is_a_verdict_in_a_few_seconds(judge, bomb):
    started = time.monotonic()
    for response in (bomb, f"```python\n{bomb}\n```", f"{ADD}\n{bomb}"):
        assert judge(response).reason in ("accepted", "wrong", "no_answer")
    assert time.monotonic() - started < 20


def test_half_a_character_in_an_error_is_a_verdict(judge):
    raises = "def add(a, b):\n    raise ValueError('\\ud83d')\n"
    verdict = judge(f"```python\n{raises}```")
    assert verdict.reason == "wrong"
    assert "ValueError" in verdict.detail


@pytest.mark.parametrize("name", ["candidate", "c", "fn"])
def test_a_check_may_call_its_candidate_as_it_likes(judge, name):
    test = f"def check({name}):\n    assert {name}(1, 2) == 3\n    assert True, 'said'\n"
    row = {"prompt": "", "test": f"METADATA = {{}}\n\n\n{test}", "entry_point": "add"}
    assert judge(f"```python\n{ADD}```", row).is_accepted
    assert judge(f"```python\n{ADD.replace('+', '-')}```", row).reason == "wrong"
