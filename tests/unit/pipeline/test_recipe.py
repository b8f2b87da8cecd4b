"""Recipes: every key is checked, every recipe of the package is sound."""

from pathlib import Path

import pytest

from tabom.core.errors import ConfigError
from tabom.objectives.presets import build_objective
from tabom.pipeline.recipe import load_recipe, recipe_names, recipe_path


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_of_the_package_load_and_their_objectives_exist(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.output_dir == f"runs/{recipe.name}"
    assert recipe.name == name
    for arm in recipe.arms:
        if arm.objective is not None:
            build_objective(arm.objective, **arm.options)
    head = recipe_path(name).read_text().splitlines()
    assert head[0].startswith("# ")
    assert any("Hardware:" in line for line in head[:12])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.learning_rte=1", "did you mean 'learning_rate'"),
        ("nonsense=1", "nonsense"),
        ("arms.1.objectiv=tabom", "did you mean 'objective'"),
        ("evaluation.sets.0.role=both", "role"),
        ("evaluation.sets.0.decoding={polcy: entropy}", "did you mean 'policy'"),
        ("decoding.policy=greedy", "policy"),
        ("training.max_steps=many", "max_steps"),
        ("arms=[]", "at least one arm"),
        ("seeds=[]", "at least one seed"),
        ("seeds=[1, 1]", "seeds: 1 occurs more than once"),
        ("arms=[{name: A}, {name: a}]", "arms: a occurs more than once"),
        ("arms=[{name: A, data: ground_truth}]", "no objective to train with"),
        ("arms.1.training={lr: 1}", "arms.TABOM.training"),
        ("verifier={type: function}", "verifier.function"),
    ],
)
def test_wrong_keys_and_values_are_errors(tiny_recipe: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(str(tiny_recipe), overrides=[override])


def test_arms_and_sets_override_the_recipe(tiny_recipe: Path) -> None:
    recipe = load_recipe(
        str(tiny_recipe),
        overrides=[
            "arms.1.training={learning_rate: 5e-4}",
            "evaluation.sets.1.decoding={policy: margin}",
        ],
    )
    assert recipe.training_of(recipe.arms[1]).learning_rate == 5e-4
    assert recipe.training_of(recipe.arms[1]).max_steps == 3
    assert recipe.training.learning_rate == 1e-3
    decoding = recipe.decoding_of(recipe.evaluation.sets[1], 4)
    assert (decoding.policy, decoding.tokens_per_step) == ("margin", 4)
    assert recipe.base_arm is recipe.arms[0]


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'toy-quick'"):
        load_recipe("toy-quik")
