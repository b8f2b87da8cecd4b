"""`tabom merge MODEL ADAPTER OUT`: one checkpoint of a base and its adapter, checked."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom merge`."""
    parser.add_argument("model", help="the base: a folder, a hub id, or an embedded model")
    parser.add_argument("adapter", help="a LoRA adapter folder, ours or of the published code")
    parser.add_argument("output", help="the folder to write (must be new)")
    parser.add_argument(
        "--official",
        action="store_true",
        help="do not merge: write the adapter alone, under the names of the published code",
    )
    parser.add_argument("--dtype", help="of the merged weights (default: that of the base)")
    parser.add_argument(
        "--tolerance",
        type=float,
        help="largest difference of a logit (default: what rounding in the dtype explains)",
    )
    parser.add_argument("--device", help="cuda, cpu, ... (found if left out)")
    parser.add_argument(
        "--mask_token_id", type=int, help="overrides the id found in the checkpoint"
    )


def run(args: argparse.Namespace) -> int:
    """Merge (or export) and print what was compared."""
    from tabom.core.errors import ConfigError
    from tabom.models.merge import export_adapter, merge_checkpoint

    options = {key: getattr(args, key) for key in ("dtype", "device", "tolerance", "mask_token_id")}
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
        export_adapter(args.model, args.adapter, args.output, mask_token_id=args.mask_token_id)
    print(f"output: {args.output}")
    return 0
