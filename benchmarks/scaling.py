"""How cost grows: CPU time and peak memory against batch, vocabulary, length and amount of data.

    python benchmarks/scaling.py              # about four minutes on one core

Each curve is measured at growing sizes in turns, and a straight line is fitted through its medians.
Where a curve leaves the line of its first three points by a quarter, it is said to bend.

Legend: B batch, N response slots, V vocabulary.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

import head
import step
from common import SEED, Call, paired, peak_memory, run_benchmark, say
from random_models import build_model
from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoder, DecodeRequest

BEND = 0.25
HEAD = {"batch_size": 2, "hidden_size": 256, "window": 32, "vocab_size": 16384}
BODY = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_layers": 4,
    "num_heads": 4,
    "num_kv_heads": 2,
    "vocab_size": 8192,
}


def fit(x: Sequence[float], y: Sequence[float]) -> dict[str, Any]:
    """Least squares y = start + slope * x, R2, and the first x where the curve bends (or None)."""
    slope, start = np.polyfit(x, y, 1)
    rest = np.asarray(y) - (start + slope * np.asarray(x))
    spread = float(((np.asarray(y) - np.mean(y)) ** 2).sum())
    early_slope, early_start = np.polyfit(x[:3], y[:3], 1)
    bends = None
    for size, value in zip(x[3:], y[3:], strict=True):
        line = early_start + early_slope * size
        if abs(value - line) > BEND * abs(line):
            bends = size
            break
    return {
        "slope": float(slope),
        "start": float(start),
        "r2": 1 - float((rest**2).sum()) / spread if spread else 1.0,
        "bends_at": bends,
    }


def curve(
    what: str, unit: str, x: Sequence[int], y: Sequence[float], spread: Any = None
) -> dict[str, Any]:
    found = {"what": what, "unit": unit, "x": list(x), "y": list(y), **fit(x, y)}
    return found if spread is None else {**found, "range": spread}


def time_curve(
    what: str, x: Sequence[int], make: Callable[[int], Call], *, rounds: int
) -> dict[str, Any]:
    """Median CPU seconds of `make(size)()` at each size."""
    calls = {str(size): make(size) for size in x}
    for call in calls.values():
        call()  # warm
    times = paired(calls, rounds=rounds)
    say(what)
    values = [times[str(size)] for size in x]
    spread = [[min(v), max(v)] for v in values]
    return curve(what, "seconds", x, [statistics.median(v) for v in values], spread)


def memory_curve(
    what: str, x: Sequence[int], key: str, kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Extra peak bytes of one head call at each value of `key`."""
    peaks = [peak_memory(head.make_call, warm_up=head.TINY, **{**kwargs, key: size}) for size in x]
    say(what)
    return curve(what, "bytes", x, peaks)


# ---- what is measured ----


def head_call(variant: str, key: str, size: int, *, fixed: Mapping[str, Any]) -> Call:
    return head.make_call(variant=variant, **{**fixed, key: size})


def step_call(way: str, num_slots: int, *, batch_size: int = 2) -> Call:
    sizes = {**BODY, "batch_size": batch_size, "num_prompt": 64, "num_slots": num_slots}
    return step.make_call(way=way, **sizes)


def epoch_call(num_responses: int) -> Call:
    """One pass over the responses in batches of 4: drawing, step and update."""
    sizes = {**BODY, "batch_size": 4, "num_prompt": 32, "num_slots": 64}
    call = step.make_call(way="ours", **sizes)

    def epoch() -> None:
        for _ in range(num_responses // 4):
            call()

    return epoch


def collect_call(num_prompts: int, num_slots: int) -> Call:
    """Decode prompts of 8 tokens, one slot a step, in batches of 8."""
    model = build_model("toy", seed=SEED, initializer_range=0.2, **{**BODY, "vocab_size": 1024})
    generator = torch.Generator().manual_seed(SEED)
    ids = torch.randint(0, 1000, (num_prompts, 8), generator=generator).tolist()
    requests = [DecodeRequest(id=str(i), prompt_ids=prompt) for i, prompt in enumerate(ids)]
    config = DecodingConfig(max_new_tokens=num_slots)
    return lambda: list(Decoder(model, config, batch_size=8).in_order(requests))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    tiny = args.tiny
    batches = (1, 2, 3, 4) if tiny else (1, 2, 4, 8, 16)
    vocabularies = (256, 512, 768, 1024) if tiny else (4096, 8192, 16384, 32768, 65536)
    lengths = (32, 40, 48, 64) if tiny else (32, 64, 128, 256, 512)
    prompts = (1, 2, 3, 4) if tiny else (8, 16, 24, 32, 64)
    responses = (4, 8, 12, 16) if tiny else (8, 16, 24, 32, 64)
    slots = 4 if tiny else 16
    fixed = {**HEAD, **(head.TINY if tiny else {})}
    time = partial(time_curve, rounds=args.rounds)
    curves = []
    for variant, words in (("ours", "ours"), ("usual", "usual")):
        of_batch = partial(head_call, variant, "batch_size", fixed=fixed)
        curves.append(time(f"head against batch, {words}", batches, of_batch))
        of_vocabulary = partial(head_call, variant, "vocab_size", fixed=fixed)
        curves.append(time(f"head against vocabulary, {words}", vocabularies, of_vocabulary))
        of_length = partial(step_call, "ours" if words == "ours" else "usual")
        curves.append(time(f"step against response length, {words}", lengths, of_length))
    curves.append(time("epoch against number of responses", responses, epoch_call))
    of_prompts = partial(collect_call, num_slots=slots)
    curves.append(time("collection against number of prompts", prompts, of_prompts))
    of_slots = partial(collect_call, 4)
    curves.append(time("collection against response length", lengths[:4], of_slots))
    if not args.no_memory:
        for variant in ("ours", "tiled", "usual"):
            kwargs = {**fixed, "variant": variant}
            name = f"head memory against batch, {variant}"
            curves.append(memory_curve(name, batches[:4], "batch_size", kwargs))
    return {"curves": curves}


if __name__ == "__main__":
    run_benchmark("scaling", measure, rounds=3)
