"""`tabom recipes ls | show NAME | cp NAME [DEST] | keys`."""

import argparse
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import yaml

from tabom.cli.flags import describe, metavar
from tabom.core.atomic import write_text
from tabom.core.configs import hints_of, split
from tabom.core.errors import ConfigError
from tabom.core.recipe_file import launch_names, read_recipe, recipe_names, recipe_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom recipes`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("ls", help="list the recipes of the package")
    show = actions.add_parser("show", help="print one")
    copy = actions.add_parser("cp", help="copy one, to edit it")
    for action in (show, copy):
        action.add_argument("name", metavar="NAME", help="a recipe of the package, or a file")
        action.add_argument(
            "--resolved", action="store_true", help="with all that it extends, as one file"
        )
    copy.add_argument("destination", nargs="?", help="a file or a folder (default: here)")
    actions.add_parser("keys", help="every key of a recipe, as the page docs/recipes.md has it")


def run(args: argparse.Namespace) -> int:
    """List, show, copy or explain.

    Raises: ConfigError for a name that is not known, or a copy that would replace a file.
    """
    if args.action == "ls":
        names = [*recipe_names(), *launch_names()]
        heads = {name: recipe_path(name).read_text().splitlines()[0] for name in names}
        for name, head in heads.items():
            print(f"{name:<{max(map(len, heads))}}  {head.lstrip('# ')}")
        return 0
    text = reference() if args.action == "keys" else _text(args.name, args.resolved)
    if args.action != "cp":
        print(text, end="")
        return 0
    target = Path(args.destination or ".")
    if target.is_dir():
        target = target / f"{Path(args.name).stem}.yaml"
    # A recipe that someone has edited must not be lost to a second `cp`.
    if target.exists():
        raise ConfigError(f"{target} exists; name another destination")
    write_text(target, text)
    print(target)
    return 0


def _text(name: str, is_resolved: bool) -> str:
    """A recipe as it is written, or its header and then all keys, those of its bases included."""
    text = recipe_path(name).read_text(encoding="utf-8")
    if not is_resolved:
        return text
    head = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True))
    mapping = read_recipe(name).mapping
    return "".join(head) + yaml.safe_dump(mapping, sort_keys=False, allow_unicode=True, width=100)


_INTRODUCTION = """\
# Recipe keys

Made by `tabom recipes keys`: the text under each settings field, which `--help` of the verbs shows too.

A recipe is one YAML file. `extends: NAME` (a path beside it, or a recipe of the package) takes another one as its base: mappings are merged key by key, lists and all else are replaced, and a section without a line below it changes nothing. `arms` and `evaluation.sets` may be lists, or mappings from names, which are merged by name. An error names the file that says the key. `tabom recipes cp` copies a recipe as it is written, with its `extends`, so that it stays as short as its differences; `--resolved` makes it one whole file.
"""  # noqa: E501


def reference() -> str:
    """Every key of a recipe with its bounds, default and help, as Markdown."""
    from tabom.stages.recipe import Recipe

    return _INTRODUCTION + "".join(_sections("", Recipe, set()))


def _sections(where: str, settings: type, seen: set[type]) -> Iterator[str]:
    """The table of a settings class, then those of the classes inside it, each class once."""
    seen.add(settings)
    title = (settings.__doc__ or "").partition("\n")[0]
    yield f"\n## {f'`{where}`' if where else 'The top'}\n\n{title}\n\n"
    yield "| key | value | meaning |\n|---|---|---|\n"
    inside: list[tuple[str, type]] = []
    for field in dataclasses.fields(settings):
        kind, _ = split(hints_of(settings)[field.name])
        own: Any = next((k for k in (kind, *get_args(kind)) if dataclasses.is_dataclass(k)), None)
        place = f"{where}.{field.name}" if where else field.name
        value = metavar(kind)
        if own is not None:
            value = "section" if own is kind else "list"
            inside.append((place if own is kind else f"{place}.NAME", own))
        cells = [f"`{field.name}`", value, describe(settings, field.name)]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
    # A class that is used twice, such as the prompts of a set, is explained where it comes first.
    for place, own in inside:
        if own not in seen:
            yield from _sections(place, own, seen)
