"""`tabom verify`: judge stored trajectories; collecting again is never needed."""

import argparse
from pathlib import Path

from tabom.cli import sections


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom verify`."""
    parser.add_argument("--trajectories", metavar="DIR", required=True, help="a collection")
    parser.add_argument(
        "--unsafe_exec",
        "--unsafe-exec",
        dest="verifier.args.unsafe_exec",
        action="store_const",
        const="true",
        default=argparse.SUPPRESS,
        help="run programs without a sandbox (verifier code; only where this machine may be lost)",
    )
    sections.add(parser, "model", "verifier", output="where to write the verdicts")


def run(args: argparse.Namespace) -> int:
    """Verify."""
    from tabom.pipeline import stages

    recipe = sections.partial_recipe(args, need=("model",))
    collected = sections.finished(args.trajectories, "collect")
    stage = stages.verify_stage(recipe, collect=collected, folder=Path(sections.output_dir(args)))
    return sections.run_stage(stage, args)
