"""`tabom train`: one arm, on accepted trajectories or on ground truth."""

import argparse

from tabom.cli import sections
from tabom.core import configs
from tabom.core.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom train`."""
    from tabom.stages.train import Train

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


def run(args: argparse.Namespace) -> int:
    """Train; a rerun resumes from the last checkpoint."""
    from tabom.stages.train import Train

    if args.ground_truth == (args.trajectories is not None):
        raise ConfigError("give either --trajectories (with --verdicts) or --ground_truth")
    if not args.ground_truth and args.verdicts is None:
        raise ConfigError("--verdicts is needed: only accepted trajectories are trained on")
    # A recipe names prompts too; they decide nothing where trajectories are trained on.
    unused = {} if args.ground_truth else {"prompts": None, "decoding": None}
    options = configs.apply_overrides({}, args.options)
    stage = sections.build(Train, args, options=options, **unused)
    with sections.ready(stage, args) as report:
        counts = stage.run(report, overwrite=args.overwrite)
    return sections.show(stage, counts)
