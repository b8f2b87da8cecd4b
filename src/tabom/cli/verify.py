"""`tabom verify`: judge stored trajectories; collecting again is never needed."""

import argparse
from functools import partial

from tabom.cli import sections
from tabom.stages.verify import Verify

run = sections.verb(partial(sections.build, Verify))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom verify`."""
    sections.add(parser, Verify)
    parser.add_argument(
        "--unsafe_exec",
        dest="verifier.args.unsafe_exec",
        action="store_const",
        const=True,
        default=argparse.SUPPRESS,
        help="run programs without a sandbox (verifier code; only where this machine may be lost)",
    )
