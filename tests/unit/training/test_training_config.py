from dataclasses import replace
from pathlib import Path

import pytest

from tabom.core import configs
from tabom.core.errors import ConfigError
from tabom.training.config import TrainingConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"save_strategy": "never"}, "save_strategy.*'steps'.*'never'"),
        ({"lr_scheduler_type": "cosin"}, "lr_scheduler_type.*'cosin'"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps.*at least 1.*0"),
        ({"num_train_epochs": 0.0}, "num_train_epochs.*max_steps"),
        ({"learning_rate": -1.0}, "learning_rate.*at least 0.*-1"),
        ({"eval_size": 3, "eval_fraction": 0.1}, "eval_size.*eval_fraction"),
        ({"lora_target_modules": ()}, "lora_target_modules.*empty"),
        ({"lora_dropout": 1.0}, "lora_dropout.*below 1"),
        ({"max_buffer_bytes": -1}, "max_buffer_bytes.*at least 0.*-1"),
        ({"save_total_limit": 0}, "save_total_limit.*at least 1"),
    ],
)
def test_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingConfig(**changes)  # type: ignore[arg-type]


def test_goes_through_yaml_and_back() -> None:
    config = TrainingConfig(max_steps=7, lora_target_modules=("q_proj",), bf16=False)
    assert configs.build(TrainingConfig, configs.to_plain(config)) == config


def test_how_a_step_is_cut_up_is_not_part_of_what_decides() -> None:
    config = TrainingConfig(per_device_train_batch_size=8, gradient_accumulation_steps=1)
    parts = replace(config, per_device_train_batch_size=1, gradient_accumulation_steps=4)
    assert config.decisive(world_size=1) == parts.decisive(world_size=2)
    assert config.decisive(world_size=1) != config.decisive(world_size=2)
    assert config.decisive(world_size=1) == replace(config, logging_steps=3).decisive(world_size=1)
    for changes in ({"seed": 1}, {"lora_r": 8}, {"weight_decay": 0.5}, {"max_length": 9}):
        assert config.decisive(world_size=1) != replace(config, **changes).decisive(world_size=1)
    assert config.decisive(world_size=1) == replace(config, torch_compile=True).decisive(
        world_size=1
    )
    for changes in ({"group_by_length": True}, {"optim": "adafactor"}):
        assert config.decisive(world_size=1) != replace(config, **changes).decisive(world_size=1)
    full, other = replace(config, use_peft=False), replace(config, use_peft=False, lora_r=3)
    assert full.decisive(world_size=1) == other.decisive(world_size=1)


def test_training_arguments(tmp_path) -> None:  # type: ignore[no-untyped-def]
    config = TrainingConfig(eval_strategy="steps", warmup_steps=3)
    arguments = config.training_arguments(str(tmp_path), has_eval=False, use_cpu=True)
    assert not arguments.bf16  # the device does not have it
    assert not arguments.logging_nan_inf_filter
    assert not arguments.remove_unused_columns
    assert arguments.eval_strategy == "no"  # there is nothing to evaluate on
    assert arguments.warmup_steps == 3
    assert arguments.report_to == []
    assert arguments.optim == "adamw_torch_fused"
    with pytest.raises(ConfigError, match="adamw_torch_fuse"):
        replace(config, optim="adamw_torch_fuse").training_arguments(
            str(tmp_path), has_eval=False, use_cpu=True
        )
    with pytest.raises(ConfigError, match="report_to is 'nosuch'; installed here: none"):
        replace(config, report_to="nosuch").training_arguments(
            str(tmp_path), has_eval=False, use_cpu=True
        )


def test_only_what_decides_the_result_is_held_on_to() -> None:
    base = TrainingConfig().decisive(world_size=1)
    free = TrainingConfig(
        logging_steps=3, save_steps=7, max_buffer_bytes=0, torch_compile=True, disable_tqdm=True
    )
    assert free.decisive(world_size=1) == base
    assert TrainingConfig(optim="sgd").decisive(world_size=1) != base
    assert TrainingConfig(learning_rate=1e-3).decisive(world_size=1) != base


def test_every_field_that_transformers_has_reaches_it(tmp_path: Path) -> None:
    """Numbers that no default has, so that a field that is not passed on is seen."""
    given = {
        "learning_rate": 3e-3, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 5,
        "num_train_epochs": 7.0, "max_steps": 11, "warmup_steps": 13, "weight_decay": 0.17,
        "lr_scheduler_type": "linear", "max_grad_norm": 1.9, "optim": "sgd", "seed": 23,
        "logging_steps": 29, "save_steps": 31, "save_strategy": "epoch", "eval_steps": 37,
        "per_device_eval_batch_size": 41, "dataloader_num_workers": 2, "eval_strategy": "steps",
    }  # fmt: skip
    arguments = TrainingConfig(**given).training_arguments(
        str(tmp_path), has_eval=True, use_cpu=True
    )
    for name, value in given.items():
        assert getattr(arguments, name) == value, name
    assert arguments.data_seed == 23
