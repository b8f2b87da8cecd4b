"""Models that share a family's code: detection, ids, and a tiny checkpoint of each."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tabom.core.errors import ModelError
from tabom.models.families import detect_family
from tabom.models.families.llada import IMPLEMENTED
from tabom.models.ids import TokenizerFacts, resolve_ids
from tabom.models.loading import load_model, save_model

Checkpoint = Callable[..., Path]
IDS = torch.arange(1, 9)[None]


def edit(folder: Path, *, drop: tuple[str, ...] = (), **changes: object) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in config.items() if k not in drop}))


def load(folder: Path, **options: Any) -> Any:
    return load_model(folder, require_tokenizer=False, **options)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.hidden_states(IDS, None) @ model.head_weight_VD.T


@pytest.mark.parametrize(
    "config, family, mask",
    [
        ({"model_type": "Dream", "vocab_size": 152064}, "dream", 151666),  # also Dream-Coder
        ({"model_type": "Dream", "architectures": ["DreamModel"]}, "dream", 151666),  # DiffuCoder
        ({"model_type": "llada", "embedding_size": 126464}, "llada", 126336),  # also 1.5
        ({"model_type": "llada", "embedding_size": 155136}, "llada", 5),  # iLLaDA
        ({"model_type": "llada", "vocab_size": 155136}, "llada", 5),
        ({"model_type": "sdar", "block_size": 4}, "sdar", 151669),  # also TraDo
        ({"model_type": "llada2_moe", "num_experts": 256}, "llada2", 156895),
        ({"model_type": "llada", "num_experts": 64}, "lladamoe", 156895),
        ({"model_type": "lladamoe", "num_experts": 64}, "lladamoe", 156895),
        ({"model_type": "rnd1", "num_experts": 128}, "rnd1", 151669),
    ],
)
def test_family_and_default_mask(config: dict[str, Any], family: str, mask: int) -> None:
    row = detect_family(config, where="nowhere")
    ids = resolve_ids({**config, "eos_token_id": 1}, family=row, tokenizer=None)
    assert (row.name, ids.mask) == (family, mask)
    assert ids.sources["mask"] == f"default of family {family}"


def test_a_llada_of_unknown_size_has_no_default_mask() -> None:
    config = {"model_type": "llada", "embedding_size": 50000, "eos_token_id": 1}
    row = detect_family(config, where="nowhere")
    with pytest.raises(ModelError, match="has no default for this config; pass --mask_token_id"):
        resolve_ids(config, family=row, tokenizer=None)


@pytest.mark.parametrize("model_type", ["sdar_moe", "mmada", "a2d-qwen3"])
def test_what_only_remote_code_can_load_is_refused(model_type: str) -> None:
    config = {"model_type": model_type, "auto_map": {"AutoModel": "modeling.Some"}}
    with pytest.raises(ModelError, match=f"'{model_type}'.*auto_map.*Remote code is never run"):
        detect_family(config, where="nowhere")


@pytest.mark.parametrize(
    "config, name, missing",
    [
        ({"model_type": "Dream", "block_size": 32}, "DreamReasoner", "modelling file"),
        ({"model_type": "nemotron_labs_diffusion"}, "Nemotron-Labs-Diffusion", "causal prefix"),
        ({"architectures": ["NemotronLabsDiffusionModel"]}, "Nemotron-Labs-Diffusion", "prefix"),
        ({"model_type": "diffusion_gemma"}, "DiffusionGemma", "no reveal order"),
        ({"model_type": "wedlm"}, "WeDLM", "permuted inputs"),
        ({"model_type": "qwen2", "auto_map": {"AutoModel": "modeling_wedlm.WeDLM"}}, "WeDLM", ""),
    ],
)
def test_near_relatives_are_refused_by_name(
    config: dict[str, Any], name: str, missing: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=f"{name}, which is not taken: .*{missing}"):
        detect_family(config, where=str(tmp_path))


def test_illada_is_tied_and_grouped(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = checkpoint("llada", num_kv_heads=1, initializer_range=0.25)
    edit(folder, weight_tying=True, drop=("mask_token_id",))
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.transformer.ff_out.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = load(folder, mask_token_id=5)
    weights = (model.head_weight_VD, model.base_lm.get_input_embeddings().weight)
    assert weights[0].data_ptr() == weights[1].data_ptr()
    assert torch.equal(weights[0], tensors["model.transformer.wte.weight"])
    save_model(model, tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == tensors.keys()
    assert torch.equal(logits(model), logits(load(tmp_path / "again", mask_token_id=5)))


@pytest.mark.parametrize("name", sorted(IMPLEMENTED))
def test_every_switch_of_llada_that_is_not_implemented(name: str, checkpoint: Checkpoint) -> None:
    folder = checkpoint("llada")
    value = IMPLEMENTED[name]
    other = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v + 0.1}.get(
        type(value), lambda v: "another"
    )(value)  # type: ignore[no-untyped-call]
    edit(folder, **{name: other})
    with pytest.raises(ModelError, match=f"has {name} = {other!r}, and only {value!r}"):
        load(folder)
    edit(folder, drop=(name,))
    with pytest.raises(ModelError, match=f"has {name} = None"):
        load(folder)


def open_dcoder(folder: Path, tokenizer_config: dict[str, Any] | None) -> Path:
    """A Dream checkpoint as Open-dCoder is published: the config of a plain Qwen2."""
    edit(
        folder,
        drop=("mask_token_id", "auto_map"),
        model_type="qwen2",
        architectures=["Qwen2ForCausalLM"],
    )
    if tokenizer_config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    return folder


def test_open_dcoder_is_known_by_its_mask_token(checkpoint: Checkpoint, tmp_path: Path) -> None:
    dream = checkpoint("dream")
    expected = logits(load(dream))
    folder = open_dcoder(dream, {"mask_token": "<M>", "tokenizer_class": "Qwen2Tokenizer"})
    config = json.loads((folder / "config.json").read_text())
    family = detect_family(config, where=str(folder))
    assert (family.name, family.alignment) == ("dream", "shift_right")
    tokenizer = TokenizerFacts(vocabulary={"<M>": 39}, names={"mask_token": "<M>"})
    ids = resolve_ids(config, family=family, tokenizer=tokenizer)
    assert (ids.mask, ids.sources["mask"]) == (39, "tokenizer mask_token '<M>'")
    with pytest.raises(ModelError, match="no mask token id"):
        load(folder)  # the tokenizer's other files are missing: nothing says which id it is
    model = load(folder, mask_token_id=39)
    assert torch.equal(expected, logits(model))
    save_model(model, tmp_path / "again")
    again = json.loads((tmp_path / "again" / "config.json").read_text())
    assert (again["model_type"], again["architectures"]) == ("qwen2", ["Qwen2ForCausalLM"])
    assert "published_as" not in again


def test_a_bare_qwen2_is_no_masked_model(checkpoint: Checkpoint) -> None:
    folder = open_dcoder(checkpoint("dream"), {"tokenizer_class": "Qwen2Tokenizer"})
    with pytest.raises(ModelError, match=r"'qwen2'.*only if tokenizer_config\.json has a mask_tok"):
        load(folder)


def test_broken_tokenizer_config(checkpoint: Checkpoint) -> None:
    folder = checkpoint("dream")
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json is not valid JSON"):
        load(folder)


@pytest.mark.parametrize(
    "family, name", [("dream", "use_sliding_window"), ("sdar", "attention_bias")]
)
def test_switches_of_the_qwen_families(family: str, name: str, checkpoint: Checkpoint) -> None:
    folder = checkpoint(family)
    edit(folder, **{name: True})
    with pytest.raises(ModelError, match=f"has {name} = "):
        load(folder)


# -- the block-causal family ----------------------------------------------------------------------


def test_sdar_reads_its_block_size(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = checkpoint("sdar")
    model = load(folder)
    assert (model.family.attention, model.block_length) == ("block_causal", 4)
    assert load(checkpoint("dream", name="d")).block_length is None
    save_model(model, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["block_size"] == 4
    assert torch.equal(logits(model), logits(load(tmp_path / "again")))
    edit(folder, block_size=8)
    assert load(folder).block_length == 8
    edit(folder, drop=("block_size",))
    with pytest.raises(ModelError, match=r"has block_size = None.*add the one it was trained with"):
        load(folder)


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
def test_a_block_sees_itself_and_what_is_before(
    attn_implementation: str, checkpoint: Checkpoint
) -> None:
    model = load(checkpoint("sdar"), attn_implementation=attn_implementation)
    ids = torch.arange(1, 13)[None]
    with torch.inference_mode():
        before = model.hidden_states(ids, None)[0]
        for changed in range(12):
            other = ids.clone()
            other[0, changed] = 30
            moved = (model.hidden_states(other, None)[0] != before).any(-1).tolist()
            assert moved == [p // 4 >= changed // 4 for p in range(12)]


def test_blocks_are_counted_from_the_first_token(checkpoint: Checkpoint) -> None:
    model = load(checkpoint("sdar"))
    ids, pads = torch.arange(1, 11)[None], torch.full((1, 3), model.ids.pad)
    mask = torch.tensor([[0] * 3 + [1] * 10])
    with torch.inference_mode():
        plain = model.hidden_states(ids, None)
        padded = model.hidden_states(torch.cat([pads, ids], 1), mask)[:, 3:]
    torch.testing.assert_close(plain, padded, atol=1e-4, rtol=1e-4)


# -- a wrong checkpoint names its cause -----------------------------------------------------------


def test_a_mask_id_that_is_a_word(checkpoint: Checkpoint, tokenizer_folder: Path) -> None:
    folder = checkpoint(tokenizer_path=tokenizer_folder)
    with pytest.raises(ModelError, match=r"mask token id 10 \(from --mask_token_id\) is the ordin"):
        load(folder, mask_token_id=10)
    edit(folder, mask_token_id=10)
    with pytest.raises(ModelError, match=r"config.json says mask_token_id 10, the tokenizer says"):
        load(folder)


def test_remote_code_is_neither_run_nor_handed_on(golden: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(golden / "dream-tiny", tmp_path / "m"))
    assert "auto_map" in json.loads((folder / "config.json").read_text())
    for name in ("configuration_dream.py", "modeling_dream.py"):
        (folder / name).write_text("raise SystemExit('remote code was run')")
    save_model(load(folder), tmp_path / "out")
    assert "auto_map" not in (tmp_path / "out" / "config.json").read_text()
    assert not list((tmp_path / "out").glob("*.py"))
