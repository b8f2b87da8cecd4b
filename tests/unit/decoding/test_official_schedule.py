"""The official schedule against the published rules written out with the global generator."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tabom.core.errors import ConfigError
from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoder, DecodeRequest
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.ids import TokenIds

Models = Callable[[str], MaskedDiffusionModel]
Requests = Callable[..., list[DecodeRequest]]
Steps = list[list[int]]


def raw_logits(model: MaskedDiffusionModel, ids: Tensor, real: Tensor) -> Tensor:
    kwargs: dict[str, Any] = {"attention_mask": real}
    if model.family.name == "dream":
        kwargs["position_ids"] = (real.cumsum(-1) - 1).masked_fill(real == 0, 1)
    with torch.no_grad():
        logits = model.lm(input_ids=ids, use_cache=False, **kwargs).logits  # type: ignore
    return torch.cat([logits[:, :1], logits[:, :-1]], 1) if model.family.name == "dream" else logits


def blank(model: MaskedDiffusionModel, requests: list[DecodeRequest], n: int) -> list[Tensor]:
    width = max(len(r.prompt_ids) for r in requests)
    rows, real = [], []
    for request in requests:
        pads = width - len(request.prompt_ids)
        rows.append([model.ids.pad] * pads + list(request.prompt_ids) + [model.ids.mask] * n)
        real.append([0] * pads + [1] * (width - pads + n))
    return [torch.tensor(rows), torch.tensor(real)]


def dream_oracle(
    model: MaskedDiffusionModel, requests: list[DecodeRequest], c: DecodingConfig, seed: int
) -> tuple[Tensor, Tensor]:
    """Published `diffusion_generate`, in its own order of draws from the global generator."""
    torch.manual_seed(seed)
    n, mask = c.max_new_tokens, model.ids.mask
    steps = c.steps or n
    x, real = blank(model, requests, n)
    step_of = torch.full((len(requests), n), -1)
    ts = torch.linspace(1, c.eps or 1e-3, steps + 1)

    def sample(rows: Tensor) -> tuple[Tensor, Tensor]:
        if c.temperature > 0:
            rows = rows / c.temperature
        if c.top_p is not None and c.top_p < 1:
            for row in rows:
                ranked = row.argsort(descending=True)
                p = row.softmax(-1)[ranked]
                row[ranked[(p.cumsum(-1) - p) > c.top_p]] = torch.finfo(row.dtype).min
        if c.top_k is not None:
            rows = rows.masked_fill(
                rows < rows.sort(descending=True).values[:, c.top_k - 1, None],
                torch.finfo(rows.dtype).min,
            )
        p = rows.softmax(-1)
        if c.temperature > 0 and len(p):
            x0 = torch.distributions.Categorical(probs=p).sample()
            conf = p.gather(1, x0[:, None])[:, 0]
        else:
            conf, x0 = p.max(-1)
        if c.policy == "topk_margin":
            conf = p.topk(2).values[:, 0] - p.topk(2).values[:, 1]
        if c.policy == "entropy":
            conf = (p * (p + 1e-10).log()).sum(-1)
        return conf, x0

    for i in range(steps):
        open_ = x == mask
        rows = raw_logits(model, x, real)[open_]
        before = x.clone()
        share = 1 - ts[i + 1] / ts[i] if i < steps - 1 else 1
        if c.policy == "origin":
            x0 = torch.full((len(rows),), mask)
            picked = torch.rand(len(rows)) < share
            x0[picked] = sample(rows[picked])[1]
            x[open_] = x0
        else:
            conf, x0 = sample(rows)
            count = int(open_.sum() / len(x) * share)
            if count:
                score = torch.full(x.shape, -math.inf)
                score[open_] = conf
                if c.alg_temp:
                    at = torch.multinomial((score / c.alg_temp).softmax(-1), count)
                else:
                    at = score.topk(count).indices
                new = torch.full_like(x, mask)
                new[open_] = x0
                for b in range(len(x)):
                    x[b, at[b]] = new[b, at[b]]
        step_of[((before == mask) & (x != mask))[:, -n:]] = i
        step_of[(x == mask)[:, -n:]] = -1
    return x[:, -n:], step_of


def llada_oracle(
    model: MaskedDiffusionModel, requests: list[DecodeRequest], c: DecodingConfig, seed: int
) -> tuple[Tensor, Tensor]:
    """Published `generate`, in its own order of draws from the global generator."""
    torch.manual_seed(seed)
    n, mask = c.max_new_tokens, model.ids.mask
    eos, eot = model.ids.eos
    x, real = blank(model, requests, n)
    width = x.shape[1] - n
    length = c.block_length or n
    per_block = (c.steps or n) // (n // length)
    prompt = x != mask
    step_of = torch.full((len(requests), n), -1)
    i = 0
    for block in range(n // length):
        masks = (x[:, width + block * length : width + (block + 1) * length] == mask).sum(1)
        counts = [
            [int(m) // per_block + (k < int(m) % per_block) for k in range(per_block)]
            for m in masks
        ]
        for k in range(per_block):
            open_ = x == mask
            if c.cfg_scale > 0:
                un = x.masked_fill(prompt, mask)
                two = raw_logits(model, torch.cat([x, un]), torch.cat([real, real]))
                logits, un_logits = two.chunk(2)
                logits = un_logits + (c.cfg_scale + 1) * (logits - un_logits)
            else:
                logits = raw_logits(model, x, real)
            if c.logits_eos_inf:
                logits[:, :, eos] = -math.inf
            noisy = logits
            if c.temperature > 0:
                wide = logits.double()
                noisy = wide.exp() / (-torch.log(torch.rand_like(wide))) ** c.temperature
            x0 = noisy.argmax(-1)
            if c.confidence_eos_eot_inf:
                noisy[:, :, eos] = logits[:, :, eot] = -math.inf
            if c.policy == "random":
                conf = torch.rand(x0.shape)
            else:
                conf = logits.softmax(-1).gather(-1, x0[..., None])[..., 0]
            conf[:, width + (block + 1) * length :] = -math.inf
            x0 = torch.where(open_, x0, x)
            conf = torch.where(open_, conf, -math.inf)
            before = x.clone()
            for b in range(len(x)):
                at = conf[b].topk(counts[b][k]).indices
                x[b, at] = x0[b, at]
            step_of[((before == mask) & (x != mask))[:, -n:]] = i
            i += 1
    return x[:, -n:], step_of


DREAM = [
    {"policy": "entropy", "steps": 9},
    {"policy": "entropy", "temperature": 0.7, "top_p": 0.9, "steps": 12},
    {"policy": "maskgit_plus", "temperature": 1.0, "top_k": 5, "steps": 6},
    {"policy": "topk_margin", "temperature": 0.4, "alg_temp": 0.5, "steps": 8},
    {"policy": "entropy", "alg_temp": 1.0, "eps": 0.1},
    {"policy": "origin", "temperature": 1.0, "top_p": 0.8, "steps": 10},
    {"policy": "origin", "steps": 5},
]
LLADA = [
    {"policy": "low_confidence", "steps": 9, "block_length": 4},
    {"policy": "low_confidence", "cfg_scale": 2.0, "block_length": 6},
    {"policy": "low_confidence", "temperature": 0.8, "block_length": 4},
    {"policy": "random", "steps": 6},
    {"policy": "random", "temperature": 0.5, "cfg_scale": 0.5, "block_length": 4},
    {"policy": "low_confidence", "logits_eos_inf": True, "confidence_eos_eot_inf": True},
    {"policy": "low_confidence", "temperature": 1.0, "confidence_eos_eot_inf": True},
]


def with_two_ends(model: MaskedDiffusionModel) -> MaskedDiffusionModel:
    ids = TokenIds(mask=model.ids.mask, pad=model.ids.pad, eos=(3, 7), filler=3, sources={})
    return MaskedDiffusionModel(
        model.lm, family=model.family, ids=ids, tokenizer=None, name_or_path="two ends"
    )


@pytest.mark.parametrize("lengths", [[5], [4, 7, 2]])
@pytest.mark.parametrize(
    "family, options", [*(("dream", o) for o in DREAM), *(("llada", o) for o in LLADA)], ids=str
)
def test_tokens_and_steps_draw_for_draw(
    family: str, options: dict[str, Any], lengths: list[int], models: Models, requests_of: Requests
) -> None:
    model = models(family)
    if family == "llada":
        model = with_two_ends(model)
    requests = requests_of(lengths)
    config = DecodingConfig(schedule="official", max_new_tokens=12, **options)
    oracle = dream_oracle if family == "dream" else llada_oracle
    torch.manual_seed(0)
    state = torch.get_rng_state()
    done = [d.trajectory for d in Decoder(model, config, seed=21).in_order(requests)]
    assert torch.equal(state, torch.get_rng_state())  # the global generator is not touched
    ids, steps = oracle(model, requests, config, 21)
    assert [t.response_ids_N.tolist() for t in done] == ids.tolist()
    assert [t.step_N.tolist() for t in done] == steps.tolist()
    for t in done:
        assert t.num_forwards == (config.steps or 12)
        assert t.method == options["policy"]
        shown = t.step_N >= 0
        assert np.isfinite(t.entropy_N[shown]).all()
        assert (t.confidence_N[shown] >= 0).all()


def test_recorded_numbers_are_those_of_the_own_loop(models: Models, requests_of: Requests) -> None:
    # One slot a call without the empty first one: a state that both loops pass through.
    model, requests = models("llada"), requests_of([5, 3])
    official, own = (
        list(Decoder(model, c).in_order(requests, record_field=True))
        for c in (
            DecodingConfig(
                schedule="official", policy="low_confidence", max_new_tokens=8, block_length=4,
                suppress_mask=True,
            ),
            DecodingConfig(policy="confidence", max_new_tokens=8, block_length=4),
        )
    )  # fmt: skip
    for a, b in zip(official, own, strict=True):
        assert a.trajectory.step_N.tolist() == b.trajectory.step_N.tolist()
        np.testing.assert_allclose(a.trajectory.entropy_N, b.trajectory.entropy_N, atol=1e-4)
        np.testing.assert_allclose(a.trajectory.confidence_N, b.trajectory.confidence_N, atol=1e-4)
        np.testing.assert_allclose(a.field_KN, b.field_KN, atol=1e-4)  # type: ignore[arg-type]


def test_batches_are_taken_in_order_and_share_one_stream(
    models: Models, requests_of: Requests
) -> None:
    model, requests = models("dream"), requests_of([6, 2, 4])
    config = DecodingConfig(
        schedule="official", policy="maskgit_plus", max_new_tokens=6, temperature=1.0
    )
    first, second, third = Decoder(model, config, seed=3, batch_size=2).in_order(requests)
    ids, _ = dream_oracle(model, requests[:2], config, 3)
    assert [d.trajectory.response_ids_N.tolist() for d in (first, second)] == ids.tolist()
    alone = next(Decoder(model, config, seed=3).in_order(requests[2:])).trajectory
    assert alone.response_ids_N.tolist() != third.trajectory.response_ids_N.tolist()


@pytest.mark.parametrize(
    "family, options, words",
    [
        ("toy", {}, "family toy has no published decoding function"),
        ("llada", {}, "'entropy' is not one of the official llada function: low_confidence"),
        ("dream", {"policy": "low_confidence"}, "not one of the official dream function"),
        ("dream", {"cfg_scale": 1.0}, "cfg_scale is no option of the official dream"),
        ("dream", {"block_length": 4}, "block_length is no option of the official dream"),
        ("llada", {"policy": "random", "top_p": 0.9}, "top_p is no option of the official llada"),
        ("llada", {"policy": "random", "alg_temp": 1.0}, "alg_temp is no option"),
        ("llada", {"policy": "random", "steps": 5, "block_length": 4}, "steps 5 is no multiple"),
    ],
)
def test_what_the_published_function_does_not_know(
    family: str, options: dict[str, Any], words: str, models: Models, requests_of: Requests
) -> None:
    config = DecodingConfig(schedule="official", max_new_tokens=8, **options)
    with pytest.raises(ConfigError, match=words):
        next(Decoder(models(family), config).in_order(requests_of([3])))
