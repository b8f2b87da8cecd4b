"""`tabom train`: one arm, on accepted trajectories or on ground truth."""

import argparse
from pathlib import Path

from tabom.cli import sections


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom train`."""
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
    sections.add(
        parser, "model", "prompts", "decoding", "training", output="where to write the adapter"
    )


def run(args: argparse.Namespace) -> int:
    """Train; a rerun resumes from the last checkpoint."""
    from tabom.cli.flags import need
    from tabom.core import configs
    from tabom.core.errors import ConfigError
    from tabom.objectives.presets import build_objective
    from tabom.pipeline import stages
    from tabom.pipeline.recipe import ArmConfig

    if args.ground_truth == (args.trajectories is not None):
        raise ConfigError("give either --trajectories (with --verdicts) or --ground_truth")
    recipe = sections.partial_recipe(
        args, need=("model", "prompts") if args.ground_truth else ("model",)
    )
    options = configs.apply_overrides({}, args.options)
    build_objective(args.objective, **options)  # a misspelt one is told before data are read
    arm = ArmConfig(
        name=args.objective,
        objective=args.objective,
        data="ground_truth" if args.ground_truth else "self_distilled",
        options=options,
    )
    collected = verified = None
    if not args.ground_truth:
        need(args.verdicts, "--verdicts", "only accepted trajectories are trained on")
        collected = sections.finished(args.trajectories, "collect")
        verified = sections.finished(args.verdicts, "verify")
    stage = stages.train_stage(
        recipe,
        arm=arm,
        seed=recipe.training.seed,
        collect=collected,
        verify=verified,
        folder=Path(sections.output_dir(args)),
    )
    return sections.run_stage(stage, args)
