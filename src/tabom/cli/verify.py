"""`tabom verify`: judge stored trajectories; collecting again is never needed."""

import argparse

from tabom.cli import sections


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom verify`."""
    from tabom.stages.verify import Verify

    sections.add(parser, Verify)
    parser.add_argument(
        "--unsafe_exec",
        dest="verifier.args.unsafe_exec",
        action="store_const",
        const=True,
        default=argparse.SUPPRESS,
        help="run programs without a sandbox (verifier code; only where this machine may be lost)",
    )


def run(args: argparse.Namespace) -> int:
    """Verify."""
    from tabom.stages.verify import Verify

    stage = sections.build(Verify, args)
    with sections.ready(stage, args) as report:
        counts = stage.run(report, overwrite=args.overwrite)
    return sections.show(stage, counts)
