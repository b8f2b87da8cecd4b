"""Comparing arms: seconds and memory are linear in documents, tests stay exact.

    python benchmarks/comparing.py

Two arms answer 1,000, 10,000 and 100,000 documents, half of which they answer differently. Each
size runs in a process of its own: CPU seconds of `compare`, and how much its peak is above what it
was when the two tables of answers stood in memory. McNemar's test is checked against scipy's.
"""

import json
import resource
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa

import common

SIZES = (1_000, 10_000, 100_000)
ROUNDS = 3


def table(num: int, seed: int) -> pa.Table:
    """The records of one arm, as a file of them would be read."""
    rng = np.random.default_rng(seed)
    ones = np.ones(num, dtype=np.int64)
    return pa.table(
        {
            "set": pa.array(["set"] * num),
            "role": pa.array(["in_domain"] * num),
            "id": pa.array([f"document-{i:07d}" for i in range(num)]),
            "sample": 0 * ones,
            "tokens_per_step": ones,
            "schedule": pa.array([""] * num),
            "correct": (rng.random(num) < 0.5).astype(np.float64),
            "num_forwards": 64 * ones,
            "tokens_per_forward": 1.0 * ones,
            "metric_premature": (rng.random(num) < 0.1).astype(np.float64),
        }
    )


def measure(num: int) -> dict[str, float]:
    """In this process: seconds and MB of one comparison."""
    from tabom.evaluation.answers import answers_of
    from tabom.evaluation.compare import compare
    from tabom.evaluation.scores import EvaluatedRun

    small = [
        EvaluatedRun(arm=a, seed=0, answers=answers_of(table(50, i))) for i, a in enumerate("ab")
    ]
    compare(small, base="a")  # imports
    tables = [table(num, i) for i in range(2)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.process_time()
    runs = [
        EvaluatedRun(arm=a, seed=0, answers=answers_of(t))
        for a, t in zip("ab", tables, strict=True)
    ]
    found = compare(runs, base="a")
    seconds = time.process_time() - started
    assert len(found.rows) >= 4
    return {
        "seconds": seconds,
        "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before,
    }


def main() -> int:
    if len(sys.argv) > 1:
        print(json.dumps(measure(int(sys.argv[1]))))
        return 0
    from scipy.stats import binomtest

    from tabom.evaluation.stats import mcnemar_p

    worst = max(
        abs(mcnemar_p(b, c) / binomtest(b, b + c).pvalue - 1)
        for b, c in ((3, 9), (40, 60), (500, 431), (2000, 2100))
    )
    record: dict[str, object] = {"mcnemar, largest relative difference": worst}
    for num in SIZES:
        rounds = [
            json.loads(
                subprocess.run(
                    [sys.executable, __file__, str(num)], capture_output=True, text=True, check=True
                ).stdout
            )
            for _ in range(ROUNDS)
        ]
        record[f"{num} documents"] = {
            key: sorted(round(r[key], 3) for r in rounds) for key in ("seconds", "mb")
        }
    print(json.dumps(record, indent=2))
    (common.RESULTS / "comparing.json").write_text(
        json.dumps({"name": "comparing", "commit": common.git_commit(), **record}, indent=2) + "\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
