"""`tabom collect`: decode prompts and store the trajectories."""

import argparse
from functools import partial

from tabom.cli import sections
from tabom.stages.collect import Collect

run = sections.verb(partial(sections.build, Collect))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom collect`."""
    sections.add(parser, Collect)
