"""`tabom train`: one arm, on accepted trajectories or on ground truth."""

import argparse
from typing import Any

from tabom.cli import sections


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom train`."""
    from tabom.stages.train import Train

    parser.add_argument(
        "--objective", required=True, metavar="PRESET", help="tabom, boltzmann, trajectory_ce, ..."
    )
    parser.add_argument(
        "--option",
        dest="options",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="an option of the objective, e.g. --option window=32 (repeatable)",
    )
    parser.add_argument("--trajectories", metavar="DIR", help="a collection")
    parser.add_argument(
        "--verdicts", metavar="DIR", help="what `tabom verify` wrote for that collection"
    )
    parser.add_argument(
        "--ground_truth",
        "--ground-truth",
        action="store_true",
        help="train on the prompts' own answers instead of trajectories",
    )
    sections.add(parser, Train, output="where to write the adapter")


def run(args: argparse.Namespace) -> int:
    """Train; a rerun resumes from the last checkpoint."""
    from tabom.cli.flags import need
    from tabom.core import configs
    from tabom.core.errors import ConfigError
    from tabom.objectives.presets import build_objective
    from tabom.stages.collect import Collect
    from tabom.stages.train import Train
    from tabom.stages.verify import Verify

    if args.ground_truth == (args.trajectories is not None):
        raise ConfigError("give either --trajectories (with --verdicts) or --ground_truth")
    options = configs.apply_overrides({}, args.options)
    build_objective(args.objective, **options)  # a misspelt one is told before data are read
    data: dict[str, Any] = {}
    if not args.ground_truth:
        need(args.verdicts, "--verdicts", "only accepted trajectories are trained on")
        data = {
            "trajectories": Collect.load(args.trajectories),
            "verdicts": Verify.load(args.verdicts),
            "prompts": None,
            "decoding": None,
        }
    stage = sections.build(Train, args, objective=args.objective, options=options, **data)
    with sections.bars(args) as report:
        counts = stage.run(report, overwrite=args.overwrite)
    return sections.show(stage, counts)
