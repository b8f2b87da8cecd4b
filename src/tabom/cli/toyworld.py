"""`tabom toyworld pretrain DIR`: make the embedded base model again."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom toyworld`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    pretrain = actions.add_parser("pretrain", help="train the toy base from scratch")
    pretrain.add_argument("output_dir", help="where to write the checkpoint")
    pretrain.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Pretrain."""
    from tabom.toyworld.base import pretrain

    pretrain(args.output_dir, seed=args.seed)
    print(args.output_dir)
    return 0
