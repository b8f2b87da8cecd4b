"""`tabom diagnose`: order agreement and loss ratio of a model on the base's own responses."""

import argparse

from tabom.cli import sections
from tabom.stages.diagnose import Diagnose


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom diagnose`."""
    sections.add(parser, Diagnose)


def _stage(args: argparse.Namespace) -> Diagnose:
    """The seed is that of the recipe's evaluation, if no other is given."""
    evaluation = sections.recipe_of(args).mapping.get("evaluation") or {}
    if "seed" in evaluation and not hasattr(args, "seed"):
        args.seed = evaluation["seed"]
    return sections.build(Diagnose, args)


run = sections.verb(_stage)
