"""The fair study on a net of 20 to 100 million weights, for one GPU, as one script.

    PYTHONPATH=src python benchmarks/gpu_frontier.py DIR [--width 512] [--layers 8]
    PYTHONPATH=src python benchmarks/gpu_frontier.py DIR --tiny --device cpu

The base of `toy-hasty` is made at that size, then `frontier.py` tunes and confirms every arm on it.
DIR keeps the base and a line for each finished cell: a second call goes on. The last line printed,
and DIR/report.json, hold the frontier. Nothing is fetched.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

import frontier
import frontier_tables
from tabom.core.env import hardware, versions
from tabom.toyworld.base import pretrain
from tabom.toyworld.curriculum import curriculum

HASTY_SHARE = 0.001
TINY_ARMS = ("SFT-SD", "Two contexts")


def make_base(folder: Path, args: argparse.Namespace) -> None:
    """The base, unless it is there: the curriculum of `toy-hasty` in a larger net."""
    if (folder / "pretraining.json").is_file():
        return
    lessons = curriculum(chain_share=HASTY_SHARE)
    if args.tiny:
        lessons = tuple(replace(lesson, num_steps=4, batch_size=8) for lesson in lessons)
    pretrain(
        folder,
        lessons=lessons,
        width=args.width,
        num_layers=args.layers,
        device=args.device,
        options=f" --width {args.width} --layers {args.layers}",
    )


def every_other(*, response: str, row: dict[str, str]) -> tuple[str, str]:
    """A judge for a base that has learnt nothing, so that there is something to train on."""
    return ("accepted", "") if len(row["prompt"] + response) % 2 else ("wrong", "")


def shrink() -> None:
    """A few cells of a few prompts and steps: to see that all of it runs."""
    small = {"num_in": 8, "num_out": 4}
    frontier.PHASES = {
        "tune": frontier.Phase(seeds=(100,), eval_seed=1000, **small),
        "confirm": frontier.Phase(seeds=(200,), eval_seed=2000, **small),
    }
    frontier.ARMS = {arm: frontier.ARMS[arm][:1] for arm in TINY_ARMS}
    frontier.EXTRA = [
        ("training.max_steps", 2),
        ("training.per_device_train_batch_size", 8),
        ("verifier", {"type": "function", "function": "gpu_frontier:every_other"}),
        ("collection.batch_size", 16),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=8000, help="collected for each seed")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    if args.tiny:
        args.width, args.layers, args.prompts = 32, 2, 64
        shrink()
    base, cells = args.folder / "base", args.folder / "cells.jsonl"
    make_base(base, args)
    frontier.WORLDS = {str(base): frontier.World(prompts=args.prompts)}
    frontier.EXTRA = [*frontier.EXTRA, ("model.device", args.device)]
    for phase in ("tune", "confirm"):
        frontier.run_phase(phase, list(frontier.WORLDS), workers=1, path=cells)
    found = {
        "report": frontier_tables.report(cells),
        "base": json.loads((base / "pretraining.json").read_text()),
        "hardware": hardware(),
        "versions": versions(),
        "tiny": args.tiny,
    }
    (args.folder / "report.json").write_text(json.dumps(found, indent=2))
    print(json.dumps(found["report"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
