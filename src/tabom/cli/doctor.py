"""`tabom doctor MODEL`: is this model what it claims to be, and what memory does it need?"""

import argparse
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tabom.cli import speak
from tabom.core.errors import ConfigError, ModelError
from tabom.models.config import ModelConfig

if TYPE_CHECKING:
    from tabom.models.devices import Device
    from tabom.models.sizes import ModelSizes

RESERVED_GIB = 1.0  # the device's runtime, and the gaps that allocators leave
NUMBERS = {
    "batch_size": (32, "responses decoded together"),
    "per_device_train_batch_size": (4, "responses trained on together"),
    "prompt_tokens": (150, "prompt length"),
    "max_new_tokens": (256, "response slots"),
}
WINDOW = 32  # rows that training asks of a response, as the objectives do


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom doctor`."""
    speak.add_model(parser)
    parser.add_argument(
        "--config_only",
        action="store_true",
        help="sizes and memory from config.json alone; the weights need not be here",
    )
    parser.add_argument("--device_name", help="estimate for this device as well, e.g. H200")
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
        found: dict[str, Any] = {"model": {}, "checks": []}
    else:
        found, sizes = _look(args, base)
    found["model"] = {"name_or_path": base.model_name_or_path, **found["model"]}
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
            require_tokenizer=False,
            **base.options,
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
            "adapter": base.adapter,
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
    from tabom.models.costs import Batch, Machine, Memory, largest_batch
    from tabom.models.devices import GIB
    from tabom.stages.estimate import response_counts, training_memory
    from tabom.training.config import TrainingConfig

    machine, length = Machine(sizes=sizes, device=device), args.prompt_tokens + args.max_new_tokens

    def decode(size: int) -> Memory:
        num_rows = size * args.max_new_tokens
        return machine.decoding_memory(Batch(size=size, length=length, num_rows=num_rows))

    def train(rows: int, **settings: Any) -> Callable[[int], Memory]:
        config = TrainingConfig(**settings)
        return lambda size: training_memory(
            machine, config, Batch(size=size, length=length, num_rows=rows * size)
        )

    again = {"gradient_checkpointing": True}
    room = (device.memory_gib - RESERVED_GIB) * GIB
    uses = []
    for name, peak in (
        ("decode", decode),
        ("train LoRA", train(WINDOW)),
        ("train LoRA, checkpointing", train(WINDOW, **again)),
        ("train LoRA, all slots masked", train(args.max_new_tokens)),
        ("all weights", train(WINDOW, use_peft=False)),
        ("all weights, checkpointing", train(WINDOW, use_peft=False, **again)),
    ):
        size = args.batch_size if peak is decode else args.per_device_train_batch_size
        memory = peak(size)
        uses.append(
            {"use": name, "batch": size}
            | {f"{part}_bytes": value for part, value in vars(memory).items()}
            | {"total_bytes": memory.total, "fits": memory.total <= room}
            | {"largest_batch": largest_batch(room, peak)}
        )
    decoding = DecodingConfig(max_new_tokens=args.max_new_tokens)
    counts = response_counts(decoding, prompt=args.prompt_tokens, block_length=sizes.block_length)
    flops = counts.flops(sizes)
    return {
        "device": device,
        "uses": uses,
        "flops_per_trajectory": flops,
        "mfu": machine.mfu,
        "trajectories_per_hour": 3600 / machine.seconds(flops, calls=0),
    }


def _print(found: dict[str, Any]) -> None:
    """The same for people."""
    from tabom.cli.layout import records
    from tabom.core.text import number, parameters, safe

    rows = {**found["model"], **vars(found["sizes"])}
    rows["num_parameters"] = parameters(rows["num_parameters"])
    print(records([{"model": key, "": value} for key, value in rows.items() if value], num_left=2))
    if found["checks"]:
        print("\n" + records(found["special_tokens"], num_left=4))
        if found["template"] is not None:
            print(f"\na prompt as the model sees it:\n{safe(found['template']['rendered'])}")
        print("\n" + records(found["checks"], num_left=3))
    for one in found["estimates"]:
        device = one["device"]
        precision = "bfloat16" if device.bytes_per_value == 2 else "float32"
        memory = f"{device.memory_gib:g} GiB, {RESERVED_GIB:g} kept free"
        print(f"\nestimated on {device.name} ({memory}), {precision}:")
        print(records(one["uses"]))
        print(
            f"{number(one['flops_per_trajectory'])}FLOP a trajectory: "
            f"{number(one['trajectories_per_hour'])} an hour at {100 * one['mfu']:g} % of "
            f"{device.tflops:g} TFLOP/s"
        )
    if found["checks"]:
        call, peak = found["call"], 1e12 * found["estimates"][0]["device"].tflops
        share = call["flops_per_second"] / peak
        print(
            f"measured: one call of {call['batch_size']} x {call['length']} tokens takes "
            f"{1000 * call['seconds']:.3g} ms, {100 * share:.3g} % of the peak (`tabom plan --mfu "
            f"{max(share, 0.001):.2g}`)"
        )
    for warning in found["warnings"]:
        print(f"\nWARNING: {warning}")
    print("\n" + ", ".join(f"{name} {value}" for name, value in found["versions"].items()))
    failed = [result["name"] for result in found["checks"] if not result["passed"]]
    if failed:
        print(f"\nFAILED: {', '.join(failed)}")
    elif found["checks"]:
        print(f"\nall {len(found['checks'])} checks passed")
