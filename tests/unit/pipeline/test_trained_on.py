"""The training prompts behind a trained folder are found again, or said to be unknown."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tabom.core.atomic import write_json
from tabom.core.manifest import write_manifest
from tabom.pipeline.trained_on import CARD, training_prompts
from tabom.stages.held_out import tasks_held_out
from tabom.trajectory.record import Trajectory
from tabom.trajectory.store import TrajectoryWriter, finish

SOLD = "Natalia sold clips to 48 of her friends in April, and then she sold half as many in May."
TALE = "Weng earns 12 dollars an hour for babysitting. Yesterday she did 50 minutes of it."
PROMPTS = {"path": "prompts.jsonl", "content": "c"}


def stage(folder: Path, kind: str, fingerprint: str, settings: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    write_manifest(
        folder, stage=kind, fingerprint=fingerprint, counts={}, settings=settings, seconds=0.0
    )
    return folder


def collection(folder: Path, fingerprint: str, prompts: list[tuple[str, dict[str, Any]]]) -> Path:
    TrajectoryWriter(folder).append(
        [
            Trajectory(
                id=str(i),
                prompt=prompt,
                prompt_ids=[3],
                response="r",
                response_ids_N=[5, 2],
                step_N=[0, 1],
                entropy_N=[0.1, 0.1],
                confidence_N=[0.9, 0.9],
                num_forwards=2,
                row=row,
            )
            for i, (prompt, row) in enumerate(prompts)
        ]
    )
    finish(
        folder, fingerprint=fingerprint, settings={"prompts": PROMPTS, "seed": 7}, seconds=0.0,
        ids=[str(i) for i in range(len(prompts))],
    )  # fmt: skip
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """As `tabom run` leaves it: seed-7/collect, verify, and two arms."""
    root = tmp_path / "seed-7"
    collection(
        root / "collect", "c1", [(SOLD, {}), (f"{TALE} Think.", {"question": TALE, "input": "x"})]
    )
    collection(root / "other", "c2", [("Something else.", {})])
    stage(root / "verify", "verify", "v1", {"trajectories": "c1"})
    stage(root / "tabom" / "train", "train", "t1", {"verdicts": "v1", "training": {"seed": 7}})
    settings = {"verdicts": None, "prompts": PROMPTS, "training": {"seed": 7}}
    stage(root / "gt" / "train", "train", "t2", settings)
    return root


@pytest.mark.parametrize("arm", ["tabom", "gt"])
def test_prompts_are_found_by_fingerprint(run: Path, arm: str) -> None:
    if arm == "gt":
        shutil.rmtree(run / "other")  # of the same prompts here
    found = training_prompts(run / arm / "train")
    assert found.texts == [SOLD, TALE]  # without the template around it
    assert found.source == "collect c1"


def test_a_copied_adapter_says_by_its_card(run: Path) -> None:
    (run / "copy").mkdir()
    write_json(run / "copy" / CARD, {"extra": {"data": {"verdicts": "v1"}}, "config": {"seed": 7}})
    assert training_prompts(run / "copy").texts is not None


def test_unknown_is_said(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "far" / "away" / "train"
    shutil.copytree(run / "tabom" / "train", moved)
    assert training_prompts(moved).texts is None
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "manifest.json").write_text("{}")  # another tool's
    found = tasks_held_out(
        {"gsm8k": [SOLD]}, trained=[run / "tabom" / "train", tmp_path / "bare", moved]
    )
    assert found == {
        "gsm8k": {
            "note": "Held-out check: not done, the training prompts are unknown (bare says nothing "
            "of what it was trained on; the collection of train is neither beside it nor one "
            "folder above)."
        }
    }


def test_a_broken_collection_is_unknown_and_no_error(run: Path) -> None:
    next((run / "collect").rglob("*.parquet")).unlink()
    assert "the collection cannot be read" in training_prompts(run / "tabom" / "train").source


def test_documents_are_counted(run: Path) -> None:
    found = tasks_held_out(
        {"a": [SOLD.upper() + "?", "What is new?"], "b": [f"{TALE} How much did she earn by it?"]},
        trained=[run / "tabom" / "train"],
    )
    assert (found["a"]["num_exact"], found["a"]["num_near"], found["a"]["exact"]) == (
        1, 0, ((0, 0),),
    )  # fmt: skip
    assert (found["b"]["num_exact"], found["b"]["num_near"]) == (0, 1)
    assert found["a"]["note"].startswith("Held-out check: of the 2 prompts of a, 1 occur and 0")
    assert tasks_held_out({"a": [SOLD]}, trained=[]) == {}
