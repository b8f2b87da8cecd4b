"""The program in a response."""

import pytest

from tabom.verify.checker import Response
from tabom.verify.code import judge_python
from tabom.verify.extract import called_function, extract_function, extract_program

PROMPT = '''from typing import List

def helper(x):
    return x + 1

def f(xs: List[int]) -> int:
    """Add one to the sum.
    >>> f([1])
    2
    """
'''


def works(code: str, call: str = "f([1, 2])", wanted: object = 4) -> bool:
    scope: dict[str, object] = {}
    exec(code, scope)
    return eval(call, scope) == wanted


COMPLETE = "def f(xs):\n    return helper(sum(xs))\n"


@pytest.mark.parametrize(
    "response",
    [
        "    return helper(sum(xs))\n",
        "\n    total = sum(xs)\n    return helper(total)\n",
        "return helper(sum(xs))",  # the first indent is lost
        "total = 0\n    for x in xs:\n        total += x\n    return helper(total)",
        "for x in xs:\n        pass\n    return helper(sum(xs))",
        "total = 0\nfor x in xs:\n    total += x\nreturn helper(total)",  # all of it
        "    return helper(sum(xs))\n\nprint(f([1]))\nassert False\n",
        "    return helper(sum(xs))\n\nif __name__ == '__main__':\n    input()\n",
        "    return helper(sum(xs))\n\nThis adds one to the sum.\n",
        "    return helper(sum(xs))\n```\nThis adds one.",
        COMPLETE,
        "from typing import List\n" + COMPLETE,
        "Sure! Here it is:\n\n" + COMPLETE + "\nIt uses the helper.",
        f"Here:\n```python\n{COMPLETE}```\nDone.",
        f"```py\n{COMPLETE}```",
        f"```\n{COMPLETE}```",
        f"```Python\n{PROMPT}    return helper(sum(xs))\n\nprint(1/0)\n```",
        "```python\n    return helper(sum(xs))\n```",
        f"Run `pip`:\n```bash\npip install x\n```\n```python\n{COMPLETE}```",
        f"```python\nprint(f([1]))\n```\nand\n```python\n{COMPLETE}```",  # the one that defines it
        f"```python\n{COMPLETE}",  # not closed
        "  ```python\n  def f(xs):\n      return helper(sum(xs))\n  ```",
        "```python\nf = lambda xs: helper(sum(xs))\n```",
    ],
)
def test_every_way_to_answer_gives_the_function(response):
    found = extract_function(response, entry_point="f", prompt=PROMPT)
    assert works(found.code), found.code


def test_the_response_replaces_the_prompts_helper_only_if_it_defines_it():
    mine = "def helper(x):\n    return x + 2\n\n" + COMPLETE
    assert works(extract_function(mine, entry_point="f", prompt=PROMPT).code, wanted=5)


def test_a_prompt_in_words_is_not_code():
    found = extract_function(COMPLETE, entry_point="f", prompt="Write f. It must add one.")
    assert found.code == COMPLETE


def test_decorators_stay_and_calls_go():
    code = "import functools\n@functools.cache\ndef f(x):\n    return x\nf(1)\nprint(f(2))\nN = 3\n"
    assert extract_function(code, entry_point="f").code == (
        "import functools\n@functools.cache\ndef f(x):\n    return x\nN = 3\n"
    )


@pytest.mark.parametrize("response", ["I cannot do that.", "x +", "", "def f(:\n"])
def test_no_code(response):
    assert extract_function(response, entry_point="f").code == ""


def test_a_block_that_does_not_compile_is_kept_for_the_verdict():
    found = extract_function("```python\ndef f(:\n```", entry_point="f")
    assert found.code == "def f(:\n"


@pytest.mark.parametrize(
    ("response", "is_open"),
    [
        ("```python\nx = 1\n```", False),
        ("```python\nx = 1\n", True),
        ("```python\nx = 1\n```\nmore text", False),
        ("x = 1", True),
    ],
)
def test_open_code_reaches_the_end(response, is_open):
    assert extract_function(response, entry_point=None).is_open is is_open


def test_a_program_is_the_last_block_whole():
    response = "```python\nx = 1\n```\nBetter:\n```python\nprint(int(input()) + 1)\n```"
    assert extract_program(response).code == "print(int(input()) + 1)\n"
    assert extract_program("print(1)").code == "print(1)"
    assert extract_program("Words only, sadly.").code == ""


@pytest.mark.parametrize(
    ("tests", "name"),
    [
        (["assert f(1) == 2", "assert f(2) == 3"], "f"),
        (["assert set(f((3, 4))) == set((4,))"], "f"),
        (["assert math.isclose(f(1), 2)"], "f"),
        (["assert f(g(1)) == 2"], None),  # either
        (["assert f(1) == 2", "assert g(1) == 2"], None),
        (["assert len('x') == 1"], None),
        (["assert ("], None),
    ],
)
def test_the_function_that_asserts_call(tests, name):
    assert called_function(tests) == name


@pytest.mark.parametrize("bomb", ["(" * 5000, "-" * 50000 + "1", "x" + ".a" * 50000, "[" * 90])
def test_text_that_breaks_parsers_is_no_code(bomb):
    extract_function(bomb, entry_point="f", prompt=PROMPT)
    assert extract_function(f"```python\n{bomb}\n```", entry_point="f").code == f"{bomb}\n"


def test_odd_escapes_warn_nobody(recwarn):
    extract_function("def f(x):\n    return '\\d'\n", entry_point="f")
    assert not recwarn.list


PYTHON = "```python\ndef f(x):\n    return x\n```\n"


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (f"Sure.\n{PYTHON}Done.", "accepted"),
        (f"{PYTHON}It prints:\n```\n3 apples left\n```\n", "accepted"),  # an example of output
        (f"```cpp\nint f() {{ return 1; }}\n```\nIn Python:\n{PYTHON}", "accepted"),
        ("Add it:\n```py\n    x = f(1)\n    return_value = x\n```\n", "accepted"),  # an excerpt
        ("```\nimport os\nprint(os.name)\n```\n", "accepted"),
        ("```python\nprint(1)\n```\n", "accepted"),
        ("def f(x):\n    return x\n", "accepted"),
        ("Here it is.\ndef f(x):\n    return x\n\nThis gives x.", "accepted"),
        (f"{PYTHON}```python\nf(1\n```\n", "wrong"),
        ("```python\ndef f(x:\n    return x\n```\n", "wrong"),
        ("```python\nreturn 1\n```\n", "wrong"),
        ("```python\n# to do\n```\n", "wrong"),
        ("```cpp\nint f() { return 1; }\n```\n", "no_answer"),
        ("```\nint f() { return 1; }\n```\n", "no_answer"),
        ("Yes", "no_answer"),
        ("from what is said, no", "no_answer"),
        (" ", "no_answer"),
    ],
)
def test_python_that_compiles(response, reason):
    assert judge_python(Response(text=response)).reason == reason
    assert judge_python(Response(text=response, ended=False)).reason == (
        "truncated" if response.strip() else "no_answer"
    )
