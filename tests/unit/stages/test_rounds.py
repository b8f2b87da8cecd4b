"""Rounds of collecting with what was trained, and training on more than accepted trajectories."""

from pathlib import Path

import numpy as np
import pytest

from tabom.core.errors import ConfigError, DataError, StageError
from tabom.stages.recipe import Recipe, load_recipe
from tabom.stages.run import run_recipe
from tabom.stages.study import plan_study
from tabom.stages.train import Train
from tabom.trajectory.store import TrajectoryStore


def _recipe(path: Path, folder: Path, *overrides: str) -> Recipe:
    return load_recipe(str(path), overrides=[f"output_dir={folder}", *overrides])


def test_a_second_round_decodes_with_the_first(tiny_recipe: Path, tmp_path: Path) -> None:
    """Its collection differs from the base's, its training goes on, and a rerun does nothing."""
    recipe = _recipe(
        tiny_recipe, tmp_path / "out", "rounds=2", "training.learning_rate=0.3",
        "training.max_steps=4", "training.warmup_steps=0",
    )  # fmt: skip
    run_recipe(recipe, command="test", is_quiet=True)
    plan = plan_study(recipe)
    (run,) = (run for run in plan.runs if run.train is not None)
    first_train, collect, _ = run.earlier
    assert isinstance(first_train, Train)
    assert isinstance(run.train, Train)
    assert run.train.trained == first_train.output
    assert all(stage.is_complete() for stage in plan.stages)
    base = {t.id: t for t in TrajectoryStore(plan.collect[recipe.seeds[0]].folder)}
    again = {t.id: t for t in TrajectoryStore(collect.folder)}
    assert set(base) == set(again)
    assert any(not np.array_equal(base[i].step_N, again[i].step_N) for i in base) or any(
        not np.array_equal(base[i].response_ids_N, again[i].response_ids_N) for i in base
    )
    assert first_train.training.seed != run.train.training.seed
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("manifest.json")}
    run_recipe(recipe, command="again", is_quiet=True)
    assert stamps == {p: p.stat().st_mtime_ns for p in stamps}


def test_an_arm_sets_its_own_rounds(tiny_recipe: Path, tmp_path: Path) -> None:
    arms = (
        "arms=[{name: A, objective: nelbo, rounds: 3}, {name: B, objective: nelbo},"
        " {name: C, objective: nelbo, data: ground_truth, rounds: 5}]"
    )
    plan = plan_study(_recipe(tiny_recipe, tmp_path / "out", arms))
    assert [len(run.earlier) for run in plan.runs] == [6, 0, 0]
    # One round is the study as it always was.
    alone = plan_study(_recipe(tiny_recipe, tmp_path / "out", arms.replace("3", "1")))
    assert alone.runs[0].earlier == ()
    assert alone.runs[1].train == plan.runs[1].train
    with pytest.raises(ConfigError, match="rounds"):
        _recipe(tiny_recipe, tmp_path / "out", "rounds=0")


@pytest.mark.parametrize("rejected", ["advantage", "leave_out"])
def test_rejected_trajectories_join_the_training(
    tiny_recipe: Path, tmp_path: Path, rejected: str
) -> None:
    """Half the verdicts turned: with advantages all are trained on, else the accepted half."""
    arms = f"arms=[{{name: A, objective: boltzmann, options: {{window: 2}}, rejected: {rejected}}}]"
    recipe = _recipe(
        tiny_recipe, tmp_path / "out", arms,
        "verifier={type: function, function: 'judges:every_other'}",
    )  # fmt: skip
    plan = plan_study(recipe)
    train = plan.runs[0].train
    assert train is not None
    for stage in (*plan.collect.values(), *plan.verify.values()):
        stage.run()
    counts = train.run()
    num = len(TrajectoryStore(plan.collect[recipe.seeds[0]].folder))
    accepted = plan.verify[recipe.seeds[0]].run()["accepted"]
    assert 0 < accepted < num
    assert counts["num_examples"] == (num if rejected == "advantage" else accepted)


def test_groups_need_samples_that_differ(tiny_recipe: Path, tmp_path: Path) -> None:
    arms = "arms=[{name: A, objective: tracerl, rejected: group}]"
    recipe = _recipe(tiny_recipe, tmp_path / "out", arms)
    plan = plan_study(recipe)
    for stage in (*plan.collect.values(), *plan.verify.values()):
        stage.run()
    assert plan.runs[0].train is not None
    with pytest.raises(DataError, match="both a right and a wrong"):
        plan.runs[0].train.run()


def test_a_teacher_that_reads_answers_needs_trajectories(tiny_recipe: Path, tmp_path: Path) -> None:
    arms = "arms=[{name: A, objective: tad, data: ground_truth}]"
    recipe = _recipe(tiny_recipe, tmp_path / "out", arms)
    plan = plan_study(recipe)
    assert plan.runs[0].train is not None
    with pytest.raises((ConfigError, StageError), match=r"order|trajectories"):
        plan.runs[0].train.run()


@pytest.fixture(autouse=True)
def judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "judges.py").write_text(
        "COUNT = [0]\n"
        "def every_other(*, response, row, **_):\n"
        "    COUNT[0] += 1\n"
        "    return ('accepted', '') if COUNT[0] % 2 else ('wrong', 'every other')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
