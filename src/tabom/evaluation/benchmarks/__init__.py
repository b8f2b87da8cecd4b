"""The published evaluation sets, one module each; a new module here is found by its name."""

import importlib
import pkgutil

from tabom.core.configs import nearest
from tabom.core.errors import ConfigError
from tabom.evaluation.benchmark import Benchmark


def names() -> list[str]:
    """The benchmarks of this folder, by name."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def get_benchmark(name: str) -> Benchmark:
    """The benchmark of that name, or one of yours as "package.module:NAME".

    Raises: ConfigError if there is none, with the nearest name.
    """
    if name in names():
        found = importlib.import_module(f"{__name__}.{name}").BENCHMARK
    elif ":" in name:
        module, _, attribute = name.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"benchmark {name!r}: {error}") from error
    else:
        raise ConfigError(
            f"no benchmark {name!r}{nearest(name, names())} (there are {', '.join(names())}; one "
            "of yours is package.module:NAME)"
        )
    if not isinstance(found, Benchmark):
        raise ConfigError(f"benchmark {name!r} is a {type(found).__name__}, expected a Benchmark")
    return found
