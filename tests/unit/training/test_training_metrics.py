import json
import math
from pathlib import Path

import pytest
import torch

from tabom.core.errors import StageError, TrainingError
from tabom.training import checkpoints
from tabom.training.card import model_card
from tabom.training.metrics import FiniteGuard, Journal, Meter

CPU = torch.device("cpu")


def test_meter_divides_sums_by_counts() -> None:
    meter = Meter()
    meter.add("loss", torch.tensor(3.0, requires_grad=True), 2.0)
    meter.add("loss", torch.tensor(1.0), torch.tensor(6))
    meter.add("entropy", torch.tensor([2.0, 6.0]), torch.tensor([1, 0]))
    meter.add("entropy", torch.tensor([4.0, 0.0]), torch.tensor([2, 0]))
    meter.add("one", torch.tensor([8.0]), torch.tensor([2]))
    meter.add("nothing", torch.tensor(0.0), 0.0)
    meter.add("tokens", 5.0, None)
    meter.add("tokens", 6.0, None)
    scalars, vectors = meter.flush(device=CPU, reduce=lambda v: v)
    assert scalars == {"loss": 0.5, "tokens": 11.0}  # not the mean of 1.5 and 1/6
    assert vectors["entropy"][0] == 2.0
    assert math.isnan(vectors["entropy"][1])
    assert vectors["one"] == [4.0]  # a window of one slot is still a vector
    assert meter.flush(device=CPU, reduce=lambda v: v) == ({}, {})


def test_meter_reduces_before_it_divides() -> None:
    def two_ranks(values: torch.Tensor) -> torch.Tensor:
        return values + torch.tensor([10.0, 3.0])  # the other rank's (count last)

    meter = Meter()
    meter.add("loss", 2.0, 1.0)
    scalars, _ = meter.flush(device=CPU, reduce=two_ranks)
    assert scalars == {"loss": 3.0}


def test_journal_goes_on_where_the_checkpoint_was(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path, from_step=0)
    for step in (1, 2, 3):
        journal.tokens += 10
        journal.write({"step": step, "loss": math.nan, "entropy": [1.0, math.inf]})
    with path.open("a") as file:
        file.write('{"step": 4, "lo')  # torn by a crash
    resumed = Journal(path, from_step=2)
    assert resumed.tokens == 20
    resumed.tokens += 10
    resumed.write({"step": 3, "loss": 0.5})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["tokens"]) for line in lines] == [(1, 10), (2, 20), (3, 30)]
    assert lines[0]["loss"] is None
    assert lines[0]["entropy"] == [1.0, None]
    assert lines[2]["seconds"] >= lines[1]["seconds"] >= 0
    Journal(path, from_step=0)
    assert path.read_text() == ""  # a new run does not add to an old one's lines


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_guard(norm: float) -> None:
    guard = FiniteGuard()
    guard.watch(torch.tensor(1.0), torch.tensor(2.0), step=1)
    guard.watch(torch.tensor(1.0), 2.0, step=2)
    with pytest.raises(TrainingError, match=r"stopped at step 3: loss 1\.0, gradient norm"):
        guard.watch(torch.tensor(1.0), torch.tensor(norm), step=3)


def checkpoint(folder: Path, step: int, *, state: str = "{}") -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    (path / "trainer_state.json").write_text(state)
    (path / checkpoints.IDENTITY).write_text('{"seed": 1}')
    return path


def test_last_checkpoint_is_the_newest_whole_one(tmp_path: Path) -> None:
    assert checkpoints.last_checkpoint(tmp_path) is None
    checkpoint(tmp_path, 9)
    newest = checkpoint(tmp_path, 10)  # as text, "9" is greater
    checkpoint(tmp_path, 11, state='{"global')
    (tmp_path / "checkpoint-12").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    assert checkpoints.last_checkpoint(tmp_path) == newest
    checkpoints.check_identity(newest, {"seed": 1})
    with pytest.raises(StageError, match="seed: 1 there, 2 here"):
        checkpoints.check_identity(newest, {"seed": 2})
    checkpoints.remove_checkpoints(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["checkpoint-best"]


def test_a_checkpoint_of_fsdp_goes_on_under_fsdp_only(tmp_path: Path) -> None:
    sharded = checkpoint(tmp_path, 1)
    checkpoints.check_sharding(sharded, is_fsdp=True)
    with pytest.raises(StageError, match="made with FSDP, and this run is without"):
        checkpoints.check_sharding(sharded, is_fsdp=False)
    whole = checkpoint(tmp_path, 2)
    (whole / "optimizer.pt").touch()
    checkpoints.check_sharding(whole, is_fsdp=False)
    with pytest.raises(StageError, match="made without FSDP, and this run is with FSDP"):
        checkpoints.check_sharding(whole, is_fsdp=True)


def test_card_keeps_its_tables_whole() -> None:
    card = model_card(
        {
            "kind": "model",
            "base_model": "org/base",
            "identity": {"objective": {"name": "a|b"}, "data": "f00"},
            "config": {"learning_rate": 2e-05},
            "result": {
                "steps": 3, "seconds": 1.0, "speed": {"mfu": 0.25}, "num_examples": 4,
                "num_eval_examples": 0, "dropped": {"too long": 2}, "metrics": {},
            },
            "extra": {"Verification": {"accepted": 4}},
            "versions": {"torch": "2"},
        }
    )  # fmt: skip
    assert card.startswith("---\nbase_model: org/base\nlibrary_name: transformers\n")
    for line in (
        "# base, post-trained with tabom", "| name | a\\|b |", "| learning_rate | 2e-05 |",
        "| left out: too long | 2 |", "| mfu | 0.25 |", "## Verification", "| accepted | 4 |",
        "None.",
    ):  # fmt: skip
        assert line in card.splitlines(), line
