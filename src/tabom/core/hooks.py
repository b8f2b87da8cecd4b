"""The user's own functions, named in a recipe as `package.module:function`."""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tabom.core.configs import nearest
from tabom.core.errors import ConfigError


def search_in(folder: str | os.PathLike[str]) -> None:
    """Find the user's modules in a folder as well, here and in processes started from here.

    It comes last: no module of another's is hidden by a file of the same name.
    """
    path = str(Path(folder).resolve())
    if path not in sys.path:
        sys.path.append(path)
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = f"{before}{os.pathsep}{path}" if before else path


def load_function(name: str) -> Callable[..., Any]:
    """Import the function that a recipe names; its module may lie in the working folder.

    name: "package.module:function" (dots after the colon reach into classes).
    Returns: the callable.
    Raises: ConfigError if the name has no colon, the module is missing or fails to import, or the
        attribute is missing or not callable.
    """
    module_name, colon, path = name.partition(":")
    if not colon or not module_name or not path:
        raise ConfigError(f"function {name!r}: expected 'package.module:function'")
    search_in(Path.cwd())
    try:
        target: Any = importlib.import_module(module_name)
    except Exception as error:
        why = f"importing {module_name!r} failed: {type(error).__name__}: {error}"
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):  # itself, not what it imports
            why = (
                f"there is no module {missing!r}; put it beside the recipe, in the working folder "
                "or on PYTHONPATH, or install it"
            )
        raise ConfigError(f"function {name!r}: {why}") from error
    # Dots after the colon reach into classes and objects of the module.
    for part in path.split("."):
        if not hasattr(target, part):
            near = nearest(part, (known for known in dir(target) if not known.startswith("_")))
            raise ConfigError(f"function {name!r}: {module_name!r} has no {part!r}{near}")
        target = getattr(target, part)
    if not callable(target):
        raise ConfigError(
            f"function {name!r}: it is a {type(target).__name__}, expected something callable"
        )
    return target  # type: ignore[no-any-return]
