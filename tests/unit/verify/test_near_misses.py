"""A small run of the near misses, and of the fuzz: no false accept, no exception."""

import random
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in ("near_misses", "fuzz_responses"):
        sys.modules.pop(name, None)


def test_near_misses_are_not_accepted_and_right_answers_are(benchmarks, sandbox, rows):
    pytest.importorskip("math_verify")
    import near_misses

    cases = near_misses.draw(600, rows("gsm8k_train.jsonl"), rows("HumanEval.jsonl"))
    kinds = {False: set(), True: set()}
    for case in cases:
        kinds[case.is_right].add(case.form)
    assert min(len(forms) for forms in kinds.values()) >= 40
    result = near_misses.summary(cases, near_misses.accepted(cases, num_workers=2))
    assert result["examples"] == {}


def test_noise_is_judged(benchmarks, sandbox):
    pytest.importorskip("math_verify")
    import fuzz_responses
    from tabom.verify.checker import Response

    table = fuzz_responses.judges(2)
    for kind, number in {"number": 400, "exact": 200, "extraction": 300, "math": 100}.items():
        rng = random.Random(f"test {kind}")
        given = [
            Response(
                text=fuzz_responses.response(rng), reference=rng.choice(["5", r"\frac12", "("])
            )
            for _ in range(number)
        ]
        assert len(table[kind](given)) == number
