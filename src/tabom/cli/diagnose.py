"""`tabom diagnose`: order agreement and loss ratio of a model on the base's own responses."""

import argparse

from tabom.cli import sections


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom diagnose`."""
    from tabom.stages.diagnose import Diagnose

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
    sections.add(parser, Diagnose, output="where to write the numbers")


def run(args: argparse.Namespace) -> int:
    """Diagnose."""
    from tabom.stages.diagnose import Diagnose
    from tabom.stages.evaluate import Evaluate
    from tabom.stages.recipe import EvaluationConfig
    from tabom.stages.train import Train

    mapping = sections.recipe_of(args).mapping
    stage = sections.build(
        Diagnose,
        args,
        trained=None if args.trained is None else Train.load(args.trained),
        base_evaluation=Evaluate.load(args.base_evaluation),
        seed=(mapping.get("evaluation") or {}).get("seed", EvaluationConfig.seed),
    )
    with sections.bars(args) as report:
        counts = stage.run(report, overwrite=args.overwrite)
    return sections.show(stage, counts)
