"""How often the math verifier, the light number checker and a naive regex agree, on real answers.

    python benchmarks/math_agreement.py gsm8k_train.jsonl --output math_agreement.json

Each row's gold answer is written in the ways that models write it, right and nearly right, and
judged by all three; below them stands a list of formulas picked by hand. Any file with `question`
and `answer` in GSM8K's form will do, and any with `problem` and a plain `answer` as well.
"""

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tabom.verify.answer import find_answer
from tabom.verify.checker import Response
from tabom.verify.checkers import build_checker
from tabom.verify.config import VerifierConfig

# What many scripts do: the first box up to a brace, else the last number; equal as text.
_BOX = re.compile(r"\\boxed\{([^}]*)")
_NUMBER = re.compile(r"-?[\d,]*\.?\d+")

# (answer, reference, is it right)
FORMULAS = [
    (r"\frac{1}{2}", "0.5", True),
    (r"\dfrac{3}{4}", r"\frac34", True),
    (r"x^2+2x+1", "(x+1)^2", True),
    (r"2\sqrt{3}", r"\sqrt{12}", True),
    (r"\{2,1\}", r"\{1,2\}", True),
    (r"\left[0,1\right)", "[0,1)", True),
    ("[1,2]", "(1,2)", False),
    (r"x=3", "3", True),
    (r"50\%", "50", True),
    (r"\text{Evelyn}", r"\text{Evelyn}", True),
    (r"\text{Tom}", r"\text{Evelyn}", False),
    (r"10^\circ", "10", True),
    (r"\frac{\pi}{2}", r"\frac12\pi", True),
    (r"2 pi", "2", False),
    ("3 or 4", "3", False),
    ("3 sqrt(2)", "3", False),
    (r"-\frac{1}{3}", r"\frac{-1}{3}", True),
    ("1,234", "1234", True),
]


def naive(response: str, reference: str) -> bool:
    """The usual regex: last box or last number, compared as text."""

    def pick(text: str) -> str:
        found = _BOX.findall(text) or _NUMBER.findall(text)
        return found[-1].replace(",", "").strip() if found else ""

    return pick(response) == pick(reference)


def forms(gold: str) -> Iterator[tuple[str, str, bool]]:
    """Ways to write a gold answer: (name, response, is it right)."""
    yield "boxed", f"So it is $\\boxed{{{gold}}}$.", True
    yield "the answer is", f"So. The answer is {gold}.", True
    yield "hashes", f"So.\n#### {gold}", True
    yield "cut in the box", f"So it is $\\boxed{{{gold}", False
    yield "only mentioned", f"We start with {gold} and go on.", False
    number = gold.replace(",", "")
    if re.fullmatch(r"-?\d+(\.\d+)?", number):
        value = float(number)
        shown = f"{int(value):,}" if value == int(value) else number
        yield "units and commas", f"The answer is ${shown} dollars.", True
        yield "as a fraction", f"$\\boxed{{\\frac{{{int(2 * value)}}}{{2}}}}$", True
        yield "a decimal zero", f"$\\boxed{{{value:.1f}}}$" if value * 10 % 1 == 0 else gold, True
        yield "one more", f"$\\boxed{{{value + 1:.10g}}}$", False
        yield "the sign", f"$\\boxed{{{-value:.10g}}}$", value == 0
        yield "ten times", f"$\\boxed{{{value * 10:.10g}}}$", value == 0
        yield "a term more", f"$\\boxed{{{number} + x}}$", False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--limit", type=int, help="only the first rows")
    parser.add_argument("--num_workers", type=int)
    parser.add_argument("--output", type=Path, default=Path("math_agreement.json"))
    args = parser.parse_args()
    lines = args.data.read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line][: args.limit]
    cases: list[tuple[str, str, str, bool]] = []
    for row in rows:
        reference = str(row["answer"])
        found = find_answer(reference)
        gold = reference if found is None else found.text
        itself = reference if found else f"$\\boxed{{{gold}}}$"
        cases.append(("gold itself", itself, reference, True))
        cases += [(name, response, reference, right) for name, response, right in forms(gold)]
    cases += [("formulas", f"$\\boxed{{{a}}}$", g, right) for a, g, right in FORMULAS]
    given = [Response(text=case[1], reference=case[2]) for case in cases]
    verdicts: dict[str, list[bool]] = {"naive": [naive(case[1], case[2]) for case in cases]}
    seconds = {}
    for kind in ("math", "number"):
        checker = build_checker(VerifierConfig(type=kind, num_workers=args.num_workers))  # type: ignore[arg-type]
        started = time.perf_counter()
        found_verdicts = list(checker.judge_many(given))
        seconds[kind] = round(time.perf_counter() - started, 2)
        verdicts[kind] = [verdict.is_accepted for verdict in found_verdicts]
    table: dict[str, Counter[str]] = {}
    errors: list[dict[str, object]] = []
    for i, (name, response, reference, right) in enumerate(cases):
        counts = table.setdefault(name, Counter())
        counts["cases"] += 1
        for kind, accepted in verdicts.items():
            if accepted[i] != right:
                counts[f"{kind} {'false reject' if right else 'false accept'}"] += 1
        counts["math and naive agree"] += verdicts["math"][i] == verdicts["naive"][i]
        if verdicts["math"][i] != right:
            errors.append({"form": name, "response": response[-200:], "reference": reference[-60:]})
    result = {
        "data": args.data.name,
        "rows": len(rows),
        "cases": len(cases),
        "seconds": seconds,
        "agreement": {
            f"math {a}, naive {b}": sum(
                m == a_ and n == b_
                for m, n in zip(verdicts["math"], verdicts["naive"], strict=True)
            )
            for a, a_ in (("accepts", True), ("rejects", False))
            for b, b_ in (("accepts", True), ("rejects", False))
        },
        "forms": {name: dict(counts) for name, counts in table.items()},
        "math_errors": errors[:50],
    }
    args.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
