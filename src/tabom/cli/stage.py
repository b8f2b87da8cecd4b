"""`tabom package.module:Class`: a stage of the user's own, with a flag for each of its fields."""

import argparse

from tabom.cli import sections
from tabom.core.errors import ConfigError
from tabom.core.hooks import load_function
from tabom.stages.stage import Stage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the stage that the parser is named after."""
    # The verb is the class, so the parser's name ends with it.
    sections.add(parser, _class(parser.prog.split()[-1]))


def _class(name: str) -> type[Stage]:
    """The class of a stage. ConfigError if what the name finds is none."""
    found = load_function(name)
    if not (isinstance(found, type) and issubclass(found, Stage)):
        raise ConfigError(f"{name} is no subclass of tabom.stages.stage.Stage")
    return found


run = sections.verb(lambda args: sections.build(_class(args.verb), args))
