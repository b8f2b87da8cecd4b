"""`tabom doctor MODEL`: is this model what it claims to be, and what memory does it need?"""

import argparse
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tabom.cli import speak
from tabom.core.errors import ConfigError, ModelError
from tabom.models.config import ModelConfig

if TYPE_CHECKING:
    from tabom.models.costs import Memory
    from tabom.models.devices import Device
    from tabom.models.sizes import ModelSizes
    from tabom.stages.estimate import Machine

RESERVED_GIB = 1.0  # the device's runtime, and the gaps that allocators leave
NUMBERS = {
    "batch_size": (32, "responses decoded together"),
    "per_device_train_batch_size": (4, "responses trained on together"),
    "prompt_tokens": (150, "prompt length"),
    "max_new_tokens": (256, "response slots"),
    "window": (32, "rows that training asks of a response"),
    "lora_r": (16, "rank of the adapter"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom doctor`."""
    speak.add_model(parser)
    parser.add_argument(
        "--config_only",
        action="store_true",
        help="sizes and memory from config.json alone; the weights need not be here",
    )
    parser.add_argument(
        "--device_name",
        metavar="NAME",
        help="estimate for this device as well, e.g. H200",
    )
    parser.add_argument("--prompt", metavar="TEXT", help="the sample that the template is shown on")
    for flag, (default, text) in NUMBERS.items():
        parser.add_argument(
            f"--{flag}",
            type=int,
            default=default,
            help=f"of the estimate: {text} (default: {default})",
        )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")


def run(args: argparse.Namespace) -> int:
    """Look, print, and exit with 1 if anything failed."""
    from tabom.core.env import hardware, versions
    from tabom.core.plain import to_plain
    from tabom.models.devices import find_device, present_device
    from tabom.models.sizes import context_problem, read_sizes

    for name in NUMBERS:
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name} must be at least 1, got {getattr(args, name)}")
    base = speak.settings_of(args).model
    if args.config_only and base.adapter is not None:
        raise ConfigError("--config_only loads nothing, so --adapter has no meaning with it")
    devices = [present_device()]
    if args.device_name is not None and args.device_name.lower() != "cpu":
        devices.append(find_device(args.device_name))
    if args.config_only:
        sizes = read_sizes(base.model_name_or_path)
        name = base.model_name_or_path
        model = {"name_or_path": name, "family": sizes.family, "source": sizes.source}
        found: dict[str, Any] = {"model": model, "checks": []}
    else:
        found, sizes = _look(args, base)
    problem = context_problem(
        sizes.max_positions, prompt_tokens=args.prompt_tokens, max_new_tokens=args.max_new_tokens
    )
    found |= {
        "sizes": sizes,
        "warnings": [] if problem is None else [problem],
        "estimates": [_estimate(args, sizes, device) for device in devices],
        "versions": versions(),
        "hardware": hardware(),
    }
    if args.json:
        print(json.dumps(to_plain(found), ensure_ascii=False))
    else:
        _print(found)
    return 0 if all(result["passed"] for result in found["checks"]) else 1


def _look(args: argparse.Namespace, base: ModelConfig) -> tuple[dict[str, Any], "ModelSizes"]:
    """Load the model and check it."""
    from tabom.cli import checkup
    from tabom.models.loading import load_model
    from tabom.models.probes import ProbeError
    from tabom.models.sizes import sizes_of

    try:
        model = load_model(
            base.model_name_or_path,
            adapter=base.adapter,
            dtype=base.dtype,
            device=base.device,
            attn_implementation=base.attn_implementation,
            mask_token_id=base.mask_token_id,
            require_tokenizer=False,
        )
    except ProbeError as error:  # shown below, with all else
        model = error.model
    except ModelError as error:
        if "weights do not load" not in str(error):
            raise
        raise ModelError(f"{error} (--config_only needs no weights)") from error
    results, template = checkup.check(model, prompt=args.prompt)
    sizes = sizes_of(model.base_lm, family=model.family.name, source=base.model_name_or_path)
    # A CPU is given one short row: the whole batch would take it minutes.
    is_cpu = model.device.type == "cpu"
    call = checkup.measure_call(
        model,
        sizes,
        batch_size=1 if is_cpu else args.batch_size,
        length=min(args.prompt_tokens + args.max_new_tokens, 64 if is_cpu else 2**20),
    )
    found = {
        "model": {
            "name_or_path": base.model_name_or_path,
            "adapter": base.adapter,
            "family": model.family.name,
            "alignment": model.family.alignment,
            "attention": model.family.attention,
            "attn_implementation": model.attn_implementation,
            "dtype": str(model.head_weight_VD.dtype).removeprefix("torch."),
            "device": str(model.device),
        },
        "special_tokens": checkup.special_tokens(model),
        "template": template,
        "checks": [vars(result) for result in results],
        "call": call,
    }
    return found, sizes


def _estimate(args: argparse.Namespace, sizes: "ModelSizes", device: "Device") -> dict[str, Any]:
    """Peaks of decoding and training in several settings, the largest batches, and the speed."""
    from tabom.decoding.config import DecodingConfig
    from tabom.models.costs import largest_batch
    from tabom.models.devices import GIB
    from tabom.stages.estimate import Machine, response_work

    machine = Machine(sizes=sizes, device=device)
    room = (device.memory_gib - RESERVED_GIB) * GIB
    uses = []
    for name, batch_size, peak in _uses(args, machine):
        memory = peak(batch_size)
        uses.append(
            {
                "use": name,
                "batch_size": batch_size,
                "memory": {**vars(memory), "total": memory.total},
                "fits": memory.total <= room,
                "largest_batch": largest_batch(room, peak),
            }
        )
    work = response_work(
        DecodingConfig(max_new_tokens=args.max_new_tokens),
        prompt=args.prompt_tokens,
        block_length=sizes.block_length,
    )
    flops = work.flops(sizes, context=args.prompt_tokens + args.max_new_tokens)
    return {
        "device": device,
        "uses": uses,
        "flops_per_trajectory": flops,
        "mfu": machine.mfu,
        "trajectories_per_hour": 3600 / machine.seconds(flops, calls=0),
    }


def _uses(
    args: argparse.Namespace, machine: "Machine"
) -> list[tuple[str, int, Callable[[int], "Memory"]]]:
    """Name, batch size, and the peak as a function of the batch size."""
    from tabom.models.costs import Batch
    from tabom.training.config import TrainingConfig

    num_slots, length = args.max_new_tokens, args.prompt_tokens + args.max_new_tokens

    def decode(size: int) -> "Memory":
        return machine.decoding_memory(batch_size=size, length=length, num_slots=num_slots)

    def train(rows: int, **settings: Any) -> Callable[[int], "Memory"]:
        config = TrainingConfig(lora_r=args.lora_r, **settings)
        return lambda size: machine.training_memory(
            config, Batch(size=size, length=length, num_rows=rows * size)
        )

    few, size = args.window, args.per_device_train_batch_size
    again = {"gradient_checkpointing": True}
    return [
        ("decode", args.batch_size, decode),
        (f"train LoRA r {args.lora_r}, {few} rows each", size, train(few)),
        ("  with checkpointing", size, train(few, **again)),
        (f"  all {num_slots} slots masked", size, train(num_slots)),
        (f"train all weights, {few} rows each", size, train(few, use_peft=False)),
        ("  with checkpointing", size, train(few, use_peft=False, **again)),
    ]


# ---- the same for people ----


def _print(found: dict[str, Any]) -> None:
    from tabom.cli.layout import parameters, safe, table

    sizes = found["sizes"]
    rows = [[key, str(value)] for key, value in found["model"].items() if value]
    rows += [
        ["size", parameters(sizes.num_parameters)],
        [
            "layers",
            f"{sizes.num_layers} of width {sizes.hidden_size}, feed-forward "
            f"{sizes.intermediate_size}, {sizes.num_heads} heads, {sizes.num_kv_heads} key heads "
            f"of {sizes.head_dim}",
        ],
        ["vocabulary", str(sizes.vocab_size)],
        ["positions", str(sizes.max_positions or "not said")],
    ]
    print(table(["model", ""], rows, num_left=2))
    if "special_tokens" in found:
        tokens = [
            [row["role"], str(row["id"]), row["text"] or "?", row["source"]]
            for row in found["special_tokens"]
        ]
        print("\n" + table(["special token", "id", "text", "read from"], tokens, num_left=4))
        if found["template"] is not None:
            print(f"\na prompt as the model sees it:\n{safe(found['template']['rendered'])}")
        checks = [
            [result["name"], "ok" if result["passed"] else "FAILED", result["detail"]]
            for result in found["checks"]
        ]
        print("\n" + table(["check", "", "seen"], checks, num_left=3))
    for one in found["estimates"]:
        print()
        _print_estimate(one)
    if "call" in found:
        _print_call(found["call"], found["estimates"][0]["device"])
    for warning in found["warnings"]:
        print(f"\nWARNING: {warning}")
    versions = ", ".join(f"{name} {value}" for name, value in found["versions"].items())
    print(f"\n{versions}")
    failed = [result["name"] for result in found["checks"] if not result["passed"]]
    if failed:
        print(f"\nFAILED: {', '.join(failed)}")
    elif found["checks"]:
        print(f"\nall {len(found['checks'])} checks passed")


def _print_estimate(one: dict[str, Any]) -> None:
    from tabom.cli.layout import gib, number, table

    device = one["device"]
    precision = "bfloat16" if device.bytes_per_value == 2 else "float32"
    print(
        f"GiB on {device.name} ({device.memory_gib:g} GiB), {precision}; estimated, "
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


def _print_call(call: dict[str, float], device: "Device") -> None:
    share = call["flops_per_second"] / (device.tflops * 1e12)
    print(
        f"measured: one call of {call['batch_size']} x {call['length']} tokens takes "
        f"{1000 * call['seconds']:.3g} ms, {100 * share:.3g} % of the peak (`tabom plan --mfu "
        f"{max(share, 0.001):.2g}`)"
    )
