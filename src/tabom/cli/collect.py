"""`tabom collect`: decode prompts and store the trajectories."""

import argparse
import os

from tabom.cli import sections
from tabom.core.errors import ConfigError
from tabom.stages.collect import Collect
from tabom.stages.stage import Counts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom collect`."""
    sections.add(parser, Collect)
    parser.add_argument(
        "--shard",
        metavar="K/N",
        help="this process's share, e.g. 0/8; RANK and WORLD_SIZE of the environment if left out",
    )


def _stage(args: argparse.Namespace) -> Collect:
    """The stage, with the share of this process."""
    rank, world_size = _shard(args.shard)
    return sections.build(Collect, args, rank=rank, world_size=world_size)


def _after(stage: Collect, counts: Counts) -> None:
    """Say that other shares are still to come: the last process alone finishes the folder."""
    if counts.get("missing"):
        print(f"not finished: {counts['missing']} trajectories of other shares are missing")


def _shard(text: str | None) -> tuple[int, int]:
    """The share "K/N" as (K, N); None: what the environment says, as torchrun sets it.

    Raises: ConfigError naming the flag or the variables.
    """
    given = f"--shard {text!r}"
    if text is None:
        text = f"{os.environ.get('RANK', '0')}/{os.environ.get('WORLD_SIZE', '1')}"
        given = f"RANK/WORLD_SIZE {text!r} of the environment"
    rank, slash, size = text.partition("/")
    if not (slash and rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
        raise ConfigError(f"{given}: expected K/N with K below N, such as 0/8")
    return int(rank), int(size)


run = sections.verb(_stage, after=_after)
