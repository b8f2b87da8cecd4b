"""Studies: planned, skipped when complete, refused when another's, the same side by side."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tabom.core.errors import ConfigError, DataError, StageError
from tabom.core.manifest import read_manifest
from tabom.pipeline.recipe import Recipe, load_recipe
from tabom.pipeline.run import report_folder, run_recipe
from tabom.pipeline.study import pending_stages, plan_study, run_stages


def recipe_in(path: Path, folder: Path, *overrides: str) -> Recipe:
    return load_recipe(str(path), overrides=[f"output_dir={folder}", *overrides])


def times(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("manifest.json")}


@pytest.fixture
def finished(tiny_recipe: Path, tmp_path: Path) -> tuple[Recipe, dict[str, Any]]:
    recipe = recipe_in(tiny_recipe, tmp_path / "out")
    summary, _ = run_recipe(recipe, command="test", is_quiet=True)
    return recipe, summary


def test_a_study_end_to_end(finished: tuple[Recipe, dict[str, Any]]) -> None:
    recipe, summary = finished
    root = Path(recipe.output_dir)
    plan = plan_study(recipe)
    assert all(stage.is_complete() for stage in plan.stages)
    assert [arm["name"] for arm in summary["arms"]] == ["No-SFT", "TABOM"]
    keys = {m["key"] for m in summary["metrics"]}
    assert {"in_domain", "in_domain@4", "out_of_domain", "forgetting", "tds"} <= keys
    assert summary["collection"][0]["reasons"]["accepted"] == 24
    assert len(summary["curves"]["training"][0]["points"]) == 3
    written = json.loads((root / "summary.json").read_text())
    assert written["arms"] == summary["arms"]
    html = (root / "report.html").read_text()
    assert "TABOM" in html
    assert "http://" not in html.replace("http://www.w3.org", "")

    # A second run does nothing, another recipe in the same folder is refused before any work.
    before = times(root)
    run_recipe(recipe, command="again", is_quiet=True)
    assert times(root) == before
    other = replace(recipe, decoding=replace(recipe.decoding, tokens_per_step=2))
    with pytest.raises(StageError, match=r"(?s)another recipe.*tokens_per_step"):
        run_recipe(other, command="other", is_quiet=True)
    assert times(root) == before

    # An arm more reuses what is there.
    more = replace(
        recipe, arms=(*recipe.arms, replace(recipe.arms[1], name="TABOM-8", options={"window": 8}))
    )
    run_recipe(more, command="more", is_quiet=True)
    after = times(root)
    assert {k: after[k] for k in before} == before
    assert len(after) == len(before) + 3

    # The report can be made again, elsewhere too.
    moved = root.rename(root.with_name("moved"))
    summary_again, path = report_folder(moved)
    assert path == moved / "report.html"
    assert [a["name"] for a in summary_again["arms"]] == ["No-SFT", "TABOM", "TABOM-8"]


def test_overwrite_replaces_only_what_differs(finished: tuple[Recipe, dict[str, Any]]) -> None:
    recipe, _ = finished
    before = times(Path(recipe.output_dir))
    other = replace(recipe, training=replace(recipe.training, max_steps=2))
    run_recipe(other, command="other", is_quiet=True, overwrite=True)
    after = times(Path(recipe.output_dir))
    changed = {Path(k).parent.relative_to(recipe.output_dir).as_posix() for k in before
               if after[k] != before[k]}  # fmt: skip
    assert changed == {"seed-0/tabom/train", "seed-0/tabom/evaluate", "seed-0/tabom/diagnose"}


def test_side_by_side_equals_one_process(
    finished: tuple[Recipe, dict[str, Any]], tiny_recipe: Path, tmp_path: Path
) -> None:
    _, summary = finished
    side = recipe_in(
        tiny_recipe, tmp_path / "side", "study={num_workers: 2, threads_per_worker: 1}"
    )
    other, _ = run_recipe(side, command="test", is_quiet=True)
    for mine, theirs in zip(summary["arms"], other["arms"], strict=True):
        assert mine["means"] == theirs["means"]


def test_an_empty_accepted_set_stops_and_leaves_no_result(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    recipe = recipe_in(
        tiny_recipe,
        tmp_path / "out",
        "verifier={type: function, function: 'tabom.toyworld.tasks:check'}",
    )
    with pytest.raises(DataError, match=r"(?s)accepted none of 24 trajectories.*wrong"):
        run_recipe(recipe, command="test", is_quiet=True)
    root = tmp_path / "out"
    assert read_manifest(root / "seed-0" / "collect") is not None
    assert read_manifest(root / "seed-0" / "verify") is None
    assert not (root / "summary.json").exists()
    # The collection is kept: another verifier needs no other trajectories.
    collected = times(root)[str(root / "seed-0" / "collect" / "manifest.json")]
    assert not (root / "seed-0" / "verify").exists()
    run_recipe(recipe_in(tiny_recipe, root), command="test", is_quiet=True)
    assert times(root)[str(root / "seed-0" / "collect" / "manifest.json")] == collected


def test_an_error_in_a_worker_reaches_the_parent(tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = recipe_in(
        tiny_recipe,
        tmp_path / "out",
        "study={num_workers: 2, threads_per_worker: 1}",
        "collection.max_prompt_tokens=1",
    )
    with pytest.raises(DataError, match="all 24 prompts are longer"):
        run_recipe(recipe, command="test", is_quiet=True)


def test_a_run_without_evaluation_sets_still_trains(tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = recipe_in(tiny_recipe, tmp_path / "out", "evaluation.sets=[]")
    plan = plan_study(recipe)
    run_stages(pending_stages(plan), num_workers=1, threads_per_worker=None, is_quiet=True)
    assert (tmp_path / "out" / "seed-0" / "tabom" / "train" / "adapter_config.json").is_file()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("arms.1.objective=tabon", "arms.TABOM: unknown objective 'tabon'; did you mean 'tabom'"),
        ("arms.1.options={windw: 4}", "arms.TABOM: .*did you mean 'window'"),
        ("evaluation.sets.0.metrics={m: 'tabom.nothing:f'}", "evaluation.sets.sort.metrics.m"),
        ("verifier={type: function, function: 'json:nope'}", "verifier: .*nope"),
    ],
)
def test_names_are_checked_before_anything_starts(
    tiny_recipe: Path, tmp_path: Path, override: str, message: str
) -> None:
    recipe = recipe_in(tiny_recipe, tmp_path / "out", override)
    with pytest.raises(ConfigError, match=message):
        run_recipe(recipe, command="test", is_quiet=True)
    assert not (tmp_path / "out").exists()
