# ruff: noqa: E501  a table has a form a line
"""False accepts and false rejects of the verifiers, by the form in which an answer is given.

    python benchmarks/near_misses.py --gsm8k gsm8k_train.jsonl --humaneval HumanEval.jsonl \
        --output near_misses.json

Every kind of near miss counts the same, and there are as many right answers as near misses. A
case is drawn by its kind's own keyed stream: the same cases come in every run. A near miss is
written in words, units and numbers of its own, and a right answer in the forms that models use.
"""

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"
SAID = [
    r"So it is \boxed{%s}.",
    "The answer is %s.",
    "We add them.\n#### %s",
    "Therefore, the answer is %s.",
    "**Answer:** %s",
    r"Thus the total is $\boxed{%s}$.",
]


@dataclass(frozen=True)
class Case:
    """One response to be judged. checker: number, math or code."""

    form: str
    is_right: bool
    checker: str
    response: str
    reference: str = ""
    row: dict[str, Any] | None = None


# Templates: {n} the right number, {m} another, {u} a unit. "reference | what is said instead".
WRONG_NUMBERS = {
    "scale words": "{n} | {n} million; {n} thousand; {n} dozen; {n} hundred; {n} score; {n} lakh; {n} gross; {n} billion; {n} crore",
    "scales glued on": "{n} | {n}k; {n}M; {n}bn; {n}K; {n}m; {n}B",
    "comparisons": "{n} | more than {n}; at least {n}; fewer than {n}; up to {n}; over {n}; no more than {n}; upwards of {n}; below {n}; a minimum of {n}; > {n}; <= {n}",
    "denials": "{n} | not {n}; never {n}; anything but {n}; certainly not {n}; not equal to {n}; hardly {n}; anything except {n}",
    "alternatives": "{n} | {n} or {m}; {m} or {n}; either {n} or {m}; {n} and {m}; {n}/{m}; {n}, {m}",
    "ranges": "{n} | {n} to {m}; between {n} and {m}; {n}-{m}; from {n} to {m}; {n} through {m}; {n}...{m}",
    "guesses": "{n} | about {n}; roughly {n}; approximately {n}; nearly {n}; {n} or so; around {n}; maybe {n}; perhaps {n}; ~{n}; {n}-ish; close to {n}",
    "signs in words": "{n} | negative {n}; minus {n}; -{n}; the opposite of {n}; −{n}",
    "parts": "{n} | half of {n}; {n}% of {m}; {n} out of {m}; a third of {n}; {n} percent of {m}; one {n}th; {n} hundredths; {n} tenths",
    "mixed numbers": "{n} | {n} 1/2; {n} and a half; {n} 3/4; {n}½; {n} and one third",
    "times of day": "{n} | {n}:30; {n}:15 p.m.; {n} o'clock; {n}:05; {n}h30",
    "sums": "{n} | {n} + {m}; {n} - {m}; {n} plus {m}; {n} minus {m}; {n} + x",
    "products": "{n} | {n} * {m}; {n} times {m}; twice {n}; double {n}; {n}x; {n} × {m}; triple {n}",
    "powers": "{n} | {n}^2; {n} squared; {n}!; {n} cubed; {n}²; 2^{n}; the square of {n}; {n} factorial",
    "roots": "{n} | sqrt({n}); the square root of {n}; √{n}; the cube root of {n}",
    "remainders": "{n} | {n} mod {m}; {n} remainder {m}; {n} r {m}; {n} modulo {m}",
    "one digit more": "{n} | {n}0; 1{n}; {n}.5; {n}1; {n}.01",
    "a neighbour": "{n} | {m}; {m}.0; {m} apples; {m} in total",
    "other bases": "{n} | {n} in base 7; {n} base 8; {n} (base 9); {n} in hexadecimal; 0x{n}",
    "words that are no units": "{n} | {n} whatsits more; {n} of the remainder; {n} less a few; {n} each for two; {n} ones and {m} tens",
    "thousands cut": "{n},234 | {n}; {n}, 234; {n} 23; {n},23; {n}.234",
    "zero, taken back": "0 | not 0; undefined at 0; anything except 0; never 0; all reals except 0; nonzero, not 0",
    "currencies": "\\${n} | €{n}; £{n}; {n} euros; {n} yen; {n} pesos; {n} rupees",
    "cents and dollars": "\\${n} | {n} cents; {n}¢; {n} cent",
    "lengths": "{n} cm | {n} m; {n} inches; {n} km; {n} mm; {n} feet; {n} miles",
    "powers of units": "{n} cm | {n} cm^2; {n} square cm; {n} cubic cm; {n} cm²; {n} cm^3",
    "speeds": "{n} km/h | {n} m/s; {n} mph; {n} km/s; {n} miles per hour; {n} m/h",
    "angles": "{n} degrees | {n} radians; {n} rad",
    "masses": "{n} kg | {n} g; {n} pounds; {n} tons; {n} ounces; {n} lb; {n} mg",
    "durations": "{n} hours | {n} minutes; {n} days; {n} seconds; {n} weeks; {n} years",
}
WRONG_FORMULAS = {
    "small decimals": r".0000{n}73 | .0000{n}72; .0000{n}74; .000{n}73",
    "tiny fractions": r"\frac{{1}}{{{n}000001}} | \frac{{1}}{{{n}000002}}; \frac{{1}}{{{n}000011}}",
    "factorials": r"\frac{{1}}{{2{n}!}} | \frac{{1}}{{2{m}!}}; \frac{{2}}{{2{n}!}}",
    "powers of two": r"2^{{-1{n}}} | 2^{{-1{m}}}; 2^{{1{n}}}; 3^{{-1{n}}}",
    "large numbers": r"{n}00000001 | {n}00000002; {n}00000000; {n}0000001",
    "order of a point": r"({n},{m}) | ({m},{n}); ({n},{m},0); (-{n},{m})",
    "brackets": r"({n},1{m}) | [{n},1{m}]; \{{{n},1{m}\}}; [{n},1{m}); ({n},1{m}]; {n},1{m}",
    "infinite ends": r"(-\infty,{n}) | [-\infty,{n}); (-\infty,{n}]; ({n},\infty); (\infty,{n})",
    "sets": r"\{{{n},{m},100\}} | \{{{n},{m}\}}; \{{{n},{m},101\}}; ({n},{m},100); \{{{n},{m},100,7000\}}",
    "polynomials": r"x^2+{n}x-{m} | x^2-{n}x-{m}; x^2+{n}x+{m}; x^3+{n}x-{m}; x^2+{m}x-{n}",
    "fractions": r"\frac{{{n}}}{{1{m}}} | \frac{{1{m}}}{{{n}}}; \frac{{{n}}}{{{m}}}; -\frac{{{n}}}{{1{m}}}; 0.{n}{m}",
    "pi": r"{n}\pi | {n}; {n}\pi^2; \pi; {m}\pi; {n}\pi + 1",
    "radicals": r"{n}\sqrt{{7}} | {n}; \sqrt{{7}}; {n}\sqrt[3]{{7}}; {n}\sqrt{{17}}; -{n}\sqrt{{7}}",
    "complex numbers": r"{n}+{m}i | {n}-{m}i; {m}+{n}i; {n}+{m}; -{n}+{m}i",
    "columns": r"\begin{{pmatrix}}{n}\\{m}\end{{pmatrix}} | \begin{{pmatrix}}{m}\\{n}\end{{pmatrix}}; ({m},{n}); [{n},{m}]; \begin{{pmatrix}}{n}&{m}\end{{pmatrix}}",
    "words in a box": r"{n} | \text{{at most }}{n}; {n}\text{{ million}}; {n}\text{{ dozen}}; \text{{not }}{n}; {n}\text{{ or more}}; \text{{all but }}{n}; {n}\text{{ modulo }}{m}",
    "units of formulas": r"{n}\pi\text{{ cm}}^2 | {n}\pi\text{{ cm}}; {n}\pi\text{{ m}}^2; {n}\pi\text{{ inches}}^2",
    "bases of formulas": r"1{n}_8 | 1{n}_9; 1{m}_8; 1{n}_{{12}}",
    "days and names": r"\text{{Monday}} | \text{{Sunday}}; \text{{Tuesday}}; \text{{not Monday}}; {n}",
    "choices": r"\text{{(C)}} | \text{{(D)}}; \text{{(A)}}; B; \textbf{{(E)}}",
    "inequalities": r"x>{n} | x<{n}; x\ge {n}; x={n}; {n}; x>1{n}",
    "equations": r"y={n}x+1{m} | y={n}x-1{m}; x={n}y+1{m}; y=1{m}x+{n}; {n}x",
    "other letters": r"{n}r^2 | {n}R^2; {n}s^2; {n}r; {n}r^3",
}
# The whole response, since the form is what is tried.
RIGHT_RESPONSES = {
    "endings": "{n} | The answer is {n}, which is odd.; The answer is {n}, since {n} is what is left.; The answer is {n}, because we add.; The answer is {n}, as shown above.; The answer is {n}, so we are done.; The answer is {n}, where we count each once.",
    "semicolons": "{n} | The answer is {n}~ done.; The answer is {n}~ we are done.; The answer is {n}~ it is the sum.",
    "equal to": "{n} | The answer is equal to {n}.; The answer is = {n}; The answer is = {n}.; The answer is $= {n}$.",
    "answer lines": "{n} | Answer: {n}; **Answer:** {n}; **Answer**: {n}; Final answer: {n}; Final Answer: **{n}**; Answer: ${n}$",
    "headings": "{n} | ### Final Answer\n{n}; ## Final Answer\n\n**{n}**; ### Answer\n${n}$; **Final Answer**\n\n{n}",
    "round brackets of LaTeX": r"{n} | The answer is \( {n} \).; The answer is \({n}\), since we add.; The answer is \[ {n} \]; Answer: \( {n} \)",
    "money": r"{n} | The answer is ${n}.; The answer is \${n}.; #### ${n}; \boxed{{\${n}}}; The answer is {n} dollars.; The answer is ${n}.00.",
    "things": "{n} | The answer is {n} apples.; The answer is {n} students.; \\boxed{{{n}\\text{{ cookies}}}}; #### {n} miles; The answer is {n} hours per day.; The answer is {n} cups of water.",
    "percent": r"{n} | The answer is {n}%.; \boxed{{{n}\%}}; The answer is {n} percent.; Answer: {n}%",
    "thousands": r"1{n}234 | The answer is {k}.; \boxed{{{k}}}; #### {k}; Answer: {k}",
    "decimal zeros": r"{n} | The answer is {n}.0.; \boxed{{{n}.00}}; #### {n}.0",
    "second thoughts": r"{n} | Is it \boxed{{{m}}}? No: \boxed{{{n}}}.; The answer is {m}. Wait. The answer is {n}.; First \boxed{{{m}}}, then \boxed{{{n}}}.",
    "units left out": r"{n} cm | The answer is {n}.; \boxed{{{n}}}; #### {n}; Answer: {n}",
    "units added": r"{n} | The answer is {n} cm.; \boxed{{{n}\text{{ kg}}}}; The answer is {n} km/h.; The answer is {n} square feet.; The answer is {n} degrees.",
    "units spelled out": r"{n} cm | The answer is {n} centimeters.; \boxed{{{n}\text{{ cm}}}}; The answer is {n} centimetres.",
}
RIGHT_FORMULAS = {
    "style": r"\frac{{1}}{{{n}}} | \displaystyle \frac{{1}}{{{n}}}; \mathbf{{\frac{{1}}{{{n}}}}}; \dfrac{{1}}{{{n}}}; \tfrac 1{{{n}}}; 1/{n}",
    "bases": r"1{n}_8 | (1{n})_8; 1{n}_{{(8)}}; 1{n}_{{8}}; 1{n}_{{\text{{eight}}}}; 1{n}",
    "negative percent": r"-{n} | -{n}%; -{n}\%; -{n}.0",
    "nothing": r"\emptyset | \varnothing; \emptyset; ∅",
    "choice and value": r"{n} | \textbf{{(C)}}\ {n}; \text{{(B)}} {n}; \textbf{{(E)}} {n}",
    "plain roots": r"\frac{{\sqrt{{{n}}}}}{{7}} | sqrt({n})/7; \sqrt{{{n}}}/7; \frac{{1}}{{7}}\sqrt{{{n}}}; √{n}/7",
    "plain pi": r"\frac{{\pi}}{{{n}}} | pi/{n}; \pi/{n}; \frac{{1}}{{{n}}}\pi; π/{n}",
    "a point for a column": r"\begin{{pmatrix}}{n}\\-{m}\end{{pmatrix}} | ({n},-{m}); ({n}, -{m}); \left({n},-{m}\right)",
    "sets in any order": r"\{{{n},{m},100\}} | \{{100,{n},{m}\}}; \{{{m},{n},100\}}; {n}, {m}, 100",
    "intervals": r"({n},1{n}] | \left({n},1{n}\right]; ({n}, 1{n}]; {n} < x \le 1{n}; x \in ({n},1{n}]",
    "polynomials": r"(x+{n})(x-{m}) | (x-{m})(x+{n}); x^2+({n}-{m})x-{n}\cdot {m}; (x+{n}) (x - {m})",
    "radicals": r"{n}\sqrt{{12}} | {n}\cdot 2\sqrt{{3}}; 2\cdot{n}\sqrt 3; {n}\sqrt{{12}}",
    "complex numbers": r"{n}+{m}i | {m}i+{n}; {n} + {m}i; {n}+{m}\, i",
    "named": r"{n} | x = {n}; x={n}; n = {n}",
    "areas": r"{n}\pi\text{{ cm}}^2 | {n}\pi; {n}\pi\text{{ cm}}^2; {n}\pi \text{{ square cm}}; {n} \pi \mathrm{{~cm}}^2",
    "six digits": r"\frac{{{n}}}{{7}} | {d}",
}  # fmt: skip


def templates(
    table: dict[str, str], *, is_right: bool, checkers: tuple[str, ...], is_whole: bool = False
) -> Iterator[tuple[str, Callable[[random.Random], Case]]]:
    """A generator of cases for each form of a table, and each checker."""

    def maker(name: str, checker: str) -> Callable[[random.Random], Case]:
        reference, _, said = table[name].partition(" | ")
        ways = said.split("; ")

        def make(rng: random.Random) -> Case:
            n, m = rng.sample(range(3, 10), 2)
            n, m = n + 10 * rng.randrange(4) * is_whole, m + 10 * rng.randrange(3) * is_whole
            m += 1 if m == n else 0
            values = {
                "n": n, "m": m, "k": f"{int(f'1{n}234'):,}",
                "d": f"{float(Fraction(n, 7)):.7g}", "u": "cm",
            }  # fmt: skip
            answer = rng.choice(ways).replace("~ ", "; ").format(**values)
            response = answer if is_whole else rng.choice(SAID) % answer
            return Case(
                f"{name} ({checker})", is_right, checker, response, reference.format(**values)
            )

        return make

    for name in table:
        for checker in checkers:
            yield f"{name} ({checker})", maker(name, checker)


def solutions(rows: list[dict[str, Any]]) -> Iterator[tuple[str, Callable[[random.Random], Case]]]:
    """GSM8K's own solutions, and what is nearly one of them."""

    def right(checker: str, end: str) -> Callable[[random.Random], Case]:
        def make(rng: random.Random) -> Case:
            row = rng.choice(rows)
            work, gold = (part.strip() for part in row["answer"].split("####"))
            said = {"hashes": f"{work}\n#### {gold}", "sentence": f"{work}\nThe answer is {gold}.",
                    "box": f"{work}\nThus $\\boxed{{{gold}}}$."}[end]  # fmt: skip
            return Case(
                f"GSM8K, {end} ({checker})",
                True,
                checker,
                said,
                row["answer"],
                {"question": row["question"]},
            )

        return make

    def wrong(checker: str) -> Callable[[random.Random], Case]:
        def make(rng: random.Random) -> Case:
            row = rng.choice(rows)
            work, gold = (part.strip() for part in row["answer"].split("####"))
            value = float(gold.replace(",", ""))
            other = rng.choice(
                [value + 1, value - 1, value * 10, -value - 1, value + 0.5, value / 2 + 3]
            )
            other += 7 if other == value else 0
            said = f"{work}\n#### {other:.10g}"
            return Case(f"GSM8K, another number ({checker})", False, checker, said, row["answer"])

        return make

    for checker in ("number", "math"):
        for end in ("hashes", "sentence", "box"):
            yield f"GSM8K, {end} ({checker})", right(checker, end)
        yield f"GSM8K, another number ({checker})", wrong(checker)


FORGERIES = [
    "import os\nos._exit(0)", "import sys\nsys.exit(0)", "print('passed')",
    "import sys\nf = sys._getframe()\nwhile f:\n    for v in list(f.f_locals.values()):\n"
    "        if isinstance(v, list): v.clear()\n    f = f.f_back",
    "import json\njson._default_encoder = json.JSONEncoder.encode = lambda *a: '[\"passed\", \"\"]'",
    "import gc\n[o.clear() for o in gc.get_objects() if type(o) is list]",
    "import builtins\nbuiltins.exec = builtins.eval = lambda *a: True",
]  # fmt: skip
VACUOUS = [
    {"tests": "[]"}, {"test_list": [""]}, {"test_list": ["  "]}, {"test_list": ["# assert f(1)"]},
    {"test_list": ["f(1) == 2"]}, {"test_list": ["assert True"]}, {"test_list": ["print(f(1))"]},
    {"test_list": ["assert (f(1) == 2, 'no')"]}, {"tests": [{"input": "", "output": ""}]},
    {"test": "def check(candidate):\n    pass", "entry_point": "f"}, {"tests": []},
]  # fmt: skip
CODE_FORMS = {
    "a block": "Sure:\n```python\n{code}\n```\nThat is it.",
    "a fence in a line": "Here is the code: ```python\n{code}\n```",
    "an output block": "```python\n{code}\n```\nOutput:\n```\n3\n```",
    "a thought": "<think>\n```python\ndef {name}(*a):\n    return None\n```\n</think>\n```python\n{code}\n```",
    "an end token": "```python\n{code}<|im_end|>",
    "no fence": "{code}\n",
    "prose from": "from what is asked, this follows.\n\n{code}\n\nThis works as it is.",
    "an example that reads": "```python\n{code}\n\nn = input()\nprint({name}(n))\n```",
    "an example that raises": "```python\n{code}\n\nresult = {name}()\nraise ValueError(result)\n```",
    "constants before": "```python\nLIMIT = 10 ** 9\nTABLE = []\nTABLE.extend([LIMIT])\n{code}\n```",
    "a list": "1. The function:\n\n   ```python\n{indented}\n   ```\n2. It is done.",
    "a draft before": "```python\ndef {name}(*a):\n    return 0\n```\nBetter:\n```python\n{code}\n```",
}


def programs(rows: list[dict[str, Any]]) -> Iterator[tuple[str, Callable[[random.Random], Case]]]:
    """HumanEval's solutions in every form, what is no solution, and rows that test nothing."""

    def right(form: str) -> Callable[[random.Random], Case]:
        def make(rng: random.Random) -> Case:
            row = rng.choice(rows)
            code = row["prompt"] + row["canonical_solution"]
            indented = "\n".join(f"   {line}" if line else "" for line in code.split("\n"))
            said = CODE_FORMS[form].format(code=code, indented=indented, name=row["entry_point"])
            return Case(f"code, {form}", True, "code", said, row=row)

        return make

    def wrong(name: str, body: Callable[[random.Random, dict[str, Any]], str]) -> Any:
        def make(rng: random.Random) -> Case:
            row = rng.choice(rows)
            return Case(f"code, {name}", False, "code", body(rng, row), row=row)

        return make

    for form in CODE_FORMS:
        yield f"code, {form}", right(form)
    bodies: dict[str, Callable[[random.Random, dict[str, Any]], str]] = {
        "an empty body": lambda rng, row: f"```python\n{row['prompt']}    pass\n```",
        "a constant": lambda rng, row: (
            f"```python\ndef {row['entry_point']}(*a):\n    return {rng.choice(['True', '0', '[]', 'a[0]'])}\n```"
        ),
        "another name": lambda rng, row: f"```python\ndef other(*a):\n    {row['prompt']!r}\n```",
        "a forgery": lambda rng, row: (
            f"```python\n{rng.choice(FORGERIES)}\ndef {row['entry_point']}(*a):\n    return object()\n```"
        ),
        "equal to anything": lambda rng, row: (
            "```python\nclass E:\n    def __eq__(s, o): return True\n    def __bool__(s): return False\n"
            f"def {row['entry_point']}(*a):\n    return E()\n```"
        ),
    }
    for name, body in bodies.items():
        yield f"code, {name}", wrong(name, body)

    def untested(rng: random.Random) -> Case:
        said = "```python\ndef f(x):\n    return 3\n```"
        return Case("code, a row that tests nothing", False, "code", said, row=rng.choice(VACUOUS))

    yield "code, a row that tests nothing", untested


def draw(
    num_cases: int, gsm8k: list[dict[str, Any]], humaneval: list[dict[str, Any]]
) -> list[Case]:
    """Half near misses and half right answers, each form of a half as often as any other."""
    both = ("number", "math")
    makers = [
        *templates(WRONG_NUMBERS, is_right=False, checkers=both),
        *templates(WRONG_FORMULAS, is_right=False, checkers=("math",)),
        *templates(RIGHT_RESPONSES, is_right=True, checkers=both, is_whole=True),
        *templates(RIGHT_FORMULAS, is_right=True, checkers=("math",)),
        *solutions(gsm8k),
        *programs(humaneval),
    ]
    forms: dict[bool, list[tuple[str, Callable[[random.Random], Case]]]] = {True: [], False: []}
    for name, make in makers:
        forms[make(random.Random(name)).is_right].append((name, make))
    cases = []
    for half in forms.values():
        streams = [(make, random.Random(f"{name} 0")) for name, make in half]
        for i in range(num_cases // 2):
            make, rng = streams[i % len(streams)]
            cases.append(make(rng))
    return cases


def accepted(cases: list[Case], *, num_workers: int | None) -> list[bool]:
    """What the verifiers say of each case."""
    from tabom.verify.checker import Response
    from tabom.verify.checkers import build_checker
    from tabom.verify.config import VerifierConfig

    found: dict[int, bool] = {}
    for kind in ("number", "math", "code"):
        mine = [i for i, case in enumerate(cases) if case.checker == kind]
        checker = build_checker(VerifierConfig(type=kind, num_workers=num_workers))
        given = (
            Response(text=cases[i].response, reference=cases[i].reference, row=cases[i].row or {})
            for i in mine
        )
        found |= {i: v.is_accepted for i, v in zip(mine, checker.judge_many(given), strict=True)}
    return [found[i] for i in range(len(cases))]


def summary(cases: list[Case], says: list[bool]) -> dict[str, Any]:
    """False accepts and rejects in all and by form, with an example of each."""
    number, faults = Counter[str](), Counter[str]()
    examples: dict[str, list[str]] = {}
    for case, is_accepted in zip(cases, says, strict=True):
        number[case.form] += 1
        if is_accepted != case.is_right:
            faults[case.form] += 1
            shown = f"{case.reference[-40:]!r}: {case.response[-90:]!r}"
            examples.setdefault(case.form, []).append(shown)
    result: dict[str, Any] = {}
    for name, is_right in (("false accepts", False), ("false rejects", True)):
        forms = {case.form: None for case in cases if case.is_right is is_right}
        total = sum(number[form] for form in forms)
        wrong = sum(faults[form] for form in forms)
        worst = max(forms, key=lambda form: faults[form] / number[form])
        result[name] = {
            "forms": len(forms),
            "cases": total,
            "faults": wrong,
            "percent": round(100 * wrong / total, 3),
            "worst form": f"{worst}: {faults[worst]} of {number[worst]}",
            "by form": {form: f"{faults[form]} of {number[form]}" for form in forms},
        }
    result["examples"] = {form: texts[:3] for form, texts in examples.items()}
    return result


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gsm8k", type=Path, default=DATA / "gsm8k_train.jsonl")
    parser.add_argument("--humaneval", type=Path, default=DATA / "HumanEval.jsonl")
    parser.add_argument("--num_cases", type=int, default=10_000)
    parser.add_argument("--num_workers", type=int)
    parser.add_argument("--output", type=Path, default=Path("near_misses.json"))
    args = parser.parse_args()
    cases = draw(args.num_cases, read(args.gsm8k), read(args.humaneval))
    started = time.perf_counter()
    result = summary(cases, accepted(cases, num_workers=args.num_workers))
    result["seconds"] = round(time.perf_counter() - started, 1)
    args.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
