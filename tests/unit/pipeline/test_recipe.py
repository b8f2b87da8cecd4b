"""Recipes: every key is checked, every recipe of the package is sound."""

from pathlib import Path

import pytest

from tabom.core.errors import ConfigError
from tabom.objectives.presets import build_objective
from tabom.stages.recipe import load_recipe, recipe_names, recipe_path


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
    decoding = recipe.evaluation.sets[1].decoding_at(4, base=recipe.decoding)
    assert (decoding.policy, decoding.tokens_per_step) == ("margin", 4)
    assert recipe.base_arm is recipe.arms[0]


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'toy-quick'"):
        load_recipe("toy-quik")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ('arms.1.name=".."', r"arms: '\.\.' cannot name an arm's folder"),
        ('arms.1.name="."', "cannot name an arm's folder"),
        ('arms.1.name=""', "cannot name an arm's folder"),
        ("arms.1.name=Collect", "cannot name an arm's folder"),
        ("arms.1.name=verify", "cannot name an arm's folder"),
        ('arms.1.name="a\\nb"', "cannot name an arm's folder"),
        (f"arms.1.name={'x' * 300}", "has 300 characters; at most 100 fit"),
        ("seeds=[-1]", r"from 0 to 2\*\*32 - 1, got -1"),
        ("seeds=[4294967296]", "got 4294967296"),
        ("evaluation.seed=-1", "got -1"),
        ('evaluation.sets.0.name=""', "cannot name a set"),
        ("evaluation.sets.0.tokens_per_step=[]", r"one or more different numbers, got \[\]"),
        ("evaluation.sets.0.tokens_per_step=[2, 2]", r"got \[2, 2\]"),
        ("evaluation.batch_size=0", "evaluation.batch_size must be at least 1, got 0"),
        ("evaluation.num_fields=-1", "evaluation.num_fields must be at least 0, got -1"),
        ("diagnostics.batch_size=0", "diagnostics.batch_size must be at least 1, got 0"),
        ("diagnostics.mask_ratios=[0]", "diagnostics.mask_ratios"),
        ("diagnostics.mask_ratios=[.nan]", "diagnostics.mask_ratios"),
        ("study.num_workers=0", "study.num_workers must be at least 1, got 0"),
        ("study.threads_per_worker=0", "study.threads_per_worker must be at least 1"),
        ('model.model_name_or_path=""', "model.model_name_or_path is empty"),
        ("training.learning_rate=.nan", "learning_rate must be a finite number, got nan"),
        ("decoding.temperature=.inf", "temperature must be a finite number, got inf"),
        ("prompts.args.x=&a [*a]", "recursive"),
    ],
)
def test_a_value_that_would_fail_later_fails_at_once(
    tiny_recipe: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(str(tiny_recipe), overrides=[override])
