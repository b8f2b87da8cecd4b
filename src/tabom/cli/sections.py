"""What the verbs that run one stage share: flags of recipe sections, and running the stage."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabom.cli import flags

if TYPE_CHECKING:
    from tabom.pipeline.recipe import Recipe
    from tabom.pipeline.stages import Stage

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


def add(parser: argparse.ArgumentParser, *names: str, output: str) -> None:
    """Add the common flags and those of these recipe sections.

    An evaluation's sets have no flags: only a recipe can list them, and each has its own speeds.
    """
    from typing import get_type_hints

    from tabom.pipeline.recipe import Recipe

    classes = get_type_hints(Recipe)
    flags.add_common(parser, output=output)
    for name in names:
        skip = {"sets", "held_out_check"}
        if name == "decoding" and "evaluation" in names:
            skip.add("tokens_per_step")
        flags.add_section(parser, classes[name], name, rename=RENAME.get(name), skip=skip)


def partial_recipe(args: argparse.Namespace, *, need: tuple[str, ...]) -> "Recipe":
    """The recipe of --config (or an empty one) with the flags on top.

    need: sections that the verb cannot do without; others get harmless stand-ins.
    Raises: ConfigError naming the flag if one is missing.
    """
    from tabom.core import configs
    from tabom.core.errors import ConfigError
    from tabom.pipeline.recipe import Recipe, recipe_path

    path = None if args.config is None else recipe_path(args.config)
    mapping: dict[str, Any] = {} if path is None else configs.load_yaml(path)
    mapping = configs.apply_overrides(mapping, flags.overrides_of(args))
    hints = {
        "model": "--model_name_or_path",
        "prompts": "--prompts_path, --dataset_name or --prompts_function",
    }
    for section in need:
        if not mapping.get(section):
            raise ConfigError(f"no {section}: give {hints[section]}, or --config RECIPE")
    mapping.setdefault("name", args.verb)
    mapping.setdefault("arms", [{"name": "base"}])
    mapping.setdefault("prompts", {"function": "tabom.pipeline.recipe:no_prompts"})
    return configs.build(Recipe, mapping, source=str(path) if path is not None else "")


def with_one_set(recipe: "Recipe", args: argparse.Namespace) -> "Recipe":
    """The recipe itself, or with one evaluation set made of its prompts where it lists none."""
    from tabom.core.errors import ConfigError
    from tabom.pipeline.recipe import EvaluationSet, no_prompts

    if recipe.evaluation.sets:
        return recipe
    if recipe.prompts.function == f"{no_prompts.__module__}:{no_prompts.__name__}":
        raise ConfigError(
            "nothing to evaluate on: give --prompts_path, --dataset_name or --prompts_function, "
            "or a --config RECIPE with evaluation.sets"
        )
    one = EvaluationSet(
        name="prompts",
        role="in_domain",
        prompts=recipe.prompts,
        tokens_per_step=tuple(args.tokens_per_step),
    )
    return replace(recipe, evaluation=replace(recipe.evaluation, sets=(one,)))


def output_dir(args: argparse.Namespace) -> str:
    """--output_dir, which a single stage always needs."""
    return str(flags.need(args.output_dir, "--output_dir", "it is where the result goes"))


def finished(folder: str, kind: str) -> "Stage":
    """A finished stage's folder as a stage, for those that need it.

    Raises: StageError if the folder is not a finished one of that kind.
    """
    from tabom.core.errors import StageError
    from tabom.core.manifest import read_manifest
    from tabom.pipeline.stages import FinishedStage

    found = read_manifest(folder)
    if found is None or found.stage != kind:
        what = "has no manifest.json" if found is None else f"holds stage {found.stage!r}"
        raise StageError(f"{folder} {what}; expected the folder of a finished `tabom {kind}`")
    return FinishedStage.of(Path(folder), found)


def run_stage(stage: "Stage", args: argparse.Namespace) -> int:
    """Run one stage with a progress bar and print its counts."""
    from tabom.core import manifest
    from tabom.core.errors import StageError
    from tabom.pipeline.progress import Bars

    if args.overwrite:
        try:
            stage.is_complete()
        except StageError:
            manifest.reset(stage.folder)
    bars = Bars(is_quiet=args.quiet)
    try:
        counts = stage.run(bars)
    finally:
        bars.close()
    for name, value in counts.items():
        print(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")
    print(f"output: {stage.folder}", file=sys.stdout)
    return 0
