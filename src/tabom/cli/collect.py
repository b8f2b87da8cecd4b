"""`tabom collect`: decode prompts and store the trajectories."""

import argparse
import os

from tabom.cli import sections
from tabom.core.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom collect`."""
    from tabom.stages.collect import Collect

    sections.add(parser, Collect)
    parser.add_argument(
        "--shard",
        metavar="K/N",
        help="this process's share, e.g. 0/8; RANK and WORLD_SIZE of the environment if left out",
    )


def run(args: argparse.Namespace) -> int:
    """Collect; a rerun resumes."""
    from tabom.stages.collect import Collect

    rank, world_size = _shard(args.shard)
    stage = sections.build(Collect, args, rank=rank, world_size=world_size)
    with sections.ready(stage, args) as report:
        counts = stage.run(report, overwrite=args.overwrite)
    if counts.get("missing"):
        print(f"not finished: {counts['missing']} trajectories of other shares are missing")
    return sections.show(stage, counts)


def _shard(text: str | None) -> tuple[int, int]:
    given = f"--shard {text!r}"
    if text is None:
        text = f"{os.environ.get('RANK', '0')}/{os.environ.get('WORLD_SIZE', '1')}"
        given = f"RANK/WORLD_SIZE {text!r} of the environment"
    rank, slash, size = text.partition("/")
    if not (slash and rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
        raise ConfigError(f"{given}: expected K/N with K below N, such as 0/8")
    return int(rank), int(size)
