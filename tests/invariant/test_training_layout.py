"""One optimiser step is one result, however it is cut up, and wherever it was interrupted.

The classes compared: batch 8 x 1, 4 x 2, 1 x 8 accumulation, 2 processes x 2 x 2, and runs that
were killed and resumed. 20 responses make 2 full steps and an uneven last one of 4 per epoch.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tabom.core.errors import StageError, TrainingError
from tabom.training.checkpoints import last_checkpoint

# Of the machine and of how the step was cut up, not of the result.
MACHINE = {"seconds", "tokens_per_second", "padding", "mfu", "peak_memory_gib"}
TOLERANCE = 1e-9  # float64 throughout; the Trainer adds up `loss` itself in float32
FLOAT32 = {"loss": 2e-6, "eval_loss": 2e-6, "grad_norm": 1e-6}


def assert_same_journal(
    left: list[dict[str, Any]], right: list[dict[str, Any]], *, apart: Collection[str] = ()
) -> None:
    assert [line["step"] for line in left] == [line["step"] for line in right]
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - MACHINE - set(apart):
            expected = pytest.approx(b[name], abs=FLOAT32.get(name, 2e-8), rel=1e-6)
            assert a[name] == expected, (a["step"], name)


def assert_close(
    left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], *, tolerance: float = TOLERANCE
) -> None:
    assert left.keys() == right.keys()
    worst = max(float((left[name] - right[name]).abs().max()) for name in left)
    assert worst < tolerance, f"weights differ by {worst}"


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


def ranks(
    world: ModuleType, folder: Path, *, number: int = 2, **settings: Any
) -> tuple[list[int], str]:
    """Exit statuses and the output of so many processes under gloo."""
    environment = {
        **os.environ,
        "WORLD_SIZE": str(number),
        "LOCAL_WORLD_SIZE": str(number),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    if settings.get("fsdp"):
        environment |= {
            "ACCELERATE_USE_FSDP": "true",
            "FSDP_VERSION": "2",
            "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
            "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        }
    processes = [
        subprocess.Popen(
            [sys.executable, str(world.__file__), str(folder), json.dumps(settings)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(number)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    return [process.returncode for process in processes], "\n".join(outputs)


def layout(number: int) -> dict[str, Any]:
    """8 responses a step on so many processes, 4 of them at one time."""
    size = {1: 4, 2: 2, 4: 1}[number]
    return {"per_device_train_batch_size": size, "gradient_accumulation_steps": 2, "use_cpu": True}


def trained_weights(
    world: ModuleType, folder: Path, *, dtype: torch.dtype = torch.float64
) -> dict[str, torch.Tensor]:
    trained = world.tiny_model(dtype=dtype)
    trained.lm = type(trained.lm).from_pretrained(folder, dtype=dtype)
    return world.weights(trained)


def test_two_processes(world: ModuleType, reference: Any, tmp_path: Path) -> None:
    """2 ranks x 2 x 2 under gloo; the held-out set of 5 does not divide by two either.

    In the middle one of the two gets a SIGTERM: both stop after the same step, and save it. One
    process, in micro-batches of another size, goes on from there.
    """
    settings = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "per_device_eval_batch_size": 2,
    }
    codes, output = ranks(world, tmp_path, sigterm_at=[1, 3], **settings)
    assert codes == [143, 143], output
    # Noted while step 3 ended; known to all when step 4 began.
    assert "stopped by SIGTERM after step 4 of 6; checkpoint-4" in output
    assert not (tmp_path / "tabom_manifest.json").exists()
    model, result = world.run(
        tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2
    )
    assert result.resumed_from == 4
    assert_close(world.weights(model), reference[0])
    assert_same_journal(world.journal(tmp_path), reference[1])


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 4])
def test_sharded_processes(world: ModuleType, reference: Any, tmp_path: Path, number: int) -> None:
    """FSDP: checkpoints are in shards, and what is left is a whole model in the usual layout."""
    settings = {**layout(number), "save_strategy": "steps", "save_steps": 3, "fsdp": True}
    codes, output = ranks(world, tmp_path, number=number, **settings)
    assert codes == [0] * number, output
    assert (tmp_path / "checkpoint-3" / "pytorch_model_fsdp_0").is_dir()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-6"
    assert_close(trained_weights(world, tmp_path), reference[0])
    assert_same_journal(world.journal(tmp_path), reference[1])
    assert json.loads((tmp_path / "config.json").read_text())["tabom_family"] == "toy"


@pytest.mark.slow
@pytest.mark.parametrize("use_fsdp", [False, True])
@pytest.mark.parametrize("number", [2, 4])
def test_processes_in_float32(
    world: ModuleType, tmp_path: Path, number: int, use_fsdp: bool
) -> None:
    one, result = world.run(tmp_path / "one", dtype="float32", **layout(1))
    assert result.steps == 6
    many = {**layout(number), "fsdp": use_fsdp, "dtype": "float32"}
    codes, output = ranks(world, tmp_path / "many", number=number, **many)
    assert codes == [0] * number, output
    found = trained_weights(world, tmp_path / "many", dtype=torch.float32)
    assert_close(found, world.weights(one), tolerance=1e-6)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_loses_nothing(
    world: ModuleType,
    reference: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    number: signal.Signals,
) -> None:
    """One process: the step that it met is finished and saved, whatever save_strategy says."""

    def terminate(done: int, total: int, metrics: dict[str, float]) -> None:
        if done == 2:
            os.kill(os.getpid(), number)

    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    with pytest.raises((SystemExit, KeyboardInterrupt)) as stopped:
        world.run(tmp_path, progress=terminate, **settings)
    if number == signal.SIGTERM:
        assert getattr(stopped.value, "code", None) == 143
    else:
        assert stopped.type is KeyboardInterrupt
    assert number.name in caplog.text
    assert "after step 3 of 6" in caplog.text
    assert [f.name for f in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
    model, result = world.run(tmp_path, **settings)
    assert result.resumed_from == 3
    assert_close(world.weights(model), reference[0])


@pytest.mark.parametrize("group", [False, True])
def test_grouping_by_length_is_blind_to_the_layout(
    world: ModuleType, reference: Any, tmp_path: Path, group: bool
) -> None:
    """With the flag other responses meet in a step, but whichever the layout, the same ones."""
    whole, parts = (
        world.weights(
            world.run(
                tmp_path / str(batch),
                group_by_length=group,
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=8 // batch,
            )[0]
        )
        for batch in (4, 1)
    )
    assert_close(whole, parts)
    differs = max(float((whole[n] - reference[0][n]).abs().max()) for n in whole)
    assert (differs > 1e-4) == group


def test_the_fused_optimiser_is_adamw(world: ModuleType, reference: Any, tmp_path: Path) -> None:
    plain, _ = world.run(
        tmp_path, optim="adamw_torch", per_device_train_batch_size=4, gradient_accumulation_steps=2
    )
    assert_close(world.weights(plain), reference[0])


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
    keep = [[{k: v for k, v in line.items() if k not in MACHINE} for line in world.journal(f)]
            for f in (tmp_path / "whole", tmp_path / "cut")]  # fmt: skip
    assert keep[0] == keep[1]


@pytest.mark.parametrize("use_peft", [False, True])
def test_a_run_killed_after_its_last_checkpoint_trains_no_step_more(
    world: ModuleType, tmp_path: Path, use_peft: bool
) -> None:
    """In the middle of an epoch, under a constant rate: a step too many would change weights."""
    settings = {
        "use_peft": use_peft,
        "per_device_train_batch_size": 4,
        "max_steps": 4,
        "lr_scheduler_type": "constant",
        "save_strategy": "steps",
        "save_steps": 4,
    }
    whole, _ = world.run(tmp_path, **settings)
    expected = world.journal(tmp_path)
    (tmp_path / "tabom_manifest.json").unlink()  # killed while the result was written
    again, result = world.run(tmp_path, **settings)
    assert (result.resumed_from, result.steps) == (4, 4)
    assert (tmp_path / "tabom_manifest.json").is_file()
    left, right = world.weights(again), world.weights(whole)
    assert all(torch.equal(left[name], right[name]) for name in right)
    assert [line["step"] for line in world.journal(tmp_path)][: len(expected)] == [
        line["step"] for line in expected
    ]


@pytest.mark.parametrize(
    ("number", "before", "after"),
    [(21, (8, 1), (2, 4)), (21, (2, 4), (8, 1)), (23, (4, 2), (1, 8)), (19, (1, 8), (4, 2))],
)
def test_a_stopped_run_goes_on_with_another_cut_of_its_step(
    world: ModuleType,
    tmp_path: Path,
    number: int,
    before: tuple[int, int],
    after: tuple[int, int],
) -> None:
    """What an epoch leaves out depends on the cut; the run that goes on leaves out the same."""

    def settings(cut: tuple[int, int]) -> dict[str, Any]:
        return {
            "number": number,
            "save_strategy": "steps",
            "save_steps": 2,
            "per_device_train_batch_size": cut[0],
            "gradient_accumulation_steps": cut[1],
        }

    whole, _ = world.run(tmp_path / "whole", **settings(before))
    with pytest.raises(KilledError):
        world.run(tmp_path / "cut", progress=kill_after(3), **settings(before))
    resumed, result = world.run(tmp_path / "cut", **settings(after))
    assert result.resumed_from == 2
    assert_close(world.weights(resumed), world.weights(whole))
    # The Trainer tells the part of an epoch that is over in micro-batches, the last one not full.
    cut, whole_journal = world.journal(tmp_path / "cut"), world.journal(tmp_path / "whole")
    assert_same_journal(cut, whole_journal, apart={"epoch"})


def test_logged_means_cover_the_steps_before_a_resume_too(
    world: ModuleType, tmp_path: Path
) -> None:
    settings = {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "logging_steps": 5,
        "save_strategy": "steps",
        "save_steps": 2,
        "eval_strategy": "no",
    }
    world.run(tmp_path / "whole", **settings)
    with pytest.raises(KilledError):
        world.run(tmp_path / "cut", progress=kill_after(3), **settings)
    world.run(tmp_path / "cut", **settings)
    keep = [[{k: v for k, v in line.items() if k not in MACHINE} for line in world.journal(f)]
            for f in (tmp_path / "whole", tmp_path / "cut")]  # fmt: skip
    assert keep[0] == keep[1]
    assert [line["step"] for line in keep[0]] == [5, 6]


def test_a_damaged_checkpoint_is_not_resumed_from(
    world: ModuleType, reference: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": None,
    }
    with pytest.raises(KilledError):
        world.run(tmp_path, progress=kill_after(4), **settings)
    for step, name in ((3, "model.safetensors"), (2, "optimizer.pt")):
        path = tmp_path / f"checkpoint-{step}" / name
        content = bytearray(path.read_bytes())
        content[-100] ^= 16
        path.write_bytes(content)
    model, result = world.run(tmp_path, **settings)
    assert result.resumed_from == 1
    assert "model.safetensors" in caplog.text
    assert "optimizer.pt" in caplog.text
    assert_close(world.weights(model), reference[0])


def test_a_full_disk_is_an_error_of_ours(
    world: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 2}

    def full(self: Any, output_dir: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("transformers.Trainer._save_optimizer_and_scheduler", full)
        with pytest.raises(TrainingError, match=r"checkpoint-2.*No space left"):
            world.run(tmp_path, **settings)
    _, result = world.run(tmp_path, **settings)
    assert result.resumed_from == 0  # what was half written is not gone on from


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
