"""The memory and speed that `tabom doctor` estimates for one model on one device."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tabom.models.costs import Memory
    from tabom.models.devices import Device
    from tabom.models.sizes import ModelSizes

MFU = 0.4
RESERVED_GIB = 1.0  # the device's runtime, and the gaps that allocators leave
TARGETS = ("q_proj", "v_proj")


def estimate(args: argparse.Namespace, read: "ModelSizes", device: "Device") -> dict[str, Any]:
    """Peaks of decoding and training in several settings, the largest batches, and the speed.

    args: batch_size, per_device_train_batch_size, prompt_tokens, max_new_tokens, window, lora_r.
    """
    from tabom.decoding.config import DecodingConfig
    from tabom.models.costs import forward_flops, largest_batch
    from tabom.models.devices import GIB
    from tabom.pipeline.estimate import decoding_work

    length = args.prompt_tokens + args.max_new_tokens
    uses = []
    for name, batch_size, peak in _uses(args, read, device):
        memory, room = peak(batch_size), (device.memory_gib - RESERVED_GIB) * GIB
        uses.append(
            {
                "use": name,
                "batch_size": batch_size,
                "memory": {**vars(memory), "total": memory.total},
                "fits": memory.total <= room,
                "largest_batch": largest_batch(room, peak),
            }
        )
    decoding = DecodingConfig(max_new_tokens=args.max_new_tokens)
    work = decoding_work(decoding, prompt=args.prompt_tokens, block_length=read.block_length)
    flops = forward_flops(read, num_tokens=work.num_tokens, context=length, num_rows=work.num_rows)
    return {
        "device": device,
        "prompt_tokens": args.prompt_tokens,
        "max_new_tokens": args.max_new_tokens,
        "bytes_per_value": device.bytes_per_value,
        "uses": uses,
        "flops_per_trajectory": flops,
        "mfu": MFU,
        "trajectories_per_hour": 3600 * MFU * device.tflops * 1e12 / flops,
    }


def _uses(
    args: argparse.Namespace, read: "ModelSizes", device: "Device"
) -> list[tuple[str, int, Any]]:
    """Name, batch size, and the peak as a function of the batch size."""
    from tabom.models.costs import decoding_memory, lora_parameters, training_memory
    from tabom.training.config import TrainingConfig
    from tabom.vocabulary.sizes import LOGIT_BYTES

    sizes, width = read, device.bytes_per_value
    num_slots, length = args.max_new_tokens, args.prompt_tokens + args.max_new_tokens
    adapter = lora_parameters(sizes, r=args.lora_r, target_modules=TARGETS)
    buffer = TrainingConfig().max_buffer_bytes

    def decode(batch_size: int) -> "Memory":
        return decoding_memory(
            sizes,
            batch_size=batch_size,
            length=length,
            num_rows=batch_size * num_slots,
            bytes_per_value=width,
            max_logit_bytes=LOGIT_BYTES["gpu" if device.is_gpu else "cpu"],
        )

    def train(
        rows: int, *, is_checkpointed: bool = False, trained: int | None = adapter,
        budget: int | None = buffer,
    ) -> Any:  # fmt: skip
        return lambda batch_size: training_memory(
            sizes,
            batch_size=batch_size,
            length=length,
            num_rows=rows * batch_size,
            bytes_per_value=width,
            lora_parameters=trained,
            is_checkpointed=is_checkpointed,
            max_buffer_bytes=budget,
        )

    lora, few = f"LoRA r {args.lora_r}", args.window
    batch_size = args.per_device_train_batch_size
    return [
        ("decode", args.batch_size, decode),
        (f"train {lora}, {few} rows each", batch_size, train(few)),
        ("  with checkpointing", batch_size, train(few, is_checkpointed=True)),
        (f"  all {num_slots} slots masked", batch_size, train(num_slots)),
        ("  if it kept all logits", batch_size, train(num_slots, budget=None)),
        (f"train all weights, {few} rows each", batch_size, train(few, trained=None)),
        (
            "  with checkpointing",
            batch_size,
            train(few, trained=None, is_checkpointed=True),
        ),
    ]


def print_estimate(one: dict[str, Any]) -> None:
    """The estimate as a table."""
    from tabom.cli.layout import gib, number, table

    device = one["device"]
    precision = "bfloat16" if one["bytes_per_value"] == 2 else "float32"
    print(
        f"GiB on {device.name} ({device.memory_gib:g} GiB), {precision}, "
        f"{one['prompt_tokens']} prompt tokens + {one['max_new_tokens']} slots; estimated, "
        f"{RESERVED_GIB:g} GiB kept free"
    )
    parts = ("weights", "trained", "activations", "logits", "total")
    rows = [
        [
            use["use"],
            str(use["batch_size"]),
            *(gib(use["memory"][part]) if use["memory"][part] else "-" for part in parts),
            "yes" if use["fits"] else "NO",
            str(use["largest_batch"]),
        ]
        for use in one["uses"]
    ]
    print(table(["", "batch", *parts, "fits", "largest batch"], rows))
    print(
        f"{number(one['flops_per_trajectory'])}FLOP a trajectory: "
        f"{number(one['trajectories_per_hour'])} an hour at {100 * one['mfu']:g} % of "
        f"{device.tflops:g} TFLOP/s"
    )
