"""`tabom doctor MODEL`: is this model what it claims to be, and what memory does it need?"""

import argparse
import json
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from tabom.cli import flags, speak
from tabom.core.configs import Count
from tabom.core.errors import ConfigError, ModelError
from tabom.models.config import ModelConfig

if TYPE_CHECKING:
    from tabom.models.costs import Memory
    from tabom.models.devices import Device
    from tabom.models.sizes import ModelSizes
    from tabom.training.config import TrainingConfig

RESERVED_GIB = 1.0  # the device's runtime, and the gaps that allocators leave
WINDOW = 32  # rows that training asks of a response, as the objectives do


@dataclass(frozen=True, kw_only=True)
class Use:
    """What memory and speed are estimated for."""

    device_name: str | None = None
    """Estimate for this device as well, e.g. H200."""
    batch_size: Count = 32
    """Responses decoded together."""
    per_device_train_batch_size: Count = 4
    """Responses trained on together."""
    prompt_tokens: Count = 150
    """Tokens of a prompt."""
    max_new_tokens: Count = 256
    """Response slots."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Which model is looked at, and for what."""

    model: ModelConfig
    """The model."""
    use: Use = field(default_factory=Use)
    """What it shall be used for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom doctor`."""
    speak.add_model(parser)
    parser.add_argument(
        "--config_only",
        action="store_true",
        help="sizes and memory from config.json alone; the weights need not be here",
    )
    parser.add_argument("--prompt", metavar="TEXT", help="the sample that the template is shown on")
    flags.add_section(parser, Use, "use")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")


def run(args: argparse.Namespace) -> int:
    """Look, print, and exit with 1 if anything failed."""
    from tabom.core.env import hardware, versions
    from tabom.core.plain import to_plain
    from tabom.models.devices import find_device, present_device
    from tabom.models.sizes import context_problem, read_sizes

    settings = flags.build(Settings, args)
    base, use = settings.model, settings.use
    if args.config_only and base.adapter is not None:
        raise ConfigError("--config_only loads nothing, so --adapter has no meaning with it")
    devices = [present_device()]
    if use.device_name is not None and use.device_name.lower() != "cpu":
        devices.append(find_device(use.device_name))
    found: dict[str, Any] = {"model": {"name_or_path": base.model_name_or_path}, "checks": []}
    if args.config_only:
        sizes = read_sizes(base.model_name_or_path)
    else:
        sizes = _look(base, use, args.prompt, found)
    problem = context_problem(
        sizes.max_positions, prompt_tokens=use.prompt_tokens, max_new_tokens=use.max_new_tokens
    )
    found |= {
        "sizes": sizes,
        "warnings": [] if problem is None else [problem],
        "estimates": [_estimate(settings, sizes, device) for device in devices],
        "versions": versions(),
        "hardware": hardware(),
    }
    if args.json:
        print(json.dumps(to_plain(found), ensure_ascii=False))
    else:
        _print(found)
    return 0 if all(result["passed"] for result in found["checks"]) else 1


def _look(base: ModelConfig, use: Use, prompt: str | None, found: dict[str, Any]) -> "ModelSizes":
    """Load the model and check it; what is seen goes into `found`."""
    from tabom.cli import checkup
    from tabom.models.loading import load_model
    from tabom.models.probes import ProbeError
    from tabom.models.sizes import sizes_of

    name = base.model_name_or_path
    try:
        if base.quantization is None:  # the adapter stays apart, to be looked at
            options = base.options | {"require_tokenizer": False}
            model = load_model(name, adapter=base.adapter, **options)
        else:
            model = base.load(require_tokenizer=False)
    except ProbeError as error:  # shown below, with all else
        model = error.model
    except ModelError as error:
        # Whoever asks about a model before fetching it is told how.
        if "weights do not load" not in str(error):
            raise
        raise ModelError(f"{error} (--config_only needs no weights)") from error
    sizes = sizes_of(model.base_lm, family=model.family.name, source=name)
    results, template = checkup.check(model, prompt=prompt)
    found["model"] |= {
        "adapter": base.adapter,
        "alignment": model.family.alignment,
        "attention": model.family.attention,
        "attn_implementation": model.attn_implementation,
        "quantization": base.quantization,
        "dtype": str(model.head_weight_VD.dtype).removeprefix("torch."),
        "device": str(model.device),
    }
    # A CPU is given one short row: the whole batch would take it minutes.
    is_cpu, length = model.device.type == "cpu", use.prompt_tokens + use.max_new_tokens
    shape = (1, min(length, 64)) if is_cpu else (use.batch_size, length)
    found |= {
        "special_tokens": checkup.special_tokens(model),
        "template": template,
        "checks": [vars(result) for result in results],
        "call": checkup.measure_call(model, sizes, *shape),
    }
    return sizes


def _estimate(settings: Settings, sizes: "ModelSizes", device: "Device") -> dict[str, Any]:
    """Peaks of decoding and training in several settings, the largest batches, and the speed."""
    from tabom.decoding.config import DecodingConfig
    from tabom.models.costs import Batch, Machine, largest_batch
    from tabom.models.devices import GIB
    from tabom.stages.estimate import response_counts, training_memory
    from tabom.training.config import TrainingConfig

    use, quantization = settings.use, settings.model.quantization
    machine = Machine(sizes=sizes, device=device, quantization=quantization)
    num_slots = use.max_new_tokens

    def peak(size: int, *, num_rows: int, config: "TrainingConfig | None") -> "Memory":
        length = use.prompt_tokens + num_slots
        batch = Batch(size=size, length=length, num_rows=size * num_rows)
        if config is None:
            return machine.decoding_memory(batch)
        return training_memory(machine, config, batch)

    # What a training costs follows from its settings, so the cases are settings.
    lora, whole = TrainingConfig(), TrainingConfig(use_peft=False)
    all_weights = (
        ("all weights", WINDOW, whole),
        ("all weights, checkpointing", WINDOW, replace(whole, gradient_checkpointing=True)),
    )
    room = (device.memory_gib - RESERVED_GIB) * GIB
    uses = []
    for name, num_rows, config in (
        ("decode", num_slots, None),
        ("train LoRA", WINDOW, lora),
        ("train LoRA, checkpointing", WINDOW, replace(lora, gradient_checkpointing=True)),
        ("train LoRA, all slots masked", num_slots, lora),
        *(() if quantization else all_weights),
    ):
        size = use.batch_size if config is None else use.per_device_train_batch_size
        peak_of = partial(peak, num_rows=num_rows, config=config)
        total = sum(peak_of(size).values())
        uses.append(
            {"use": name, "batch": size}
            | {f"{part}_bytes": value for part, value in peak_of(size).items()}
            | {"total_bytes": total, "fits": total <= room}
            | {"largest_batch": largest_batch(room, peak_of)}
        )
    counts = response_counts(
        DecodingConfig(max_new_tokens=num_slots),
        prompt=use.prompt_tokens,
        block_length=sizes.block_length,
    )
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
    from tabom.core.text import number, safe

    rows = {**found["model"], **vars(found["sizes"])}
    for name in ("num_parameters", "active_parameters"):
        rows[name] = rows[name] and number(rows[name])
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
