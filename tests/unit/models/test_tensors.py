"""The tensors of a folder, its config.json and the module must say the same."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tabom.core.errors import ModelError
from tabom.models.loading import load_model
from tabom.models.sizes import read_sizes
from tabom.models.tensors import stored_tensors

Checkpoint = Callable[..., Path]
TABLE = {
    "dream": "model.rotary_emb.inv_freq",
    "llada": "model.transformer.blocks.0.rotary_emb.inv_freq",
    "sdar": "model.layers.0.self_attn.rotary_emb.inv_freq",
}
THETA = {"dream": 1e6, "llada": 5e5, "sdar": 1e6}
HEADS = {"dream": "lm_head.weight", "llada": "model.transformer.ff_out.weight"}
EMBEDDINGS = {"dream": "model.embed_tokens.weight", "llada": "model.transformer.wte.weight"}


def edit(folder: Path, *, drop: str = "", **changes: object) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    config.pop(drop, None)
    path.write_text(json.dumps(config))


def add(folder: Path, **tensors: torch.Tensor) -> None:
    path = folder / "model.safetensors"
    save_file({**load_file(path), **tensors}, path, metadata={"format": "pt"})


def refused(folder: Path, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        load_model(folder, require_tokenizer=False)


@pytest.mark.parametrize("family", ["toy", "dream", "llada", "sdar", "llada2", "lladamoe", "rnd1"])
def test_a_stray_tensor_is_named(family: str, checkpoint: Checkpoint) -> None:
    folder = checkpoint(family)
    add(folder, **{"model.layers.0.self_attn.extra": torch.ones(2)})
    refused(folder, r"1 unexpected keys: model\.layers\.0\.self_attn\.extra")


@pytest.mark.parametrize("family", sorted(TABLE))
def test_a_rotary_table_in_the_file_must_be_the_one_in_use(
    family: str, checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    folder = checkpoint(family)  # heads of 16
    table = THETA[family] ** (-torch.arange(0, 16, 2) / 16)
    add(folder, **{TABLE[family]: table})
    with caplog.at_level(logging.INFO, logger="tabom"):
        load_model(folder, require_tokenizer=False)
    assert f"{TABLE[family]} equals the rotary table in use" in caplog.text
    # What uninitialised memory looked like; another theta; a table rounded to bfloat16; a length.
    garbage = torch.tensor([1.5e26, 4.6e-41, 0.0136, 3.1e-41, 0, 0, 0, 0])
    for wrong in (garbage, 1e4 ** (-torch.arange(0, 16, 2) / 16), table.bfloat16(), table[:4]):
        add(folder, **{TABLE[family]: wrong})
        refused(folder, rf"{TABLE[family]} is not the rotary table that config\.json gives")


def test_a_tensor_under_two_names(checkpoint: Checkpoint) -> None:
    folder = checkpoint("llada")
    add(folder, **{"model.norm.weight": torch.ones(64)})
    refused(folder, r"1 keys with two names: model\.transformer\.ln_f\.weight")


@pytest.mark.parametrize("family", ["dream", "llada"])
def test_a_tied_head_must_be_the_embedding(family: str, checkpoint: Checkpoint) -> None:
    folder = checkpoint(family)
    edit(folder, tie_word_embeddings=True, weight_tying=True)
    refused(folder, rf"ties the head to the embedding, and {HEADS[family]} differs from")
    embedding = load_file(folder / "model.safetensors")[EMBEDDINGS[family]]
    add(folder, **{HEADS[family]: embedding.clone()})
    model = load_model(folder, require_tokenizer=False)
    assert model.head_weight_VD.data_ptr() == model.base_lm.get_input_embeddings().weight.data_ptr()


def test_pickles_are_not_read_and_shards_are(checkpoint: Checkpoint) -> None:
    folder = checkpoint("dream")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    refused(folder, "pickled weights are not read")
    names = sorted(state)
    files = {n: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, n in enumerate(names)}
    for file in set(files.values()):
        part = {n: state[n] for n in names if files[n] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    assert stored_tensors(folder).keys() == state.keys()
    load_model(folder, require_tokenizer=False)
    # One more in the index than in its shards; one in another shard than it says.
    other = next(file for file in files.values() if file != files[names[0]])
    for key, file in (("model.layers.9.mlp.up_proj.weight", other), (names[0], other)):
        index.write_text(json.dumps({"metadata": {}, "weight_map": {**files, key: file}}))
        refused(folder, rf"names 1 tensors that are not in their file, such as {key} in {file}")
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    # One more in a shard than the index says.
    path = folder / files[names[0]]
    save_file({**load_file(path), "oops": torch.ones(1)}, path, metadata={"format": "pt"})
    refused(folder, "unexpected keys: oops")
    path.unlink()
    refused(folder, rf"{path.name}: .*missing")
    index.write_text("[]")
    refused(folder, "(index of tensors|holds no JSON object)")


def test_an_adapter_in_the_place_of_a_model(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    refused(tmp_path, "this is an adapter")
    folder = checkpoint("toy")
    (folder / "adapter_config.json").write_text("{}")
    refused(folder, "holds a model and an adapter")


@pytest.mark.parametrize("family", ["toy", "dream", "llada", "sdar", "llada2", "lladamoe", "rnd1"])
def test_the_base_of_the_rotary_embedding_is_never_guessed(
    family: str, checkpoint: Checkpoint
) -> None:
    folder = checkpoint(family)
    right = json.loads((folder / "config.json").read_text())["rope_theta"]
    for wrong in (None, "1e6", True, -1, float("nan")):
        edit(folder, rope_theta=wrong)
        refused(folder, "rope_theta = ")
    edit(folder, drop="rope_theta")
    refused(folder, "rope_theta = None")
    # As newer versions write it; two that differ; a scaled one.
    edit(folder, rope_parameters={"rope_type": "default", "rope_theta": right})
    load_model(folder, require_tokenizer=False)
    edit(folder, rope_theta=right + 1)
    refused(folder, "two bases of the rotary embedding that differ")
    edit(folder, rope_theta=right, rope_scaling={"rope_type": "default"})
    load_model(folder, require_tokenizer=False)
    for scaled in ({"type": "yarn", "factor": 4.0}, {"factor": 4.0}, "linear"):
        edit(folder, rope_scaling=scaled)
        refused(folder, "rope_scaling = .*unscaled")


@pytest.mark.parametrize("family", ["dream", "sdar"])
def test_another_activation_is_refused(family: str, checkpoint: Checkpoint) -> None:
    folder = checkpoint(family)
    edit(folder, hidden_act="gelu")
    refused(folder, "hidden_act = 'gelu', and only 'silu'")


def test_toy_weights_under_another_architecture(checkpoint: Checkpoint) -> None:
    folder = checkpoint("toy")
    edit(folder, model_type="gpt2")
    refused(folder, "model_type 'gpt2'.*belong to none of the families dream, llada")


@pytest.mark.parametrize("family", ["dream", "sdar"])
def test_sliding_windows_are_refused(family: str, checkpoint: Checkpoint) -> None:
    folder = checkpoint(family)
    edit(folder, layer_types=["full_attention", "sliding_attention"], sliding_window=2)
    refused(folder, "layer_types = 'sliding_attention', and only 'full_attention'")
    edit(folder, layer_types=["full_attention", "full_attention"], sliding_window=None)
    load_model(folder, require_tokenizer=False)


def test_other_sizes_in_config_name_tensors_and_shapes(checkpoint: Checkpoint) -> None:
    folder = checkpoint("dream")
    edit(folder, num_attention_heads=8)
    words = r"mismatched keys: .*k_proj\.bias \(\(32,\) in the file, \(16,\) in the model\)"
    refused(folder, words)


def test_a_config_that_does_not_fit_is_named_where_only_sizes_are_read(
    checkpoint: Checkpoint,
) -> None:
    folder = checkpoint("llada")
    edit(folder, d_model="x")
    with pytest.raises(ModelError, match=r"does not describe a model of family llada"):
        read_sizes(str(folder))


@pytest.mark.parametrize("family", ["toy", "dream", "llada", "sdar", "llada2", "lladamoe", "rnd1"])
def test_a_causal_config_and_a_pad_outside_the_vocabulary_are_refused(
    family: str, checkpoint: Checkpoint
) -> None:
    folder = checkpoint(family)
    edit(folder, is_causal=True)
    refused(folder, r"config\.json has is_causal = True, and only False is implemented")
    edit(folder, is_causal=False, pad_token_id=41)
    refused(folder, r"the pad id 41 is outside the vocabulary of 41")


@pytest.mark.parametrize("family", ["toy", "dream", "llada", "sdar", "llada2", "lladamoe", "rnd1"])
@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation"])
def test_the_attention_that_a_config_names_is_not_taken(
    family: str, name: str, checkpoint: Checkpoint
) -> None:
    folder = checkpoint(family)
    edit(folder, **{name: "flash_attention_2"})  # is not installed where the sizes are asked
    assert read_sizes(str(folder)).num_layers == 2
    assert load_model(folder, require_tokenizer=False).attn_implementation == "sdpa"
