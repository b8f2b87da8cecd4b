"""Rows and answers as MBPP has them: their tests find what they need, and right is accepted."""

from typing import Any

import pytest

from tabom.verify.checker import Response
from tabom.verify.code import judge_code
from tabom.verify.row_tests import row_tests

TREE = """class Node:
\tdef __init__(self, data):
\t\tself.data = data
\t\tself.left = None
def depth(root):
\treturn 0 if root is None else 1 + depth(root.left)
"""
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "floats": (
        {"test_list": ["assert avg([1, 2]) == 1.5", "assert avg([.1, .2]) == 0.15000000000000002"]},
        "def avg(x):\n    return sum(x) / len(x)",
    ),
    "imports of the row": (
        {
            "test_list": ["assert math.isclose(area(2), 12.56637, rel_tol=0.001)"],
            "test_imports": ["import math"],
        },
        "def area(r):\n    return 3.14159 * r * r",
    ),
    "sets": (
        {"test_list": ["assert set(same((3, 4, 5), (5, 4, 1))) == set((4, 5))"]},
        "def same(a, b):\n    return tuple(set(a) & set(b))",
    ),
    "regex": (
        {"test_list": ["assert match('aab_c') == ('Found!')", 'assert match("aab_A") == (None)']},
        "import re\ndef match(s):\n return 'Found!' if re.search('^[a-z]+_[a-z]*$', s) else None",
    ),
    "setup of the program's own classes": (
        {
            "test_list": ["assert depth(root) == 2", "assert depth(root.left) == 1"],
            "test_setup_code": "root = Node(1) \r\nroot.left = Node(2)",
        },
        TREE,
    ),
    "a class in the test": (
        {"test_list": ["assert width(Pair(5, 24)) == 19"]},
        "class Pair:\n    def __init__(self, a, b):\n        self.a, self.b = a, b\n"
        "def width(p):\n    return p.b - p.a",
    ),
    "deep recursion": (
        {"test_list": ["assert total(5000) == 12502500"]},
        "import sys\nsys.setrecursionlimit(10**6)\n"
        "def total(n):\n    return 0 if n == 0 else n + total(n - 1)",
    ),
    "prints much": (
        {"test_list": ["assert loud(3) == 3"]},
        "def loud(n):\n    for _ in range(20000):\n        print('x' * 1000)\n    return n",
    ),
    "challenge tests are not of the task": (
        {"test_list": ["assert one() == 1"], "challenge_test_list": ["assert one() == 2"]},
        "def one():\n    return 1",
    ),
    "a cache": (
        {"test_list": ["assert fib(90) == 2880067194370816120"]},
        "from functools import lru_cache\n@lru_cache(maxsize=None)\n"
        "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)",
    ),
    "an odd escape": (
        {"test_list": ["assert parts('a.b') == ['a', 'b']"]},
        "import re\ndef parts(s):\n    return re.split('\\.', s)",
    ),
    "a lambda, and nothing else": (
        {"test_list": ["assert not odd(2)", "assert odd(3)"]},
        "odd = lambda n: n % 2 == 1",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_right_answers_are_accepted(sandbox, name):
    row, code = CASES[name]
    response = f"Here it is:\n```python\n{code}\n```\nIt works."
    found = judge_code(Response(text=response, row=row), sandbox=sandbox)
    assert found.is_accepted, found


def test_helpers_of_an_earlier_block_are_kept(sandbox):
    response = (
        "First:\n```python\ndef half(x):\n    return x / 2\nprint(half(2))\n```\nThen:\n"
        "```python\ndef quarter(x):\n    return half(half(x))\n```"
    )
    row = {"test_list": ["assert quarter(8) == 2"]}
    assert judge_code(Response(text=response, row=row), sandbox=sandbox).is_accepted


@pytest.mark.parametrize(
    ("code", "detail"),
    [
        ("import re\ndef f(s):\n    return re.match('(a+)+$', s)", "no end within 2 s"),
        ("import sys\nsys.setrecursionlimit(10**9)\ndef f(s):\n    return f(s)", "assert f("),
        ("import ctypes\ndef f(s):\n    return ctypes.string_at(0)", "the program ended before"),
        ("import math\ndef f(s):\n    return math.factorial(10**8)", "no end within 2 s"),
    ],
)
def test_an_answer_that_hangs_or_crashes_is_wrong(sandbox, code, detail):
    row = {"test_list": ["assert f('a' * 40 + 'b') is None"]}
    found = judge_code(Response(text=f"```python\n{code}\n```", row=row), sandbox=sandbox)
    assert found.reason == "wrong"
    assert detail in found.detail


def test_imports_may_be_one_text():
    row = {"test_list": ["assert f()"], "test_imports": "import math"}
    assert row_tests(row).setup == "import math"
