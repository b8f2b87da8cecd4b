"""`tabom train`: one arm, on accepted trajectories or on ground truth."""

import argparse

from tabom.cli import sections
from tabom.core import configs
from tabom.stages.train import Train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom train`."""
    sections.add(parser, Train, skip={"options"})
    parser.add_argument(
        "--option",
        dest="options",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="an option of the objective, e.g. --option window=32 (repeatable)",
    )
    parser.add_argument(
        "--ground_truth",
        action="store_true",
        help="train on the prompts' own answers instead of trajectories",
    )


def _stage(args: argparse.Namespace) -> Train:
    """The stage; which inputs go together it says itself."""
    # A recipe names prompts too; they decide nothing where trajectories are trained on.
    unused = {} if args.ground_truth else {"prompts": None, "decoding": None}
    options = configs.apply_overrides({}, args.options)
    return sections.build(Train, args, options=options, **unused)


run = sections.verb(_stage)
