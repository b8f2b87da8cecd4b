"""Costs against hand-worked figures, torch's own counts, and what autograd really keeps."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tabom.core.errors import ConfigError, ModelError
from tabom.models import checkpoint as checkpoints
from tabom.models.adapters import attach_lora
from tabom.models.config import RandomSizes
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.costs import (
    Batch,
    Machine,
    Memory,
    attention_flops,
    forward_flops,
    kept_per_token,
    largest_batch,
    lora_parameters,
    step_flops,
)
from tabom.models.devices import DEVICES, find_device, present_device
from tabom.models.families import get_family
from tabom.models.loading import load_model
from tabom.models.sizes import PUBLISHED_SIZES, ModelSizes, read_sizes, sizes_of

DREAM = PUBLISHED_SIZES["Dream-org/Dream-v0-Instruct-7B"]
LLADA = PUBLISHED_SIZES["GSAI-ML/LLaDA-8B-Instruct"]
FAMILIES = ("toy", "dream", "llada")
T = 1e12

Checkpoint = Callable[..., Path]


@pytest.fixture
def loaded(checkpoint: Checkpoint) -> Callable[..., MaskedDiffusionModel]:
    """A small model whose sizes are all different, in float32 or as asked."""

    def load(family: str, *, num_layers: int = 3, **options: Any) -> MaskedDiffusionModel:
        name = f"{family}-{num_layers}-{options.get('dtype')}"
        sizes = {"hidden_size": 64, "intermediate_size": 112, "num_heads": 4, "num_kv_heads": 2}
        folder = checkpoint(family, name, num_layers=num_layers, **sizes)
        return load_model(folder, require_tokenizer=False, device="cpu", **options)

    return load


# ---- FLOPs ----


@pytest.mark.parametrize(
    ("sizes", "length", "body", "attention", "head", "total"),
    [  # 32 responses, TFLOP of one call with every row through the head
        (DREAM, 512, 213.8, 3.4, 17.9, 235.0),
        (DREAM, 406, 169.6, 2.1, 14.2, 185.8),
        (LLADA, 512, 228.7, 4.4, 17.0, 250.1),
        (LLADA, 406, 181.4, 2.8, 13.5, 197.6),
    ],
)
def test_a_call_of_the_published_models(
    sizes: ModelSizes, length: int, body: float, attention: float, head: float, total: float
) -> None:
    tokens = 32 * length
    assert 2 * tokens * sizes.body_weights / T == pytest.approx(body, abs=0.06)
    one = attention_flops(sizes, num_tokens=tokens, context=length)
    assert one / T == pytest.approx(attention, abs=0.06)
    assert 2 * tokens * sizes.head_weights / T == pytest.approx(head, abs=0.06)
    flops = forward_flops(sizes, num_tokens=tokens, context=length, num_rows=tokens)
    assert flops / T == pytest.approx(total, abs=0.06)


@pytest.mark.parametrize(
    ("sizes", "batch_size", "milliseconds", "checkpointed"),
    [  # 512 tokens, window 32, LoRA r 16 on q and v, at 790 TFLOP/s
        (DREAM, 4, 70.0, 103.8),
        (DREAM, 8, 139.9, 207.6),
        (LLADA, 4, 75.3, 111.5),
        (LLADA, 8, 150.5, 222.9),
    ],
)
def test_a_training_step_of_the_published_models(
    sizes: ModelSizes, batch_size: int, milliseconds: float, checkpointed: float
) -> None:
    adapter = lora_parameters(sizes, r=16, target_modules=("q_proj", "v_proj"))

    def step(is_checkpointed: bool) -> float:
        flops = step_flops(
            sizes,
            num_tokens=batch_size * 512,
            context=512,
            num_rows=32 * batch_size,
            lora_parameters=adapter,
            is_checkpointed=is_checkpointed,
        )
        return 1e3 * flops / 790e12

    assert step(False) == pytest.approx(milliseconds, abs=0.1)
    # The figures leave out the attention and the adapter that are computed again: below 1 %.
    assert checkpointed < step(True) < 1.01 * checkpointed


def counted(model: MaskedDiffusionModel, *, num_rows: int, is_training: bool) -> float:
    """What torch counts: one call on [2, 24] tokens, some rows through the head, its backward."""
    model.train(is_training)
    ids_BS = torch.arange(48).view(2, 24) % 30
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(is_training):
        hidden_BSD = model.hidden_states(ids_BS, None)
        logits_RV = nn.functional.linear(hidden_BSD.flatten(0, 1)[:num_rows], model.head_weight_VD)
        if is_training:
            logits_RV.sum().backward()
    return float(counter.get_total_flops())


@pytest.mark.parametrize("family", FAMILIES)
def test_forward_flops_are_those_torch_counts(
    family: str, loaded: Callable[..., MaskedDiffusionModel]
) -> None:
    model = loaded(family, attn_implementation="eager")
    expected = forward_flops(sizes_of(model.lm), num_tokens=48, context=24, num_rows=7)
    found = counted(model, num_rows=7, is_training=False)
    # Torch also counts the table of angles: one product a position and frequency.
    assert expected <= found < 1.001 * expected


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("is_lora", [True, False])
def test_training_flops_are_those_torch_counts(
    family: str, is_lora: bool, loaded: Callable[..., MaskedDiffusionModel]
) -> None:
    model = loaded(family, attn_implementation="eager")
    sizes = sizes_of(model.lm)
    adapter = None
    if is_lora:
        targets = ("q_proj", "v_proj", "down_proj")
        attach_lora(model, r=3, target_modules=targets)
        adapter = lora_parameters(sizes, r=3, target_modules=targets)
        # So that the lowest layer passes a gradient on like every other.
        model.base_lm.enable_input_require_grads()  # type: ignore[operator]
    expected = step_flops(
        sizes,
        num_tokens=48,
        context=24,
        num_rows=7,
        lora_parameters=adapter,
        is_checkpointed=False,
    )
    # Eager attention keeps its scores: a backward of twice the forward, not 2.5 times.
    expected -= 0.5 * attention_flops(sizes, num_tokens=48, context=24)
    found = counted(model, num_rows=7, is_training=True)
    assert expected <= found < 1.001 * expected


# ---- sizes ----


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_of_a_model_and_of_its_config_agree(
    family: str, loaded: Callable[..., MaskedDiffusionModel]
) -> None:
    model = loaded(family)
    sizes = sizes_of(model.lm)
    source = str(Path(model.name_or_path) / "config.json")
    assert read_sizes(model.name_or_path) == replace(sizes, family=model.family.name, source=source)
    linear = sum(
        m.weight.numel() for m in model.base_lm.model.modules() if isinstance(m, nn.Linear)
    )
    assert sizes.body_weights == linear
    assert sizes.num_parameters == sum(p.numel() for p in model.lm.parameters())
    assert sizes.head_weights == model.head_weight_VD.numel()
    attach_lora(model)
    assert sizes_of(model.base_lm) == sizes


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_parameters_are_counted(
    family: str, loaded: Callable[..., MaskedDiffusionModel]
) -> None:
    model = loaded(family)
    targets = ("q_proj", "v_proj", "o_proj", "down_proj")
    expected = lora_parameters(sizes_of(model.lm), r=5, target_modules=targets)
    attach_lora(model, r=5, target_modules=targets)
    assert expected == sum(p.numel() for n, p in model.lm.named_parameters() if ".lora_" in n)


def test_lora_of_the_published_models() -> None:
    assert lora_parameters(DREAM, r=16, target_modules=("q_proj", "v_proj")) == 5_046_272
    assert lora_parameters(LLADA, r=16, target_modules=("q_proj", "v_proj")) == 8_388_608
    with pytest.raises(ModelError, match="lm_head: take some of q_proj"):
        lora_parameters(DREAM, r=16, target_modules=("lm_head",))


@pytest.mark.parametrize("name", PUBLISHED_SIZES)
def test_published_sizes_without_a_network(name: str) -> None:
    read = read_sizes(name)
    assert read == PUBLISHED_SIZES[name]
    assert "could not be fetched" in read.source
    with pytest.raises(ModelError, match=r"the hub did not give it"):
        read_sizes("somebody/else")


def test_published_sizes_are_those_of_their_configs(tmp_path: Path) -> None:
    import json

    for name, sizes in (("dream", DREAM), ("llada", LLADA)):
        family = get_family(name)
        chosen = {n: getattr(sizes, n) for n in vars(RandomSizes()) if n != "initializer_range"}
        special_ids = {"mask_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
        config = family.random_config(chosen, special_ids)
        folder = tmp_path / family.name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        assert read_sizes(str(folder)) == replace(sizes, source=str(folder / "config.json"))
        checkpoint = checkpoints.Checkpoint.find(folder)
        assert checkpoint.tokenizer(is_required=False) is None


# ---- bytes ----


def kept_bytes(model: MaskedDiffusionModel, *, autocasts: bool) -> int:
    """Storage that the backward pass of the layers holds, weights not counted."""
    ids_BS = torch.arange(64).view(2, 32) % 30
    tensors = [*model.parameters(), *model.buffers()]
    own = {t.untyped_storage().data_ptr() for t in tensors}
    kept: list[Tensor] = []
    model.train()
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocasts),
    ):
        model.hidden_states(ids_BS, None)
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in kept)}
    return sum(n for pointer, n in storages.items() if pointer not in own)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("is_full", [False, True])
def test_activations_are_those_autograd_keeps(
    family: str, dtype: str, is_full: bool, loaded: Callable[..., MaskedDiffusionModel]
) -> None:
    found = []
    for num_layers in (4, 2):  # the difference is two layers, without what is kept once
        model = loaded(family, num_layers=num_layers, dtype=dtype)
        sizes = sizes_of(model.lm)
        if not is_full:
            attach_lora(model, r=2)
        found.append(kept_bytes(model, autocasts=dtype == "bfloat16"))
    measured = (found[0] - found[1]) / 2 / 64
    width = 2 if dtype == "bfloat16" else 4
    expected = kept_per_token(sizes, bytes_per_value=width, is_full=is_full)
    assert expected == pytest.approx(measured, rel=0.08)


def test_memory_by_hand() -> None:
    sizes = ModelSizes(
        hidden_size=8,
        intermediate_size=16,
        num_layers=3,
        num_heads=2,
        num_kv_heads=1,
        head_dim=4,
        vocab_size=100,
        num_parameters=5000,
    )
    batch = Batch(size=2, length=10, num_rows=12)
    machine = Machine(sizes=sizes, device=find_device("H100"))  # of bfloat16 values
    peak = machine.decoding_memory(batch, max_logit_bytes=2000)
    # 5 rows of 400 bytes fit in 2000; a float32 tensor, its weights, and bfloat16 logits.
    assert peak["logits"] == 2000 + 2000 + 1000
    assert peak["activations"] == 20 * 2 * (3 * 8 + 3 * 16) + 12 * 8 * 2
    assert peak["weights"] == 10_000
    assert sum(peak.values()) == 10_000 + 5000 + peak["activations"]

    def train(**changes: Any) -> Memory:
        given = {
            "lora_parameters": 50,
            "is_checkpointed": False,
            "max_buffer_bytes": 10**6,
        }
        batch = Batch(size=2, length=10, num_rows=6)
        return machine.training_memory(batch, **{**given, **changes})

    # norms 2*4*8, attention 2*(2*8+2*4), feed-forward 2*3*16, adapter inputs 2*2*8.
    layer = 64 + 48 + 96 + 32
    in_flight = 2 * (3 * 8 + 3 * 16)
    assert train()["activations"] == 20 * (3 * layer + in_flight)
    assert train(is_checkpointed=True)["activations"] == 20 * (3 * 2 * 8 + layer + in_flight)
    assert train()["trained"] == 800
    assert train()["logits"] == 4 * 6 * 100 + 2 * 4 * 6 * 100  # kept, and two tiles of all 100
    assert train(max_buffer_bytes=2000)["logits"] == 2000 + 2 * 4 * 6 * 100  # the rest again
    assert train(lora_parameters=None)["trained"] == 3 * 2 * 5000


@given(
    num_bytes=st.floats(0, 1e12),
    fixed=st.integers(0, 10**9),
    slope=st.integers(1, 10**9),
    bound=st.integers(1, 10**9),
)
def test_the_largest_batch_fits_and_the_next_does_not(
    num_bytes: float, fixed: int, slope: int, bound: int
) -> None:
    def peak(batch_size: int) -> Memory:
        logits = min(3 * slope * batch_size, bound)
        return {"weights": fixed, "trained": 0, "activations": slope * batch_size, "logits": logits}

    found = largest_batch(num_bytes, peak)
    assert found == 0 or sum(peak(found).values()) <= num_bytes
    assert found >= 2**19 or sum(peak(found + 1).values()) > num_bytes


# ---- devices ----


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("h200", "H200"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("rtx4090", "RTX 4090"),
        ("3090", "RTX 3090"),
    ],
)
def test_devices_are_found_by_their_names(name: str, row: str) -> None:
    assert find_device(name) is DEVICES[row]


@pytest.mark.parametrize("name", ["", "H20", "A10G", "A100", "RTX"])
def test_a_device_that_is_not_one_row_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="take one of these names"):
        find_device(name)


def test_the_present_device_is_a_cpu_with_a_measured_speed() -> None:
    device = present_device()
    assert device.is_measured
    assert not device.is_gpu
    assert device.bytes_per_value == 4
    assert 1e-3 < device.tflops < 100
