"""Kills over a Ray cluster: is anything lost, doubled or different?

    python benchmarks/kills.py                # 20 kills, about ten minutes on two cores

A collection and an evaluation run on a local Ray cluster with two workers. At random moments a
random worker, or the driver with all it started, is killed with SIGKILL; a dead driver is started
again with the same command. The results are compared with those of one undisturbed process: ids,
tokens and steps must be equal. Writes results/kills.json.
"""

import argparse
import collections
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from common import run_benchmark, say
from tabom.core.manifest import read_manifest
from tabom.trajectory.store import TrajectoryStore

RECIPE = """\
name: kills
model: {{model_name_or_path: toy-base}}
prompts:
  function: "tabom.toyworld.tasks:prompts"
  args: {{task: chain, split: train, num: {num}}}
decoding: {{max_new_tokens: 16}}
verifier: {{type: function, function: "tabom.toyworld.tasks:check"}}
collection: {{batch_size: 8}}
arms: [{{name: base}}]
evaluation:
  batch_size: 8
  num_fields: 8
  sets:
    - name: chain
      tokens_per_step: [1, 2]
      prompts:
        function: "tabom.toyworld.tasks:prompts"
        args: {{task: chain, split: eval, num: {num_eval}}}
"""
RAY = ["--launcher", "ray", "--chunk_workers", "2", "--gpus_per_worker", "0", "--chunk_size", "32"]
DRIVER_SHARE = 0.3  # of the kills


def command(verb: str, recipe: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "tabom", verb, "--config", str(recipe), "--quiet",
            "--output_dir", str(out), *more]  # fmt: skip


def descendants(pid: int) -> dict[int, bytes]:
    """The processes below one, with their command lines."""
    names, children = {}, collections.defaultdict(list)
    for path in Path("/proc").glob("[0-9]*"):
        try:
            names[int(path.name)] = (path / "cmdline").read_bytes()
            parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        children[int(parent)].append(int(path.name))
    found, waiting = {}, [pid]
    while waiting:
        for child in children[waiting.pop()]:
            found[child] = names[child]
            waiting.append(child)
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def disturbed(words: list[str], out: Path, num_kills: int, rng: random.Random) -> dict[str, Any]:
    """Run a command to its end in spite of kills. Returns: what was killed, and when it ended."""
    killed: collections.Counter[str] = collections.Counter()
    log = (out.parent / f"{out.name}.log").open("w")
    driver = subprocess.Popen(words, stdout=log, stderr=log)
    started = time.monotonic()

    def num_traces() -> int:
        return sum(len(list(out.glob(p))) for p in ("**/data/*", "**/attempts/*"))

    seen = 0
    while True:
        # In the middle of work: something was begun or done since the last kill.
        moment = rng.uniform(0, 2.0)
        while driver.poll() is None and num_traces() <= seen + 1:
            time.sleep(0.05)
        time.sleep(moment)
        if driver.poll() == 0 or killed.total() == num_kills:
            break
        assert driver.poll() is None, (out.parent / f"{out.name}.log").read_text()
        below = descendants(driver.pid)
        actors = [p for p, name in below.items() if name.startswith(b"ray::Actor")]
        seen = num_traces()
        if rng.random() < DRIVER_SHARE:
            driver.kill()
            driver.wait()
            while any(map(is_alive, actors)):  # they end with their driver
                time.sleep(0.05)
            driver = subprocess.Popen(words, stdout=log, stderr=log)
            killed["driver"] += 1
        elif actors:
            os.kill(rng.choice(actors), signal.SIGKILL)
            killed["worker"] += 1
        say(f"{out.name}: {dict(killed)}")
    assert driver.wait() == 0, (out.parent / f"{out.name}.log").read_text()
    return {**killed, "seconds": round(time.monotonic() - started, 1)}


def compared(one: list[tuple[Any, ...]], two: list[tuple[Any, ...]]) -> dict[str, int]:
    ids = [row[:1] for row in two]
    return {
        "rows": len(one),
        "lost": len({row[:1] for row in one} - {*ids}),
        "doubled": len(ids) - len({*ids}),
        "different": len({*one} ^ {*two}) // 2,
    }


def collected(folder: Path) -> list[tuple[Any, ...]]:
    return [
        (t.id, tuple(t.response_ids_N.tolist()), tuple(t.step_N.tolist()))
        for t in TrajectoryStore(folder)
    ]


def evaluated(folder: Path) -> list[tuple[Any, ...]]:
    """Every record at every pace, and the trajectories at the first."""
    rows = pq.read_table(folder / "records.parquet").to_pylist()
    names = ("correct", "reason", "response", "num_forwards", "length", "end_step")
    key = ("set", "id", "sample", "tokens_per_step")
    found = [(tuple(r[k] for k in key), *(r[n] for n in names)) for r in rows]
    return found + [
        (("trajectory", t.id), tuple(t.response_ids_N.tolist()), tuple(t.step_N.tolist()))
        for t in TrajectoryStore(folder / "trajectories.parquet")
    ]


def measure(args: argparse.Namespace) -> Mapping[str, Any]:
    rng = random.Random(args.seed)
    num, num_eval, num_kills = (400, 160, 2) if args.tiny else (args.num, args.num // 2, args.kills)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        recipe = Path(name) / "recipe.yaml"
        recipe.write_text(RECIPE.format(num=num, num_eval=num_eval))
        for verb, rows in (("collect", collected), ("evaluate", evaluated)):
            one, two = Path(name) / f"{verb}-one", Path(name) / f"{verb}-ray"
            subprocess.run(command(verb, recipe, one), check=True, capture_output=True)
            say(f"{verb}: one process is done")
            half = num_kills // 2
            what = disturbed(command(verb, recipe, two, *RAY), two, half, rng)
            manifest = read_manifest(two)
            assert manifest is not None
            failed = manifest.counts.get("num_failed", 0)
            found[verb] = {**what, **compared(rows(one), rows(two)), "failed": failed}
            say(f"{verb}: {found[verb]}")
    return {"seed": args.seed, "workers": 2, **found}


def main() -> None:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--kills", type=int, default=20)
        parser.add_argument("--num", type=int, default=6000, help="prompts; half as many questions")
        parser.add_argument("--seed", type=int, default=0)

    run_benchmark("kills", measure, add_arguments=add)


if __name__ == "__main__":
    main()
