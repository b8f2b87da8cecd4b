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


@pytest.mark.parametrize(
    "damaged",
    ["[]", "3", "{}", '{"stfp": 1, "seconds": 1, "tokens": 1}', "\xff", "\x85", "[" * 100_000,
     '{"step": "1", "seconds": 1, "tokens": 1}', '{"step": 1, "seconds": 1, "tokens": null}'],
)  # fmt: skip
def test_a_damaged_journal_is_gone_on_with_and_told(
    tmp_path: Path, damaged: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path, from_step=0)
    for step in (1, 2, 3):
        journal.tokens += 10
        journal.write({"step": step, "loss": step / 2})
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + damaged.encode("latin-1") + b"\n" + lines[2])
    resumed = Journal(path, from_step=3)
    assert (resumed.tokens, resumed.last["loss"]) == (30, 1.5)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3]
    assert "metrics.jsonl: 1 damaged" in caplog.text


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_guard(norm: float) -> None:
    guard = FiniteGuard()
    guard.watch(torch.tensor(1.0), torch.tensor(2.0), step=1)
    guard.watch(torch.tensor(1.0), 2.0, step=2)
    with pytest.raises(TrainingError, match=r"stopped at step 3: loss 1\.0, gradient norm"):
        guard.watch(torch.tensor(1.0), torch.tensor(norm), step=3)


def checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    (path / "trainer_state.json").write_text("{}")
    (path / checkpoints.IDENTITY).write_text('{"identity": {"seed": 1}, "num_taken": 8}')
    checkpoints.seal(path, keep=None)
    return path


def test_last_checkpoint_is_the_newest_whole_one(tmp_path: Path) -> None:
    assert checkpoints.last_checkpoint(tmp_path) is None
    checkpoint(tmp_path, 9)
    newest = checkpoint(tmp_path, 10)  # as text, "9" is greater
    (checkpoint(tmp_path, 11) / checkpoints.SEAL).unlink()  # cut short
    (tmp_path / "checkpoint-12").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    assert checkpoints.last_checkpoint(tmp_path) == newest
    checkpoints.check_identity(newest, {"seed": 1})
    with pytest.raises(StageError, match="seed: 1 there, 2 here"):
        checkpoints.check_identity(newest, {"seed": 2})
    checkpoints.remove_checkpoints(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["checkpoint-best"]


@pytest.mark.parametrize("name", ["trainer_state.json", checkpoints.IDENTITY, checkpoints.SEAL])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    name: str, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before, newest = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    path = newest / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    assert checkpoints.last_checkpoint(tmp_path) == before
    is_unsealed = (name, damage) == (checkpoints.SEAL, "remove")  # as after a crash
    assert ("checkpoint-2" in caplog.text) == (not is_unsealed)


def test_the_seal_comes_before_older_checkpoints_go(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint(tmp_path, step)
    newest = checkpoint(tmp_path, 10)
    checkpoints.seal(newest, keep=2)
    assert [checkpoints.step_of(f) for f in checkpoints.numbered(tmp_path)] == [10, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_meter_goes_on_from_a_checkpoint_to_the_last_bit(dtype: torch.dtype) -> None:
    pairs = [(torch.rand((), dtype=dtype), torch.rand(3, dtype=dtype)) for _ in range(9)]

    def add(meter: Meter, part: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        for scalar, vector in part:
            meter.add("loss", scalar, 1.0)
            meter.add("entropy", vector, torch.ones(3))
            meter.add("tokens", 7.0, None)

    whole, first, second = Meter(), Meter(), Meter()
    add(whole, pairs)
    add(first, pairs[:5])
    state = json.loads(json.dumps(first.state(device=CPU, reduce=lambda v: v)))
    second.load_state(state)
    add(second, pairs[5:])
    expected = whole.flush(device=CPU, reduce=lambda v: v)
    assert second.flush(device=CPU, reduce=lambda v: v) == expected
    assert first.state(device=CPU, reduce=lambda v: v) == state  # nothing was flushed


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
