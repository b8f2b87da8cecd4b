"""Which prompts share a batch, and what that saves: padding, rows that finish early, scaling.

A part of collector.py, which runs it.
"""

import statistics
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from common import SEED, Call, paired, ratio
from random_models import SMALL_BODY, build_model
from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoder, DecodeRequest
from tabom.decoding.requests import by_length
from tabom.models.loading import load_model
from tabom.toyworld.tasks import prompts as task_prompts

# ---- padding ----


def padding(*, num_prompts: int) -> dict[str, Any]:
    """Padded over real tokens of the product's batches, lognormal lengths of mean 150, cv 0.6."""
    batch_size, num_slots = 32, 256
    sigma = np.sqrt(np.log1p(0.6**2))
    draw = np.random.default_rng(SEED).lognormal(np.log(150) - sigma**2 / 2, sigma, num_prompts)
    lengths = np.maximum(draw.round().astype(int), 1).tolist()
    requests = [DecodeRequest(id=str(i), prompt_ids=range(n)) for i, n in enumerate(lengths)]

    def share(ordered: list[DecodeRequest]) -> float:
        sizes = [len(request.prompt_ids) + num_slots for request in ordered]
        batches = [sizes[i : i + batch_size] for i in range(0, len(sizes), batch_size)]
        return sum(max(batch) * len(batch) for batch in batches) / sum(sizes)

    decoded = share(by_length(requests))
    return {
        "prompts": num_prompts,
        "arrival order": share(requests),
        "all prompts by length": decoded,
        "bar": 1.02,
        "is_met": decoded <= 1.02,
    }


# ---- rows that finish early ----


def early_ends(*, rounds: int, is_tiny: bool) -> dict[str, Any]:
    """The toy base that comes with the package: batches whose finished rows leave.

    text: a response is finished when its text is; threshold: a call reveals all slots above 0.9.
    Prompts are of one length: with so few tokens, any padding costs more than an empty seat.
    """
    model = load_model("toy-base", device="cpu")
    rows = task_prompts(task="chain", split="eval", seed=SEED, num=8 if is_tiny else 64)
    requests = [
        DecodeRequest(id=row["id"], prompt_ids=model.encode_prompt(row["prompt"])) for row in rows
    ]
    settings = {
        "full": DecodingConfig(policy="confidence", max_new_tokens=16),
        "threshold": DecodingConfig(
            policy="confidence", max_new_tokens=16, schedule="threshold", threshold=0.9
        ),
    }
    settings["blocks of 4"] = replace(settings["full"], block_length=4)
    for name in ("full", "threshold", "blocks of 4"):
        settings[f"{name}, text"] = replace(settings[name], stop="text")
    calls: dict[str, Call] = {}
    found: dict[str, Any] = {"prompts": len(requests)}
    texts: dict[str, list[str]] = {}
    for name, config in settings.items():
        seen = {}
        for batch_size in (1, 16):
            decoder = Decoder(model, config, batch_size=batch_size)
            done, counts = [d.trajectory for d in decoder.in_order(requests)], decoder.counts
            seen[batch_size] = [(t.response_ids_N.tolist(), t.step_N.tolist()) for t in done]
            texts[name] = [t.response for t in done]
            key = f"{name}, batch {batch_size}"
            found[key] = {"calls": counts.num_calls, "tokens": counts.num_tokens}
            found[key]["refills"] = counts.num_refills
            calls[key] = lambda config=config, size=batch_size: list(
                Decoder(model, config, batch_size=size).in_order(requests)
            )
        if seen[1] != seen[16]:
            raise AssertionError(f"{name}: the batch changes tokens or steps")
    for name in settings:
        if texts[name] != texts[name.removesuffix(", text")]:
            raise AssertionError(f"{name}: stopping at the end of the text changes the text")
    times = paired(calls, rounds=rounds)
    for key, values in times.items():
        found[key]["ms a response"] = 1000 * statistics.median(values) / len(requests)
        found[key]["times faster"] = ratio(times, "full, batch 1", key)
    return found


# ---- scaling ----


def scaling(*, rounds: int, is_tiny: bool) -> dict[str, Any]:
    """CPU milliseconds a trajectory by batch, with the number of prompts, the slots and V fixed."""
    model = build_model(
        "dream", **{**SMALL_BODY, "hidden_size": 64, "intermediate_size": 172, "vocab_size": 2048}
    )
    num_slots = 8 if is_tiny else 32
    config = DecodingConfig(policy="entropy", max_new_tokens=num_slots)
    generator = torch.Generator().manual_seed(SEED)
    ids = torch.randint(0, 2000, (64, 24), generator=generator).tolist()
    requests = [DecodeRequest(id=str(i), prompt_ids=row) for i, row in enumerate(ids)]

    def run(num_prompts: int, batch_size: int) -> Call:
        return lambda: list(
            Decoder(model, config, batch_size=batch_size).in_order(requests[:num_prompts])
        )

    most = 4 if is_tiny else 16
    by_batch = {f"batch {b}": run(most, b) for b in (1, 2, 4, 8, 16) if b <= most}
    by_number = {f"prompts {n}": run(n, 8) for n in ((2, 4) if is_tiny else (8, 16, 32, 64))}
    found: dict[str, Any] = {}
    for name, calls, count in (
        ("by batch", by_batch, lambda key: most),
        ("by number of prompts, batch 8", by_number, lambda key: int(key.split()[1])),
    ):
        times = paired(calls, rounds=rounds)
        found[name] = {
            key: 1000 * statistics.median(values) / count(key) for key, values in times.items()
        }
    return found
