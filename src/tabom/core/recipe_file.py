"""Recipe files: found by path or by name, and read with what they extend.

`extends: NAME` (a path, or a recipe of the package) takes another recipe as the base. Mappings are
merged key by key, lists and all else are replaced. A list of named things, such as `arms`, may be
written as a mapping from their names, and is then merged by name.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from tabom.core import configs
from tabom.core.errors import ConfigError
from tabom.core.hooks import search_in

EXTENDS, COMMAND_LINE = "extends", "the command line"


@dataclass(frozen=True, kw_only=True)
class RecipeFile:
    """What a recipe says once everything it extends is merged, and which file said what."""

    mapping: dict[str, Any]
    layers: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    """(file, its own lines), the recipe itself first and the last one it extends at the end."""

    def file_of(self, key: str) -> str:
        """The file (or the command line) that says a dotted key; the recipe itself if none does.

        key: "" for the recipe as a whole, of which an override is the least part.
        """
        saying = [file for file, own in self.layers if key and _says(own, key)]
        files = [file for file, _ in self.layers if file != COMMAND_LINE]
        return next(iter([*saying, *files, *(file for file, _ in self.layers)]), "")

    def changed(self, overrides: Sequence[configs.Override]) -> "RecipeFile":
        """The recipe with values of the command line on top."""
        mapping = configs.apply_overrides(self.mapping, overrides)
        # Errors about a flag should not send the user to look for it in a file.
        own = configs.apply_overrides({}, overrides)
        return RecipeFile(mapping=mapping, layers=((COMMAND_LINE, own), *self.layers))


def recipe_names() -> list[str]:
    """The recipes that travel with the package."""
    folder = files("tabom") / "recipes"
    return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml"))


def launch_names() -> list[str]:
    """Configurations of accelerate that travel with the package, as "accelerate/ddp"."""
    folder = files("tabom") / "recipes" / "accelerate"
    return sorted(f"accelerate/{f.name[:-5]}" for f in folder.iterdir())


def recipe_path(name_or_path: str, *, beside: Path | None = None) -> Path:
    """A recipe file: the path given, or a recipe of the package by its name.

    beside: a folder that a path is looked up in (the folder of the recipe that extends it).
    Raises: ConfigError if there is neither, with the nearest name.
    """
    path = Path(beside or ".", name_or_path)
    if os.path.isfile(path):  # unlike `Path.is_file`, no error for a name that no file can have
        return path
    if name_or_path in (*recipe_names(), *launch_names()):
        return Path(str(files("tabom") / "recipes" / f"{name_or_path}.yaml"))
    raise ConfigError(
        f"no recipe file {name_or_path!r}, and no recipe of that name in the package"
        f"{configs.nearest(name_or_path, recipe_names())} "
        f"(the package has: {', '.join(recipe_names())})"
    )


def read_recipe(name_or_path: str) -> RecipeFile:
    """Read a recipe and, from the bottom up, what it extends.

    Raises: ConfigError naming the file: it is missing, is no YAML mapping, or extends itself.
    """
    path = recipe_path(name_or_path)
    layers: list[tuple[str, dict[str, Any]]] = []
    while True:
        own = configs.load_yaml(path)
        search_in(path.parent)  # functions of the user's may lie beside their recipe
        base = own.pop(EXTENDS, None)
        layers.append((str(path), own))
        if base is None:
            break
        if not isinstance(base, str):
            raise ConfigError(f"{path}: {EXTENDS}: expected a recipe's path or name, got {base!r}")
        try:
            below = recipe_path(base, beside=path.parent)
        except ConfigError as error:
            raise ConfigError(f"{path}: {EXTENDS}: {error}") from error
        # `samefile` also sees through links and through different spellings of one path.
        chain = [file for file, _ in layers]
        if any(below.samefile(file) for file in chain):
            raise ConfigError(f"{path}: {EXTENDS}: goes round: {' -> '.join([*chain, str(below)])}")
        path = below
    # The deepest base comes first, and each recipe above it changes what it found.
    mapping: dict[str, Any] = {}
    for _, own in reversed(layers):
        mapping = configs.merge(mapping, own)
    return RecipeFile(mapping=mapping, layers=tuple(layers))


def _says(own: Any, key: str) -> bool:
    for part in filter(None, key.split(".")):
        if isinstance(own, list) and part.isdecimal() and int(part) < len(own):
            own = own[int(part)]
        elif isinstance(own, Mapping) and part in own:
            own = own[part]
        else:
            return False
    return True
