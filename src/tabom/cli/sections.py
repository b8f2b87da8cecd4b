"""What the verbs that run one stage share: its sections as flags, the stage built from them.

A flag is an override of a recipe: `--learning_rate 1e-4` says `training.learning_rate=1e-4`. The
sections of the stage's class are taken from --config, with the flags on top.
"""

import argparse
import dataclasses
import os
from collections.abc import Callable, Collection
from contextlib import closing
from typing import Any, TypeVar

from tabom.cli import flags
from tabom.core import configs
from tabom.core.errors import ConfigError
from tabom.core.place import place
from tabom.core.progress import Bars
from tabom.core.recipe_file import RecipeFile, read_recipe
from tabom.core.text import told
from tabom.stages.launch import Chunked, job_script
from tabom.stages.preflight import preflight
from tabom.stages.recipe import Recipe
from tabom.stages.stage import Counts, Stage, load_output

S = TypeVar("S", bound=Stage)
SHARD = (
    "this is worker K of N (from 0), which takes chunks beside the others, e.g. 0/8; RANK and "
    "WORLD_SIZE of the environment if left out"
)

_HINTS = {
    "model": "--model_name_or_path",
    "prompts": "--prompts_path, --dataset_name or --prompts_function",
}


def add(parser: argparse.ArgumentParser, stage: type, *, skip: Collection[str] = ()) -> None:
    """Add the common flags, and those of every field of a stage that decides its result.

    An output of an earlier stage is given by its folder. skip: fields of the stage or of its
    sections that have no flag.
    """
    flags.add_common(parser, "--config", "--set", "--output_dir", "--overwrite", "--quiet")
    sections = sections_of(stage)
    for field in _flagged(stage):
        is_needed = field.default is field.default_factory is dataclasses.MISSING
        if field.name in skip:
            continue
        if field.name in sections:
            flags.add_section(parser, sections[field.name], field.name, skip=skip)
        elif "reads" in field.metadata:
            parser.add_argument(
                f"--{field.name}",
                metavar="DIR",
                required=is_needed,
                help=configs.field_help(stage).get(field.name),
            )
        else:
            flags.add_field(parser, stage, field.name, required=is_needed)
    if issubclass(stage, Chunked):
        parser.add_argument("--shard", metavar="K/N", help=SHARD)


def _flagged(stage: type) -> list[dataclasses.Field[Any]]:
    """The fields that decide the result, and those that say they have flags."""
    fields = dataclasses.fields(stage)
    return [f for f in fields if f.metadata.get("decides", True) or "flags" in f.metadata]


def sections_of(stage: type) -> dict[str, Any]:
    """The fields of a stage that are sections of a recipe, with their classes."""
    hints = configs.hints_of(stage)
    kinds = {
        field.name: configs.split(hints[field.name])[0]
        for field in _flagged(stage)
        if "reads" not in field.metadata
    }
    return {name: kind for name, kind in kinds.items() if dataclasses.is_dataclass(kind)}


def recipe_of(args: argparse.Namespace) -> RecipeFile:
    """The recipe of --config (or an empty one) with the flags on top."""
    file = RecipeFile(mapping={}) if args.config is None else read_recipe(args.config)
    file = file.changed(flags.overrides_of(args))
    # Sections that this verb does not need may stand there, but no key that no recipe has.
    known = [field.name for field in dataclasses.fields(Recipe)]
    for key in file.mapping:
        if key not in known:
            near = configs.nearest(key, known)
            raise ConfigError(f"{file.file_of(key)}: unknown key {key!r}{near}")
    return file


def build(stage: type[S], args: argparse.Namespace, **own: Any) -> S:
    """The stage that flags and --config describe.

    own: fields that the verb itself decides; they replace what the flags and the recipe say.
    Raises: ConfigError naming the flag if a section is missing; StageError if a folder does not
        hold the finished stage that is read from it.
    """
    if issubclass(stage, Chunked):
        own = dict(zip(("rank", "world_size"), shard_of(args.shard), strict=True)) | own
    file, sections = recipe_of(args), sections_of(stage)
    values = {name: value for name, value in file.mapping.items() if name in sections}
    for field in _flagged(stage):
        given = getattr(args, field.name, None)
        if given is not None:
            values[field.name] = given
    values |= own
    options = values.setdefault("storage_options", file.mapping.get("storage_options") or {})
    for field in _flagged(stage):
        kind, given = field.metadata.get("reads"), values.get(field.name)
        if kind and isinstance(given, str):
            values[field.name] = load_output(given, kind, storage_options=options)
    # Said here in terms of flags; `configs.build` would name the key of a recipe.
    for name, hint in _HINTS.items():
        if name in sections and not values.get(name) and name not in own:
            raise ConfigError(f"no {name}: give {hint}, or --config RECIPE")
    folder = flags.need(args.output_dir, "--output_dir", "it is where the result goes")
    values |= {"folder": place(folder, options, to_write=True), "label": args.verb}
    return configs.build(stage, values, source=file.file_of)


def shard_of(text: str | None) -> tuple[int, int]:
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


def verb(
    build: Callable[[argparse.Namespace], S],
    *,
    after: Callable[[S, Counts], None] = lambda stage, counts: None,
) -> Callable[[argparse.Namespace], int]:
    """The `run` of a verb: checks, runs and shows the stage that its flags describe.

    build: gives that stage. after: is told of it when it is done.
    """

    # A function for each verb and no helper below it, so that few frames lie between the command
    # and the model.
    def run(args: argparse.Namespace) -> int:
        """Check, run and show. Returns: the exit status of a verb that is done."""
        stage = build(args)
        if isinstance(stage, Chunked) and stage.launch.launcher == "slurm":
            print(job_script(args.arguments, stage.launch))
            return 0
        # A finished stage needs nothing any more, so nothing is asked of this machine.
        is_done = not args.overwrite and stage.is_complete()
        if not is_done:
            preflight([stage])
        with closing(Bars(is_quiet=args.quiet)) as bars:
            counts = stage.run(bars, overwrite=args.overwrite)
        if is_done:
            print("complete already; what it found:")
        show(stage, counts)
        if "missing" in counts:
            print(f"not finished: {counts['missing']} responses are in the hands of others")
        else:
            after(stage, counts)
        return 0

    return run


def show(stage: Stage, counts: Counts) -> None:
    """Print what a stage did and where it wrote."""
    for name, value in told(counts):
        print(f"{name}: {value}")
    print(f"output: {stage.folder}")
