"""`tabom diagnose`: order agreement and loss ratio of a model on the base's own responses."""

import argparse
from pathlib import Path

from tabom.cli import sections


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom diagnose`."""
    parser.add_argument(
        "--trained", metavar="DIR", help="what `tabom train` wrote; left out: the base alone"
    )
    parser.add_argument(
        "--base_evaluation",
        "--base-evaluation",
        metavar="DIR",
        required=True,
        help="what `tabom evaluate` wrote for the base: its accepted responses are asked about",
    )
    sections.add(parser, "model", "decoding", "diagnostics", output="where to write the numbers")


def run(args: argparse.Namespace) -> int:
    """Diagnose."""
    from tabom.pipeline import stages
    from tabom.pipeline.recipe import ArmConfig

    recipe = sections.partial_recipe(args, need=("model",))
    train = None if args.trained is None else sections.finished(args.trained, "train")
    stage = stages.diagnose_stage(
        recipe,
        arm=ArmConfig(name="trained" if train else "base"),
        label="",
        train=train,
        base_evaluate=sections.finished(args.base_evaluation, "evaluate"),
        folder=Path(sections.output_dir(args)),
    )
    return sections.run_stage(stage, args)
