"""What the GPU suite measures of collection: speed, memory and order. `gpu.py` runs it.

Legend: B batch, S prompt + response, N response slots.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import usual_decoding
from decoding_steps import body, canvas_of, integrate, our_step, state
from gpu_training import Record, adapter, compare, training_calls, with_mfu
from random_models import DREAM
from tabom.decoding.config import DecodingConfig
from tabom.models import costs
from tabom.models.compiled import compile_layers
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.sizes import sizes_of

if TYPE_CHECKING:
    from gpu import Suite

NUCLEUS = {"temperature": 0.1, "top_p": 0.9}
COMPILE_SECONDS = 75  # it cannot be interrupted


# ---- collection ----


def collection(
    suite: Suite, model: MaskedDiffusionModel, record: Record, *, block_length: int | None
) -> None:
    """Steps at three states of the schedule, ours and the usual way; trajectories an hour."""
    shape = _shape(suite, block_length)
    record.update({k: v for k, v in shape.items() if v is not None})
    record["steps"] = {}
    for num_masked in _points(shape):
        ours, theirs, layers = _collection_calls(model, shape, num_masked)
        found: Record = {}
        record["steps"][f"{num_masked} masked"] = found
        found["rows that differ"] = suite.tried(
            lambda ours=ours, theirs=theirs: int((ours() != theirs()).any(1).sum())
        )
        found["ours"] = suite.timed(ours)
        found["usual"] = suite.timed(theirs)
        found["layers alone"] = suite.timed(layers)
        compare(found)
        found["roofline ms"] = 1000 * _step_flops(model, shape, num_masked) / suite.peak_flops
        found["MFU"] = found["roofline ms"] / found["ours"]["ms"]
    _per_hour(record, shape, ways=("ours", "usual"))
    one = {**shape, "batch_size": 1}
    record["usual, one prompt at a time"] = suite.timed(
        _collection_calls(model, one, _points(one)[0])[1]
    )
    hour = 3_600_000 / (record["usual, one prompt at a time"]["ms"] * shape["num_slots"])
    record["trajectories an hour"]["usual, one prompt at a time"] = hour
    if block_length is None:
        found = record["T=0.1, top_p=0.9, all masked"] = {}
        ours, theirs, _ = _collection_calls(model, shape, _points(shape)[0], **NUCLEUS)
        found["ours"], found["usual"] = suite.timed(ours), suite.timed(theirs, rounds=1)
        compare(found)


def _shape(suite: Suite, block_length: int | None) -> dict[str, Any]:
    if suite.is_tiny:
        block_length = None if block_length is None else 4
        return {"batch_size": 2, "num_prompt": 8, "num_slots": 8, "block_length": block_length}
    return {"batch_size": 32, "num_prompt": 256, "num_slots": 256, "block_length": block_length}


def _points(shape: dict[str, Any]) -> tuple[int, int, int]:
    length = shape["block_length"] or shape["num_slots"]
    return length, length // 2, 1


def _step_flops(model: MaskedDiffusionModel, shape: dict[str, Any], num_masked: int) -> float:
    length = shape["num_prompt"] + shape["num_slots"]
    return costs.forward_flops(
        sizes_of(model.base_lm),
        num_tokens=shape["batch_size"] * length,
        context=length,
        num_rows=shape["batch_size"] * num_masked,
    )


def _collection_calls(
    model: MaskedDiffusionModel, shape: dict[str, Any], num_masked: int, **decoding: Any
) -> tuple[Callable[[], Tensor], Callable[[], Tensor], Callable[[], Tensor]]:
    """One step on one state: ours, the usual way, and the layers alone."""
    block_length, num_slots = shape["block_length"], shape["num_slots"]
    ids_BS = state(model, **shape, num_masked=num_masked)
    canvas = canvas_of(model, ids_BS, num_slots=num_slots)
    config = DecodingConfig(
        policy="entropy" if block_length is None else "confidence",
        max_new_tokens=num_slots,
        block_length=block_length,
        greedy_tokens=bool(decoding),
        **decoding,
    )

    @torch.inference_mode()
    def theirs() -> Tensor:
        if block_length is None:
            return usual_decoding.dream_step(model, ids_BS, None, count=1, **decoding)
        end = shape["num_prompt"] + block_length
        counts = [1] * len(ids_BS)
        return usual_decoding.llada_step(model, ids_BS, None, counts=counts, block_end=end)

    return lambda: our_step(model, canvas, config), theirs, lambda: body(model, ids_BS)


def _per_hour(record: Record, shape: dict[str, Any], *, ways: tuple[str, ...]) -> None:
    """Trajectories an hour if every step went as the three that were timed."""
    blocks = shape["num_slots"] // (shape["block_length"] or shape["num_slots"])
    record["trajectories an hour"] = {}
    for way in ways:
        at = {int(k.split()[0]): v[way].get("ms") for k, v in record["steps"].items()}
        if all(at.values()):
            seconds = blocks * integrate(at) / 1000
            record["trajectories an hour"][way] = 3600 * shape["batch_size"] / seconds


def step_memory(suite: Suite, model: MaskedDiffusionModel, record: Record) -> None:
    """Peak extra memory of the first step by batch and slots; the head's part over the layers'."""
    if not suite.is_cuda:
        record["skipped"] = "not measured on a CPU"
        return
    shapes = [(2, 4), (4, 8)] if suite.is_tiny else [(8, 128), (8, 256), (32, 128), (32, 256)]
    for batch_size, num_slots in shapes:
        shape = {
            "batch_size": batch_size,
            "num_prompt": num_slots,
            "num_slots": num_slots,
            "block_length": None,
        }
        ours, _, layers = _collection_calls(model, shape, num_slots)
        at = [suite.timed(call, rounds=1)["extra GiB"] for call in (ours, layers)]
        record[f"batch {batch_size}, {num_slots} slots"] = {
            "ours GiB": at[0],
            "layers alone GiB": at[1],
            "head GiB": at[0] - at[1],
        }


def compiled(
    suite: Suite, model: MaskedDiffusionModel, record: Record, *, block_length: int | None
) -> None:
    """Our step of collection and of training once more, with every layer compiled."""
    shape = _shape(suite, block_length)
    if not suite.is_cuda:
        record["skipped"] = "not measured on a CPU"
        return
    if suite.end - time.perf_counter() < COMPILE_SECONDS:
        record["skipped"] = "less time is left than compilation may take"
        return
    compile_layers(model)
    first = _points(shape)[0]
    found = suite.timed(_collection_calls(model, shape, first)[0])
    found["MFU"] = 1000 * _step_flops(model, shape, first) / suite.peak_flops / found["ms"]
    record[f"collection, {first} masked"] = found
    with adapter(model):
        ours, _, flops = training_calls(suite, model, 8)
        record["LoRA step, batch 8"] = with_mfu(suite, suite.timed(ours), flops)


def mismatch(suite: Suite, record: Record) -> None:
    """How often the next slot differs between arithmetics, on equal weights and equal states.

    Four layers of true width; the reference is the usual way in float32 with the bfloat16 weights.
    """
    layers = 2 if suite.is_tiny else 4
    model = suite.network(DREAM, num_layers=layers)
    exact = suite.network(DREAM, num_layers=layers, dtype=torch.float32)
    exact.load_state_dict(model.state_dict())
    shape = _shape(suite, None)
    num_slots, num_states = shape["num_slots"], 2 if suite.is_tiny else 8
    config = DecodingConfig(policy="entropy", max_new_tokens=num_slots)
    differs: dict[str, list[float]] = {}
    for i in range(num_states):
        suite.check_time()
        num_masked = max(1, num_slots * (i + 1) // num_states)
        ids_BS = state(model, **shape, num_masked=num_masked, seed=i)

        @torch.inference_mode()
        def loop(network: MaskedDiffusionModel, ids_BS: Tensor) -> Tensor:
            return usual_decoding.dream_step(network, ids_BS, None, count=1)

        canvas = canvas_of(model, ids_BS, num_slots=num_slots)
        next_BS = {
            "float32": loop(exact, ids_BS),
            "usual": loop(model, ids_BS),
            "usual one by one": torch.cat([loop(model, row[None]) for row in ids_BS]),
            "ours": our_step(model, canvas, config),
        }
        for a, b in (
            ("ours", "float32"),
            ("usual", "float32"),
            ("usual", "usual one by one"),
            ("ours", "usual"),
        ):
            is_other_BS = (next_BS[a] == model.ids.mask) != (next_BS[b] == model.ids.mask)
            share = float(is_other_BS.any(1).float().mean())
            differs.setdefault(f"{a} against {b}", []).append(share)
    record["states"] = f"{num_states} x {shape['batch_size']} rows"
    record["share of steps that reveal another slot"] = {
        name: sum(values) / len(values) for name, values in differs.items()
    }
