import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tabom.core.errors import ModelError
from tabom.models.adapters import attach_lora, load_adapter, save_adapter
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.loading import load_model, save_model

Checkpoint = Callable[..., Path]
IDS = torch.arange(1, 9)[None]


def load(folder: Path, **options: object) -> MaskedDiffusionModel:
    return load_model(folder, require_tokenizer=False, **options)  # type: ignore[arg-type]


def hidden(model: MaskedDiffusionModel) -> torch.Tensor:
    with torch.inference_mode():
        return model.hidden_states(IDS, None)


def fill_b(model: MaskedDiffusionModel) -> None:
    """Give the B matrices values, so that the adapter does something."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0, 0.3, generator=generator)


@pytest.fixture
def saved(checkpoint: Checkpoint, tmp_path: Path) -> tuple[Path, Path, torch.Tensor]:
    """A base folder, an adapter folder, and the hidden states of both together."""
    base = checkpoint("dream")
    model = load(base)
    attach_lora(model, r=4, alpha=8)
    fill_b(model)
    save_adapter(model, tmp_path / "adapter")
    return base, tmp_path / "adapter", hidden(model)


def test_a_fresh_adapter_changes_nothing_and_only_it_trains(checkpoint: Checkpoint) -> None:
    model = load(checkpoint())
    before = hidden(model)
    attach_lora(model, r=4, dropout=0.5)
    assert not model.training
    assert torch.equal(before, hidden(model))
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    # 2 layers x (q, v) x (A, B)
    assert len(trainable) == 8
    assert all("lora_" in name and ("q_proj" in name or "v_proj" in name) for name in trainable)


def test_gradients_reach_the_adapter_through_hidden_states(checkpoint: Checkpoint) -> None:
    model = load(checkpoint())
    attach_lora(model, r=4)
    fill_b(model)
    model.hidden_states(IDS, None).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == ("lora_" in name), name
        assert parameter.grad is None or parameter.grad.abs().max() > 0, name


def test_initial_weights_depend_on_the_seed_alone(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    states = []
    for seed, global_seed, targets in [
        (1, 10, ("q_proj", "v_proj")),
        (1, 11, ("v_proj", "o_proj", "q_proj")),
        (2, 10, ("q_proj", "v_proj")),
    ]:
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        model = load(folder)
        attach_lora(model, r=4, target_modules=targets, seed=seed)
        assert torch.equal(state, torch.get_rng_state())
        states.append({n: p for n, p in model.named_parameters() if ".lora_A." in n})
    assert states[0].keys() < states[1].keys()
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])
    assert not any(torch.equal(states[0][n], states[2][n]) for n in states[0])
    tensors = list(states[0].values())
    assert not torch.equal(tensors[0], tensors[1])
    # U(-b, b) with b = 1 / sqrt(64) = 0.125, as PEFT draws
    assert 0.11 < max(t.abs().max() for t in tensors) <= 0.125


def test_saved_adapter_loads_and_acts(saved: tuple[Path, Path, torch.Tensor]) -> None:
    base, adapter, expected = saved
    model = load(base, adapter=adapter)
    assert torch.equal(expected, hidden(model))
    assert (expected - hidden(load(base))).abs().max() > 0.1
    assert not any(p.requires_grad for p in model.parameters())
    assert sorted(p.name for p in adapter.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 8)
    assert config["target_modules"] == ["q_proj", "v_proj"]
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in load_file(
        adapter / "adapter_model.safetensors"
    )


# PEFT asks transformers under a deprecated name; here it is called as any user would call it.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_peft_itself_reads_the_folder(saved: tuple[Path, Path, torch.Tensor]) -> None:
    from peft import PeftModel

    base, adapter, expected = saved
    model = load(base)
    model.lm = PeftModel.from_pretrained(model.lm, str(adapter))
    assert torch.equal(expected, hidden(model))


def test_a_loaded_adapter_can_train_on(saved: tuple[Path, Path, torch.Tensor]) -> None:
    base, adapter, _ = saved
    model = load(base)
    load_adapter(model, adapter, trainable=True)
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trainable) == 8
    assert all("lora_" in name for name in trainable)


def test_saving_twice_gives_the_same_bytes(
    saved: tuple[Path, Path, torch.Tensor], tmp_path: Path
) -> None:
    base, adapter, _ = saved
    save_adapter(load(base, adapter=adapter), tmp_path / "again")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (adapter / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens", "model.embed_tokens"])
def test_head_and_embedding_are_refused(target: str, checkpoint: Checkpoint) -> None:
    model = load(checkpoint())
    with pytest.raises(ModelError, match=f"'{target}'.*leave lm_head and embed_tokens out"):
        attach_lora(model, target_modules=("q_proj", target))
    assert model.lm is model.base_lm


def test_a_target_that_matches_nothing(checkpoint: Checkpoint) -> None:
    model = load(checkpoint())
    with pytest.raises(ModelError, match=r"'qq_proj' matches no linear module.*k_proj, o_proj"):
        attach_lora(model, target_modules=("q_proj", "qq_proj"))


def test_all_linear_leaves_the_head_out(checkpoint: Checkpoint) -> None:
    model = load(checkpoint(num_layers=1))
    attach_lora(model, r=2, target_modules=("all-linear",))
    adapted = {n for n, p in model.named_parameters() if ".lora_A." in n}
    assert len(adapted) == 7
    assert not any("lm_head" in name for name in adapted)


def test_a_second_adapter_is_refused(saved: tuple[Path, Path, torch.Tensor]) -> None:
    base, adapter, _ = saved
    model = load(base, adapter=adapter)
    with pytest.raises(ModelError, match="already carries an adapter"):
        attach_lora(model)
    with pytest.raises(ModelError, match="already carries an adapter"):
        load_adapter(model, adapter)
    with pytest.raises(ModelError, match="an adapter is attached"):
        save_model(model, adapter.parent / "full")


@pytest.mark.parametrize(
    "sizes, words",
    [
        ({"hidden_size": 32}, "mismatched keys"),
        ({"num_layers": 1}, "4 unexpected keys: base_model.model.model.layers.1"),
        ({"num_layers": 3}, "4 missing keys: base_model.model.model.layers.2"),
    ],
)
def test_an_adapter_of_another_base_is_an_error_and_leaves_the_model_whole(
    sizes: dict[str, int],
    words: str,
    saved: tuple[Path, Path, torch.Tensor],
    checkpoint: Checkpoint,
) -> None:
    other = load(checkpoint("dream", name="other", **sizes))
    before = hidden(other)
    with pytest.raises(ModelError, match=words):
        load_adapter(other, saved[1])
    assert other.lm is other.base_lm
    assert torch.equal(before, hidden(other))
    assert not any("lora" in name for name, _ in other.named_modules())


def test_an_adapter_of_another_tree_is_never_a_no_op(
    saved: tuple[Path, Path, torch.Tensor], tmp_path: Path
) -> None:
    # PEFT itself would load such a file without a word, and the model would stay the base.
    base, adapter, _ = saved
    other = Path(shutil.copytree(adapter, tmp_path / "tree"))
    state = load_file(adapter / "adapter_model.safetensors")
    renamed = {k.replace("model.layers", "model.transformer.blocks"): v for k, v in state.items()}
    save_file(renamed, other / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"8 missing keys.*8 unexpected keys"):
        load(base, adapter=other)


def test_an_adapter_of_the_official_llada_tree_loads(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    base = checkpoint("llada")
    model = load(base)
    attach_lora(model, r=4)
    fill_b(model)
    save_adapter(model, tmp_path / "ours")
    state = load_file(tmp_path / "ours" / "adapter_model.safetensors")
    official = {
        key.replace("model.layers", "model.transformer.blocks").replace("self_attn.", ""): value
        for key, value in state.items()
    }
    assert "base_model.model.model.transformer.blocks.0.q_proj.lora_A.weight" in official
    theirs = Path(shutil.copytree(tmp_path / "ours", tmp_path / "theirs"))
    save_file(official, theirs / "adapter_model.safetensors")
    assert torch.equal(hidden(model), hidden(load(base, adapter=theirs)))


def edit(adapter: Path, **changes: object) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"peft_type": "IA3"}, "only LORA is known"),
        ({"modules_to_save": ["lm_head"]}, "saves whole modules"),
        ({"target_modules": ["nothing"]}, "does not fit"),
        ({"lora_alpha": None}, "does not fit"),
        ({"target_modules": ["q_proj", "lm_head"]}, "adapts lm_head"),
    ],
)
def test_unsupported_adapters(
    changes: dict[str, object], words: str, saved: tuple[Path, Path, torch.Tensor]
) -> None:
    base, adapter, _ = saved
    edit(adapter, **changes)
    with pytest.raises(ModelError, match=words):
        load(base, adapter=adapter)


def test_missing_files(saved: tuple[Path, Path, torch.Tensor], tmp_path: Path) -> None:
    base, adapter, _ = saved
    with pytest.raises(ModelError, match=r"has no adapter_config\.json"):
        load(base, adapter=tmp_path / "nowhere")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors.*missing"):
        load(base, adapter=adapter)
    with pytest.raises(ModelError, match="no adapter to save"):
        save_adapter(load(base), tmp_path / "x")


@pytest.mark.parametrize("settings", [{"r": 0}, {"r": -1}, {"target_modules": ()}])
def test_settings_that_peft_does_not_take(
    settings: dict[str, object], checkpoint: Checkpoint
) -> None:
    model = load(checkpoint())
    with pytest.raises(ModelError, match="does not fit"):
        attach_lora(model, **settings)  # type: ignore[arg-type]
    assert model.lm is model.base_lm
