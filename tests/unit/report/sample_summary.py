"""A made-up summary with numbers of a realistic size: for the tests and for looking at the page.

`python sample_summary.py OUT.html` writes the report. The numbers are invented, not measured.
"""

import math
import random
import sys
from typing import Any

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
METRICS = [
    (
        "in_domain",
        "In-domain",
        "%",
        "higher",
        "Share of prompts of the trained task answered right.",
    ),
    ("in_domain@2", "In-domain, 2 a step", "%", "higher", "The same at two tokens a step."),
    (
        "out_of_domain",
        "Out-of-domain",
        "%",
        "higher",
        "Mean over the tasks that were not trained on.",
    ),
    (
        "premature_commit",
        "Premature commits",
        "%",
        "lower",
        "Share of prompts whose first wrong token was revealed before what it depends on.",
    ),
    ("tds", "TDS", "nats²", "none", "Trajectory discrimination score, mean over the steps."),
    (
        "order_agreement",
        "Order agreement",
        "",
        "higher",
        "Share of pairs of slots whose entropies are in the order in which they were revealed.",
    ),
]
SEEDS = [0, 1, 2]
NUM_SLOTS = 16
SPREAD = (0.9, 0.7, 0.9, 1.6, 0.008, 0.005)


def sample_summary(seed: int = 0) -> dict[str, Any]:
    rng = random.Random(seed)
    base = ARMS["No-SFT"]
    arms = []
    for name, truth in ARMS.items():
        runs = [
            [
                t + (0 if name == "No-SFT" else rng.gauss(0, s))
                for t, s in zip(truth, SPREAD, strict=True)
            ]
            for _ in SEEDS
        ]
        means = {}
        for i, metric in enumerate(METRICS):
            mean = sum(run[i] for run in runs) / len(runs)
            half = SPREAD[i] * 1.6
            is_base = name == "No-SFT"
            means[metric[0]] = {
                "mean": mean,
                "low": mean - half,
                "high": mean + half,
                "delta": None if is_base else mean - base[i],
                "delta_low": None if is_base else mean - base[i] - 0.8 * half,
                "delta_high": None if is_base else mean - base[i] + 0.8 * half,
                "num_seeds": len(SEEDS),
                "num_documents": 1000,
            }
        arms.append(
            {
                "name": name,
                "objective": {"terms": {"ce": 1.0}, "window": 4, "context": "order_prefix"},
                "data": {"No-SFT": "none", "SFT-GT": "ground_truth"}.get(name, "self_distilled"),
                "means": means,
                "seeds": [
                    {
                        "seed": s,
                        "metrics": {m[0]: run[i] for i, m in enumerate(METRICS)},
                        "counts": {
                            "prompts": 4000,
                            "accepted": 1750 + s,
                            "train_examples": 1750 + s,
                        },
                        "seconds": {"train": 12.3 + s, "evaluate": 6.8},
                    }
                    for s, run in zip(SEEDS, runs, strict=True)
                ],
            }
        )
    return {
        "schema": 1,
        "name": "toy-quick",
        "created": "2026-11-24T09:30:12+00:00",
        "seconds": 312.4,
        "command": "tabom run toy-quick --output_dir runs/toy-quick",
        "recipe": {
            "name": "toy-quick",
            "seeds": SEEDS,
            "model": {"name_or_path": "toy-base", "dtype": "float32"},
            "decoding": {"policy": "entropy", "num_slots": 16, "tokens_per_step": 1},
            "verify": {"checker": "pointer_path"},
            "training": {
                "learning_rate": 2e-4,
                "max_steps": 200,
                "per_device_train_batch_size": 64,
            },
            "arms": [{"name": name, "objective": "tabom"} for name in ARMS],
        },
        "versions": {"tabom": "0.1.0", "python": "3.11.9", "torch": "2.13.0", "peft": "0.21.2"},
        "hardware": {"cpu": "2 cores", "memory": "8 GiB", "gpu": "none"},
        "level": 0.95,
        "seeds": SEEDS,
        "base_arm": "No-SFT",
        "arms": arms,
        "metrics": [
            {"key": k, "label": label, "unit": unit, "better": better, "help": text}
            for k, label, unit, better, text in METRICS
        ],
        "collection": [
            {
                "seed": s,
                "prompts": 4000,
                "reasons": {
                    "accepted": 1752 - 31 * s,
                    "wrong": 1943 + 20 * s,
                    "no_answer": 214 + 8 * s,
                    "truncated": 91 + 3 * s,
                },
                "seconds": 25.2 + s,
                "trajectories_per_hour": 571_000.0 - 9000 * s,
            }
            for s in SEEDS
        ],
        "sets": [
            {"name": "chain", "role": "in_domain", "num_documents": 1000},
            {"name": "reverse", "role": "out_of_domain", "num_documents": 200},
            {"name": "sort", "role": "out_of_domain", "num_documents": 200},
            {"name": "sudoku", "role": "out_of_domain", "num_documents": 200},
        ],
        "curves": _curves(rng),
        "examples": _examples(rng),
        "notes": ["The numbers of this sample are invented to look at the page."],
    }


def _curves(rng: random.Random) -> dict[str, Any]:
    tds, entropy, training = [], [], []
    for index, (name, truth) in enumerate(ARMS.items()):
        bumps = [
            truth[4] * (1.5 * math.sin(math.pi * (k + 2) / 19) ** 1.5 + 0.12) for k in range(16)
        ]
        tds.append({"arm": name, "values": [b + rng.gauss(0, 0.008) for b in bumps]})
        mean = [0.04 + 0.5 * (k / 15) ** 2 * (1.7 - truth[0] / 60) for k in range(16)]
        entropy.append(
            {
                "arm": name,
                "steps": list(range(16)),
                "mean": mean,
                "low": [m * 0.9 for m in mean],
                "high": [m * 1.1 for m in mean],
            }
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
            training.append({"arm": name, "seed": seed, "points": points})
    ratios = [0.1, 0.3, 0.5, 0.7, 0.9]
    return {
        "tds": tds,
        "entropy": entropy,
        "loss_ratio": {
            "ratios": ratios,
            "values": [{"arm": "No-SFT", "values": [8.1, 6.4, 5.0, 3.6, 2.2]}],
        },
        "training": training,
    }


def _examples(rng: random.Random) -> list[dict[str, Any]]:
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
                _decoded(rng, tokens, is_correct, n_text=len(text))
                | {
                    "arm": name,
                    "set": task,
                    "prompt": prompt,
                    "reference": reference,
                    "response": "".join(text),
                }
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

    print(build_report(sample_summary(), path=sys.argv[1]))
