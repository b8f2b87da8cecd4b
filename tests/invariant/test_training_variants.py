"""LoRA variants, schedulers and trackers: what is on disk is what was trained."""

import json
import sqlite3
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import SchedulerType

from tabom.core.errors import ConfigError, TrainingError
from tabom.models.adapters import load_adapter
from tabom.models.contract import MaskedDiffusionModel
from tabom.training.config import TrainingConfig
from tabom.training.run import out_of_memory_told

VARIANTS: list[dict[str, Any]] = [
    {"use_rslora": True},
    {"use_dora": True},
    {"lora_init": "gaussian"},
    {"lora_init": "pissa"},
    {"lora_init": "olora", "use_rslora": True},
    {"lora_init": "pissa", "lora_rank_pattern": {"v_proj": 3}, "lora_alpha_pattern": {"v_proj": 9}},
]
SETTINGS: dict[str, Any] = {
    "use_peft": True, "lora_r": 4, "lora_alpha": 6, "learning_rate": 0.05, "num_train_epochs": 1,
    "per_device_train_batch_size": 4,
}  # fmt: skip


def _single(world: ModuleType) -> MaskedDiffusionModel:
    """In float32: PEFT takes no other precision apart."""
    return world.tiny_model(dtype=torch.float32)  # type: ignore[no-any-return]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_variant_loads_onto_the_base_as_it_was(
    world: ModuleType, tmp_path: Path, variant: dict[str, Any]
) -> None:
    """Through our loader and through PEFT alone the adapter gives the trained model's logits."""
    from peft import PeftModel

    model, _ = world.run(tmp_path, model=_single(world), **SETTINGS, **variant)
    ids = torch.randint(2, 30, (2, 9))
    expected = model.lm(input_ids=ids).logits
    before = _single(world).lm(input_ids=ids).logits
    assert (before - expected).abs().max() > 1e-2
    again = _single(world)
    load_adapter(again, tmp_path)
    alone = PeftModel.from_pretrained(_single(world).lm, str(tmp_path)).eval()
    for found in (again.lm(input_ids=ids).logits, alone(input_ids=ids).logits):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_the_scale_of_rslora_and_the_start_of_pissa(world: ModuleType, tmp_path: Path) -> None:
    config = json.loads(
        world.run(tmp_path / "a", **SETTINGS, use_rslora=True)[1].output_dir and
         (tmp_path / "a" / "adapter_config.json").read_text()
    )  # fmt: skip
    assert config["use_rslora"] is True
    # A rate of 0 leaves the model as it was, whatever the matrices begin with.
    still = {**SETTINGS, "learning_rate": 0.0, "weight_decay": 0.0}
    model, _ = world.run(tmp_path / "b", model=_single(world), **still, lora_init="pissa")
    ids = torch.randint(2, 30, (2, 9))
    torch.testing.assert_close(
        model.lm(input_ids=ids).logits,
        _single(world).lm(input_ids=ids).logits,
        rtol=0,
        atol=1e-4,
    )


@pytest.mark.parametrize("variant", [{"lora_init": "pissa"}, {"use_dora": True}], ids=str)
def test_a_variant_goes_on_from_a_checkpoint(
    world: ModuleType, tmp_path: Path, variant: dict[str, Any]
) -> None:
    settings = {**SETTINGS, **variant, "save_strategy": "steps", "save_steps": 2}
    whole, _ = world.run(tmp_path / "whole", model=_single(world), **settings)

    class StoppedError(Exception):
        pass

    def stop(done: int, total: int, note: str) -> None:
        if done == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        world.run(tmp_path / "part", model=_single(world), **settings, progress=stop)
    again, result = world.run(tmp_path / "part", model=_single(world), **settings)
    assert result.resumed_from == 2
    for name, value in world.weights(whole).items():
        torch.testing.assert_close(world.weights(again)[name], value, rtol=0, atol=1e-6)


KWARGS: dict[str, dict[str, Any]] = {
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "warmup_stable_decay": {"num_decay_steps": 2},
    "polynomial": {"power": 2.0},
    "cosine_with_restarts": {"num_cycles": 2},
}


@pytest.mark.parametrize("name", [s.value for s in SchedulerType])
def test_every_scheduler_of_transformers(world: ModuleType, tmp_path: Path, name: str) -> None:
    """By its name with its arguments; those that go by an evaluation are refused."""
    if name in ("reduce_lr_on_plateau", "greedy"):
        with pytest.raises(ConfigError, match="lr_scheduler_type"):
            TrainingConfig(lr_scheduler_type=name)  # type: ignore[arg-type]
        return
    world.run(
        tmp_path, **{**SETTINGS, "learning_rate": 1e-3}, lr_scheduler_type=name,
        lr_scheduler_kwargs=KWARGS.get(name, {}),
    )  # fmt: skip
    rates = [line["learning_rate"] for line in world.journal(tmp_path) if "learning_rate" in line]
    assert len(rates) == 5
    assert max(rates) > 0


def test_trackers_get_the_name_and_the_group(
    world: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.delenv("WANDB_RUN_GROUP", raising=False)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    world.run(
        tmp_path / "out", **SETTINGS, report_to="tensorboard", run_name="study/arm/seed-0",
        run_group="study",
    )  # fmt: skip
    assert list((tmp_path / "logs").rglob("events.*"))


@pytest.mark.slow
def test_trackio_logs_here(
    world: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On this machine, in a file of the group, under the run's name."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "logs"))  # read when it is first imported
    pytest.importorskip("trackio")
    world.run(
        tmp_path / "out", **SETTINGS, report_to="trackio", run_name="study/arm/seed-0",
        run_group="study",
    )  # fmt: skip
    (file,) = (tmp_path / "logs").glob("*.db")
    assert file.stem == "study"
    with sqlite3.connect(file) as logged:
        names = {name for (name,) in logged.execute("select distinct run_name from metrics")}
    assert names == {"study/arm/seed-0"}


@pytest.mark.slow
def test_wandb_offline_gets_the_name_and_the_group(
    world: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    for name, value in (("MODE", "offline"), ("DIR", str(tmp_path)), ("SILENT", "true")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.delenv("WANDB_RUN_GROUP", raising=False)
    seen = {}
    start = wandb.init

    def init(*args: Any, **kwargs: Any) -> Any:
        run = start(*args, **kwargs)
        seen.update(name=run.name, group=run.group)
        return run

    monkeypatch.setattr(wandb, "init", init)
    world.run(
        tmp_path / "out", **SETTINGS, report_to="wandb", run_name="study/arm/seed-0",
        run_group="study",
    )  # fmt: skip
    wandb.finish()
    monkeypatch.delenv("WANDB_RUN_GROUP", raising=False)
    assert seen == {"name": "study/arm/seed-0", "group": "study"}
    assert list(tmp_path.glob("wandb/offline-run-*"))


def test_memory_that_runs_out_is_told_with_what_helps() -> None:
    config = TrainingConfig(per_device_train_batch_size=6, gradient_accumulation_steps=2)
    with pytest.raises(TrainingError) as told, out_of_memory_told(config):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")
    text = str(told.value)
    order = ["per_device_train_batch_size 3 with gradient_accumulation_steps 4",
             "gradient_checkpointing true", "max_buffer_bytes 0"]  # fmt: skip
    assert sorted(order, key=text.index) == order
    assert "3 GiB" in text
    small = TrainingConfig(
        per_device_train_batch_size=1, gradient_checkpointing=True, max_buffer_bytes=0
    )
    with pytest.raises(TrainingError, match="max_length"), out_of_memory_told(small):
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate")
    with pytest.raises(RuntimeError, match="shape"), out_of_memory_told(config):
        raise RuntimeError("shape mismatch")


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ConfigError, match="use_dora"):
        TrainingConfig(use_dora=True, lora_init="pissa")
    with pytest.raises(ConfigError, match=r"report_to is 'nosuch'"):
        TrainingConfig(report_to="none,nosuch").training_arguments(
            "unused", has_eval=False, use_cpu=True
        )
