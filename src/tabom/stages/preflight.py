"""What can be checked before a study starts, so that it does not stop after hours of collecting."""

from collections.abc import Iterator
from contextlib import contextmanager

from tabom.core.errors import ConfigError, TabomError
from tabom.core.hooks import load_function
from tabom.stages.recipe import Recipe


def check_names(recipe: Recipe) -> None:
    """Raise ConfigError if an arm's objective or a named function is not what it must be.

    Imports torch (the objectives need it), so it is called only when there is work to do.
    """
    from tabom.objectives.presets import build_objective

    for arm in recipe.arms:
        if arm.objective is not None:
            with _at(f"arms.{arm.name}"):
                build_objective(arm.objective, **arm.options)
    functions = {"verifier": recipe.verifier.function, "prompts": recipe.prompts.function}
    for item in recipe.evaluation.sets:
        where = f"evaluation.sets.{item.name}"
        functions[f"{where}.prompts"] = item.prompts.function
        functions |= {f"{where}.metrics.{name}": f for name, f in item.metrics.items()}
        if item.verifier is not None:
            functions[f"{where}.verifier"] = item.verifier.function
    for where, name in functions.items():
        if name is not None:
            with _at(where):
                load_function(name)


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Put the place of a setting in front of its error."""
    try:
        yield
    except TabomError as error:
        raise ConfigError(f"{place}: {error}") from error
