"""Does damage to a file change a result in silence? Random bit flips and truncations, counted.

    python benchmarks/damage.py                # 300 cases, writes results/damage.json

A small study and a training that was killed after a checkpoint are made once. Every case copies
them, damages one file (a file at random, then a bit or a length at random), and runs what reads
that file next. The outcome is one of

    error       status 2 and one line that says what is wrong
    warning     equal results, and a word about the damage
    equal       equal results: the byte meant nothing, or was made anew
    silent      status 0 and other results: what must not be
    traceback   a bug's face instead of an error

The script ends with status 1 if there is any of the last two.
"""

import argparse
import contextlib
import io
import json
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import RESULTS
from tabom.cli.main import main as tabom

RECIPE = """\
name: damage
model: {model_name_or_path: toy-base}
prompts:
  function: "tabom.toyworld.tasks:prompts"
  args: {task: chain, split: train, num: 24}
decoding: {max_new_tokens: 16}
verifier: {type: function, function: "tabom.toyworld.tasks:check"}
training:
  learning_rate: 1.0e-3
  per_device_train_batch_size: 4
  max_steps: 4
  warmup_steps: 0
  save_strategy: steps
  save_steps: 2
arms:
  - {name: base}
  - {name: TABOM, objective: tabom, options: {window: 4}}
evaluation:
  num_fields: 4
  sets:
    - name: chain
      role: in_domain
      prompts:
        function: "tabom.toyworld.tasks:prompts"
        args: {task: chain, split: eval, num: 12}
diagnostics: {num_trajectories: 4}
"""
# Of a summary: when and how long, which no two runs share.
VOLATILE = (
    "seconds",
    "created",
    "command",
    "per_second",
    "mfu",
    "memory",
    "hour",
    "date",
    "folder",
)


def call(*arguments: str | Path) -> tuple[int, str]:
    """Status and stderr of a `tabom` command in this process."""
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = tabom([str(a) for a in arguments])
        except SystemExit as left:
            status = left.code if isinstance(left.code, int) else 1
        except BaseException:
            error.write(traceback.format_exc())
            status = -1
    return status, error.getvalue()


def plain(value: Any) -> Any:
    """A summary without what no two runs share."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if not any(w in k for w in VOLATILE)}
    return [plain(v) for v in value] if isinstance(value, list) else value


def weights(folder: Path) -> Any:
    from safetensors.torch import load_file

    tensors = load_file(folder / "adapter_model.safetensors")
    return {name: tensor.flatten().tolist() for name, tensor in tensors.items()}


def rows(path: Path) -> Any:
    import pyarrow.parquet as pq

    return sorted(
        json.dumps(row, sort_keys=True, default=str) for row in pq.read_table(path).to_pylist()
    )


class World:
    """A finished study and a killed training under one folder, and who reads which file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipe = root / "recipe.yaml"

    def make(self) -> None:
        self.recipe.parent.mkdir(parents=True)
        self.recipe.write_text(RECIPE)
        for arguments in (
            ("run", self.recipe, "--output_dir", self.root / "run"),
            self._train(self.root / "killed"),
        ):
            status, error = call(*arguments)
            if status:
                sys.exit(f"the undamaged world could not be made: {error[-2000:]}")
        killed = self.root / "killed"  # as a kill after the last checkpoint leaves it
        for path in list(killed.iterdir()):
            if path.is_file() and path.name not in (".started.json", "metrics.jsonl"):
                path.unlink()
        found = json.loads((self.root / "run/seed-0/tabom/train/manifest.json").read_text())
        mark = {k: found[k] for k in ("stage", "fingerprint", "settings", "created")}
        own = (
            json.loads((killed / ".started.json").read_text())
            if (killed / ".started.json").is_file()
            else mark
        )
        (killed / ".started.json").write_text(json.dumps(own))
        shutil.rmtree(killed / "checkpoint-4")  # the one at step 2 is gone on from

    def _train(self, folder: Path) -> tuple[str | Path, ...]:
        collected = self.root / "run" / "seed-0"
        return (
            "train", "--config", self.recipe, "--objective", "tabom", "--option", "window=4",
            "--trajectories", collected / "collect", "--verdicts", collected / "verify",
            "--output_dir", folder,
        )  # fmt: skip

    def read(self, path: Path) -> tuple[int, str, Any]:
        """Run what reads a file (relative to the root): status, stderr, and its result."""
        out, seed = self.root / "out", self.root / "run" / "seed-0"
        common = ("--config", self.recipe, "--output_dir", out)
        result: Callable[[], Any]
        match path.parts:
            case ("killed", *_):
                status, error = call(*self._train(self.root / "killed"))
                result = lambda: weights(self.root / "killed")  # noqa: E731
            case ("run", "seed-0", "collect", *_):
                status, error = call("verify", *common, "--trajectories", seed / "collect")
                result = lambda: rows(out / "verdicts.parquet")  # noqa: E731
            case ("run", "seed-0", "verify", *_):
                status, error = call(*self._train(out))
                result = lambda: weights(out)  # noqa: E731
            case ("run", "seed-0", "tabom", "train", *_):
                status, error = call("evaluate", *common, "--trained", seed / "tabom" / "train")
                result = lambda: rows(out / "records.parquet")  # noqa: E731
            case _:
                status, error = call("report", self.root / "run")
                result = lambda: plain(json.loads((self.root / "run/summary.json").read_text()))  # noqa: E731
        return status, error, result() if status == 0 else None


def damage(path: Path, rng: random.Random) -> str:
    """Flip one bit of a file, or cut it short."""
    content = bytearray(path.read_bytes())
    if not content or rng.random() < 0.3:
        cut = rng.randrange(len(content)) if content else 0
        path.write_bytes(content[:cut])
        return f"cut to {cut} of {len(content)} bytes"
    place, bit = rng.randrange(len(content)), rng.randrange(8)
    content[place] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {place} flipped"


def outcome(status: int, error: str, is_equal: bool) -> str:
    if "Traceback" in error or status not in (0, 2):
        return "traceback"
    if status == 2:
        return "error"
    if not is_equal:
        return "silent"
    return "warning" if "damaged" in error or "changed" in error else "equal"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    counts: dict[str, Counter[str]] = {}
    bad = []
    with tempfile.TemporaryDirectory() as name:
        whole = World(Path(name) / "whole")
        whole.make()
        files = sorted(
            p.relative_to(whole.root)
            for part in ("run", "killed")
            for p in (whole.root / part).rglob("*")
            if p.is_file() and p.name not in (".lock", "report.html")
        )
        expected: dict[str, Any] = {}
        case = World(Path(name) / "case")
        for number in range(-len(files), args.cases):  # first every file undamaged, as reference
            path = files[number] if number < 0 else rng.choice(files)
            shutil.rmtree(case.root, ignore_errors=True)
            shutil.copytree(whole.root, case.root)
            what = damage(case.root / path, rng) if number >= 0 else ""
            status, error, result = case.read(path)
            if number < 0:
                if status:
                    sys.exit(f"{path}, undamaged: {error[-2000:]}")
                expected[str(path)] = result
                continue
            found = outcome(status, error, result == expected[str(path)])
            kind = "/".join(p for p in path.parts[:-1] if p not in ("run", "seed-0")) or "run"
            counts.setdefault(kind, Counter())[found] += 1
            if found in ("silent", "traceback"):
                bad.append({"file": str(path), "damage": what, "outcome": found})
                print(f"{found}: {path}, {what}\n{error[-1500:]}")
    total = sum(counts.values(), Counter())
    record = {
        "cases": args.cases,
        "seed": args.seed,
        "outcomes": dict(total),
        "by_folder": {kind: dict(found) for kind, found in sorted(counts.items())},
        "bad": bad,
    }
    (RESULTS / "damage.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record["outcomes"]))
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
