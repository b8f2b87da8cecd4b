"""The held-out check: equal prompts, shared runs, and what is only boilerplate."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tabom.collect.held_out import find_overlap, normalise
from tabom.core.errors import DataError

WORDS = [f"word{i}" for i in range(13)]
LONG = " ".join(WORDS)


def overlap(training, evaluation):
    found = find_overlap(training, evaluation, name="test")
    return found.exact, found.near


def test_equal_but_for_case_spacing_and_the_stop():
    exact, near = overlap(["What  is\n2 + 2?", "b"], ["what is 2 + 2", "c", "B"])
    assert exact == ((0, 0), (2, 1))
    assert near == ()


@pytest.mark.parametrize(
    ("one", "other"), [("3 + 4", "3 - 4"), ("1.2", "1..2"), ("12", "1 2"), ("a b", "ab")]
)
def test_short_prompts_that_differ_are_not_equal(one, other):
    assert overlap([one], [other]) == ((), ())
    assert normalise(one) != normalise(other)


def test_a_run_of_thirteen_words_and_not_of_twelve():
    training = [f"In short, {LONG.upper()}! And so on."]
    assert overlap(training, [f"other words: {LONG} other"]) == ((), ((0, 0),))
    shared = " ".join(WORDS[:12])
    assert overlap(training, [f"x y z {shared} other words here"]) == ((), ())


def test_punctuation_does_not_hide_a_run():
    dashed = ", ".join(WORDS)
    assert overlap([LONG + " more"], [dashed + "."]) == ((), ((0, 0),))


def test_operators_are_words():
    a = "compute the value of 3 + 4 * 5 and give it as a number please now"
    assert overlap([a.replace("+", "-")], [a]) == ((), ())


def test_short_prompts_are_compared_by_thirty_characters():
    short = "write a function to reverse a list"  # 34 characters, 7 words
    assert overlap([f"Please {short} in Python"], [short]) == ((), ((0, 0),))
    assert overlap(["Please write a function to reverse"], [short]) == ((), ())  # 27 shared
    assert overlap(["sort: bca, please do it in an orderly manner"], ["sort: bca"]) == ((), ())


def test_boilerplate_is_not_an_overlap_but_an_equal_prompt_is():
    template = "Solve the following problem step by step and box the final answer you get: "
    training = [f"{template}{i * 'x '}{i}" for i in range(40)]
    assert overlap(training, [template + "something else entirely"]) == ((), ())
    exact, _ = overlap(training, [training[7]])
    assert exact == ((0, 7),)
    ten = [f"{i} {LONG}" for i in range(10)]
    assert overlap(ten, [f"and {LONG}"])[1] == ((0, 0),)
    assert overlap([*ten, f"10 {LONG}"], [f"and {LONG}"])[1] == ()


def test_the_first_training_prompt_is_named():
    found = find_overlap(["no", "a", "A", f"x {LONG}"], ["a", f"y {LONG}", "b"], name="math")
    assert (found.exact, found.near, found.num_found) == (((0, 1),), ((1, 3),), 2)
    assert found.describe() == (
        "Held-out check: of the 3 prompts of math, 1 occur and 1 more overlap with one in the 4 "
        "training prompts (equal, or a run of 13 words or 30 characters). First: evaluation row "
        "0, training row 1."
    )


def test_many_long_prompts_in_seconds():
    training = [f"{i} " + " ".join(f"w{i}x{j}" for j in range(80)) for i in range(3000)]
    evaluation = [*training[:3], *(f"{i} " + "q " * 60 for i in range(300))]
    assert len(find_overlap(training, evaluation, name="big").exact) == 3


def recipe_with(path: Path, tmp_path: Path, *, check: str, split: str):
    from tabom.stages.recipe import load_recipe

    recipe = yaml.safe_load(path.read_text())
    recipe["evaluation"]["held_out_check"] = check
    args = recipe["evaluation"]["sets"][0]["prompts"]["args"]
    args["split"] = split
    recipe["prompts"]["args"]["seed"] = args["seed"] = 0
    recipe["output_dir"] = str(tmp_path / "run")
    changed = tmp_path / "changed.yaml"
    changed.write_text(yaml.safe_dump(recipe))
    return load_recipe(str(changed))


def test_a_recipe_is_checked(tiny_recipe, tmp_path):
    from tabom.stages.held_out import check_held_out

    clean = check_held_out(recipe_with(tiny_recipe, tmp_path, check="error", split="eval"))
    assert [s["num_exact"] + s["num_near"] for s in clean["sets"]] == [0, 0]
    assert [note.count("none occurs in the 24 training prompts") for note in clean["notes"]] == [
        1,
        1,
    ]
    leaky = check_held_out(recipe_with(tiny_recipe, tmp_path, check="warn", split="train"))
    assert leaky["sets"][0]["num_exact"] == 8
    assert len(leaky["notes"]) == 1
    assert "of the 8 prompts of sort, 8 occur" in leaky["notes"][0]
    off = check_held_out(recipe_with(tiny_recipe, tmp_path, check="off", split="train"))
    assert off == {"sets": [], "notes": [], "fingerprint": ""}


def test_what_was_compared_is_not_compared_again(tiny_recipe, tmp_path, monkeypatch):
    """A finished run can be reported on where its prompts cannot be loaded any more."""
    from tabom.stages import held_out

    recipe = recipe_with(tiny_recipe, tmp_path, check="warn", split="eval")
    known = held_out.check_held_out(recipe)
    other = recipe_with(tiny_recipe, tmp_path, check="warn", split="train")
    assert held_out.check_held_out(other, known=known) != known
    monkeypatch.setattr(held_out, "load_prompts", None)
    assert held_out.check_held_out(recipe, known=known) is known


def test_error_stops_before_anything_is_written(tiny_recipe, tmp_path):
    from tabom.stages.run import run_recipe

    recipe = recipe_with(tiny_recipe, tmp_path, check="error", split="train")
    with pytest.raises(DataError, match=r"not held out.*8 occur.*held_out_check to warn"):
        run_recipe(recipe, command="test", is_quiet=True)
    assert not (tmp_path / "run").exists()


def test_templates_are_left_out(tmp_path, tiny_recipe):
    """A long instruction around every prompt is not an overlap, however few prompts there are."""
    from tabom.stages.held_out import check_held_out

    recipe = recipe_with(tiny_recipe, tmp_path, check="error", split="eval")
    prompts = replace(recipe.prompts, template=LONG + " {prompt}")
    one = recipe.evaluation.sets[0]
    sets = (replace(one, prompts=replace(one.prompts, template=LONG + " {prompt}")),)
    recipe = replace(recipe, prompts=prompts, evaluation=replace(recipe.evaluation, sets=sets))
    assert [s["num_near"] for s in check_held_out(recipe)["sets"]] == [0]
