from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tabom.core.errors import ModelError
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.family import Family
from tabom.models.ids import TokenIds
from tabom.models.loading import load_model
from tabom.models.probes import ProbeError, require_probes, run_probes

Checkpoint = Callable[..., Path]


def failed(model: MaskedDiffusionModel) -> set[str]:
    return {result.name for result in run_probes(model) if not result.passed}


@pytest.mark.parametrize("family", ["toy", "dream", "llada", "sdar", "llada2", "lladamoe", "rnd1"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("initializer_range", [0.02, 0.25])
def test_sound_models_pass(
    family: str, dtype: str, initializer_range: float, checkpoint: Checkpoint
) -> None:
    folder = checkpoint(family, initializer_range=initializer_range)
    model = load_model(folder, dtype=dtype, require_tokenizer=False)
    results = run_probes(model)
    assert [r.name for r in results if not r.passed] == []
    assert {r.name for r in results} == {
        "rope",
        "bidirectional",
        "pad_invariant",
        "batch_mate_invariant",
        "block_causal",
    }
    assert all(r.detail for r in results)


def test_the_smallest_vocabulary(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint(vocab_size=16), require_tokenizer=False)
    assert failed(model) == set()


def test_a_causal_model_is_caught(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint(), require_tokenizer=False)
    model.base_lm.config.is_causal = True  # type: ignore[union-attr]
    # A key mask of its own undoes the causal fallback where prompts are padded, there alone.
    assert failed(model) == {"bidirectional", "pad_invariant"}
    with pytest.raises(ModelError, match="bidirectional: the first position does not see the last"):
        require_probes(model)


def test_wrong_blocks_are_caught(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(checkpoint("sdar"), require_tokenizer=False)
    visible = model._visible
    monkeypatch.setattr(model, "_visible", lambda *a, **k: visible(*a, **k).tril())
    assert "bidirectional" in failed(model)
    monkeypatch.setattr(model, "_visible", lambda *a, **k: visible(*a, **k) | True)
    assert "block_causal" in failed(model)


def test_load_model_runs_the_probes(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tabom.models.loading as loading

    def causal(*args: Any, **kwargs: Any) -> Any:
        lm = original(*args, **kwargs)
        lm.config.is_causal = True
        return lm

    original = loading.load_lm
    monkeypatch.setattr(loading, "load_lm", causal)
    folder = checkpoint()
    with pytest.raises(ProbeError, match=r"fails 2 of the load probes. bidirectional") as caught:
        load_model(folder, require_tokenizer=False)
    assert failed(caught.value.model) == {"bidirectional", "pad_invariant"}


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda f: f.fill_(1.5e26), "starts at 1.5e"),
        (lambda f: f[1:].fill_(torch.nan), "does not fall"),
        (lambda f: f[1:].copy_(f[1:].flip(0).clone()), "does not fall"),
        (lambda f: f[-1].fill_(-1e-3), "does not fall"),
    ],
)
def test_a_broken_rotary_table_is_caught(
    damage: Callable[[Tensor], object], words: str, checkpoint: Checkpoint
) -> None:
    # Seen with published code under transformers 5: the buffer held uninitialised memory.
    model = load_model(checkpoint(), require_tokenizer=False)
    damage(model.base_lm.model.rotary_emb.inv_freq)  # type: ignore[union-attr]
    rope = run_probes(model)[0]
    assert (rope.name, rope.passed) == ("rope", False)
    assert words in rope.detail


def test_a_rotary_table_that_was_cast_is_caught(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint(), require_tokenizer=False)
    model.to(torch.bfloat16)
    with pytest.raises(ModelError, match=r"rope: .*expected float32"):
        require_probes(model)


class Fake(nn.Module):
    """A backbone that mixes all positions (`leaks`: pads too; `mates`: other rows as well)."""

    def __init__(self, *, leaks: bool = False, mates: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embedding = nn.Parameter(torch.randn(32, 4, generator=generator))
        self.head = nn.Linear(4, 32, bias=False)
        self.leaks, self.mates = leaks, mates
        self.register_buffer("inv_freq", torch.tensor([1.0, 0.1]))
        self.config = SimpleNamespace(_attn_implementation="flex_attention")

    def get_output_embeddings(self) -> nn.Linear:
        return self.head

    def model(self, *, input_ids: Tensor, use_cache: bool, **kwargs: Tensor) -> Any:
        weight = kwargs.get("attention_mask", torch.ones_like(input_ids)).float()
        if self.leaks:
            weight = torch.ones_like(weight)
        embedded = self.embedding[input_ids]
        total = (embedded * weight[..., None]).sum(1, keepdim=True)
        if self.mates:
            total = total.sum(0, keepdim=True)

        class Output:
            last_hidden_state = embedded + total

        return Output()


def fake(**flaws: bool) -> MaskedDiffusionModel:
    ids = TokenIds(mask=30, pad=29, eos=(29,), filler=29, sources={})
    family = Family(name="toy", alignment="identity")
    return MaskedDiffusionModel(
        Fake(**flaws), family=family, ids=ids, tokenizer=None, name_or_path="fake"
    )


def test_pad_leaks_and_batch_mates_are_caught() -> None:
    assert failed(fake()) == set()
    assert failed(fake(leaks=True)) == {"pad_invariant"}
    assert failed(fake(mates=True)) == {"batch_mate_invariant"}


def test_probes_leave_the_mode_as_it_was(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint(), require_tokenizer=False).train()
    run_probes(model)
    assert model.training
