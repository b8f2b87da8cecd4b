"""Flags from the settings dataclasses: one source for names, types and help.

A flag `--learning_rate 1e-4` becomes the override `training.learning_rate=1e-4` of the recipe
mapping, so a verb reads flags, a YAML file and both together by one path: flags win.
"""

import argparse
import dataclasses
import re
from collections.abc import Iterable
from functools import partial
from typing import Any, get_args, get_type_hints

from tabom.core.errors import ConfigError


def field_help(cls: type) -> dict[str, str]:
    """The description of each field, read from the docstring (`name: text` or `a, b: text`)."""
    text = " ".join((cls.__doc__ or "").split())
    names = [f.name for f in dataclasses.fields(cls)]
    alternatives = "|".join(re.escape(n) for n in names)
    pattern = re.compile(
        rf"\b((?:{alternatives})(?:, (?:{alternatives}))*): (.*?)"
        rf"(?=\b(?:{alternatives})(?:, (?:{alternatives}))*: |$)"
    )
    help_of: dict[str, str] = {}
    for found in pattern.finditer(text):
        for name in found.group(1).split(", "):
            help_of[name] = found.group(2).strip()
    return help_of


def add_section(
    parser: argparse.ArgumentParser,
    cls: type,
    section: str,
    *,
    rename: dict[str, str] | None = None,
    skip: Iterable[str] = (),
) -> None:
    """Add a flag for every field of a settings dataclass.

    section: dotted path of the section in a recipe. rename: field -> flag where names would clash.
    """
    group = parser.add_argument_group(section)
    described, hints = field_help(cls), get_type_hints(cls)
    for item in dataclasses.fields(cls):
        if item.name in skip:
            continue
        flag = (rename or {}).get(item.name, item.name)
        default: Any = item.default
        shown = "" if default in (dataclasses.MISSING, None) else f" (default: {default})"
        group.add_argument(
            *dict.fromkeys([f"--{flag}", f"--{flag.replace('_', '-')}"]),
            dest=f"{section}.{item.name}",
            metavar="VALUE",
            type=partial(_quoted, words=get_args(hints[item.name])),
            nargs="+" if "tuple" in str(item.type) or "list" in str(item.type) else None,
            help=(described.get(item.name, "") + shown).replace("%", "%%"),
            default=argparse.SUPPRESS,
        )


def _quoted(text: str, *, words: tuple[Any, ...]) -> str:
    """The text of a flag as YAML; YAML alone would read the choice `no` as false."""
    return f"'{text}'" if text in words else text


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add the recipe of a whole study, --set and --output_dir."""
    parser.add_argument("recipe", help="a recipe file, or the name of one of the package")
    _add_settings(parser, output="where to write")


def _add_settings(parser: argparse.ArgumentParser, *, output: str) -> None:
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override a recipe value, e.g. --set training.learning_rate=1e-4 (repeatable)",
    )
    parser.add_argument("--output_dir", "--output-dir", metavar="DIR", help=output)


def add_common(parser: argparse.ArgumentParser, *, output: str) -> None:
    """Add --config, --set, --output_dir, --overwrite and --quiet."""
    parser.add_argument("--config", metavar="RECIPE", help="a recipe file or a recipe's name")
    _add_settings(parser, output=output)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what another recipe left in output_dir"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def overrides_of(args: argparse.Namespace) -> list[str]:
    """The overrides that a parsed command line asks for, in the order flags, then --set."""
    overrides = []
    for key, value in vars(args).items():
        if "." not in key:
            continue
        if isinstance(value, list):
            value = "[" + ", ".join(value) + "]"
        overrides.append(f"{key}={value}")
    return overrides + list(getattr(args, "overrides", []))


def need(value: Any, flag: str, why: str) -> Any:
    """The value, or a ConfigError that names the flag."""
    if value is None:
        raise ConfigError(f"{flag} is needed: {why}")
    return value
