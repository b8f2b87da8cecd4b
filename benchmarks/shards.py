"""Collections by workers that overlap, are killed and start again: is anything lost or doubled?

    python benchmarks/shards.py                # ten collections, writes results/shards.json

Each collection is of the same prompts. Workers are started at random moments with world sizes that
change while older workers live (so that shares overlap), some are killed with SIGKILL at random,
and at the end one worker is left to finish. The store is then compared, row by row, with one made
by a single undisturbed process: ids, tokens and steps must be equal.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import RESULTS

RECIPE = """\
name: shards
model: {model_name_or_path: toy-base}
prompts:
  function: "tabom.toyworld.tasks:prompts"
  args: {task: chain, split: train, num: 300}
decoding: {max_new_tokens: 16}
collection: {batch_size: 8}
arms: [{name: base}]
"""


def worker(recipe: Path, folder: Path, share: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable, "-m", "tabom", "collect", "--config", str(recipe), "--quiet",
            "--output_dir", str(folder), "--shard", share,
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def rows(folder: Path) -> list[tuple[str, list[int], list[int]]]:
    import pyarrow.parquet as pq

    found = [
        (row["id"], row["response_ids"], row["step"])
        for path in sorted(folder.glob("data/*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    return sorted(found)


def disturbed(recipe: Path, folder: Path, rng: random.Random) -> dict[str, Any]:
    """Collect with overlapping, killed and restarted workers."""
    alive: list[subprocess.Popen[str]] = []
    num_started = num_killed = 0
    errors: list[str] = []
    for _ in range(rng.randint(4, 7)):
        size = rng.randint(1, 4)
        for rank in range(size):
            if rng.random() < 0.6 and sum(w.poll() is None for w in alive) < 4:
                alive.append(worker(recipe, folder, f"{rank}/{size}"))
                num_started += 1
        time.sleep(rng.uniform(1.0, 8.0))
        for one in alive:
            if one.poll() is None and rng.random() < 0.4:
                one.send_signal(signal.SIGKILL)
                num_killed += 1
    for one in alive:
        _, error = one.communicate()
        if one.returncode not in (0, -signal.SIGKILL, 2) or "Traceback" in error:
            errors.append(f"status {one.returncode}: {error[-500:]}")
    last = worker(recipe, folder, "0/1")
    _, error = last.communicate()
    if last.returncode:
        errors.append(f"the last worker, status {last.returncode}: {error[-500:]}")
    return {"started": num_started + 1, "killed": num_killed, "errors": errors}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--collections", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        recipe = Path(name) / "recipe.yaml"
        recipe.write_text(RECIPE)
        assert worker(recipe, Path(name) / "whole", "0/1").wait() == 0
        expected = rows(Path(name) / "whole")
        results = []
        for number in range(args.collections):
            folder = Path(name) / str(number)
            found = disturbed(recipe, folder, rng)
            there = rows(folder)
            ids = [row[0] for row in there]
            found["lost"] = len({row[0] for row in expected} - set(ids))
            found["doubled"] = len(ids) - len(set(ids))
            found["equal"] = there == expected
            results.append(found)
            print(json.dumps(found), flush=True)
    record = {
        "collections": args.collections,
        "seed": args.seed,
        "prompts": len(expected),
        "workers": sum(r["started"] for r in results),
        "killed": sum(r["killed"] for r in results),
        "lost": sum(r["lost"] for r in results),
        "doubled": sum(r["doubled"] for r in results),
        "equal": sum(r["equal"] for r in results),
        "errors": [e for r in results for e in r["errors"]],
    }
    (RESULTS / "shards.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record))
    sys.exit(record["equal"] != args.collections or bool(record["errors"]))


if __name__ == "__main__":
    main()
