import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tabom.cli.main import main
from tabom.core.errors import ModelError
from tabom.models.adapters import (
    attach_lora,
    load_adapter,
    merge_adapter,
    save_adapter,
)
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.loading import load_model
from tabom.models.merge import export_adapter, merge_checkpoint
from tabom.models.tensors import stored_dtype

Checkpoint = Callable[..., Path]
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
EVERY = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PUBLISHED = {
    "dream": "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
    "sdar": "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
    "llada": "base_model.model.model.transformer.blocks.0.q_proj.lora_A.weight",
    "lladamoe": "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
    "rnd1": "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
}


def load(folder: Path | str, **options: object) -> MaskedDiffusionModel:
    return load_model(folder, require_tokenizer=False, **options)  # type: ignore[arg-type]


def logits(model: MaskedDiffusionModel) -> torch.Tensor:
    with torch.inference_mode():
        return model.hidden_states(torch.arange(1, 9)[None], None) @ model.head_weight_VD.T


def write_adapter(
    base: Path, folder: Path, *, targets: tuple[str, ...] = ("q_proj", "v_proj"), size: float = 0.3
) -> Path:
    """A LoRA adapter with values in both matrices, like one that was trained."""
    model = load(base)
    attach_lora(model, r=4, alpha=8, target_modules=targets)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0, size, generator=generator)
    save_adapter(model, folder)
    return folder


@pytest.mark.parametrize("family", ["dream", "llada", "sdar", "lladamoe", "rnd1"])
@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), EVERY])
def test_ours_to_theirs_to_ours(
    family: str, targets: tuple[str, ...], checkpoint: Checkpoint, tmp_path: Path
) -> None:
    base = checkpoint(family)
    if family in ("lladamoe", "rnd1"):  # routed experts have no adapters
        targets = tuple(name for name in targets if name in ATTENTION)
    ours = write_adapter(base, tmp_path / "ours", targets=targets)
    export_adapter(str(base), ours, tmp_path / "theirs")
    before, published = (
        load_file(f / "adapter_model.safetensors") for f in (ours, tmp_path / "theirs")
    )
    assert PUBLISHED[family] in published
    if family == "llada":
        assert not any(".layers." in key for key in published)
        if targets == EVERY:
            layer = "base_model.model.model.transformer.blocks.1"
            names = {k.split(".")[-3] for k in published if k.startswith(layer)}
            assert names == {
                "q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out"
            }  # fmt: skip
    config = json.loads((tmp_path / "theirs" / "adapter_config.json").read_text())
    task = {"dream": "FEATURE_EXTRACTION"}.get(family, "CAUSAL_LM")
    assert (config["task_type"], config["r"]) == (task, 4)
    if targets == EVERY and family == "llada":
        # "ff_out" alone would name the head of the published tree as well.
        assert "ff_out" not in config["target_modules"]
        assert "blocks.1.ff_out" in config["target_modules"]
    save_adapter(load(base, adapter=tmp_path / "theirs"), tmp_path / "again")
    after = load_file(tmp_path / "again" / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_targets_in_the_names_of_the_published_tree_load(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    # As written by training on the published code, which asks for "attn_out", not for a path.
    base = checkpoint("llada")
    ours = write_adapter(base, tmp_path / "a", targets=("o_proj", "q_proj"))
    export_adapter(str(base), ours, tmp_path / "theirs")
    path = tmp_path / "theirs" / "adapter_config.json"
    assert json.loads(path.read_text())["target_modules"] == ["attn_out", "q_proj"]
    wanted = logits(load(base, adapter=ours))
    assert torch.equal(wanted, logits(load(base, adapter=tmp_path / "theirs")))


def test_an_adapter_of_another_family_is_an_error(checkpoint: Checkpoint, tmp_path: Path) -> None:
    llada, dream = checkpoint("llada", name="l"), checkpoint("dream", name="d")
    export_adapter(str(llada), write_adapter(llada, tmp_path / "a"), tmp_path / "theirs")
    with pytest.raises(ModelError, match=r"does not fit .*(8 unexpected keys|missing keys)"):
        load(dream, adapter=tmp_path / "theirs")


@pytest.mark.parametrize("family", ["toy", "dream", "llada", "sdar", "llada2", "lladamoe", "rnd1"])
def test_merged_equals_adapter(family: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    base = checkpoint(family, num_kv_heads=4 if family == "llada" else 2)
    targets = ATTENTION if family in ("lladamoe", "rnd1") else EVERY
    adapter = write_adapter(base, tmp_path / "a", targets=targets, size=0.05)
    check = merge_checkpoint(str(base), adapter, tmp_path / "merged")
    assert 0 < check.difference <= check.tolerance < check.effect
    wanted, merged = logits(load(base, adapter=adapter)), logits(load(tmp_path / "merged"))
    torch.testing.assert_close(wanted, merged, atol=check.tolerance, rtol=0)
    before, after = (load_file(f / "model.safetensors") for f in (base, tmp_path / "merged"))
    assert before.keys() == after.keys()


def test_the_dtype_of_the_base_is_kept(checkpoint: Checkpoint, tmp_path: Path) -> None:
    base = checkpoint("dream")
    tensors = load_file(base / "model.safetensors")
    tensors = {k: v.bfloat16() for k, v in tensors.items()}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    del config["dtype"]
    (base / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16"}))
    adapter = write_adapter(base, tmp_path / "a")
    merge_checkpoint(str(base), adapter, tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert {v.dtype for v in merged.values()} == {torch.bfloat16}
    published = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert published["torch_dtype"] == "bfloat16"


def test_the_dtype_of_the_base_is_that_of_its_tensors(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    # Float32 tensors under a config.json that names bfloat16: nothing is rounded unasked.
    base = checkpoint("dream")
    config = json.loads((base / "config.json").read_text())
    del config["dtype"]
    (base / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16"}))
    merge_checkpoint(str(base), write_adapter(base, tmp_path / "a"), tmp_path / "merged")
    before, after = (load_file(f / "model.safetensors") for f in (base, tmp_path / "merged"))
    assert {v.dtype for v in after.values()} == {torch.float32}
    untouched = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(before[untouched], after[untouched])
    # Of several dtypes one that loses nothing of any.
    norm, head = before["model.norm.weight"].half(), before["lm_head.weight"].bfloat16()
    halves = {"model.norm.weight": norm, "lm_head.weight": head}
    save_file(halves, base / "model.safetensors", metadata={"format": "pt"})
    assert stored_dtype(base) == torch.float32
    save_file({"a": torch.ones(1, dtype=torch.int8)}, base / "model.safetensors")
    with pytest.raises(ModelError, match=r"tensors of dtype I8, expected some of F64.*--dtype"):
        stored_dtype(base)


def test_what_rounding_loses_is_an_error(checkpoint: Checkpoint, tmp_path: Path) -> None:
    base = checkpoint("dream")
    adapter = write_adapter(base, tmp_path / "a", size=1e-5)
    with pytest.raises(ModelError, match=r"as much as the adapter changes.*--dtype float32"):
        merge_checkpoint(str(base), adapter, tmp_path / "m", dtype="bfloat16")
    with pytest.raises(ModelError, match=r"differs from base plus adapter by up to .*allowed is"):
        merge_checkpoint(str(base), adapter, tmp_path / "m", tolerance=1e-12)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "model"]  # nothing half-written


def test_a_merge_that_loses_the_adapter_is_caught(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tabom.models.merge as merge

    def drop(model: MaskedDiffusionModel) -> None:
        model.lm = model.lm.unload()  # type: ignore[operator]

    base = checkpoint()
    adapter = write_adapter(base, tmp_path / "a")
    monkeypatch.setattr(merge, "merge_adapter", drop)
    with pytest.raises(ModelError, match="the merged checkpoint differs"):
        merge_checkpoint(str(base), adapter, tmp_path / "m")


def test_a_merged_model_takes_another_adapter_and_trains(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    base = checkpoint()
    adapter = write_adapter(base, tmp_path / "a")
    model = load(base, adapter=adapter)
    merge_adapter(model)
    assert all(p.requires_grad for p in model.parameters())
    load_adapter(model, adapter)
    assert not torch.allclose(logits(model), logits(load(base, adapter=adapter)), atol=1e-2)
    with pytest.raises(ModelError, match="no adapter to merge"):
        merge_adapter(load(base))


def test_the_verb(
    checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = checkpoint("llada")
    adapter = write_adapter(base, tmp_path / "a")
    out = tmp_path / "m"
    assert main(["merge", str(base), str(adapter), str(out)]) == 0
    assert "max abs difference of a logit" in capsys.readouterr().out
    assert (out / "model.safetensors").is_file()
    assert main(["merge", str(base), str(adapter), str(out)]) == 2
    assert "exists; name a new folder" in capsys.readouterr().err
    assert main(["merge", str(base), str(adapter), str(tmp_path / "o"), "--official"]) == 0
    assert (tmp_path / "o" / "adapter_model.safetensors").is_file()
    extra = ["--official", "--dtype", "float32"]
    assert main(["merge", str(base), str(adapter), str(tmp_path / "x"), *extra]) == 2
    assert "--official merges nothing" in capsys.readouterr().err
