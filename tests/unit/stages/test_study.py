"""Studies: planned, skipped when complete, refused when another's, the same side by side."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tabom.core.errors import ConfigError, DataError, StageError
from tabom.core.manifest import read_manifest
from tabom.evaluation.comparison import MetricKey
from tabom.evaluation.records import EvaluationRecord, write_records
from tabom.evaluation.results import RECORDS, TRAJECTORIES, read_evaluated
from tabom.report.data import Report
from tabom.stages.pool import run_stages
from tabom.stages.recipe import Recipe, load_recipe
from tabom.stages.run import report_folder, run_recipe
from tabom.stages.study import pending_stages, plan_study
from tabom.trajectory.record import Trajectory
from tabom.trajectory.schema import to_arrow
from tabom.trajectory.store import TrajectoryWriter


def recipe_in(path: Path, folder: Path, *overrides: str) -> Recipe:
    return load_recipe(str(path), overrides=[f"output_dir={folder}", *overrides])


def times(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("manifest.json")}


@pytest.fixture
def finished(tiny_recipe: Path, tmp_path: Path) -> tuple[Recipe, Report]:
    recipe = recipe_in(tiny_recipe, tmp_path / "out")
    report, _ = run_recipe(recipe, command="test", is_quiet=True)
    return recipe, report


def test_a_study_end_to_end(
    finished: tuple[Recipe, Report], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, report = finished
    root = Path(recipe.output_dir)
    plan = plan_study(recipe)
    assert all(stage.is_complete() for stage in plan.stages)
    assert report.comparison.arms == ["No-SFT", "TABOM"]
    kinds = ("in_domain", "out_of_domain", "forgetting", "net_loss", "tds")
    keys = {*map(MetricKey, kinds), MetricKey("in_domain", pace="4")}
    assert keys <= set(report.comparison.keys)
    assert {"tds", "in_domain"} <= {key.kind for key in report.columns}
    assert report.collection[0].reasons["accepted"] == 24
    assert len(report.curves.training[0].points) == 3
    written = json.loads((root / "summary.json").read_text())
    rows = {(r["arm"], *r["key"].values()): r["value"] for r in written["comparison"]["rows"]}
    row = report.comparison.row("TABOM", MetricKey("in_domain", pace="4"))
    assert rows["TABOM", "in_domain", "", "4"]["value"] == row.value.value
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
    again, path = report_folder(moved)
    assert path == moved / "report.html"
    assert again.comparison.arms == ["No-SFT", "TABOM", "TABOM-8"]
    assert "changed since the run" not in capsys.readouterr().err

    # Nor does it show anything else than what the run left.
    logged = moved / "seed-0/tabom/train/metrics.jsonl"
    counted = moved / "seed-0/verify/manifest.json"
    checked = moved / "held_out.json"
    for path, there, instead in (
        (logged, '"step": 3', '"step": 2'),
        (counted, '"accepted": 24', '"accepted": 25'),
        (checked, "none occurs", "some occur"),
    ):
        text = path.read_text()
        assert there in text
        path.write_text(text.replace(there, instead))
        with pytest.raises(DataError, match=rf"{path.name}: changed since"):
            report_folder(moved)
        path.write_text(text)
    recipe_yaml = moved / "recipe.yaml"
    recipe_yaml.write_text(recipe_yaml.read_text().replace("name: No-SFT", "name: Base"))
    assert "Base" in report_folder(moved)[0].comparison.arms
    assert "recipe.yaml: changed since the run" in capsys.readouterr().err


def test_overwrite_replaces_only_what_differs(finished: tuple[Recipe, Report]) -> None:
    recipe, _ = finished
    before = times(Path(recipe.output_dir))
    other = replace(recipe, training=replace(recipe.training, max_steps=2))
    run_recipe(other, command="other", is_quiet=True, overwrite=True)
    after = times(Path(recipe.output_dir))
    changed = {Path(k).parent.relative_to(recipe.output_dir).as_posix() for k in before
               if after[k] != before[k]}  # fmt: skip
    assert changed == {"seed-0/tabom/train", "seed-0/tabom/evaluate", "seed-0/tabom/diagnose"}


@pytest.mark.slow
def test_side_by_side_equals_one_process(
    finished: tuple[Recipe, Report], tiny_recipe: Path, tmp_path: Path
) -> None:
    _, report = finished
    side = recipe_in(
        tiny_recipe, tmp_path / "side", "study={num_workers: 2, threads_per_worker: 1}"
    )
    other, _ = run_recipe(side, command="test", is_quiet=True)
    assert report.comparison.rows == other.comparison.rows


def test_an_empty_accepted_set_stops_before_training_and_keeps_its_verdicts(
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
    assert read_manifest(root / "seed-0" / "verify").counts["accepted"] == 0
    assert (root / "seed-0" / "verify" / "verdicts.parquet").is_file()
    assert read_manifest(root / "seed-0" / "tabom" / "train") is None
    assert not (root / "summary.json").exists()
    # The collection is kept: another verifier needs no other trajectories.
    collected = times(root)[str(root / "seed-0" / "collect" / "manifest.json")]
    run_recipe(recipe_in(tiny_recipe, root), command="test", is_quiet=True, overwrite=True)
    assert times(root)[str(root / "seed-0" / "collect" / "manifest.json")] == collected


def test_an_evaluation_that_an_error_stops_keeps_its_responses(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tabom.decoding.decoder import Decoder
    from tabom.toyworld import diagnostics

    def broken(**_: Any) -> float:
        raise ValueError("no such column")

    def no_decoding(*_: Any, **__: Any) -> None:
        raise AssertionError("all of it is on disk")

    recipe = recipe_in(tiny_recipe, tmp_path / "out")
    stage = plan_study(recipe).runs[0].evaluate
    with monkeypatch.context() as patch:
        patch.setattr(diagnostics, "premature_commit", broken)
        with pytest.raises(DataError, match="metric 'premature_commit' failed"):
            stage.run(lambda *_: None)
    kept = {p.name for p in (stage.folder / ".unfinished" / "0" / "1").iterdir()}
    assert kept == {"partial", "verdicts-0.jsonl"}
    assert not stage.is_complete()
    assert len(TrajectoryWriter(stage.folder / ".unfinished" / "0" / "1").done()) == 8
    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "decode", no_decoding)
        with pytest.raises(AssertionError, match="on disk"):  # of the next speed, nothing is
            stage.run(lambda *_: None)
    stage.run(lambda *_: None)
    assert stage.is_complete()
    assert not (stage.folder / ".unfinished").exists()
    found = read_manifest(stage.folder)
    assert found is not None
    assert not [name for name in found.files if "unfinished" in name]


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
    run_stages(pending_stages(plan), is_quiet=True)
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


@pytest.mark.parametrize("num_slots", [8, 24])
def test_a_set_has_its_own_number_of_slots(
    tiny_recipe: Path, tmp_path: Path, num_slots: int
) -> None:
    """As the published recipes: 512 slots to answer in, 256 in the trajectories of training."""
    recipe = recipe_in(
        tiny_recipe, tmp_path / "out", f"evaluation.sets.0.decoding.max_new_tokens={num_slots}"
    )
    report, _ = run_recipe(recipe, command="test", is_quiet=True)
    assert report.curves.loss_ratio
    widths = {(e.set, len(e.step)) for e in report.examples}
    assert widths == {("sort", num_slots), ("reverse", 16)}


def test_two_sets_may_ask_the_same_prompts(tiny_recipe: Path, tmp_path: Path) -> None:
    """One task decoded in two ways: each set keeps its own responses, roles and viewer."""
    recipe = recipe_in(tiny_recipe, tmp_path / "out")
    first = recipe.evaluation.sets[0]
    other = replace(
        first,
        name="again",
        role="out_of_domain",
        tokens_per_step=(2,),
        decoding={"policy": "confidence", "max_new_tokens": 12},
    )
    recipe = replace(recipe, evaluation=replace(recipe.evaluation, sets=(first, other)))
    report, _ = run_recipe(recipe, command="test", is_quiet=True)
    sets = {key.set for key in report.comparison.keys if key.kind == "set"}
    assert sets == {"sort", "again"}
    # Only the in-domain set counts: one slot a step gives 16 steps, two a step would give 6.
    assert list(report.curves.entropy[0].x) == list(range(16))
    for example in report.examples:
        assert example.set == "sort"
        assert {len(row) for row in example.field} == {len(example.tokens)} == {16}


def test_a_trajectory_is_paired_with_its_own_record(tmp_path: Path) -> None:
    """Right at two slots a step and wrong at one: what is stored is the wrong response."""

    def record(name: str, speed: int, correct: int, of: str = "a") -> EvaluationRecord:
        return EvaluationRecord(
            set=of, role="in_domain", id=name, tokens_per_step=speed, correct=correct,
            reason="accepted" if correct else "wrong", num_forwards=1, length=1,
            tokens_per_forward=1.0, end_step=-1, trajectory=name,
        )  # fmt: skip

    def trajectory(name: str) -> Trajectory:
        return Trajectory(
            id=name, prompt="p", prompt_ids=[1], response="r", response_ids_N=[2], step_N=[0],
            entropy_N=[0.5], confidence_N=[0.5], num_forwards=1,
        )  # fmt: skip

    records = [record("x", 1, 0), record("y", 1, 1), record("x", 2, 1), record("y", 2, 0),
               record("x", 2, 1, "b")]  # fmt: skip
    write_records(tmp_path / RECORDS, records)

    def store(*names: str) -> None:
        batch = to_arrow([trajectory(name) for name in names])
        pq.write_table(pa.Table.from_batches([batch]), tmp_path / TRAJECTORIES)

    store("x", "y", "x")
    found = [(r.set, t.id, r.correct) for r, t in read_evaluated(tmp_path)]
    assert found == [("a", "x", 0), ("a", "y", 1), ("b", "x", 1)]
    store("x", "y")
    with pytest.raises(DataError, match="None stands where 'x'"):
        list(read_evaluated(tmp_path))
    store("y", "x", "x")
    with pytest.raises(DataError, match="'y' stands where 'x'"):
        list(read_evaluated(tmp_path))


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_runs_in_one_folder_are_refused(
    finished: tuple[Recipe, dict[str, Any]], overwrite: bool
) -> None:
    """Before anything of the first is removed, also where the second may overwrite."""
    from tabom.core.atomic import only_one

    recipe, _ = finished
    before = times(Path(recipe.output_dir))
    other = (
        replace(recipe, seeds=(5,))
        if not overwrite
        else replace(recipe, training=replace(recipe.training, max_steps=2))
    )
    with only_one(recipe.output_dir):
        with pytest.raises(StageError, match="another run is writing here"):
            run_recipe(other, command="test", is_quiet=True, overwrite=overwrite)
    assert times(Path(recipe.output_dir)) == before
