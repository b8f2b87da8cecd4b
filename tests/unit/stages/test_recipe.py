"""Recipes: every key is checked, every recipe of the package is sound."""

from dataclasses import replace
from pathlib import Path

import pytest

from tabom.core.errors import ConfigError
from tabom.core.recipe_file import read_recipe, recipe_names, recipe_path
from tabom.objectives.presets import build_objective
from tabom.stages.recipe import load_recipe


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
    assert {one.policy for one in recipe.evaluation.sets[1].decodings(recipe.decoding)} == {
        "margin"
    }
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
        (f"arms.1.name={'x' * 300}", "at most 100 characters"),
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
        ('model.model_name_or_path=""', "model: model_name_or_path is empty"),
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


def test_a_recipe_extends_another_by_path_and_by_name(tiny_recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    child = folder / "child.yaml"
    child.write_text(
        "extends: ../tiny.yaml\nname: child\ntraining: {max_steps: 7}\nseeds: [3]\n"
        "arms: [{name: A}]\n"
    )
    base, recipe = load_recipe(str(tiny_recipe)), load_recipe(str(child))
    assert recipe.training == replace(base.training, max_steps=7)
    assert (recipe.seeds, [a.name for a in recipe.arms]) == ((3,), ["A"])
    assert recipe.evaluation == base.evaluation
    named = tmp_path / "named.yaml"
    named.write_text(
        "extends: toy-demo\nname: named\narms: {TABOM: {options: {margin: 0.5}}, New: }\n"
        "evaluation: {sets: {chain: {prompts: {args: {num: 5}}}}}\n"
    )
    demo, recipe = load_recipe("toy-demo"), load_recipe(str(named))
    assert [a.name for a in recipe.arms] == [*(a.name for a in demo.arms), "New"]
    options = {a.name: a.options for a in recipe.arms}
    assert options["TABOM"] == {"window": 4, "rank_weight": 1.0, "margin": 0.5}
    assert recipe.evaluation.sets[0].prompts.args == {"task": "chain", "split": "eval", "num": 5}
    changed = load_recipe(str(named), overrides=["arms.TABOM.options.margin=0.7"])
    assert {a.name: a.options for a in changed.arms}["TABOM"]["margin"] == 0.7


@pytest.mark.parametrize(
    ("base", "child", "overrides", "facts"),
    [
        ("trainin: {}", "seeds: [1]", [], ["base.yaml", "'trainin'; did you mean 'training'"]),
        (
            "training: {max_stepz: 1}",
            "training: {seed: 1}",
            [],
            ["base.yaml", "training.max_stepz"],
        ),
        (
            "training: {seed: 1}",
            "training: {max_stepz: 1}",
            [],
            ["child.yaml", "training.max_stepz"],
        ),
        ("training: {seed: 1}", "name: ../x", [], ["child.yaml: name", "'../x'"]),
        ("training: {seed: 1}", "name: a/b", ["seeds=[2]"], ["child.yaml: name", "'a/b'"]),
        ("training: {max_steps: 1}", "training: {max_steps: x}", [], ["child.yaml", "'x'"]),
        ("arms: {A: {objectiv: x}}", "arms: {B: }", [], ["base.yaml", "arms.A.objectiv"]),
        ("seeds: [1]", "seeds: [2]", ["seeds=[x]"], ["the command line", "seeds.0"]),
    ],
)
def test_an_error_names_the_file_that_says_the_key(
    tmp_path: Path, base: str, child: str, overrides: list[str], facts: list[str]
) -> None:
    start = "model: {model_name_or_path: toy-base}\nprompts: {path: x.jsonl}\nname: x\n"
    arms = "" if "arms" in base else "arms: {A: }\n"
    (tmp_path / "base.yaml").write_text(f"{start}{arms}{base}\n")
    (tmp_path / "child.yaml").write_text(f"extends: base.yaml\n{child}\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(str(tmp_path / "child.yaml"), overrides=overrides)
    message = str(caught.value)
    assert message.removeprefix(f"{tmp_path}/").startswith(facts[0])
    assert facts[1] in message


@pytest.mark.parametrize(
    ("lines", "facts"),
    [
        ("extends: a.yaml", ["a.yaml", "goes round"]),
        ("extends: b.yaml", ["b.yaml", "goes round"]),
        ("extends: toy-dem", ["a.yaml", "did you mean 'toy-demo'"]),
        ("extends: [toy-demo]", ["a.yaml", "extends"]),
        ("extends: " + "x" * 300, ["a.yaml", "extends", "no recipe"]),
        ("extends: c.yaml", ["c.yaml, line 1"]),
    ],
)
def test_what_cannot_be_extended(tmp_path: Path, lines: str, facts: list[str]) -> None:
    (tmp_path / "a.yaml").write_text(lines)
    (tmp_path / "b.yaml").write_text("extends: a.yaml")
    (tmp_path / "c.yaml").write_text("a: [")
    with pytest.raises(ConfigError) as caught:
        read_recipe(str(tmp_path / "a.yaml"))
    for fact in facts:
        assert fact in str(caught.value)
