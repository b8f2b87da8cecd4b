"""Is this tree's store as fast as another one's? Alternating processes, CPU time, equal rows.

    git worktree add ../before a419540
    python benchmarks/store.py ../before              # prints, writes results/store.json

One process keeps the same synthetic trajectories in batches (append), makes the finished store of
them (finish) and reads it back (read), from the sources of one tree and of the other in turns. The
CPU time of each part is measured inside the process, imports left out. What is read must be equal.
The ratio is theirs over ours, so above 1 this tree is faster.

Legend: N response slots.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
BARS = {"append": 2.0, "finish": 4.0}
SIZES = {"number": 8192, "batch": 32, "num_prompt": 128, "num_slots": 256}
TINY = {"number": 64, "batch": 8, "num_prompt": 8, "num_slots": 16}


def trajectories(number: int, *, num_prompt: int, num_slots: int) -> list[Any]:
    """Random responses, one slot a step in a random order, with the texts of a usual row."""
    from tabom.trajectory.record import Trajectory

    draws = np.random.default_rng(0)
    return [
        Trajectory(
            id=f"{i:06d}",
            prompt="a prompt " * 20,
            prompt_ids=draws.integers(0, 150000, num_prompt, dtype=np.int32),
            response="a response " * 30,
            response_ids_N=draws.integers(0, 150000, num_slots, dtype=np.int32),
            step_N=draws.permutation(num_slots).astype(np.int32),
            entropy_N=draws.random(num_slots, dtype=np.float32),
            confidence_N=draws.random(num_slots, dtype=np.float32),
            num_forwards=num_slots,
            row={"prompt_id": str(i), "ground_truth": "an answer " * 30},
        )
        for i in range(number)
    ]


def work(number: int, batch: int, num_prompt: int, num_slots: int) -> dict[str, Any]:
    """CPU seconds of each part in the tree that is imported, and a hash of what was read."""
    from tabom.trajectory import store

    made = trajectories(number, num_prompt=num_prompt, num_slots=num_slots)
    seconds = {}
    with tempfile.TemporaryDirectory() as name:
        started = time.process_time()
        writer = store.TrajectoryWriter(name)
        append = getattr(writer, "append_many", writer.append)  # its name in older trees
        for start in range(0, number, batch):
            append(made[start : start + batch])
        seconds["append"] = time.process_time() - started
        started = time.process_time()
        finish = getattr(store, "finish", None) or store.finalize
        finish(name, fingerprint="benchmark", settings={}, seconds=0.0)
        seconds["finish"] = time.process_time() - started
        started = time.process_time()
        back = list(store.TrajectoryStore(name))
        seconds["read"] = time.process_time() - started
    digest = hashlib.sha256()
    for t in back:
        digest.update(json.dumps([t.id, t.prompt, t.response, t.row]).encode())
        for values in (t.prompt_ids, t.response_ids_N, t.step_N, t.entropy_N, t.confidence_N):
            digest.update(values.tobytes())
    return {"seconds": seconds, "digest": digest.hexdigest()}


def measure(tree: Path, sizes: dict[str, int]) -> dict[str, Any]:
    """`work` in a process of its own, from the sources of a tree."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), "--work", json.dumps(sizes)],
        env={**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{tree} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(other: Path, *, rounds: int, sizes: dict[str, int]) -> dict[str, Any]:
    """part -> ratio over the pairs, and seconds of both; the first pair warms the disk."""
    trees = {"ours": HERE.parent, "theirs": other}
    found: dict[str, list[dict[str, Any]]] = {tree: [] for tree in trees}
    for number in range(rounds + 1):
        for tree in list(trees)[:: 1 if number % 2 else -1]:
            found[tree].append(measure(trees[tree], sizes))
    if len({run["digest"] for runs in found.values() for run in runs}) != 1:
        sys.exit("the trees read other rows back: their times say nothing")
    results: dict[str, Any] = {}
    for part in found["ours"][0]["seconds"]:
        seconds = {tree: [run["seconds"][part] for run in runs[1:]] for tree, runs in found.items()}
        pairs = zip(seconds["theirs"], seconds["ours"], strict=True)
        ratios = sorted(theirs / ours for theirs, ours in pairs)
        results[part] = {
            "ratio": statistics.median(ratios),
            "range": [ratios[0], ratios[-1]],
            "bar": BARS.get(part),
            "milliseconds_per_row": {
                tree: 1000 * statistics.median(s) / sizes["number"] for tree, s in seconds.items()
            },
        }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path, nargs="?", help="the root of the other tree")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of processes")
    parser.add_argument("--batch", type=int, default=SIZES["batch"], help="rows of one append")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes; nothing is saved")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        print(json.dumps(work(**json.loads(args.work))))
        return
    if args.other is None:
        parser.error("name the root of the other tree")
    sizes = TINY if args.tiny else {**SIZES, "batch": args.batch}
    results = compare(args.other.resolve(), rounds=args.rounds, sizes=sizes)
    for part, found in results.items():
        times = found["milliseconds_per_row"]
        print(
            f"{part:7} {found['ratio']:.2f} x [{found['range'][0]:.2f}, {found['range'][1]:.2f}]  "
            f"{times['ours']:.3f} ms a row against {times['theirs']:.3f}"
        )
    if not args.tiny and args.batch == SIZES["batch"]:
        from tabom.core.env import hardware, versions

        commit = subprocess.run(
            ["git", "-C", str(args.other), "rev-parse", "--short", "HEAD"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        record = {"against": commit, "rounds": args.rounds, "sizes": sizes, **results}
        record |= {"hardware": hardware(), "versions": versions()}
        (HERE / "results" / "store.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
