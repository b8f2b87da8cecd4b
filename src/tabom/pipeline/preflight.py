"""What can be checked before a study starts, so that it does not stop after hours of collecting."""

from tabom.core.errors import ConfigError, TabomError
from tabom.core.hooks import load_function
from tabom.pipeline.recipe import Recipe


def check_names(recipe: Recipe) -> None:
    """Raise ConfigError if an arm's objective or a named function is not what it must be.

    Imports torch (the objectives need it), so it is called only when there is work to do.
    """
    from tabom.objectives.presets import build_objective

    for arm in recipe.arms:
        if arm.objective is not None:
            with _where(f"arms.{arm.name}"):
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
            with _where(where):
                load_function(name)


class _where:  # noqa: N801
    """A context that puts the place of a setting in front of its error."""

    def __init__(self, place: str) -> None:
        self.place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TabomError):
            raise ConfigError(f"{self.place}: {error}") from error
