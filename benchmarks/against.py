"""Is this tree as fast as another one? The same commands, alternating processes, CPU time.

    git worktree add ../before a419540
    python benchmarks/against.py ../before            # prints, writes results/against.json

Each workload is a command of `tabom` on the toy world, run as a user would run it, from the
sources of one tree and of the other in turns, on one thread. What is measured is the CPU time of
the whole process, start-up included; the ratio is ours over theirs, so below 1 is faster. The
output is compared first: the same responses, the same weights.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RECIPE = """\
name: against
model: {model_name_or_path: toy-base}
prompts:
  function: "tabom.toyworld.tasks:prompts"
  args: {task: chain, split: train, num: %(num_prompts)d}
decoding: {policy: entropy, max_new_tokens: 16}
collection: {batch_size: 128}
verifier: {type: function, function: "tabom.toyworld.tasks:check"}
training:
  learning_rate: 1.0e-3
  per_device_train_batch_size: 32
  max_steps: %(num_steps)d
  warmup_steps: 5
arms: [{name: base}]
evaluation:
  batch_size: 128
  sets:
    - name: chain
      role: in_domain
      tokens_per_step: [1, 2]
      prompts:
        function: "tabom.toyworld.tasks:prompts"
        args: {task: chain, split: eval, num: %(num_prompts)d}
"""


def workloads(scratch: Path, size: int) -> dict[str, list[str]]:
    """name -> the command; each writes a folder of its name under `scratch`."""
    scratch.mkdir()
    recipe = scratch / "recipe.yaml"
    recipe.write_text(RECIPE % {"num_prompts": 60 * size, "num_steps": 15 * size})
    folders = {name: str(scratch / name) for name in ("collect", "verify", "train", "evaluate")}

    def verb(name: str, *more: str) -> list[str]:
        return [name, "--config", str(recipe), "--output_dir", folders[name], *more]

    return {
        "help": ["train", "--help"],
        "collect": verb("collect"),
        "verify": verb("verify", "--trajectories", folders["collect"]),
        "train": verb(
            "train", "--objective", "tabom", "--trajectories", folders["collect"],
            "--verdicts", folders["verify"],
        ),
        "evaluate": verb("evaluate", "--trained", folders["train"]),
        "quick": ["run", "toy-quick", "--output_dir", str(scratch / "quick")],
    }  # fmt: skip


def cpu_seconds(tree: Path, arguments: list[str]) -> float:
    """User and system time of one `tabom` command from the sources of a tree."""
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "tabom", *arguments],
        env=environment,
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"tabom {' '.join(arguments)} of {tree} failed:\n{done.stderr[-2000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def responses(folder: Path) -> list[tuple[str, list[int], list[int]]]:
    """Prompt, tokens and steps of a collection; ids may be made otherwise in another tree."""
    import pyarrow.parquet as pq

    rows = [
        row for f in sorted(folder.glob("data/*.parquet")) for row in pq.read_table(f).to_pylist()
    ]
    return sorted((r["prompt"], r["response_ids"], r["step"]) for r in rows)


def weights(folder: Path) -> dict[str, Any]:
    """The tensors of a trained adapter."""
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, help="the root of the other tree")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of each workload")
    parser.add_argument("--size", type=int, default=10, help="work, in 60 prompts and 15 steps")
    parser.add_argument("--only", nargs="+", help="some of the workloads")
    args = parser.parse_args()
    trees = {"ours": HERE.parent, "theirs": args.other.resolve()}
    with tempfile.TemporaryDirectory() as name:
        scratch = {tree: Path(name) / tree for tree in trees}
        commands = {tree: workloads(scratch[tree], args.size) for tree in trees}
        times: dict[str, dict[str, list[float]]] = {}
        for number in range(args.rounds + 1):  # the first round warms caches and proves equality
            for work in args.only or commands["ours"]:
                order = list(trees) if number % 2 else list(trees)[::-1]
                for tree in order:
                    shutil.rmtree(scratch[tree] / work, ignore_errors=True)
                    seconds = cpu_seconds(trees[tree], commands[tree][work])
                    if number:
                        times.setdefault(work, {}).setdefault(tree, []).append(seconds)
            if not number and not args.only:
                prove_equal(scratch["ours"], scratch["theirs"])
    results = {}
    for work, seconds in times.items():
        ratios = sorted(a / b for a, b in zip(seconds["ours"], seconds["theirs"], strict=True))
        results[work] = {
            "ratio": statistics.median(ratios),
            "range": [ratios[0], ratios[-1]],
            "seconds": {tree: statistics.median(s) for tree, s in seconds.items()},
        }
        print(
            f"{work:10} {results[work]['ratio']:.3f} [{ratios[0]:.3f}, {ratios[-1]:.3f}]  "
            f"{results[work]['seconds']['ours']:.2f} s against "
            f"{results[work]['seconds']['theirs']:.2f} s"
        )
    if not args.only:
        commit = subprocess.run(
            ["git", "-C", str(args.other), "rev-parse", "--short", "HEAD"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        from tabom.core.env import hardware, versions

        record = {"against": commit, "rounds": args.rounds, "size": args.size, **results}
        record |= {"hardware": hardware(), "versions": versions()}
        (HERE / "results" / "against.json").write_text(json.dumps(record, indent=2) + "\n")


def prove_equal(ours: Path, theirs: Path) -> None:
    """Exit if the two trees collected other responses, or trained other weights."""
    import torch

    if responses(ours / "collect") != responses(theirs / "collect"):
        sys.exit("the trees collect other responses: their times say nothing")
    left, right = weights(ours / "train"), weights(theirs / "train")
    worst = max(float((left[n] - right[n]).abs().max()) for n in right)
    print(f"equal responses; weights differ by at most {worst:.1e}")
    if left.keys() != right.keys() or worst > 1e-4 or not torch.isfinite(torch.tensor(worst)):
        sys.exit("the trees train other weights: their times say nothing")


if __name__ == "__main__":
    main()
