"""The user's own functions, named in a recipe as `package.module:function`."""

import difflib
import importlib
from collections.abc import Callable
from typing import Any

from tabom.core.errors import ConfigError


def load_function(name: str) -> Callable[..., Any]:
    """Import the function that a recipe names.

    name: "package.module:function" (dots after the colon reach into classes).
    Returns: the callable.
    Raises: ConfigError if the name has no colon, the module is missing or fails to import, or the
        attribute is missing or not callable.
    """
    module_name, colon, path = name.partition(":")
    if not colon or not module_name or not path:
        raise ConfigError(f"function {name!r}: expected 'package.module:function'")
    try:
        target: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"function {name!r}: there is no module {error.name!r}; "
                "put its folder on PYTHONPATH, or install its package"
            ) from error
        raise ConfigError(
            f"function {name!r}: importing {module_name!r} failed: {error}"
        ) from error
    except Exception as error:
        raise ConfigError(
            f"function {name!r}: importing {module_name!r} failed: {type(error).__name__}: {error}"
        ) from error
    for part in path.split("."):
        if not hasattr(target, part):
            known = [n for n in dir(target) if not n.startswith("_")]
            near = difflib.get_close_matches(part, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"function {name!r}: {module_name!r} has no {part!r}{hint}")
        target = getattr(target, part)
    if not callable(target):
        raise ConfigError(
            f"function {name!r}: it is a {type(target).__name__}, expected something callable"
        )
    return target  # type: ignore[no-any-return]
