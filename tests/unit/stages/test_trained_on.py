"""The training prompts travel with a trained folder, or are said to be unknown."""

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from tabom.core.atomic import read_json
from tabom.core.errors import DataError
from tabom.evaluation.manifest import EVALUATION, HELD_OUT
from tabom.stages.held_out import (
    TRAINED_ON,
    held_out_of,
    question_of,
    read_trained_on,
    write_trained_on,
)
from tabom.stages.recipe import load_recipe
from tabom.stages.study import plan_study

SOLD = "Natalia sold clips to 48 of her friends in April, and then she sold half as many in May."
TALE = "Weng earns 12 dollars an hour for babysitting. Yesterday she did 50 minutes of it."


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    (tmp_path / "train").mkdir()
    write_trained_on(tmp_path / "train", lambda: [pa.array([SOLD, TALE]), pa.array([SOLD])])
    return tmp_path / "train"


def test_prompts_are_read_wherever_the_folder_goes(trained: Path, tmp_path: Path) -> None:
    moved = tmp_path / "far" / "away"
    shutil.copytree(trained, moved)
    assert read_trained_on(moved) == [SOLD, TALE]  # each once


def test_a_training_leaves_what_it_saw(tiny_recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    overrides = [("output_dir", str(out)), ("prompts.template", "ab{prompt}")]
    recipe = load_recipe(str(tiny_recipe), overrides=overrides)
    plan = plan_study(recipe)
    for stage in (plan.collect[0], plan.verify[0], plan.runs[1].train):
        assert stage is not None
        stage.run()
    texts = read_trained_on(plan.runs[1].train.folder)  # type: ignore[union-attr]
    assert len(texts) == 24
    assert not any(text.startswith("ab") for text in texts)
    # An evaluation looks for its prompts there, whether a study has looked or not.
    evaluation = plan.runs[1].evaluate
    evaluation.run()
    for paces in read_json(evaluation.folder / EVALUATION).values():
        for found in paces.values():
            assert found[HELD_OUT]["num_training"] == 24


def test_the_question_is_without_its_template() -> None:
    assert question_of("Think. 2+2?", {"question": "2+2?"}) == "2+2?"
    assert question_of("2+2?", {"question": "of another column"}) == "2+2?"
    assert question_of("2+2?", {}) == "2+2?"


def test_unknown_is_said(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    found = held_out_of({"gsm8k": [SOLD]}, trained=[trained, tmp_path / "bare"])
    assert found.keys() == {"gsm8k"}
    assert found["gsm8k"].keys() == {"note"}
    assert "not done" in found["gsm8k"]["note"]
    assert "bare" in found["gsm8k"]["note"]


def test_a_damaged_file_is_named(trained: Path) -> None:
    (trained / TRAINED_ON).write_bytes(b"PAR1")
    with pytest.raises(DataError, match="trained_on"):
        read_trained_on(trained)


def test_documents_are_counted(trained: Path) -> None:
    found = held_out_of(
        {"a": [SOLD.upper() + "?", "What is new?"], "b": [f"{TALE} How much did she earn by it?"]},
        trained=[trained],
    )
    assert (found["a"]["num_exact"], found["a"]["num_near"], found["a"]["exact"]) == (
        1, 0, ((0, 0),),
    )  # fmt: skip
    assert (found["b"]["num_exact"], found["b"]["num_near"]) == (0, 1)
    assert found["a"]["note"].startswith("Held-out check: of the 2 prompts of a, 1 occur and 0")
    assert held_out_of({"a": [SOLD]}, trained=[]) == {}
