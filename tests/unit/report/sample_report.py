"""A made-up report with numbers of a realistic size: for the tests and for looking at the page.

`python sample_report.py OUT.html` writes the page. The numbers are invented, not measured.
"""

import math
import random
import sys
from itertools import combinations
from typing import Any

from tabom.evaluation.comparison import Comparison, EvaluatedSet, MetricKey, Pair, Row
from tabom.evaluation.stats import Estimate
from tabom.report.data import (
    Arm,
    Collected,
    Curve,
    Curves,
    Example,
    Report,
    SeedWork,
    TrainingLog,
)

ARMS = {
    # name: in-domain, 2 tokens a step, out of domain, premature commits, TDS, order agreement
    "No-SFT": (44.3, 15.9, 98.5, 48.0, 0.646, 0.861),
    "SFT-GT": (11.1, 6.2, 61.7, 71.0, 0.444, 0.744),
    "SFT-SD": (50.0, 17.1, 94.0, 44.0, 0.555, 0.862),
    "dInfer": (54.8, 17.5, 94.6, 34.8, 0.513, 0.871),
    "Trajectory CE": (54.5, 17.6, 94.8, 34.2, 0.540, 0.873),
    "TABOM": (55.9, 16.9, 93.7, 29.5, 0.551, 0.889),
    "Boltzmann": (59.7, 17.2, 93.6, 24.6, 0.568, 0.902),
}
KEYS = [
    MetricKey("in_domain"),
    MetricKey("in_domain", pace="2"),
    MetricKey("out_of_domain"),
    MetricKey("premature_commit"),
    MetricKey("tds"),
    MetricKey("order_agreement"),
]
SCALES = (100, 100, 100, 100, 1, 1)
SEEDS = (0, 1, 2)
NUM_SLOTS = 16
SPREAD = (0.9, 0.7, 0.9, 1.6, 0.008, 0.005)
BASE = "No-SFT"


def around(value: float, half: float) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half)


def pair(first: str, second: str, key: MetricKey, difference: Estimate) -> Pair:
    sign = 1 if difference.low > 0 else -1 if difference.high < 0 else 0
    return Pair(first=first, second=second, key=key, difference=difference, p=None, sign=sign)


def sample_comparison(rng: random.Random) -> Comparison:
    rows, pairs = [], []
    for i, (key, scale) in enumerate(zip(KEYS, SCALES, strict=True)):
        half, means = SPREAD[i] * 1.6 / scale, {}
        for arm, truth in ARMS.items():
            spread = 0 if arm == BASE else SPREAD[i]
            own = tuple((truth[i] + rng.gauss(0, spread)) / scale for _ in SEEDS)
            means[arm] = sum(own) / len(own)
            rows.append(
                Row(
                    arm=arm,
                    key=key,
                    value=around(means[arm], half),
                    change=None if arm == BASE else around(means[arm] - means[BASE], 0.8 * half),
                    by_seed=own[:1] if arm == BASE else own,
                    num_documents=1000,
                    is_share=scale == 100,
                )
            )
        for a, b in combinations(ARMS, 2):
            first, second = (b, a) if a == BASE else (a, b)
            difference = around(means[first] - means[second], 0.8 * half)
            pairs.append(pair(first, second, key, difference))
    return Comparison(
        base=BASE,
        level=0.95,
        seeds={arm: (None,) if arm == BASE else SEEDS for arm in ARMS},
        sets=[
            EvaluatedSet(name="chain", role="in_domain", num_documents=1000),
            *(
                EvaluatedSet(name=name, role="out_of_domain", num_documents=200)
                for name in ("reverse", "sort", "sudoku")
            ),
        ],
        rows=rows,
        pairs=pairs,
    )


def sample_report(seed: int = 0, **changes: Any) -> Report:
    rng = random.Random(seed)
    parts = {
        "name": "toy-quick",
        "comparison": sample_comparison(rng),
        "columns": KEYS,
        "created": "2026-11-24T09:30:12+00:00",
        "seconds": 312.4,
        "command": "tabom run toy-quick --output_dir runs/toy-quick",
        "recipe": {
            "name": "toy-quick",
            "seeds": list(SEEDS),
            "model": {"name_or_path": "toy-base", "dtype": "float32"},
            "training": {"learning_rate": 2e-4, "max_steps": 200},
            "arms": [{"name": name, "objective": "tabom"} for name in ARMS],
        },
        "versions": {"tabom": "0.1.0", "python": "3.11.9", "torch": "2.13.0", "peft": "0.21.2"},
        "hardware": {"cpu": "2 cores", "memory": "8 GiB", "gpu": "none"},
        "seeds": SEEDS,
        "arms": [
            Arm(
                name=name,
                objective={"terms": {"ce": 1.0}, "window": 4, "context": "order_prefix"},
                data={"No-SFT": "none", "SFT-GT": "ground_truth"}.get(name, "self_distilled"),
            )
            for name in ARMS
        ],
        "work": [
            SeedWork(
                arm=name,
                seed=None if name == BASE else s,
                num_examples=None if name == BASE else 1750 + s,
                train_seconds=None if name == BASE else 12.3 + s,
                evaluate_seconds=6.8,
            )
            for name in ARMS
            for s in (SEEDS[:1] if name == BASE else SEEDS)
        ],
        "collection": [
            Collected(
                seed=s,
                num_prompts=4000,
                reasons={
                    "accepted": 1752 - 31 * s,
                    "wrong": 1943 + 20 * s,
                    "no_answer": 214 + 8 * s,
                    "truncated": 91 + 3 * s,
                },
                seconds=25.2 + s,
                trajectories_per_hour=571_000.0 - 9000 * s,
            )
            for s in SEEDS
        ],
        "curves": _curves(rng),
        "examples": _examples(rng),
        "notes": ["The numbers of this sample are invented to look at the page."],
    }
    return Report(**(parts | changes))


def _curves(rng: random.Random) -> Curves:
    tds, entropy, training = [], [], []
    for index, (name, truth) in enumerate(ARMS.items()):
        bumps = [
            truth[4] * (1.5 * math.sin(math.pi * (k + 2) / 19) ** 1.5 + 0.12) for k in range(16)
        ]
        y = [b + rng.gauss(0, 0.008) for b in bumps]
        tds.append(Curve(arm=name, x=list(range(16)), y=y))
        mean = [0.04 + 0.5 * (k / 15) ** 2 * (1.7 - truth[0] / 60) for k in range(16)]
        entropy.append(
            Curve(
                arm=name,
                x=list(range(16)),
                y=mean,
                low=[m * 0.9 for m in mean],
                high=[m * 1.1 for m in mean],
            )
        )
        if name == "No-SFT":
            continue
        for seed in SEEDS:
            points = []
            for step in range(5, 201, 5):
                ce = 0.25 + (0.5 + 0.05 * index) * math.exp(-step / 60) + rng.gauss(0, 0.012)
                point = {"step": step, "loss": ce, "loss_ce": ce}
                point["order_agreement"] = 0.9 - 0.15 * math.exp(-step / 50) + rng.gauss(0, 0.006)
                point["grad_norm"] = 0.8 + 3 * math.exp(-step / 40) + rng.gauss(0, 0.1)
                if name == "TABOM":
                    point["loss_rank"] = 0.06 + 0.08 * math.exp(-step / 70) + rng.gauss(0, 0.003)
                    point["loss"] += point["loss_rank"]
                if name == "Boltzmann":
                    point["loss_next_slot"] = 1.6 + 0.9 * math.exp(-step / 70) + rng.gauss(0, 0.02)
                    point["loss"] += point["loss_next_slot"]
                points.append(point)
            training.append(TrainingLog(arm=name, seed=seed, points=points))
    ratio = Curve(arm=BASE, x=[0.1, 0.3, 0.5, 0.7, 0.9], y=[8.1, 6.4, 5.0, 3.6, 2.2])
    return Curves(tds=tds, entropy=entropy, loss_ratio=[ratio], training=training)


def _examples(rng: random.Random) -> list[Example]:
    cases = [
        ("chain", "AfBdCaDgEjFbGhHcIeJi:c6", "f=fbdghc"),
        ("chain", "AbBeCgDaEhFjGfHdIcJi:a5", "a=behda"),
        ("reverse", "jadbhc<", "chbdaj"),
    ]
    rows = []
    for task, prompt, reference in cases:
        for name in ("No-SFT", "SFT-SD", "TABOM", "Boltzmann"):
            is_correct = name in ("TABOM", "Boltzmann") or task == "reverse"
            text = list(reference)
            if not is_correct:
                text[0] = "i"
                text[-2:] = ["j", "i"]
            tokens = [*text, *["<eos>"] * (NUM_SLOTS - len(text))]
            rows.append(
                Example(
                    arm=name,
                    set=task,
                    prompt=prompt,
                    reference=reference,
                    response="".join(text),
                    **_decoded(rng, tokens, is_correct, n_text=len(text)),
                )
            )
    return rows


def _decoded(
    rng: random.Random, tokens: list[str], is_correct: bool, *, n_text: int
) -> dict[str, Any]:
    # The end slots far from the text are sure at once; then the path from left to right; a wrong
    # response commits to the answer slot too early.
    hardness = [
        0.1 * (len(tokens) - n) / len(tokens) if n >= n_text else 0.3 + 0.22 * n
        for n in range(len(tokens))
    ]
    hardness[0] = 2.1 if is_correct else 0.75
    step = [0] * len(tokens)
    for place, n in enumerate(sorted(range(len(tokens)), key=lambda n: hardness[n])):
        step[n] = place
    field: list[list[float | None]] = []
    for k in range(len(tokens)):
        left = 1 - k / len(tokens)
        field.append(
            [
                None
                if step[n] < k
                else max(0.005, hardness[n] * (0.35 + 0.65 * left) + rng.gauss(0, 0.03))
                for n in range(len(tokens))
            ]
        )
    entropy = [field[step[n]][n] for n in range(len(tokens))]
    return {
        "tokens": tokens,
        "step": step,
        "entropy": entropy,
        "field": field,
        "is_correct": is_correct,
    }


if __name__ == "__main__":
    from tabom.report.build import build_report

    print(build_report(sample_report(), path=sys.argv[1]))
