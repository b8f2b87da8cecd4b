"""`tabom diagnose`: order agreement and loss ratio of a model on the base's own responses."""

import argparse

from tabom.cli import sections


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom diagnose`."""
    from tabom.stages.diagnose import Diagnose

    sections.add(parser, Diagnose)


def run(args: argparse.Namespace) -> int:
    """Diagnose; the seed is that of the recipe's evaluation, if no other is given."""
    from tabom.stages.diagnose import Diagnose

    evaluation = sections.recipe_of(args).mapping.get("evaluation") or {}
    if "seed" in evaluation and not hasattr(args, "seed"):
        args.seed = evaluation["seed"]
    stage = sections.build(Diagnose, args)
    with sections.ready(stage, args) as report:
        counts = stage.run(report, overwrite=args.overwrite)
    return sections.show(stage, counts)
