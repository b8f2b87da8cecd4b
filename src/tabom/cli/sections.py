"""What the verbs that run one stage share: its sections as flags, the stage built from them.

A flag is an override of a recipe: `--learning_rate 1e-4` says `training.learning_rate=1e-4`. The
sections of the stage's class are taken from --config, with the flags on top.
"""

import argparse
import dataclasses
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from tabom.cli import flags
from tabom.core import configs
from tabom.core.errors import ConfigError
from tabom.core.recipe_file import RecipeFile, read_recipe

if TYPE_CHECKING:
    from tabom.core.progress import Report
    from tabom.stages.stage import Counts, Stage

S = TypeVar("S", bound="Stage")

# Flags whose plain name would not say what they belong to.
RENAME = {
    "prompts": {"path": "prompts_path", "function": "prompts_function", "args": "prompts_args"},
    "verifier": {
        "type": "verifier",
        "function": "verifier_function",
        "args": "verifier_args",
        "num_workers": "verifier_workers",
    },
}
_HINTS = {
    "model": "--model_name_or_path",
    "prompts": "--prompts_path, --dataset_name or --prompts_function",
}


def add(
    parser: argparse.ArgumentParser,
    stage: "type[Stage]",
    *,
    output: str,
    skip: Collection[str] = (),
) -> None:
    """Add the common flags, and those of every section of a recipe that a stage holds."""
    flags.add_common(parser, output=output)
    for name, section in sections_of(stage).items():
        add_section(parser, section, name, skip=skip)


def add_section(
    parser: argparse.ArgumentParser, section: type, name: str, *, skip: Collection[str] = ()
) -> None:
    """Add the flags of one section."""
    flags.add_section(parser, section, name, rename=RENAME.get(name), skip=skip)


def sections_of(stage: "type[Stage]") -> dict[str, type]:
    """The fields of a stage that are sections of a recipe, with their classes."""
    from tabom.stages.stage import Output

    found: dict[str, type] = {}
    for name, hint in get_type_hints(stage).items():
        for kind in (hint, *get_args(hint)):
            if dataclasses.is_dataclass(kind) and kind is not Output:
                found[name] = kind  # type: ignore[assignment]
    return found


def recipe_of(args: argparse.Namespace) -> RecipeFile:
    """The recipe of --config (or an empty one) with the flags on top."""
    from tabom.stages.recipe import Recipe

    file = RecipeFile(mapping={}) if args.config is None else read_recipe(args.config)
    file = file.changed(flags.overrides_of(args))
    known = [field.name for field in dataclasses.fields(Recipe)]
    for key in file.mapping:
        if key not in known:
            near = configs.nearest(key, known)
            raise ConfigError(f"{file.file_of(key) or '--set'}: unknown key {key!r}{near}")
    return file


def build(stage: type[S], args: argparse.Namespace, **own: Any) -> S:
    """The stage that flags and --config describe.

    own: fields that are not sections, such as the outputs of earlier stages; they replace what the
        recipe says.
    Raises: ConfigError naming the flag if a section is missing.
    """
    file = recipe_of(args)
    values = {k: v for k, v in file.mapping.items() if k in sections_of(stage)} | own
    folder = flags.need(args.output_dir, "--output_dir", "it is where the result goes")
    for field in dataclasses.fields(stage):
        name, is_needed = field.name, field.default is dataclasses.MISSING
        if name in _HINTS and is_needed and not values.get(name):
            raise ConfigError(f"no {name}: give {_HINTS[name]}, or --config RECIPE")
    return configs.build(
        stage, {**values, "folder": Path(folder), "label": args.verb}, source=file.file_of
    )


@contextmanager
def bars(args: argparse.Namespace) -> Iterator["Report"]:
    """A progress bar for the stage."""
    from tabom.core.progress import Bars

    found = Bars(is_quiet=args.quiet)
    try:
        yield found
    finally:
        found.close()


def show(stage: "Stage", counts: "Counts") -> int:
    """Print what a stage did and where it wrote; gives the exit status of a verb that is done."""
    for name, value in counts.items():
        print(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")
    print(f"output: {stage.folder}")
    return 0
