"""The data path: how long the store, the collator and the drawing of contexts take.

    python benchmarks/loading.py              # about a minute on one core

Synthetic trajectories go through the writer, the shards and back, then into batches and contexts.
A training step of a small network (the 1:12 case of step.py) stands beside them: on a GPU a step of
a 7B network takes some 0.1 s, so a response must cost well below a millisecond of CPU time.

Legend: N response slots.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import step
from common import SEED, Call, assert_close, claim, paired, run_benchmark, say
from tabom.objectives.presets import build_objective
from tabom.training.dataset import collate, examples_from_trajectories
from tabom.trajectory.record import Trajectory
from tabom.trajectory.store import TrajectoryStore, TrajectoryWriter, finish

VOCAB_SIZE, MASK_ID, END_ID = 152064, 151666, 151643
BATCH = 8


def trajectories(number: int, *, num_prompt: int, num_slots: int) -> list[Trajectory]:
    """Random responses, one slot a step in a random order."""
    generator = np.random.default_rng(SEED)
    return [
        Trajectory(
            id=f"{i:06d}",
            prompt="a prompt",
            prompt_ids=generator.integers(0, 150000, num_prompt, dtype=np.int32),
            response="a response",
            response_ids_N=generator.integers(0, 150000, num_slots, dtype=np.int32),
            step_N=generator.permutation(num_slots).astype(np.int32),
            entropy_N=generator.random(num_slots, dtype=np.float32),
            confidence_N=generator.random(num_slots, dtype=np.float32),
            num_forwards=num_slots,
        )
        for i in range(number)
    ]


def timed(call: Call) -> tuple[float, Any]:
    started = time.process_time()
    result = call()
    return time.process_time() - started, result


def measure(args: argparse.Namespace) -> dict[str, Any]:
    number, num_slots = (40, 32) if args.tiny else (10_000, 256)
    made = trajectories(number, num_prompt=128, num_slots=num_slots)
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def write() -> None:
            writer = TrajectoryWriter(folder)
            for start in range(0, number, 64):
                writer.append(made[start : start + 64])

        def make_shards() -> None:
            finish(folder, fingerprint="benchmark", settings={}, seconds=0.0)

        seconds["write, with one fsync per 64"], _ = timed(write)
        seconds["make the shards"], _ = timed(make_shards)
        seconds["read the shards"], back = timed(lambda: list(TrajectoryStore(folder)))
    differences = assert_close(
        {"steps": np.stack([t.step_N for t in back])},
        {"steps": np.stack([t.step_N for t in made])},
    )
    say("store measured")
    seconds["make examples"], examples = timed(
        lambda: list(examples_from_trajectories(back, end_ids=[END_ID]))
    )
    objective = build_objective("tabom", window=32)

    def contexts() -> None:
        for start in range(0, number, BATCH):
            batch = collate(examples[start : start + BATCH], pad_id=END_ID, mask_id=MASK_ID)
            objective.draw(batch, seed=SEED, step=start)

    seconds[f"collate and draw contexts, batches of {BATCH}"], _ = timed(contexts)
    sizes = {**step.CASES["head : body = 1 : 12"], **(step.TINY if args.tiny else {})}
    steps = step.Steps(**sizes)
    train = steps.calls()["ours"]
    train()
    step_seconds = paired({"step": train}, rounds=min(args.rounds, 2))["step"]
    per_response = min(step_seconds) / sizes["batch_size"]
    hot = (seconds[f"collate and draw contexts, batches of {BATCH}"]) / number
    return {
        "num_trajectories": number,
        "num_slots": num_slots,
        "differences": differences,
        "seconds": seconds,
        "per_second": {name: number / value for name, value in seconds.items()},
        "milliseconds_per_response": {
            name: 1000 * value / number for name, value in seconds.items()
        },
        "training_step_milliseconds_per_response": 1000 * per_response,
        "claims": [
            claim(
                "collating and drawing, share of a training step of a 27M network",
                100 * hot / per_response,
                bar=1,
                unit="%",
                at_most=True,
            ),
            claim(
                "collating and drawing, CPU time per response",
                1000 * hot,
                bar=1,
                unit="ms",
                at_most=True,
            ),
        ],
    }


if __name__ == "__main__":
    run_benchmark("loading", measure, rounds=2)
