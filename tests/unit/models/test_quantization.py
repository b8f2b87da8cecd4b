"""Weights in few bits: what is replaced, what it costs, what is refused, and a training on it."""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tabom.cli.main import main
from tabom.core.errors import ConfigError, ModelError, TabomError
from tabom.models import devices
from tabom.models.adapters import attach_lora, load_adapter, merge_adapter
from tabom.models.config import ModelConfig
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.costs import Machine
from tabom.models.devices import find_device
from tabom.models.sizes import PUBLISHED_SIZES, sizes_of
from tabom.stages.preflight import check_quantized
from tabom.training.config import TrainingConfig

HAS_BNB = importlib.util.find_spec("bitsandbytes") is not None
needs_bnb = pytest.mark.skipif(not HAS_BNB, reason="bitsandbytes is not installed")
DREAM = PUBLISHED_SIZES["Dream-org/Dream-v0-Instruct-7B"]
Checkpoint = Callable[..., Path]


@pytest.fixture
def config(checkpoint: Checkpoint, tokenizer_folder: Path) -> Callable[..., ModelConfig]:
    """A small model on the CPU; its widths are multiples of 64, as published ones are."""

    def make(family: str = "dream", **options: Any) -> ModelConfig:
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "num_kv_heads": 2}
        folder = checkpoint(
            family, f"{family}-small-{len(options)}", tokenizer_path=tokenizer_folder, **sizes
        )
        return ModelConfig(model_name_or_path=str(folder), device="cpu", **options)

    return make


def hidden(model: MaskedDiffusionModel) -> torch.Tensor:
    ids_BS = torch.arange(24).reshape(2, 12) % 20 + 6
    return model.hidden_states(ids_BS, None)


def stored_bytes(model: MaskedDiffusionModel) -> int:
    """Of all weights, with the scales that are kept beside packed ones."""
    total = 0
    for weight in model.base_lm.parameters():
        total += weight.numel() * weight.element_size()
        state = getattr(weight, "quant_state", None)
        if state is not None:
            for scale in (state.absmax, state.state2.absmax):
                total += scale.numel() * scale.element_size()
    return total


# ---- what it costs ----


@pytest.mark.parametrize(("kind", "gib"), [("nf4", 5.166), ("int8", 8.108), (None, 14.185)])
def test_the_weights_of_dream_on_a_gpu(kind: Any, gib: float) -> None:
    """By hand: 6,525,288,448 weights at .515869 bytes or one, 1,090,328,064 others at two."""
    machine = Machine(sizes=DREAM, device=find_device("H100"), quantization=kind)
    assert DREAM.body_weights == 28 * (2 * 3584 * (3584 + 512) + 3 * 3584 * 18944)
    assert machine.weight_bytes / 2**30 == pytest.approx(gib, abs=1e-3)
    plain = replace(machine, quantization=None)
    saved = plain.weight_bytes - machine.weight_bytes
    per_weight = {"nf4": 2 - 0.5 - (1 + 4 / 256) / 64, "int8": 1.0, None: 0.0}[kind]
    assert saved == pytest.approx(per_weight * DREAM.body_weights, abs=1)


@needs_bnb
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "error"), [("nf4", 0.2), ("int8", 0.02)])
def test_the_layers_alone_are_small(
    config: Callable[..., ModelConfig], kind: Any, error: float
) -> None:
    plain, small = config().load(), config(quantization=kind).load()
    for (name, a), b in zip(plain.lm.named_modules(), small.lm.modules(), strict=False):
        assert not (isinstance(a, nn.Linear) and ".layers." in name and type(b) is nn.Linear), name
    assert torch.equal(plain.head_weight_VD, small.head_weight_VD)
    assert sizes_of(small.base_lm) == sizes_of(plain.base_lm)
    # Of one matrix the products are close; what is rounded is the matrix, not the input.
    x = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    one, other = (m.base_lm.model.layers[0].self_attn.q_proj for m in (plain, small))
    with torch.no_grad():
        assert (one(x) - other(x)).norm() < error * one(x).norm()
    machine = Machine(sizes=sizes_of(plain.base_lm), device=find_device("cpu"))
    wanted = replace(machine, quantization=kind).weight_bytes
    # The few blocks of a tiny matrix fill no second-level block; int8 rows have scales.
    assert stored_bytes(small) == pytest.approx(wanted, rel=0.03)


# ---- what is refused ----


def test_what_does_not_go_together_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelConfig(model_name_or_path="toy-base", quantization="nf4")
    check_quantized(TrainingConfig(), model)
    check_quantized(TrainingConfig(use_peft=False), replace(model, quantization=None))
    with pytest.raises(ConfigError, match="use_peft"):
        check_quantized(TrainingConfig(use_peft=False), model)
    for init in ("pissa", "olora"):
        with pytest.raises(ConfigError, match="lora_init"):
            check_quantized(TrainingConfig(lora_init=init), model)
    with pytest.raises(TabomError, match="quantization"):
        ModelConfig(model_name_or_path="toy-base", quantization="fp5")  # type: ignore[arg-type]
    monkeypatch.setattr(devices, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"tabom\[quantization\]"):
        replace(model, device="cpu").load()


@needs_bnb
@pytest.mark.slow
def test_adapters_are_not_merged_and_experts_stay(config: Callable[..., ModelConfig]) -> None:
    model = config(quantization="nf4").load()
    attach_lora(model)
    with pytest.raises(ModelError, match="quantized"):
        merge_adapter(model)
    with pytest.raises(ModelError, match="experts"):
        config("llada2", quantization="int8").load()


# ---- a training on it ----


@needs_bnb
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_an_adapter_trains_and_loads(
    config: Callable[..., ModelConfig], tmp_path: Path, kind: str
) -> None:
    """Train by the command, with nothing but the adapter written; two trainings are equal."""
    base = config()
    rows = [{"prompt": f"say {c}", "answer": c * 3} for c in "abcdefgh"]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [
        "train", "--model_name_or_path", base.model_name_or_path, "--device", "cpu",
        "--quantization", kind, "--ground_truth", "--prompts_path", str(data),
        "--reference_column", "answer", "--max_new_tokens", "8", "--objective", "nelbo",
        "--max_steps", "3", "--learning_rate", "0.01", "--warmup_steps", "0",
        "--per_device_train_batch_size", "4", "--lora_target_modules", "all-linear",
    ]  # fmt: skip
    for name in ("a", "b"):
        assert main([*arguments, "--output_dir", str(tmp_path / name)]) == 0
    files = [tmp_path / name / "adapter_model.safetensors" for name in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not (tmp_path / "a" / "model.safetensors").exists()
    small = replace(base, quantization=kind)
    trained = small.load(trained=tmp_path / "a")
    assert (hidden(trained) - hidden(small.load())).abs().max() > 1e-3
    plain = base.load()  # the adapter is one of the base in its own dtype as well
    load_adapter(plain, tmp_path / "a")
    merge_adapter(plain)
    assert torch.isfinite(hidden(plain)).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@needs_bnb
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_on_a_gpu(config: Callable[..., ModelConfig], kind: Any) -> None:
    model = replace(config(quantization=kind), device="cuda").load()
    attach_lora(model, target_modules=("all-linear",))
    model.hidden_states(torch.ones(1, 8, dtype=torch.long, device="cuda"), None).sum().backward()
    assert all(p.grad is not None for p in model.lm.parameters() if p.requires_grad)
