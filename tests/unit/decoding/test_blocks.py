"""Decoding with a cache: exact for block-causal models, as defined for the approximations."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from tabom.core.errors import ConfigError, ModelError
from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoder, DecodeRequest
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.loading import load_model

Models = Callable[[str], MaskedDiffusionModel]
Requests = Callable[..., list[DecodeRequest]]
BLOCK = 4


def distribution(model: MaskedDiffusionModel, logits: Tensor) -> Tensor:
    logits = logits.double()
    logits[..., model.ids.mask] = -torch.inf
    return logits.softmax(-1)


def reveal(
    ids: list[int], steps: list[int], p: dict[int, Tensor], k: int, threshold: float, step: int
) -> None:
    """The k most confident slots (or all above the threshold), greedily."""
    ranked = sorted(p, key=lambda slot: -float(p[slot].max()))
    above = [slot for slot in ranked if float(p[slot].max()) >= threshold]
    for slot in ranked[: max(k, len(above))]:
        ids[slot], steps[slot] = int(p[slot].argmax()), step


@torch.no_grad()
def block_causal_oracle(
    model: MaskedDiffusionModel, request: DecodeRequest, n: int, k: int, threshold: float = 2.0
) -> tuple[list[int], list[int]]:
    """One unpadded row and a whole forward a step, the mask written out position by position."""
    prompt = list(request.prompt_ids)
    size = len(prompt) + n
    visible = [[i // BLOCK >= j // BLOCK for j in range(size)] for i in range(size)]
    mask = torch.tensor(visible)[None, None]
    ids, steps, step = [model.ids.mask] * n, [-1] * n, 0
    while -1 in steps:
        logits = model.lm(  # type: ignore[operator]
            input_ids=torch.tensor([prompt + ids]), attention_mask=mask, use_cache=False
        ).logits[0]
        left = [s for s in range(n) if steps[s] < 0]
        block = (len(prompt) + left[0]) // BLOCK
        ready = [s for s in left if (len(prompt) + s) // BLOCK == block]
        p = {s: distribution(model, logits[len(prompt) + s]) for s in ready}
        reveal(ids, steps, p, k, threshold, step)
        step += 1
    return ids, steps


@torch.no_grad()
def stale_oracle(
    model: MaskedDiffusionModel, request: DecodeRequest, config: DecodingConfig
) -> tuple[list[int], list[int]]:
    """One unpadded row; old keys and values come from a cache of transformers that is cut."""
    lm, prompt, n = model.lm, list(request.prompt_ids), config.max_new_tokens
    length, shift = config.block_length or n, int(model.family.alignment == "shift_right")
    size = len(prompt) + n
    ids, steps, step = [model.ids.mask] * n, [-1] * n, 0
    cache, cached_block = DynamicCache(), -1
    while -1 in steps:
        row = torch.tensor([prompt + ids])
        block = steps.index(-1) // length
        start = len(prompt) + block * length
        if block != cached_block:
            cache, cached_block = DynamicCache(), block
            logits = lm(input_ids=row, past_key_values=cache, use_cache=True).logits[0]  # type: ignore[operator]
        else:
            low = start - shift
            high = start + length if config.approximate == "dual" else size
            old = DynamicCache()
            for i, layer in enumerate(cache.layers):
                keep = [*range(low), *range(high, size)]
                old.update(layer.keys[:, :, keep], layer.values[:, :, keep], i)
            logits = torch.zeros(size, model.vocab_size)
            logits[low:high] = lm(  # type: ignore[operator]
                input_ids=row[:, low:high],
                past_key_values=old,
                position_ids=torch.arange(low, high)[None],
                use_cache=True,
            ).logits[0]
        ready = [s for s in range(block * length, (block + 1) * length) if steps[s] < 0]
        p = {s: distribution(model, logits[len(prompt) + s - shift]) for s in ready}
        reveal(ids, steps, p, config.tokens_per_step, config.threshold or 2.0, step)
        step += 1
    return ids, steps


@pytest.mark.parametrize("k", [1, 2])
def test_a_block_causal_model_decodes_its_blocks(
    k: int, models: Models, requests_of: Requests
) -> None:
    # Prompts of every length modulo the block, so that blocks begin inside the prompt.
    model, requests = models("sdar"), requests_of([4, 5, 6, 7, 3, 1])
    config = DecodingConfig(policy="confidence", max_new_tokens=11, tokens_per_step=k)
    cached = list(Decoder(model, config, batch_size=6).in_order(requests))
    whole = list(Decoder(model, config, batch_size=6).in_order(requests, record_field=True))
    for request, a, b in zip(requests, cached, whole, strict=True):
        ids, steps = block_causal_oracle(model, request, 11, k)
        for t in (a.trajectory, b.trajectory):
            assert t.response_ids_N.tolist() == ids
            assert t.step_N.tolist() == steps
            assert t.num_forwards == max(steps) + 1
        np.testing.assert_allclose(a.trajectory.entropy_N, b.trajectory.entropy_N, atol=1e-4)


def test_rows_of_a_block_causal_batch_go_at_their_own_speed(
    models: Models, requests_of: Requests
) -> None:
    model, requests = models("sdar"), requests_of([4, 5, 6, 7])
    config = DecodingConfig(
        policy="confidence", schedule="threshold", threshold=0.2, max_new_tokens=12
    )
    forwards = set()
    for request, d in zip(requests, Decoder(model, config).in_order(requests), strict=True):
        ids, steps = block_causal_oracle(model, request, 12, 1, 0.2)
        assert d.trajectory.response_ids_N.tolist() == ids
        assert d.trajectory.step_N.tolist() == steps
        forwards.add(d.trajectory.num_forwards)
    assert len(forwards) > 1  # else the test shows nothing


def test_the_block_cache_asks_one_block_and_the_finished_one_when_it_moves_on(
    models: Models, requests_of: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, widths = models("sdar"), []
    original = model.hidden_columns

    def counted(*args: object, **kwargs: Tensor) -> Tensor:
        widths.append(kwargs["column_LW"].shape[1])
        return original(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "hidden_columns", counted)
    list(Decoder(model, DecodingConfig(max_new_tokens=8)).in_order(requests_of([8, 8])))
    assert widths == [12, 4, 4, 4, 8, 4, 4, 4]


@pytest.mark.parametrize("family", ["toy", "dream", "llada"])
@pytest.mark.parametrize("approximate", ["prefix", "dual"])
@pytest.mark.parametrize("threshold", [None, 0.2])
def test_approximations_use_what_they_say(
    family: str,
    approximate: str,
    threshold: float | None,
    models: Models,
    requests_of: Requests,
) -> None:
    model, requests = models(family), requests_of([3, 7, 5, 7])
    config = DecodingConfig(
        policy="confidence",
        schedule="fixed" if threshold is None else "threshold",
        threshold=threshold,
        max_new_tokens=12,
        block_length=4,
        approximate=approximate,  # type: ignore[arg-type]
    )
    exact = DecodingConfig(policy="confidence", max_new_tokens=12, block_length=4)
    differs = False
    for request, d, e in zip(
        requests,
        Decoder(model, config).in_order(requests),
        Decoder(model, exact).in_order(requests),
        strict=True,
    ):
        ids, steps = stale_oracle(model, request, config)
        assert d.trajectory.response_ids_N.tolist() == ids
        assert d.trajectory.step_N.tolist() == steps
        differs |= not np.allclose(d.trajectory.entropy_N, e.trajectory.entropy_N, atol=1e-3)
    assert differs  # else the cache was never out of date


def test_a_field_of_an_approximation_is_of_the_block_alone(
    models: Models, requests_of: Requests
) -> None:
    config = DecodingConfig(max_new_tokens=8, block_length=4, approximate="dual")
    (d,) = Decoder(models("dream"), config).in_order(requests_of([5]), record_field=True)
    assert d.field_KN is not None
    assert d.field_KN.shape == (8, 8)
    seen = np.isfinite(d.field_KN)
    assert not seen[:4, 4:].any()
    assert seen.sum(1).tolist() == [4, 3, 2, 1, 4, 3, 2, 1]


def test_what_does_not_go_together(models: Models, requests_of: Requests) -> None:
    requests, sdar = requests_of([3]), models("sdar")
    config = DecodingConfig(max_new_tokens=6, block_length=3)
    with pytest.raises(ConfigError, match="decodes blocks of 4, counted from the first token"):
        next(Decoder(sdar, config).in_order(requests))
    config = DecodingConfig(max_new_tokens=8, block_length=4, approximate="dual")
    with pytest.raises(ConfigError, match="is block-causal and decodes with an exact cache"):
        next(Decoder(sdar, config).in_order(requests))
    assert next(Decoder(sdar, DecodingConfig(max_new_tokens=8, block_length=4)).in_order(requests))


def test_an_attention_without_a_dense_mask_is_refused(
    models: Models, requests_of: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(models("dream").name_or_path, require_tokenizer=False)
    model.base_lm.config._attn_implementation = "flash_attention_2"  # type: ignore[union-attr]
    config = DecodingConfig(max_new_tokens=8, block_length=4, approximate="prefix")
    with pytest.raises(ModelError, match=r"'flash_attention_2' takes no dense mask.*sdpa or eager"):
        next(Decoder(model, config).in_order(requests_of([3])))
