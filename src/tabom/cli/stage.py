"""`tabom package.module:Class`: a stage of the user's own, with a flag for each of its fields."""

import argparse
from typing import TYPE_CHECKING

from tabom.cli import sections
from tabom.core.errors import ConfigError
from tabom.core.hooks import load_function

if TYPE_CHECKING:
    from tabom.stages.stage import Stage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the stage that the parser is named after."""
    # The verb is the class, so the parser's name ends with it.
    sections.add(parser, _stage(parser.prog.split()[-1]))


def run(args: argparse.Namespace) -> int:
    """Run the stage."""
    stage = sections.build(_stage(args.verb), args)
    with sections.ready(stage, args) as report:
        counts = stage.run(report, overwrite=args.overwrite)
    return sections.show(stage, counts)


def _stage(name: str) -> "type[Stage]":
    from tabom.stages.stage import Stage

    found = load_function(name)
    if not (isinstance(found, type) and issubclass(found, Stage)):
        raise ConfigError(f"{name} is no subclass of tabom.stages.stage.Stage")
    return found
