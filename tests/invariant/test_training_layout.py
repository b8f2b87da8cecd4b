"""One optimiser step is one result, however it is cut up, and wherever it was interrupted.

The classes compared: batch 8 x 1, 4 x 2, 1 x 8 accumulation, 2 processes x 2 x 2, and runs that
were killed and resumed. 20 responses make 2 full steps and an uneven last one of 4 per epoch.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tabom.core.errors import StageError

TOLERANCE = 1e-9  # float64 throughout; the Trainer adds up `loss` itself in float32
FLOAT32 = {"loss": 2e-6, "eval_loss": 2e-6, "grad_norm": 1e-6}


def assert_same_journal(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> None:
    assert [line["step"] for line in left] == [line["step"] for line in right]
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"seconds"}:
            expected = pytest.approx(b[name], abs=FLOAT32.get(name, 2e-8), rel=1e-6)
            assert a[name] == expected, (a["step"], name)


def assert_close(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    worst = max(float((left[name] - right[name]).abs().max()) for name in left)
    assert worst < TOLERANCE, f"weights differ by {worst}"


@pytest.fixture(scope="module")
def reference(world: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """4 x 2: an epoch of 5 micro-batches, groups of 2, 2 and 1."""
    folder = tmp_path_factory.mktemp("reference")
    start = world.weights(world.tiny_model())
    model, result = world.run(folder, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    weights = world.weights(model)
    moved = max(float((weights[n] - start[n]).abs().max()) for n in weights)
    assert moved > 1e-3  # else everything below would agree about nothing
    assert result.steps == 6
    return weights, world.journal(folder)


@pytest.mark.parametrize(("batch", "accumulation"), [(1, 8), (2, 4)])
def test_accumulation(
    world: ModuleType, reference: Any, tmp_path: Path, batch: int, accumulation: int
) -> None:
    """Catches a mean of micro-batch means: the last group is uneven, and so are pair counts."""
    model, _ = world.run(
        tmp_path, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation
    )
    assert_close(world.weights(model), reference[0])
    assert_same_journal(world.journal(tmp_path), reference[1])


def test_one_batch_equals_eight_of_one(world: ModuleType, tmp_path: Path) -> None:
    whole, _ = world.run(tmp_path / "8", number=16, per_device_train_batch_size=8)
    parts, _ = world.run(
        tmp_path / "1",
        number=16,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=8,
        gradient_checkpointing=True,
        dataloader_num_workers=1,
        per_device_eval_batch_size=2,
    )
    assert_close(world.weights(parts), world.weights(whole))
    assert_same_journal(world.journal(tmp_path / "1"), world.journal(tmp_path / "8"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_processes(world: ModuleType, reference: Any, tmp_path: Path) -> None:
    """2 ranks x 2 x 2 under gloo; the held-out set of 5 does not divide by two either."""
    settings = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "per_device_eval_batch_size": 2,
    }
    environment = {
        **os.environ,
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, str(world.__file__), str(tmp_path), json.dumps(settings)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    outputs = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(outputs)
    trained = world.tiny_model()
    trained.lm = type(trained.lm).from_pretrained(tmp_path, dtype=torch.float64)
    assert_close(world.weights(trained), reference[0])
    assert_same_journal(world.journal(tmp_path), reference[1])


class KilledError(Exception):
    pass


def kill_after(step: int) -> Any:
    def progress(done: int, total: int, metrics: dict[str, float]) -> None:
        if done == step:
            raise KilledError

    return progress


@pytest.mark.parametrize("use_peft", [False, True])
@pytest.mark.parametrize("step", [3, 5])  # checkpoints at 2 (inside epoch 1), 4 (inside epoch 2)
def test_resumed_run_is_bit_equal(
    world: ModuleType, tmp_path: Path, use_peft: bool, step: int
) -> None:
    """LoRA dropout is on, so the state of the random generators has to come back too."""
    settings = {
        "use_peft": use_peft,
        "lora_r": 4,
        "lora_dropout": 0.2,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
    }
    whole, _ = world.run(tmp_path / "whole", **settings)
    with pytest.raises(KilledError):
        world.run(tmp_path / "cut", progress=kill_after(step), **settings)
    assert not (tmp_path / "cut" / "tabom_manifest.json").exists()
    # A save that a crash cut short: it must be passed over, not resumed from.
    torn = tmp_path / "cut" / "checkpoint-99"
    shutil.copytree(tmp_path / "cut" / "checkpoint-2", torn)
    (torn / "trainer_state.json").write_text('{"global_step": 9')
    resumed, result = world.run(tmp_path / "cut", **settings)
    assert result.resumed_from == step - 1
    assert result.steps == 6
    expected, found = world.weights(whole), world.weights(resumed)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    keep = [[{k: v for k, v in line.items() if k != "seconds"} for line in world.journal(f)]
            for f in (tmp_path / "whole", tmp_path / "cut")]  # fmt: skip
    assert keep[0] == keep[1]


def test_checkpoint_of_another_run_is_refused(world: ModuleType, tmp_path: Path) -> None:
    settings = {"per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 2}
    (tmp_path / "metrics.jsonl").write_text("of an older run")
    with pytest.raises(KilledError):
        world.run(tmp_path, progress=kill_after(3), **settings)
    with pytest.raises(StageError, match=r"learning_rate: 0.01 there, 0.02 here.*--resume never"):
        world.run(tmp_path, learning_rate=0.02, **settings)
    # The same step cut up otherwise is the same run.
    _, result = world.run(
        tmp_path, **{**settings, "per_device_train_batch_size": 2}, gradient_accumulation_steps=2
    )
    assert result.resumed_from == 2
    _, result = world.run(tmp_path, learning_rate=0.02, resume="never", **settings)
    assert result.resumed_from == 0
