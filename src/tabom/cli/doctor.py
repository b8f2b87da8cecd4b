"""`tabom doctor MODEL`: is this model what it claims to be, and what memory does it need?"""

import argparse
from typing import TYPE_CHECKING, Any

from tabom.cli import speak

if TYPE_CHECKING:
    from tabom.models.devices import Device
    from tabom.models.sizes import ModelSizes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom doctor`."""
    speak.add_model_arguments(parser)
    parser.add_argument(
        "--config_only",
        "--config-only",
        action="store_true",
        help="sizes and memory from config.json alone; the weights need not be here",
    )
    parser.add_argument(
        "--device_name",
        "--device-name",
        metavar="NAME",
        help="estimate for this device as well, e.g. H200",
    )
    parser.add_argument("--prompt", metavar="TEXT", help="the sample that the template is shown on")
    for flag, default, text in (
        ("batch_size", 32, "responses decoded together"),
        ("per_device_train_batch_size", 4, "responses trained on together"),
        ("prompt_tokens", 150, "prompt length"),
        ("max_new_tokens", 256, "response slots"),
        ("window", 32, "rows that training asks of a response"),
        ("lora_r", 16, "rank of the adapter"),
    ):
        parser.add_argument(
            *dict.fromkeys([f"--{flag}", f"--{flag.replace('_', '-')}"]),
            type=int,
            default=default,
            help=f"of the estimate: {text} (default: {default})",
        )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")


def run(args: argparse.Namespace) -> int:
    """Look, print, and exit with 1 if anything failed."""
    import json

    from tabom.core.plain import to_plain

    _check_flags(args)
    found = _config_only(args) if args.config_only else _loaded(args)
    if args.json:
        print(json.dumps(to_plain(found), ensure_ascii=False))
    else:
        _print(found)
    return 0 if all(result["passed"] for result in found["checks"]) else 1


def _check_flags(args: argparse.Namespace) -> None:
    from tabom.core.errors import ConfigError

    for name in (
        "batch_size", "per_device_train_batch_size", "prompt_tokens", "max_new_tokens", "window",
        "lora_r",
    ):  # fmt: skip
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name} must be at least 1, got {getattr(args, name)}")
    if args.config_only and args.adapter is not None:
        raise ConfigError("--config_only loads nothing, so --adapter has no meaning with it")


def _config_only(args: argparse.Namespace) -> dict[str, Any]:
    from tabom.models.sizes import read_sizes

    read = read_sizes(args.model)
    return {
        "model": {"name_or_path": args.model, "family": read.family, "source": read.source},
        "checks": [],
        **_common(args, read),
    }


def _loaded(args: argparse.Namespace) -> dict[str, Any]:
    from tabom.cli import checkup
    from tabom.core.errors import ModelError
    from tabom.models.loading import load_unprobed
    from tabom.models.sizes import sizes_of

    try:
        model = load_unprobed(
            args.model,
            adapter=args.adapter,
            dtype=args.dtype,
            device=args.device,
            attn_implementation=args.attn_implementation,
            mask_token_id=args.mask_token_id,
            require_tokenizer=False,
        )
    except ModelError as error:
        if "weights do not load" not in str(error):
            raise
        raise ModelError(f"{error} (--config_only needs no weights)") from error
    results, template = checkup.check(model, prompt=args.prompt)
    read = sizes_of(model.base_lm, family=model.family.name, source=args.model)
    return {
        "model": {
            "name_or_path": args.model,
            "adapter": args.adapter,
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
        **_common(args, read),
    }


def _common(args: argparse.Namespace, read: "ModelSizes") -> dict[str, Any]:
    from tabom.cli.memory import estimate
    from tabom.core.env import hardware, versions
    from tabom.models.devices import find_device, present_device

    devices: list[Device] = [present_device()]
    if args.device_name is not None and args.device_name.lower() != "cpu":
        devices.append(find_device(args.device_name))
    return {
        "sizes": read,
        "estimates": [estimate(args, read, device) for device in devices],
        "versions": versions(),
        "hardware": hardware(),
    }


# ---- the same for people ----


def _print(found: dict[str, Any]) -> None:
    from tabom.cli.layout import parameters, safe, table
    from tabom.cli.memory import print_estimate

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
    ]
    print(table(["model", ""], rows, num_left=2))
    if "special_tokens" in found:
        tokens = [
            [row["role"], str(row["id"]), row["text"] or "?", row["source"]]
            for row in found["special_tokens"]
        ]
        print("\n" + table(["special token", "id", "text", "read from"], tokens, num_left=4))
        if found["template"] is not None:
            print(f"\na prompt as the model sees it:\n{safe(found['template'].rendered)}")
        checks = [
            [result["name"], "ok" if result["passed"] else "FAILED", result["detail"]]
            for result in found["checks"]
        ]
        print("\n" + table(["check", "", "seen"], checks, num_left=3))
    for one in found["estimates"]:
        print()
        print_estimate(one)
    versions = ", ".join(f"{name} {value}" for name, value in found["versions"].items())
    print(f"\n{versions}")
    failed = [result["name"] for result in found["checks"] if not result["passed"]]
    if failed:
        print(f"\nFAILED: {', '.join(failed)}")
    elif found["checks"]:
        print(f"\nall {len(found['checks'])} checks passed")
