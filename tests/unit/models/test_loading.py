import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tabom.core.errors import ModelError
from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoder, DecodeRequest
from tabom.models.families import family_names
from tabom.models.loading import load_model, save_model
from tabom.models.random_checkpoint import write_random_checkpoint
from tabom.models.sizes import context_problem

Checkpoint = Callable[..., Path]


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def logits_of(folder: Path) -> torch.Tensor:
    model = load_model(folder, require_tokenizer=False)
    ids = torch.arange(1, 9)[None]
    with torch.inference_mode():
        return model.hidden_states(ids, None) @ model.head_weight_VD.T


@pytest.mark.parametrize("family", ["dream", "llada"])
def test_golden_checkpoints_have_the_ids_of_their_config(family: str, golden: Path) -> None:
    published = json.loads((golden / f"{family}-tiny" / "config.json").read_text())
    ids = load_model(golden / f"{family}-tiny", require_tokenizer=False).ids
    assert (ids.mask, ids.pad, ids.eos, ids.filler) == (
        published["mask_token_id"],
        published["pad_token_id"],
        (published["eos_token_id"],),
        published["eos_token_id"],
    )


@pytest.mark.parametrize("family", ["toy", "dream", "llada", "sdar", "llada2", "lladamoe", "rnd1"])
def test_save_and_load_round_trip(family: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    first = checkpoint(family)
    edit_config(first, auto_map={"AutoModel": "modeling.Some"})
    save_model(load_model(first, require_tokenizer=False), tmp_path / "again")
    assert torch.equal(logits_of(first), logits_of(tmp_path / "again"))
    before, after = (load_file(f / "model.safetensors") for f in (first, tmp_path / "again"))
    assert before.keys() == after.keys()
    if family == "llada":
        assert all(name.startswith("model.transformer.") for name in before)
    published = json.loads((tmp_path / "again" / "config.json").read_text())
    assert "auto_map" not in published
    assert not (tmp_path / "again" / "generation_config.json").exists()


@pytest.mark.parametrize(
    "family, fields",
    [
        ("dream", ("architectures", "rope_theta", "hidden_size", "num_hidden_layers")),
        ("llada", ("architectures", "rope_theta", "d_model", "block_type", "embedding_size")),
    ],
)
def test_saving_writes_the_layout_that_the_official_code_reads(
    family: str, fields: tuple[str, ...], golden: Path, tmp_path: Path
) -> None:
    folder = golden / f"{family}-tiny"
    save_model(load_model(folder, require_tokenizer=False), tmp_path / "out")
    official = json.loads((folder / "config.json").read_text())
    ours = json.loads((tmp_path / "out" / "config.json").read_text())
    for key in ("model_type", "mask_token_id", *fields):
        assert ours[key] == official[key], key
    assert "auto_map" not in ours
    before = load_file(folder / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize(
    "field, value",
    [("alibi", True), ("block_type", "sequential"), ("include_bias", True), ("rope", None)],
)
def test_llada_switches_that_are_not_implemented(
    field: str, value: object, golden: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(golden / "llada-tiny", tmp_path / "m"))
    edit_config(folder, **{field: value})
    with pytest.raises(ModelError, match=f"has {field} = {value!r}, and only"):
        load_model(folder, require_tokenizer=False)


def test_llada_rotates_in_float32_in_a_bfloat16_model(golden: Path) -> None:
    # Llama's own rotation rounds cosines to bfloat16: errors as large as all of bfloat16's noise.
    model = load_model(golden / "llada-tiny", dtype="bfloat16", require_tokenizer=False)
    seen = []
    attention = model.base_lm.model.layers[0].self_attn  # type: ignore[index, union-attr]
    attention.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["position_embeddings"][0].dtype),
        with_kwargs=True,
    )
    with torch.inference_mode():
        hidden_BSD = model.hidden_states(torch.arange(1, 9)[None], None)
    assert seen == [torch.float32]
    assert hidden_BSD.dtype == torch.bfloat16


def test_a_published_generation_config_does_not_matter(checkpoint: Checkpoint) -> None:
    folder = checkpoint("dream")
    before = logits_of(folder)
    (folder / "generation_config.json").write_text(
        json.dumps({"eps": 0.001, "alg": "origin", "mask_token_id": None, "temperature": 0.0})
    )
    assert torch.equal(before, logits_of(folder))


def test_toy_with_tokenizer_encodes_and_decodes(
    checkpoint: Checkpoint, tokenizer_folder: Path
) -> None:
    model = load_model(checkpoint(tokenizer_path=tokenizer_folder))
    vocabulary = model.tokenizer.get_vocab()
    assert model.vocab_size == len(vocabulary)
    expected = [vocabulary[t] for t in ("<user>", "a", "b", "<assistant>")]
    assert model.encode_prompt("ab") == expected
    assert model.encode_prompt([{"role": "user", "content": "ab"}]) == expected
    answer = [vocabulary[t] for t in ("c", "<mask>", "d", "<eos>", "e")]
    assert model.decode_response(answer) == "cd"
    assert not model.training


def test_no_chat_template_is_an_error_in_words(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint(), require_tokenizer=False)
    with pytest.raises(ModelError, match=r"has no chat template.*NoneType"):
        model.encode_prompt("ab")


def test_split_special_tokens_is_an_error(checkpoint: Checkpoint, tokenizer_folder: Path) -> None:
    folder = checkpoint(tokenizer_path=tokenizer_folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "split_special_tokens": True}))
    with pytest.raises(ModelError, match=r"tokenizer_config\.json.*split_special_tokens"):
        load_model(folder)


def test_bfloat16_loads_keep_the_rotary_table_in_float32(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint(), dtype="bfloat16", require_tokenizer=False)
    assert model.head_weight_VD.dtype == torch.bfloat16
    assert model.base_lm.model.rotary_emb.inv_freq.dtype == torch.float32  # type: ignore


def test_eager_and_sdpa_agree(checkpoint: Checkpoint) -> None:
    # Seen in the wild: is_causal on the modules only, which eager attention does not read.
    folder, ids = checkpoint(), torch.arange(1, 9)[None]
    eager, sdpa = (
        load_model(folder, attn_implementation=name, require_tokenizer=False)
        for name in ("eager", "sdpa")
    )
    with torch.inference_mode():
        torch.testing.assert_close(
            eager.hidden_states(ids, None), sdpa.hidden_states(ids, None), atol=1e-4, rtol=1e-4
        )


def test_missing_folder() -> None:
    with pytest.raises(ModelError, match=r"model folder './nowhere' does not exist"):
        load_model("./nowhere")


def test_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_model(tmp_path)


def test_hub_id_offline_says_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"'nobody/nothing' is no local folder.*pass the folder"):
        load_model("nobody/nothing")


def test_unknown_architecture_lists_families_and_runs_no_code(tmp_path: Path) -> None:
    config = {"model_type": "weird", "auto_map": {"AutoModel": "modeling_weird.Weird"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "modeling_weird.py").write_text("raise SystemExit('remote code was run')")
    with pytest.raises(ModelError, match=r"'weird'.*auto_map.*Remote code is never run") as caught:
        load_model(tmp_path)
    assert all(name in str(caught.value) for name in family_names())


def test_a_bare_llama_is_no_toy(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    config = json.loads((folder / "config.json").read_text())
    del config["tabom_family"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"'llama'.*belong to none of the families"):
        load_model(folder, require_tokenizer=False)


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_renamed_tensor_is_named_twice(golden: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(golden / "dream-tiny", tmp_path / "m"))
    old = "model.layers.1.mlp.up_proj.weight"
    change_tensors(folder, lambda t: t.update({"model.layers.1.oops": t.pop(old)}))
    with pytest.raises(ModelError, match="missing keys") as caught:
        load_model(folder, require_tokenizer=False)
    assert old in str(caught.value)
    assert "1 unexpected keys: model.layers.1.oops" in str(caught.value)


def test_tensor_of_another_shape(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    change_tensors(folder, lambda t: t.update({"model.norm.weight": torch.ones(7)}))
    with pytest.raises(ModelError, match=r"do not load.*model\.norm\.weight|mismatched"):
        load_model(folder, require_tokenizer=False)


def test_folder_without_weights(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="the weights do not load"):
        load_model(folder, require_tokenizer=False)


@pytest.mark.parametrize("family", ["toy", "dream"])
def test_folder_without_tokenizer(family: str, checkpoint: Checkpoint) -> None:
    # Qwen2Tokenizer loads from an empty folder without a word, with a vocabulary of one token.
    folder = checkpoint(family)
    with pytest.raises(ModelError, match=r"has no tokenizer \(tokenizer\.json"):
        load_model(folder)
    assert load_model(folder, require_tokenizer=False).tokenizer is None


def test_tokenizer_larger_than_the_embedding(
    checkpoint: Checkpoint, tokenizer_folder: Path
) -> None:
    folder = checkpoint(vocab_size=20)
    shutil.copytree(tokenizer_folder, folder, dirs_exist_ok=True)
    with pytest.raises(ModelError, match="has 42 tokens, the embedding only 20 rows"):
        load_model(folder, mask_token_id=18)


def test_mask_id_outside_the_vocabulary(checkpoint: Checkpoint) -> None:
    with pytest.raises(ModelError, match=r"mask id 41 \(from --mask_token_id\) is outside"):
        load_model(checkpoint(), mask_token_id=41, require_tokenizer=False)


def test_unknown_dtype(checkpoint: Checkpoint) -> None:
    with pytest.raises(ModelError, match="dtype 'float31' is not one of auto"):
        load_model(checkpoint(), dtype="float31", require_tokenizer=False)


def test_random_checkpoint_is_a_function_of_its_seed(tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    sizes = {"family": "toy", "vocab_size": 41}
    a = write_random_checkpoint(tmp_path / "a", seed=1, **sizes)  # type: ignore[arg-type]
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    b = write_random_checkpoint(tmp_path / "b", seed=1, **sizes)  # type: ignore[arg-type]
    c = write_random_checkpoint(tmp_path / "c", seed=2, **sizes)  # type: ignore[arg-type]
    bytes_of = [(f / "model.safetensors").read_bytes() for f in (a, b, c)]
    assert bytes_of[0] == bytes_of[1] != bytes_of[2]
    tensors = load_file(a / "model.safetensors")
    assert not torch.equal(
        tensors["model.layers.0.mlp.up_proj.weight"], tensors["model.layers.1.mlp.up_proj.weight"]
    )
    assert tensors["lm_head.weight"].std() == pytest.approx(0.02, rel=0.1)


def test_random_checkpoint_refuses(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path, family="dream", vocab_size=41)
    with pytest.raises(ModelError, match="already holds a model"):
        write_random_checkpoint(tmp_path, family="dream", vocab_size=41)
    with pytest.raises(ModelError, match="multiple of num_heads"):
        write_random_checkpoint(tmp_path / "b", family="toy", vocab_size=41, num_heads=5)
    with pytest.raises(ModelError, match=r"family toy has no vocabulary.*pass vocab_size"):
        write_random_checkpoint(tmp_path / "b", family="toy")
    with pytest.raises(ModelError, match="'gpt' is not one of"):
        write_random_checkpoint(tmp_path / "b", family="gpt", vocab_size=41)


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("config.json", b"\xff\xfe", "config.json is not valid JSON"),
        ("model.safetensors", b"", "the weights do not load"),
        ("model.safetensors", b"\x10" * 100, "the weights do not load"),
    ],
)
def test_a_broken_file_is_named(
    checkpoint: Checkpoint, tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    folder = Path(shutil.copytree(checkpoint("toy"), tmp_path / "m"))
    (folder / name).write_bytes(data)
    with pytest.raises(ModelError, match=message):
        load_model(folder, require_tokenizer=False)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"hidden_size": "x"}, "does not describe a model of family toy"),
        ({"num_attention_heads": 0}, "does not describe a model of family toy"),
        ({"eos_token_id": 99999}, "the eos id 99999 .* is outside the vocabulary"),
        ({"eos_token_id": -2}, "the eos id -2 .* is outside the vocabulary"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    folder = Path(shutil.copytree(checkpoint("toy"), tmp_path / "m"))
    edit_config(folder, **changes)
    with pytest.raises(ModelError, match=message):
        load_model(folder, require_tokenizer=False)


@pytest.mark.parametrize("device", ["nonsense", "meta"])
def test_a_device_that_is_not_there_is_refused(checkpoint: Checkpoint, device: str) -> None:
    with pytest.raises(ModelError, match=f"device '{device}'"):
        load_model(checkpoint("toy"), device=device, require_tokenizer=False)


def test_quantised_weights_and_missing_attention_are_named(checkpoint: Checkpoint) -> None:
    folder = checkpoint("dream")
    with pytest.raises(ModelError, match=r"attn_implementation 'flash_attention_2' cannot be used"):
        load_model(folder, attn_implementation="flash_attention_2", require_tokenizer=False)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"config\.json has quantization_config"):
        load_model(folder, require_tokenizer=False)


def test_a_prompt_beyond_the_positions_is_refused(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("sdar"), require_tokenizer=False)
    limit = model.max_positions
    assert limit == 32768
    model.require_positions(prompt_tokens=limit - 8, max_new_tokens=8)
    with pytest.raises(ModelError, match=r"32769 positions.* allows 32768"):
        model.require_positions(prompt_tokens=limit - 7, max_new_tokens=8)
    decoder = Decoder(model, DecodingConfig(max_new_tokens=8))
    request = DecodeRequest(id="long", prompt_ids=[5] * (limit - 7))
    with pytest.raises(ModelError, match=r"32769 positions.*allow_long_context"):
        list(decoder.decode([request]))
    model.allows_long_context = True
    model.require_positions(prompt_tokens=limit, max_new_tokens=8)
    assert context_problem(None, prompt_tokens=10**9, max_new_tokens=8) is None
