"""Mixtures of experts: LLaDA2, LLaDA-MoE, RND1. Their numbers are in tests/parity."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tabom.core.errors import ModelError
from tabom.models.adapters import attach_lora, load_adapter, merge_adapter, save_adapter
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.costs import forward_flops, lora_parameters
from tabom.models.families import detect_family
from tabom.models.ids import resolve_ids
from tabom.models.loading import load_model, save_model
from tabom.models.sizes import PUBLISHED_SIZES, sizes_of

Checkpoint = Callable[..., Path]
MIXTURES = ["llada2", "lladamoe", "rnd1"]
FUSED = "base_model.model.model.layers.{}.attention.query_key_value.lora_{}.weight"
LLADA2_MINI: dict[str, Any] = {
    "model_type": "llada2_moe", "architectures": ["LLaDA2MoeModelLM"], "hidden_size": 2048,
    "intermediate_size": 5120, "num_hidden_layers": 20, "num_attention_heads": 16,
    "num_key_value_heads": 4, "head_dim": 128, "first_k_dense_replace": 1, "num_experts": 256,
    "moe_intermediate_size": 512, "num_experts_per_tok": 8, "num_shared_experts": 1, "n_group": 8,
    "topk_group": 4, "routed_scaling_factor": 2.5, "norm_topk_prob": True,
    "score_function": "sigmoid", "moe_router_enable_expert_bias": True, "router_dtype": "fp32",
    "partial_rotary_factor": 0.5, "rotary_dim": 64, "rope_theta": 600000, "rope_scaling": None,
    "rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "vocab_size": 157184,
    "tie_word_embeddings": False, "use_bias": False, "use_qkv_bias": False, "use_qk_norm": True,
    "sliding_window": 4096, "use_sliding_window": False, "pad_token_id": 156892,
    "hidden_act": "silu", "norm_head": False, "norm_softmax": False,
}  # fmt: skip
LLADA_MOE: dict[str, Any] = {
    "model_type": "llada", "architectures": ["LLaDAMoEModelLM"], "hidden_size": 2048,
    "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 16,
    "num_experts": 64, "expert_intermediate_size": 1024, "num_experts_per_tok": 8,
    "dense_intermediate_size": 8192, "moe_layer_freq": [1] * 16, "qk_layernorm": True,
    "rope_theta": 50000, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
    "vocab_size": 157184, "tie_word_embeddings": False, "clip_qkv": None,
    "shared_expert_intermediate_size": None, "moe_router_score_function": "softmax",
    "moe_router_enable_expert_bias": False, "partial_rotary_factor": 1, "hidden_act": "silu",
    "pad_token_id": 156892,
}  # fmt: skip
RND1: dict[str, Any] = {
    "model_type": "rnd1", "architectures": ["RND1LM"], "hidden_size": 2048,
    "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
    "num_experts": 128, "moe_intermediate_size": 768, "num_experts_per_tok": 8,
    "intermediate_size": 6144, "norm_topk_prob": True, "rope_theta": 1e6, "rms_norm_eps": 1e-6,
    "vocab_size": 151936, "tie_word_embeddings": False, "rope_scaling": False,
    "sliding_window": False, "use_sliding_window": False, "attention_bias": False,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "max_position_embeddings": 40960,
    "eos_token_id": 151645, "pad_token_id": 151643, "hidden_act": "silu",
}  # fmt: skip


def load(folder: Path | str, **options: Any) -> MaskedDiffusionModel:
    return load_model(folder, require_tokenizer=False, device="cpu", **options)


def logits(model: MaskedDiffusionModel) -> torch.Tensor:
    with torch.inference_mode():
        return model.hidden_states(torch.arange(1, 9)[None], None) @ model.head_weight_VD.T


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# ---- true sizes, without weights ----


@pytest.mark.parametrize(
    "config, num_files, num_class, num_values",
    [
        (LLADA2_MINI, 14_813, 299, 16_255_643_392),
        (LLADA_MOE, 3_219, 179, 7_356_880_896),
        (RND1, 18_867, 531, 30_532_122_624),
    ],
    ids=MIXTURES,
)
def test_true_size_on_the_meta_device(
    config: dict[str, Any], num_files: int, num_class: int, num_values: int
) -> None:
    family = detect_family(config, where="nowhere")
    with torch.device("meta"):
        lm = family.network()(family.to_network_config(config))
    state = lm.state_dict()
    parts = family.parts(state)
    assert (len(parts), len(state)) == (num_files, num_class)
    # Every element of the network is in exactly one published tensor.
    in_files = sum(part.numel() for rows in parts.values() for part in rows)
    assert in_files == sum(t.numel() for t in state.values()) == num_values
    sizes = sizes_of(lm, family=family.name)
    routed = sum(p.numel() for p in lm.parameters() if p.dim() == 3)
    share = config["num_experts_per_tok"] / config["num_experts"]
    assert sizes.active_parameters == round(sizes.num_parameters - routed * (1 - share))
    # The body costs what its active matrices cost, to the router and the norms.
    body = sizes.active_parameters - 2 * config["vocab_size"] * config["hidden_size"]
    assert sizes.body_weights == pytest.approx(body, rel=0.02)
    assert forward_flops(sizes, num_tokens=1, context=0, num_rows=0) == 2 * sizes.body_weights


def test_the_sizes_that_are_known_before_anything_is_fetched() -> None:
    known = PUBLISHED_SIZES["inclusionAI/LLaDA2.0-mini"]
    family = detect_family(LLADA2_MINI, where="nowhere")
    with torch.device("meta"):
        lm = family.network()(family.to_network_config(LLADA2_MINI))
    found = vars(sizes_of(lm, family="llada2", source=known.source))
    for name, value in vars(known).items():
        assert found[name] == pytest.approx(value), name


@pytest.mark.parametrize("family", MIXTURES)
def test_adapters_are_counted_as_they_are_made(family: str, checkpoint: Checkpoint) -> None:
    for targets in (("q_proj", "v_proj"), ("all-linear",)):
        model = load(checkpoint(family, name="-".join(targets), num_layers=3))
        sizes = sizes_of(model.base_lm)
        attach_lora(model, r=3, target_modules=targets)
        made = sum(p.numel() for n, p in model.named_parameters() if ".lora_" in n)
        assert lora_parameters(sizes, r=3, target_modules=targets) == made
        adapted = {n for n, _ in model.named_parameters() if ".lora_" in n}
        assert [n for n in adapted if ".experts." in n or ".mlp.gate." in n] == []


# ---- ids ----


def test_ids_that_no_file_names() -> None:
    for config, mask, eos in ((LLADA2_MINI, 156895, 156892), (LLADA_MOE, 156895, 156892)):
        family = detect_family(config, where="nowhere")
        ids = resolve_ids(config, family=family, tokenizer=None)
        assert (ids.mask, ids.filler, ids.pad) == (mask, eos, 156892)
        assert "default of family" in ids.sources["eos"]
    ids = resolve_ids(RND1, family=detect_family(RND1, where="x"), tokenizer=None)
    assert (ids.mask, ids.filler, ids.pad) == (151669, 151645, 151643)


# ---- refusals ----


@pytest.mark.parametrize(
    "family, changes",
    [
        ("llada2", {"score_function": "softmax"}),
        ("llada2", {"rope_scaling": {"type": "yarn", "factor": 2.0}}),
        ("llada2", {"use_bias": True}),
        ("llada2", {"use_qkv_bias": True}),
        ("llada2", {"norm_head": True}),
        ("llada2", {"norm_softmax": True}),
        ("llada2", {"use_qk_norm": False}),
        ("llada2", {"num_shared_experts": 0}),
        ("llada2", {"n_group": 3}),
        ("llada2", {"topk_group": 5}),
        ("llada2", {"num_experts_per_tok": 5, "topk_group": 2}),  # of 2 groups of 2
        ("llada2", {"rotary_dim": 4}),
        ("llada2", {"block_size": 16}),
        ("llada2", {"use_sliding_window": True}),
        ("lladamoe", {"moe_router_score_function": "sigmoid"}),
        ("lladamoe", {"moe_router_enable_expert_bias": True}),
        ("lladamoe", {"clip_qkv": 8.0}),
        ("lladamoe", {"shared_expert_intermediate_size": 64}),
        ("lladamoe", {"qk_layernorm": False}),
        ("lladamoe", {"partial_rotary_factor": 0.5}),
        ("lladamoe", {"moe_layer_freq": [1]}),
        ("lladamoe", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
        ("rnd1", {"num_experts_per_tok": 9}),
        ("rnd1", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
        ("rnd1", {"attention_bias": True}),
        ("rnd1", {"use_sliding_window": True}),
    ],
    ids=str,
)
def test_a_switch_that_is_not_implemented_is_named(
    family: str, changes: dict[str, Any], checkpoint: Checkpoint
) -> None:
    folder = checkpoint(family)
    edit(folder, **changes)
    with pytest.raises(ModelError) as caught:
        load(folder)
    name, value = next(iter(changes.items()))
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("family", MIXTURES)
def test_folders_that_are_wrong_are_told_by_the_tensor(family: str, checkpoint: Checkpoint) -> None:
    def broken(name: str, change: Callable[[dict[str, torch.Tensor]], object], words: str) -> None:
        folder = checkpoint(family, name=name)
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match=words):
            load(folder)

    expert = "model.layers.1.mlp.experts.5"
    broken("gone", lambda t: t.pop(f"{expert}.up_proj.weight"), f"1 missing keys: {expert}.up_proj")
    broken(
        "renamed",
        lambda t: t.update({f"{expert}.w1.weight": t.pop(f"{expert}.gate_proj.weight")}),
        f"1 missing keys: {expert}.gate_proj.weight; 1 unexpected keys: {expert}.w1.weight",
    )
    broken(
        "one-more",
        lambda t: t.update({"model.layers.1.mlp.experts.8.up_proj.weight": torch.ones(2, 2)}),
        "1 unexpected keys: model.layers.1.mlp.experts.8.up_proj.weight",
    )
    broken(
        "shape",
        lambda t: t.update({f"{expert}.down_proj.weight": torch.ones(2, 2)}),
        rf"1 mismatched keys: {expert}.down_proj.weight \(\(2, 2\) in the file",
    )
    broken(
        "table",
        lambda t: t.update({"model.rotary_emb.inv_freq": torch.tensor([1.9e28, 4.6e-41])}),
        "is not the rotary table",
    )
    folder = checkpoint(family, name="fewer")
    edit(folder, num_experts=4, n_group=2)
    with pytest.raises(ModelError, match=r"unexpected keys: .*experts\.4"):
        load(folder)


def test_a_dense_llada_with_experts_is_not_taken_for_one() -> None:
    dense = {"model_type": "llada", "embedding_size": 126464}
    assert detect_family(dense, where="nowhere").name == "llada"
    assert detect_family({**dense, "num_experts": 64}, where="nowhere").name == "lladamoe"


# ---- saving, merging, adapters ----


@pytest.mark.parametrize("family", MIXTURES)
def test_merged_equals_adapter(family: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = checkpoint(family)
    model = load(folder)
    attach_lora(model, r=2, target_modules=("q_proj", "k_proj", "v_proj", "o_proj"))
    perturb(model)
    wanted = logits(model)
    merge_adapter(model)
    save_model(model, tmp_path / "merged")
    official = load_file(folder / "model.safetensors")
    assert load_file(tmp_path / "merged" / "model.safetensors").keys() == official.keys()
    torch.testing.assert_close(logits(load(tmp_path / "merged")), wanted, rtol=1e-5, atol=1e-5)


def test_bfloat16_keeps_the_bias_of_the_router_whole(checkpoint: Checkpoint) -> None:
    folder = checkpoint("llada2")
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.gate.expert_bias"
    tensors[name] = torch.linspace(-0.0123, 0.0456, 8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    lm = load(folder, dtype="bfloat16").base_lm
    gate = lm.model.layers[1].mlp.gate  # type: ignore[union-attr, index]
    assert torch.equal(gate.e_score_correction_bias, tensors[name])  # type: ignore[union-attr]
    assert gate.weight.dtype == torch.bfloat16  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "targets",
    [("q_proj", "v_proj"), ("q_proj", "k_proj", "v_proj", "o_proj"), ("k_proj",)],
    ids=str,
)
def test_an_adapter_goes_out_fused_and_comes_back(
    targets: tuple[str, ...], checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = checkpoint("llada2")
    model = load(folder)
    attach_lora(model, r=3, alpha=5, target_modules=targets)
    perturb(model)
    save_adapter(model, tmp_path / "theirs", official=True)
    theirs = load_file(tmp_path / "theirs" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "theirs" / "adapter_config.json").read_text())
    names = {"query_key_value", *(["dense"] if "o_proj" in targets else [])}
    assert set(config["target_modules"]) == names
    # As the published code would add it: one delta for queries, keys and values together.
    rank = config["rank_pattern"].get("query_key_value", config["r"])
    scale = config["alpha_pattern"].get("query_key_value", config["lora_alpha"]) / rank
    fused = scale * theirs[FUSED.format(1, "B")] @ theirs[FUSED.format(1, "A")]
    own = {n.partition(".lora_A")[0]: p for n, p in model.named_parameters() if ".lora_A." in n}
    deltas = []
    for name in ("q_proj", "k_proj", "v_proj"):
        attention = model.base_lm.model.layers[1].self_attn  # type: ignore[union-attr, index]
        module = getattr(attention, name)
        is_adapted = any(f"layers.1.self_attn.{name}" in key for key in own)
        deltas.append(
            module.get_delta_weight("default") if is_adapted else torch.zeros_like(module.weight)
        )
    torch.testing.assert_close(fused, torch.cat(deltas).detach(), rtol=1e-6, atol=1e-7)
    back = load(folder, adapter=tmp_path / "theirs")
    torch.testing.assert_close(logits(back), logits(model), rtol=1e-5, atol=1e-5)


def test_an_adapter_of_the_published_code_is_kept_in_its_form(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = checkpoint("llada2")
    model = load(folder)
    attach_lora(model, r=4, alpha=8, target_modules=("q_proj", "k_proj", "v_proj"))
    generator = torch.Generator().manual_seed(2)
    rows = 64 + 2 * 32
    theirs = {
        FUSED.format(layer, x): torch.randn(shape, generator=generator)
        for layer in range(2)
        for x, shape in (("A", (4, 64)), ("B", (rows, 4)))
    }
    (tmp_path / "theirs").mkdir()
    save_file(theirs, tmp_path / "theirs" / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["query_key_value"]}
    (tmp_path / "theirs" / "adapter_config.json").write_text(json.dumps(config))
    loaded = load(folder, adapter=tmp_path / "theirs")
    delta = 2 * theirs[FUSED.format(0, "B")] @ theirs[FUSED.format(0, "A")]
    attention = loaded.base_lm.model.layers[0].self_attn  # type: ignore[union-attr, index]
    names = ("q_proj", "k_proj", "v_proj")
    ours = torch.cat([getattr(attention, n).get_delta_weight("default") for n in names])
    torch.testing.assert_close(ours, delta)
    save_adapter(loaded, tmp_path / "again", official=True)
    again = load_file(tmp_path / "again" / "adapter_model.safetensors")
    assert again.keys() == theirs.keys()
    assert all(torch.equal(again[k], theirs[k]) for k in theirs)
    # One of another size is refused with its rows.
    theirs[FUSED.format(0, "B")] = torch.ones(rows + 1, 4)
    save_file(theirs, tmp_path / "theirs" / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=f"{rows + 1} rows"):
        load_adapter(load(folder), tmp_path / "theirs")


def perturb(model: MaskedDiffusionModel) -> None:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0, 0.3, generator=generator)


@pytest.mark.parametrize("family", MIXTURES)
def test_routed_experts_and_routers_get_gradients_when_all_weights_train(
    family: str, checkpoint: Checkpoint
) -> None:
    model = load(checkpoint(family))
    model.hidden_states(torch.arange(1, 20)[None], None).square().sum().backward()
    for name, parameter in model.named_parameters():
        if ".experts." in name or ".mlp.gate.weight" in name:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_the_last_layer_is_computed_whole_and_rows_are_the_same(checkpoint: Checkpoint) -> None:
    model = load(checkpoint("lladamoe"))
    ids_BS = torch.arange(1, 25).reshape(2, 12)
    batch_R, position_R = torch.tensor([0, 0, 1]), torch.tensor([3, 9, 5])
    with torch.inference_mode():
        rows_RD = model.asked_hidden(ids_BS, None, batch_R, position_R)
        whole_RD = model.gather_rows(model.hidden_states(ids_BS, None), batch_R, position_R)
    assert torch.equal(rows_RD, whole_RD)
