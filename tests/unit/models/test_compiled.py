"""Compiled layers give what the written ones give, and other lengths compile nothing new.

Most tests use the backend "eager", which captures graphs as inductor does and skips writing code;
one runs inductor itself. Legend: B batch, S prompt + response.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from tabom.core.errors import ModelError
from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoder
from tabom.decoding.requests import DecodeRequest
from tabom.models.adapters import attach_lora
from tabom.models.compiled import compile_layers
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.loading import load_model


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def pair(
    checkpoint: Callable[..., Path],
) -> Callable[..., tuple[MaskedDiffusionModel, MaskedDiffusionModel]]:
    """The same model twice."""

    def load(family: str, **sizes: Any) -> tuple[MaskedDiffusionModel, MaskedDiffusionModel]:
        folder = checkpoint(family, **{"hidden_size": 32, "intermediate_size": 48, **sizes})
        return tuple(  # type: ignore[return-value]
            load_model(folder, require_tokenizer=False) for _ in range(2)
        )

    return load


def asked(model: MaskedDiffusionModel, rows: int, columns: int, width: int, pads: int) -> Tensor:
    ids_BS = torch.arange(rows * columns).view(rows, columns) % 30 + 6
    mask_BS = None
    if pads:
        mask_BS = torch.ones_like(ids_BS)
        mask_BS[0, :pads] = 0
    batch_R = torch.arange(rows).repeat_interleave(width)
    position_R = torch.arange(columns - width, columns).repeat(rows)
    return model.asked_hidden(ids_BS, mask_BS, batch_R, position_R)


def test_other_shapes_use_the_same_graphs(
    pair: Callable[..., tuple[MaskedDiffusionModel, MaskedDiffusionModel]],
) -> None:
    written, compiled = pair("dream", num_layers=3)
    compile_layers(compiled, backend="eager")
    graphs = []
    with torch.no_grad():
        for rows, columns, width in ((3, 10, 4), (3, 13, 5), (5, 9, 2), (4, 17, 11)):
            for pads in (0, 2):
                shape = (rows, columns, width, pads)
                torch.testing.assert_close(asked(compiled, *shape), asked(written, *shape))
            graphs.append(counters["stats"]["unique_graphs"])
    # Two kinds of layers, the last and the others, with and without a mask.
    assert graphs == [4, 4, 4, 4]


def test_an_adapter_trains_alike(
    pair: Callable[..., tuple[MaskedDiffusionModel, MaskedDiffusionModel]],
) -> None:
    grads = []
    for index, model in enumerate(pair("llada", num_layers=2)):
        attach_lora(model, r=2, target_modules=("q_proj", "v_proj", "o_proj"))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.constant_(parameter, 0.1)
        names = list(model.state_dict())
        model.train()
        if index == 1:
            compile_layers(model, backend="eager")
        asked(model, 3, 10, 4, pads=2).square().sum().backward()
        assert list(model.state_dict()) == names
        grads.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    assert counters["stats"]["unique_graphs"] == 2
    for name, want in grads[0].items():
        torch.testing.assert_close(grads[1][name], want, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("family", ["toy", "sdar"])
def test_decodes_the_same_tokens(
    pair: Callable[..., tuple[MaskedDiffusionModel, MaskedDiffusionModel]], family: str
) -> None:
    written, compiled = pair(family, num_layers=3)
    compile_layers(compiled, backend="eager")
    requests = [DecodeRequest(id=str(n), prompt_ids=list(range(6, 6 + n))) for n in (3, 5)]
    config = DecodingConfig(max_new_tokens=8, block_length=4 if family == "sdar" else None)
    results = [
        {
            d.trajectory.id: (d.trajectory.response_ids_N.tolist(), d.trajectory.step_N.tolist())
            for d in Decoder(model, config).in_order(requests)
        }
        for model in (written, compiled)
    ]
    assert results[0] == results[1]
    # The cache of a block-causal model is the business of the layers as they are written.
    assert (counters["stats"]["unique_graphs"] == 0) == (family == "sdar")


@pytest.mark.slow
def test_inductor_gives_the_same_numbers(
    pair: Callable[..., tuple[MaskedDiffusionModel, MaskedDiffusionModel]],
) -> None:
    written, compiled = pair("toy", num_layers=2)
    try:
        compile_layers(compiled)
    except ModelError as error:
        pytest.skip(str(error))
    with torch.no_grad():
        got, want = (asked(model, 3, 10, 4, pads=2) for model in (compiled, written))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_no_compiler_is_an_error_at_once(
    pair: Callable[..., tuple[MaskedDiffusionModel, MaskedDiffusionModel]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch._inductor import config

    model, _ = pair("toy")
    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(
        ModelError, match=r"cannot be used on cpu: .*no-such-compiler.* C\+\+ compiler"
    ):
        compile_layers(model)
    assert not model.has_compiled_layers
    lm: Any = model.base_lm
    lm.model.layers = nn.Sequential()
    with pytest.raises(ModelError, match="no decoder layers"):
        compile_layers(model, backend="eager")
