"""`tabom evaluate`: accuracy of a model, or of a model with an adapter, on held-out prompts."""

import argparse
from pathlib import Path

from tabom.cli import sections


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom evaluate`."""
    parser.add_argument(
        "--trained", metavar="DIR", help="what `tabom train` wrote; left out: the base alone"
    )
    parser.add_argument(
        "--tokens_per_step",
        "--tokens-per-step",
        nargs="+",
        type=int,
        default=[1],
        metavar="K",
        help="speeds of the one set made from the prompt flags (default: 1)",
    )
    sections.add(
        parser,
        "model",
        "prompts",
        "decoding",
        "verifier",
        "evaluation",
        output="where to write the records",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate on the recipe's sets, or on one set made from the prompt flags."""
    from tabom.pipeline import stages
    from tabom.pipeline.recipe import ArmConfig

    recipe = sections.partial_recipe(args, need=("model",))
    recipe = sections.with_one_set(recipe, args)
    train = None if args.trained is None else sections.finished(args.trained, "train")
    stage = stages.evaluate_stage(
        recipe,
        arm=ArmConfig(name="trained" if train else "base"),
        label="",
        train=train,
        folder=Path(sections.output_dir(args)),
    )
    return sections.run_stage(stage, args)
