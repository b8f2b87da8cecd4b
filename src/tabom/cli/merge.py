"""`tabom merge MODEL ADAPTER OUT`: one checkpoint of a base and its adapter, checked."""

import argparse

from tabom.cli import flags
from tabom.models.config import ModelConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom merge`."""
    add = parser.add_argument
    add("model", help="the base: a folder, a hub id, or an embedded model")
    add("adapter", help="a LoRA adapter folder, ours or of the published code")
    add("output", help="the folder to write (must be new)")
    official = "do not merge: write the adapter alone, under the names of the published code"
    add("--official", action="store_true", help=official)
    add("--dtype", help="of the merged weights (default: that of the base)")
    rounding = "largest difference of a logit (default: what rounding in the dtype explains)"
    add("--tolerance", type=float, help=rounding)
    for name in ("device", "mask_token_id"):
        flags.add_field(parser, ModelConfig, name)


def run(args: argparse.Namespace) -> int:
    """Merge (or export) and print what was compared."""
    from tabom.core.errors import ConfigError
    from tabom.models.merge import export_adapter, merge_checkpoint

    names = ("dtype", "device", "tolerance", "mask_token_id")
    options = {name: getattr(args, name, None) for name in names}
    if not args.official:
        check = merge_checkpoint(args.model, args.adapter, args.output, **options)
        print(
            f"merged against adapter: max abs difference of a logit {check.difference:.3g} "
            f"(allowed {check.tolerance:.3g}; the adapter changes logits by up to "
            f"{check.effect:.3g})"
        )
    elif args.dtype is not None or args.tolerance is not None:
        raise ConfigError("--official merges nothing; leave --dtype and --tolerance out")
    else:
        ids = {"mask_token_id": options["mask_token_id"]}
        export_adapter(args.model, args.adapter, args.output, **ids)
    print(f"output: {args.output}")
    return 0
