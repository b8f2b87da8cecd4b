"""The trimmed last layer gives the rows of the whole one, forward and backward, in every setting.

Legend: B batch, S prompt + response, R gathered rows, D hidden.
"""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from transformers import LlamaForCausalLM

from tabom.models import networks
from tabom.models.adapters import attach_lora
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.loading import load_model
from tabom.models.networks import TrimmedLayer
from tabom.models.random_checkpoint import write_random_checkpoint
from tabom.models.rows import group_by_row

FAMILIES = ("toy", "dream", "llada", "sdar")
S = 11
IDS = torch.arange(33).view(3, S) + 6
PADDED = torch.ones(3, S, dtype=torch.long)
PADDED[0, :4] = PADDED[2, :1] = 0
# Ragged, unordered, twice the same, position 0 (which a shifted alignment clamps); row 1 has none.
BATCH = torch.tensor([2, 0, 0, 2, 0, 0, 2])
POSITION = torch.tensor([10, 8, 5, 0, 5, 6, 4])
Build = Callable[..., MaskedDiffusionModel]


def norm_64(norm: Any, x: Tensor) -> Tensor:
    scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.variance_epsilon)
    scaled: Tensor = norm.weight * x * scale
    return scaled


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("trim")
    return {
        family: write_random_checkpoint(
            root / family,
            family=family,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            vocab_size=41,
            initializer_range=0.25,
        )
        for family in FAMILIES
    }


@pytest.fixture
def build(folders: dict[str, Path]) -> Build:
    def load(family: str, dtype: str = "float64", **options: Any) -> MaskedDiffusionModel:
        model = load_model(folders[family], dtype=dtype, require_tokenizer=False, **options)
        if dtype == "float64":
            for module in model.modules():
                if type(module).__name__.endswith("RMSNorm"):
                    module.forward = partial(norm_64, module)  # its own rounds to float32
        with torch.no_grad():  # biases and norms of their own: a fresh one is all zeros and ones
            for name, parameter in model.named_parameters():
                if parameter.ndim == 1:
                    generator = torch.Generator().manual_seed(len(name))
                    noise = torch.randn(len(parameter), generator=generator)
                    parameter.add_(0.3 * noise.to(parameter.dtype))
        return model

    return load


@pytest.fixture
def asked_widths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of every call of a trimmed layer, how many columns it was asked for."""
    widths: list[int] = []
    attend = networks._attend

    def spy(attention: Any, normed_BSD: Tensor, asked_BW: Tensor | None, **kwargs: Any) -> Tensor:
        if asked_BW is not None:
            widths.append(asked_BW.shape[1])
        return attend(attention, normed_BSD, asked_BW, **kwargs)

    monkeypatch.setattr(networks, "_attend", spy)
    return widths


def layers_of(model: MaskedDiffusionModel) -> list[nn.Module]:
    lm: Any = model.base_lm
    return list(lm.model.layers)


def whole(model: MaskedDiffusionModel, mask: Tensor | None) -> Tensor:
    return model.gather_rows(model.hidden_states(IDS, mask), BATCH, POSITION)


def trimmed(model: MaskedDiffusionModel, mask: Tensor | None, **options: Any) -> Tensor:
    return model.asked_hidden(IDS, mask, BATCH, POSITION, **options)


@pytest.mark.parametrize("mask", [None, PADDED], ids=["unpadded", "padded"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_rows_of_the_whole_layer(
    build: Build,
    asked_widths: list[int],
    family: str,
    attention: str,
    mask: Tensor | None,
) -> None:
    for dtype, tolerance in (("float64", 1e-12), ("float32", 2e-6)):
        model = build(family, dtype, attn_implementation=attention)
        with torch.inference_mode():
            want = whole(model, mask)
            for options in ({}, {"widest": 4}, {"widest": 6}):
                got = trimmed(model, mask, **options)
                # Eager attention takes its softmax in float32, whose sums depend on the layout.
                bound = 2e-6 if attention == "eager" else tolerance
                torch.testing.assert_close(got, want, rtol=bound, atol=bound)
    assert asked_widths == [4, 4, 6] * 2


@pytest.mark.parametrize("mask", [None, PADDED], ids=["unpadded", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_all_weights_are_equal(build: Build, family: str, mask: Tensor | None) -> None:
    model = build(family)
    weight_RD = torch.linspace(-1, 1, len(BATCH) * 64).double().sin().view(-1, 64)
    grads = []
    for ask in (whole, trimmed):
        model.zero_grad()
        (ask(model, mask)[:, :64] * weight_RD[:, : model.head_weight_VD.shape[1]]).sum().backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    assert any("layers.1.mlp" in name for name in grads[0])
    for name, want in grads[0].items():
        assert want.abs().max() > 0
        torch.testing.assert_close(grads[1][name], want, rtol=1e-11, atol=1e-12, msg=name)


@pytest.mark.parametrize(
    "targets", [("q_proj", "v_proj"), ("k_proj", "o_proj", "down_proj"), ("all-linear",)]
)
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_train_alike(
    build: Build,
    asked_widths: list[int],
    family: str,
    checkpointing: bool,
    targets: tuple[str, ...],
) -> None:
    model = build(family)
    attach_lora(model, r=3, target_modules=targets)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at first, which would hide the adapter
            nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(1))
    model.train()
    grads = []
    if checkpointing:
        lm: Any = model.base_lm
        lm.gradient_checkpointing_enable({"use_reentrant": False})
    for ask in (whole, trimmed):
        model.zero_grad()
        ask(model, PADDED).square().sum().backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    for name, want in grads[0].items():
        assert want is not None, name
        assert want.abs().max() > 0, name
        torch.testing.assert_close(grads[1][name], want, rtol=1e-10, atol=1e-11, msg=name)
    # Computed again for the backward pass, the last layer is asked for the same columns.
    assert asked_widths == ([4, 4] if checkpointing else [4])


@pytest.mark.parametrize("family", FAMILIES)
def test_under_autocast_the_difference_is_one_of_rounding(build: Build, family: str) -> None:
    model = build(family, "float32")
    with torch.inference_mode():
        exact = whole(model, PADDED)
        with torch.autocast("cpu", torch.bfloat16):
            want, got = whole(model, PADDED), trimmed(model, PADDED)
    rounding = (want - exact).abs().max()
    assert got.dtype == want.dtype
    assert (got - want).abs().max() <= rounding / 2 < 0.3


def test_dropout_is_drawn_in_the_last_layer_too(
    build: Build,
) -> None:
    model = build("dream")
    attach_lora(model, r=3, dropout=0.5, target_modules=("o_proj",))
    for name, parameter in model.named_parameters():
        if "layers.0" in name:
            nn.init.zeros_(parameter) if "lora_B" in name else None
        elif "lora_B" in name:
            nn.init.normal_(parameter)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(trimmed(model, None), whole(model, None), rtol=1e-12, atol=1e-12)
        model.train()
        assert (trimmed(model, None) - trimmed(model, None)).abs().max() > 0.01


def test_asked_everywhere_or_nowhere_is_the_plain_path(
    build: Build, asked_widths: list[int]
) -> None:
    model = build("dream")
    everywhere = torch.arange(S)
    with torch.inference_mode():
        plain = model.hidden_states(IDS, None)
        for batch, position in (
            (torch.ones(S, dtype=torch.long), everywhere),
            (BATCH[:0], POSITION[:0]),
        ):
            got = model.asked_hidden(IDS, None, batch, position)
            assert torch.equal(got, model.gather_rows(plain, batch, position))
    assert asked_widths == []


def test_hidden_states_are_bit_for_bit_those_of_the_untouched_layer(
    build: Build,
) -> None:
    for family in FAMILIES:
        model = build(family, "float32")
        with torch.inference_mode():
            ours = model.hidden_states(IDS, PADDED)
            layers = layers_of(model)
            layers[-1].__class__ = type(layers[0])
            assert torch.equal(model.hidden_states(IDS, PADDED), ours)


def test_the_last_layer_alone_is_trimmed(build: Build) -> None:
    for family in FAMILIES:
        *others, last = layers_of(build(family))
        assert isinstance(last, TrimmedLayer)
        assert not any(isinstance(layer, TrimmedLayer) for layer in others)


def test_a_network_of_transformers_takes_the_plain_path(
    build: Build, asked_widths: list[int]
) -> None:
    ours = build("toy", "float32")
    with torch.random.fork_rng():
        lm = LlamaForCausalLM(ours.base_lm.config)
    lm.load_state_dict(ours.lm.state_dict())
    model = MaskedDiffusionModel(
        lm.eval(), family=ours.family, ids=ours.ids, tokenizer=None, name_or_path="plain"
    )
    with torch.inference_mode():
        want = whole(model, PADDED)
        assert torch.equal(trimmed(model, PADDED), want)
        assert asked_widths == []
        torch.testing.assert_close(trimmed(ours, PADDED), want, rtol=2e-6, atol=2e-6)
    assert asked_widths == [4]


def test_names_and_wrapping_stay(build: Build) -> None:
    for family in FAMILIES:
        model = build(family)
        lm: Any = model.base_lm
        layers = layers_of(model)
        assert {type(layer).__name__ for layer in layers} == set(lm._no_split_modules)
        wrapped = [
            transformer_auto_wrap_policy(
                layer,
                recurse=False,
                nonwrapped_numel=0,
                transformer_layer_cls={type(layers[0])},
            )
            for layer in layers
        ]
        assert wrapped == [True] * len(layers)
        names = [{n for n, _ in layer.named_parameters()} for layer in layers]
        assert names[0] == names[-1]
        copy = deepcopy(layers[-1])
        assert type(copy) is type(layers[-1])


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_group_by_row_places_every_request(data: st.DataObject) -> None:
    num_rows, num_columns = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 9))
    pairs = data.draw(
        st.lists(
            st.tuples(st.integers(0, num_rows - 1), st.integers(0, num_columns - 1)),
            min_size=1,
            max_size=20,
        )
    )
    batch_R, column_R = torch.tensor(pairs).T
    sizes = {"num_rows": num_rows, "num_columns": num_columns}
    asked_BW, place_R = group_by_row(batch_R, column_R, **sizes)
    counts = [sum(b == row for b, _ in pairs) for row in range(num_rows)]
    assert asked_BW.shape == (num_rows, max(counts))
    assert torch.equal(asked_BW[batch_R, place_R], column_R)
    cells = set(zip(batch_R.tolist(), place_R.tolist(), strict=True))
    assert len(cells) == len(pairs)  # no two requests share a cell
    for row, count in enumerate(counts):
        assert asked_BW[row, count:].eq(num_columns - 1).all()
    wider_BW, same_R = group_by_row(batch_R, column_R, widest=max(counts) + 2, **sizes)
    assert torch.equal(wider_BW[:, :-2], asked_BW)
    assert torch.equal(same_R, place_R)
