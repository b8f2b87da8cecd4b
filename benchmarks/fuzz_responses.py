# ruff: noqa: E501  the pieces stand as they are
"""Responses of noise and of broken pieces: each must become a verdict, none an exception.

    python benchmarks/fuzz_responses.py --seconds 600

Pieces that parsers choke on are put together at random, by a keyed stream: the same seed gives the
same responses. Prints how many of each kind were judged, the verdicts' reasons, and the slowest.
"""

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Callable

from tabom.trajectory.verdicts import Verdict
from tabom.verify.checker import Response
from tabom.verify.checkers import build_checker
from tabom.verify.config import VerifierConfig
from tabom.verify.extract import extract_function, extract_program, python_texts

# How many of each are asked for, where time allows.
NUMBERS = {"number": 100_000, "exact": 100_000, "extraction": 100_000, "math": 20_000, "code": 3000}
PIECES = [
    r"\boxed{", r"\fbox{", "}", "{", r"\frac", r"\frac{1}{", r"\sqrt", "####", "The answer is ", "Answer: ", "answer to ",
    "**", "$", "$$", r"\(", r"\)", r"\[", r"\]", r"\text{", r"\left(", r"\right]", ",", ", ", ";", ".", "...", "=", "<", ">", r"\le ",
    "or", "not", "million", " cm", "^2", "_8", "_{", "%", r"\%", "€", "½", "²", "π", "∞", "√", "−", " ", "\n", "\n\n", "\t", "\r\n",
    "5", "12", "1,234", "0.5", ".", "-3", "1/2", "9" * 40, "e9", "10^", "x", "AB", r"\pi", r"\infty", r"\cup", r"\pm", r"\begin{pmatrix}", "&",
    r"\\", r"\end{pmatrix}", "```", "```python\n", "~~~", "def f(x):", "\n    ", "return x", "import os", "from ", "class A:", "@", "if x:",
    "while True: pass", "for i in x:", "lambda", "'", '"', '"""', "#", ":", "(", ")", "[", "]", "f(1)", "print(f(2))", "assert f(1) == 2",
    "<think>", "</think>", "<|endoftext|>", "<|im_end|>", "</s>", "\ud83d", "\x00", "\u2028", "\x0c", "\u0085", "\u202e", "é", "中", "🙂",
    "1. ", "- ", "> ", "    ", "|", "---", "[a](b)", "<b>", "&amp;", "\\", "`", "``", "yield", "await", "match x:", "(K := 1)", "None", "nan", "inf",
]  # fmt: skip
REFERENCES = [
    "5",
    "#### 1,234",
    r"\frac{1}{2}",
    "(1,2)",
    r"\{1,2\}",
    r"\text{Monday}",
    "x^2+1",
    "",
    "$",
    r"\boxed{",
    "1024_7",
    "5 cm",
]
ROW = {"test_list": ["assert f(1) == 2"], "entry_point": "f"}
SLOW = ["while True: pass", "'9' * 10 ** 9", "9 ** 9 ** 9"]


def response(rng: random.Random) -> str:
    """A response: pieces in a row, one of them often repeated, sometimes with noise between."""
    pieces = [rng.choice(PIECES) for _ in range(rng.randrange(1, 30))]
    if rng.random() < 0.2:
        pieces[rng.randrange(len(pieces))] *= rng.choice([10, 100, 1000])
    if rng.random() < 0.1:
        pieces.append("".join(chr(rng.randrange(0x20, 0x3000)) for _ in range(50)))
    return rng.choice(["", " "]).join(pieces)


def judges(num_workers: int | None) -> dict[str, Callable[[list[Response]], list[Verdict | str]]]:
    """What takes a batch of responses, by name."""

    def extraction(given: list[Response]) -> list[Verdict | str]:
        found: list[Verdict | str] = []
        for one in given:
            code = extract_function(one.text, entry_point="f", prompt="def f(x):\n").code
            code += extract_program(one.text).code + "".join(python_texts(one.text))
            found.append("some code" if code.strip() else "no code")
        return found

    def checker(kind: str) -> Callable[[list[Response]], list[Verdict | str]]:
        built = build_checker(VerifierConfig(type=kind, num_workers=num_workers))
        return lambda given: list(built.judge_many(given))

    kinds = ("number", "exact", "math", "code")
    return {"extraction": extraction, **{kind: checker(kind) for kind in kinds}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600, help="for all of it")
    parser.add_argument("--num_workers", type=int)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    table = judges(args.num_workers)
    report = {}
    for kind, number in NUMBERS.items():
        rng, reasons, slowest = random.Random(f"{args.seed} {kind}"), Counter[str](), 0.0
        started, num_slow = time.perf_counter(), 0
        while reasons.total() < number and time.perf_counter() - started < args.seconds / len(
            NUMBERS
        ):
            batch = []
            for _ in range(50):
                text = response(rng)
                # At most thirty programs may run against the clock.
                if kind == "code" and any(slow in text for slow in SLOW):
                    num_slow += 1
                    text = text if num_slow <= 30 else "def f(x):\n    return 2"
                batch.append(
                    Response(
                        text=text,
                        reference=rng.choice(REFERENCES),
                        row=ROW,
                        ended=rng.random() < 0.8,
                    )
                )
            before = time.perf_counter()
            for found in table[kind](batch):
                reasons[found if isinstance(found, str) else found.reason] += 1
            slowest = max(slowest, time.perf_counter() - before)
        report[kind] = {
            "judged": reasons.total(),
            "of": number,
            **reasons,
            "slowest 50": round(slowest, 2),
        }
        print(kind, json.dumps(report[kind]), flush=True)


if __name__ == "__main__":
    main()
