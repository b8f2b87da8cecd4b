import json
import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tabom.core.errors import ConfigError, DataError, ModelError
from tabom.core.keys import text_key, uniform
from tabom.decoding.answers import Answers, RowStats
from tabom.decoding.canvas import Canvas
from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoded, Decoder, DecodeRequest
from tabom.models.adapters import attach_lora
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.family import Family
from tabom.models.ids import TokenIds
from tabom.models.loading import load_model

Models = Callable[[str], MaskedDiffusionModel]
Requests = Callable[..., list[DecodeRequest]]


@dataclass
class Oracle:
    """A response decoded slot by slot in plain Python."""

    ids: list[int]
    step: list[int]
    entropy: list[float]
    confidence: list[float]
    field: list[list[float]]


def softmax(logits: list[float]) -> list[float]:
    top = max(logits)
    weights = [math.exp(x - top) for x in logits]
    return [w / sum(weights) for w in weights]


def nats(p: list[float]) -> float:
    return -sum(x * math.log(x) for x in p if x > 0)


def truncated(
    logits: list[float], temperature: float, top_p: float | None, top_k: int | None
) -> list[float]:
    """Probabilities after temperature, nucleus and top-k, written from the definition."""
    p = softmax([x / temperature for x in logits])
    keep = sorted(range(len(p)), key=lambda v: -p[v])
    if top_p is not None:
        keep = [v for i, v in enumerate(keep) if i == 0 or sum(p[w] for w in keep[:i]) <= top_p]
    keep = keep[:top_k]
    total = sum(p[v] for v in keep)
    return [p[v] / total if v in keep else 0.0 for v in range(len(p))]


@torch.no_grad()
def brute_force(
    model: MaskedDiffusionModel, request: DecodeRequest, config: DecodingConfig, *, seed: int = 0
) -> Oracle:
    """One unpadded row, logits of every position in float64, one slot considered at a time."""
    lm = model.lm
    n, prompt = config.max_new_tokens, list(request.prompt_ids)
    key = text_key(request.id)
    out = Oracle([model.ids.mask] * n, [-1] * n, [math.nan] * n, [math.nan] * n, [])
    step = 0
    while -1 in out.step:
        ids = torch.tensor([prompt + out.ids])
        logits_SV = lm(input_ids=ids, use_cache=False).logits[0].double()  # type: ignore[operator]
        shift = 1 if model.family.alignment == "shift_right" else 0
        seen: dict[int, tuple[float, int, float, float]] = {}
        for slot in range(n):
            if out.step[slot] >= 0:
                continue
            row = logits_SV[len(prompt) + slot - shift].tolist()
            row[model.ids.mask] = -math.inf
            plain = softmax(row)
            if config.temperature > 0:
                p = truncated(row, config.temperature, config.top_p, config.top_k)
                point = uniform(seed, key, step, slot, 1)
                token = next(v for v in range(len(p)) if sum(p[: v + 1]) > point)
            else:
                p = plain
                token = max(range(len(p)), key=lambda v: p[v])
            ranked = sorted(p, reverse=True)
            score = {
                "entropy": -nats(p),
                "confidence": p[token],
                "margin": ranked[0] - ranked[1],
                "random": uniform(seed, key, step, slot),
            }[config.policy]
            seen[slot] = (score, token, nats(plain), plain[token])
        out.field.append([seen[s][2] if s in seen else math.nan for s in range(n)])
        length = config.block_length or n
        block = min(seen) // length
        ready = sorted((s for s in seen if s // length == block), key=lambda s: -seen[s][0])
        for slot in ready[: config.tokens_per_step]:
            _, out.ids[slot], out.entropy[slot], out.confidence[slot] = seen[slot]
            out.step[slot] = step
        step += 1
    return out


def same(decoded: Decoded, oracle: Oracle) -> None:
    t = decoded.trajectory
    assert t.response_ids_N.tolist() == oracle.ids
    assert t.step_N.tolist() == oracle.step
    np.testing.assert_allclose(t.entropy_N, oracle.entropy, atol=2e-4, rtol=1e-3)
    np.testing.assert_allclose(t.confidence_N, oracle.confidence, atol=2e-4, rtol=1e-3)
    assert t.num_forwards == len(oracle.field)


GREEDY = [
    DecodingConfig(max_new_tokens=12),
    DecodingConfig(max_new_tokens=12, policy="confidence"),
    DecodingConfig(max_new_tokens=12, policy="margin", tokens_per_step=2),
    DecodingConfig(max_new_tokens=11, policy="entropy", tokens_per_step=3),
    DecodingConfig(max_new_tokens=12, policy="random", tokens_per_step=2),
    DecodingConfig(max_new_tokens=12, policy="confidence", block_length=4),
    DecodingConfig(max_new_tokens=15, block_length=5, tokens_per_step=2),
]
SAMPLED = [
    DecodingConfig(max_new_tokens=10, temperature=1.0),
    DecodingConfig(max_new_tokens=10, temperature=0.7, policy="confidence", top_p=0.8),
    DecodingConfig(max_new_tokens=10, temperature=1.5, policy="margin", top_k=3),
    DecodingConfig(max_new_tokens=10, temperature=0.5, top_p=0.9, top_k=4, block_length=5),
    DecodingConfig(max_new_tokens=10, temperature=1.0, policy="random", tokens_per_step=3),
]


@pytest.mark.parametrize("family", ["toy", "dream"])
@pytest.mark.parametrize("config", GREEDY + SAMPLED, ids=str)
def test_the_loop_does_what_plain_python_does(
    config: DecodingConfig, family: str, models: Models, requests_of: Requests
) -> None:
    model, requests = models(family), requests_of([3, 7, 7, 5])
    decoded = list(
        Decoder(model, config, seed=4, batch_size=4).in_order(requests, record_field=True)
    )
    assert [d.trajectory.id for d in decoded] == ["r0", "r1", "r2", "r3"]
    for request, got in zip(requests, decoded, strict=True):
        oracle = brute_force(model, request, config, seed=4)
        same(got, oracle)
        assert got.field_KN is not None
        assert got.field_KN.dtype == np.float32
        np.testing.assert_allclose(got.field_KN, oracle.field, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("family", ["toy", "dream", "llada"])
@pytest.mark.parametrize("config", [GREEDY[0], GREEDY[4], GREEDY[6], SAMPLED[1]], ids=str)
def test_results_do_not_depend_on_the_batch(
    config: DecodingConfig, family: str, models: Models, requests_of: Requests
) -> None:
    model, requests = models(family), requests_of([3, 9, 5, 5, 3, 12, 4, 5])
    runs = [list(Decoder(model, config, batch_size=size).in_order(requests)) for size in (1, 8, 3)]
    runs.append(list(Decoder(model, config, batch_size=8).in_order(requests[::-1]))[::-1])
    for run in runs[1:]:
        for one, other in zip(runs[0], run, strict=True):
            a, b = one.trajectory, other.trajectory
            assert a.id == b.id
            assert a.response_ids_N.tolist() == b.response_ids_N.tolist()
            assert a.step_N.tolist() == b.step_N.tolist()
            assert a.num_forwards == b.num_forwards
            np.testing.assert_allclose(a.entropy_N, b.entropy_N, atol=1e-4)
            np.testing.assert_allclose(a.confidence_N, b.confidence_N, atol=1e-4)


@pytest.mark.parametrize("config", [GREEDY[0], GREEDY[6], SAMPLED[1]], ids=str)
def test_the_chunk_size_does_not_matter(
    config: DecodingConfig, models: Models, requests_of: Requests
) -> None:
    model, requests = models("dream"), requests_of([3, 7, 5])
    one_row = 4 * model.vocab_size
    whole, *chunked = (
        list(Decoder(model, config, max_logit_bytes=size).in_order(requests))
        for size in (2**28, 8 * one_row, 16 * one_row, 1)
    )
    for run in chunked:
        for a, b in zip(whole, run, strict=True):
            assert np.array_equal(a.trajectory.response_ids_N, b.trajectory.response_ids_N)
            assert np.array_equal(a.trajectory.step_N, b.trajectory.step_N)
            # equal up to the rounding of another GEMM kernel
            np.testing.assert_allclose(a.trajectory.entropy_N, b.trajectory.entropy_N, atol=1e-5)


def test_confidence_in_blocks_is_the_official_llada_decoding(golden: Path) -> None:
    # One slot a step at temperature 0, no guidance, the mask not suppressed (the official softmax
    # has it in its denominator): there the official rule and ours are one.
    folder = golden / "llada-tiny"
    model = load_model(folder, require_tokenizer=False)
    checked = 0
    for case in json.loads((folder / "golden_decoding.json").read_text()):
        options = case["options"]
        if (
            options["steps"] != options["max_new_tokens"]
            or options["remasking"] != "low_confidence"
            or options["temperature"] != 0
            or options.get("cfg_scale")
            or case["left_masked"]
        ):
            continue
        requests = [
            DecodeRequest(id=f"{case['name']}{b}", prompt_ids=[t for t, m in pairs if m])
            for b, pairs in enumerate(
                list(zip(ids, mask, strict=True))
                for ids, mask in zip(case["prompt_ids"], case["attention_mask"], strict=True)
            )
        ]
        config = DecodingConfig(
            policy="confidence",
            max_new_tokens=options["max_new_tokens"],
            block_length=options["block_length"],
            suppress_mask=False,
        )
        for b, decoded in enumerate(Decoder(model, config).in_order(requests)):
            assert decoded.trajectory.response_ids_N.tolist() == case["response_ids"][b]
            assert decoded.trajectory.step_N.tolist() == case["decode_step"][b]
            checked += 1
    assert checked > 0


def test_other_seeds_and_ids_draw_otherwise(models: Models, requests_of: Requests) -> None:
    model, (request,) = models("toy"), requests_of([5])
    other_id = DecodeRequest(id="other", prompt_ids=request.prompt_ids)
    for config in (SAMPLED[0], GREEDY[4]):
        base, seed, id_ = (
            next(Decoder(model, config, seed=s).in_order([r])).trajectory
            for r, s in [(request, 0), (request, 1), (other_id, 0)]
        )
        for changed in (seed, id_):
            assert base.step_N.tolist() != changed.step_N.tolist()


@pytest.mark.parametrize(
    "n, k, block, forwards",
    [(12, 1, None, 12), (12, 5, None, 3), (12, 2, 3, 8), (12, 12, None, 1), (6, 50, 2, 3)],
)
def test_number_of_forwards(
    n: int,
    k: int,
    block: int | None,
    forwards: int,
    models: Models,
    requests_of: Requests,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, calls = models("toy"), []
    asked_hidden = model.asked_hidden

    def counted(ids: Tensor, mask: Tensor | None, *asked: Tensor) -> Tensor:
        calls.append(mask)
        return asked_hidden(ids, mask, *asked)

    monkeypatch.setattr(model, "asked_hidden", counted)
    config = DecodingConfig(max_new_tokens=n, tokens_per_step=k, block_length=block)
    for decoded in Decoder(model, config).in_order(requests_of([4, 4])):
        steps = decoded.trajectory.step_N.tolist()
        assert decoded.trajectory.num_forwards == forwards
        assert sorted(set(steps)) == list(range(forwards))  # no empty step
        assert max(steps.count(s) for s in steps) <= k
        for left, right in pairwise(range(0, n, block or n)):
            assert max(steps[left : left + (block or n)]) < min(steps[right : right + (block or n)])
    assert len(calls) == forwards
    assert calls == [None] * forwards  # no padding, no mask


def test_only_masked_rows_of_the_block_go_through_the_head(
    models: Models, requests_of: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    original = Answers.of

    def counted(self: Answers, hidden_RD: Tensor, *args: Any) -> RowStats:
        rows.append(len(hidden_RD))
        return original(self, hidden_RD, *args)

    monkeypatch.setattr(Answers, "of", counted)
    config = DecodingConfig(max_new_tokens=6, block_length=3)
    list(Decoder(models("toy"), config).in_order(requests_of([4, 6])))
    assert rows == [6, 4, 2, 6, 4, 2]


def test_a_finished_row_drops_out_and_the_others_do_not_notice(
    models: Models, requests_of: Requests
) -> None:
    model, requests = models("dream"), requests_of([3, 6, 5])
    config = DecodingConfig(max_new_tokens=6, temperature=1.0)
    whole, part = (Canvas.blank(model, requests, 6) for _ in range(2))
    part.open_BN[1] = False
    kept = torch.tensor([0, 2])
    with torch.inference_mode():
        for canvas in (whole, part):
            assert len(list(Decoder(model, config).steps(canvas))) == 6
    assert torch.equal(whole.ids_BS[kept], part.ids_BS[kept])
    assert torch.equal(whole.step_BN[kept], part.step_BN[kept])
    assert part.num_forwards_B.tolist() == [6, 0, 6]
    assert (part.ids_BS[1, -6:] == model.ids.mask).all()


class Constant(nn.Module):
    """A backbone whose logits are the same at every position; `model` gives the hidden states."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.head = nn.Linear(1, len(logits), bias=False)
        self.head.weight.data = torch.tensor(logits)[:, None]

    def get_output_embeddings(self) -> nn.Linear:
        return self.head

    def model(self, *, input_ids: Tensor, **_: Any) -> Any:
        return SimpleNamespace(last_hidden_state=torch.ones(*input_ids.shape, 1))


def constant(logits: list[float], *, mask: int) -> MaskedDiffusionModel:
    return MaskedDiffusionModel(
        Constant(logits),
        family=Family(name="toy", alignment="identity"),
        ids=TokenIds(mask=mask, pad=0, eos=(0,), filler=0, sources={}),
        tokenizer=None,
        name_or_path="constant",
    )


ONE = [DecodeRequest(id="a", prompt_ids=[1])]


@pytest.mark.parametrize("policy", ["entropy", "confidence", "margin"])
def test_ties_go_to_the_lowest_slot_and_the_lowest_token(policy: Any) -> None:
    model = constant([1.0, 2.0, 2.0, 0.0], mask=3)
    config = DecodingConfig(policy=policy, max_new_tokens=40, tokens_per_step=3)
    t = next(Decoder(model, config).in_order(ONE)).trajectory
    assert t.step_N.tolist() == [i // 3 for i in range(40)]
    assert t.response_ids_N.tolist() == [1] * 40


def test_a_model_that_loves_the_mask_still_answers() -> None:
    # p(mask) is 0.98; without it p = (1/4, 3/4)
    model = constant([0.0, math.log(3.0), math.log(200.0)], mask=2)
    t = next(Decoder(model, DecodingConfig(max_new_tokens=3)).in_order(ONE)).trajectory
    assert t.response_ids_N.tolist() == [1, 1, 1]
    expected = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    np.testing.assert_allclose(t.entropy_N, expected, rtol=1e-6)
    np.testing.assert_allclose(t.confidence_N, 0.75, rtol=1e-6)


def test_without_suppression_the_mask_can_win_and_the_slot_stays_masked() -> None:
    model = constant([0.0, math.log(3.0), math.log(200.0)], mask=2)
    config = DecodingConfig(max_new_tokens=3, suppress_mask=False)
    t = next(Decoder(model, config).in_order(ONE)).trajectory
    assert t.response_ids_N.tolist() == [2, 2, 2]
    assert t.step_N.tolist() == [-1, -1, -1]
    assert np.isnan(t.entropy_N).all()
    assert t.num_forwards == 3


def test_sampling_follows_the_distribution() -> None:
    # 4000 draws of p = (1/8, 5/8, 2/8); 4 sd of a share is at most 0.031
    model = constant([math.log(1.0), math.log(5.0), math.log(2.0), 9.0], mask=3)
    config = DecodingConfig(max_new_tokens=4000, tokens_per_step=4000, temperature=1.0)
    t = next(Decoder(model, config, seed=8).in_order(ONE)).trajectory
    shares = np.bincount(t.response_ids_N, minlength=4) / 4000
    np.testing.assert_allclose(shares, [0.125, 0.625, 0.25, 0], atol=0.031)
    np.testing.assert_allclose(t.confidence_N, np.array([1, 5, 2])[t.response_ids_N] / 8, rtol=1e-5)


def test_recorded_numbers_are_untempered() -> None:
    logits = [0.0, math.log(3.0), 5.0]
    config = DecodingConfig(max_new_tokens=4, temperature=0.01, top_k=1)
    t = next(Decoder(constant(logits, mask=2), config).in_order(ONE)).trajectory
    assert t.response_ids_N.tolist() == [1] * 4
    np.testing.assert_allclose(t.confidence_N, 0.75, rtol=1e-6)


def test_logits_that_are_not_finite_stop_the_run() -> None:
    model = constant([math.nan, 1.0, 2.0], mask=2)
    with pytest.raises(ModelError, match="constant gives logits that are not finite at step 0"):
        next(Decoder(model, DecodingConfig(max_new_tokens=3)).in_order(ONE))


def test_adapters_act_while_decoding(models: Models, requests_of: Requests, tmp_path: Any) -> None:
    model = load_model(models("toy").name_or_path, require_tokenizer=False)
    config, requests = DecodingConfig(max_new_tokens=8), requests_of([5, 3])
    plain = list(Decoder(model, config).in_order(requests))
    attach_lora(model, r=4, seed=1)
    fresh = list(Decoder(model, config).in_order(requests))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0, 0.5, generator=torch.Generator().manual_seed(2))
    trained = list(Decoder(model, config).in_order(requests))
    for a, b, c in zip(plain, fresh, trained, strict=True):
        assert np.array_equal(a.trajectory.entropy_N, b.trajectory.entropy_N)
        assert not np.allclose(a.trajectory.entropy_N, c.trajectory.entropy_N, atol=1e-2)


def test_what_the_request_carries_arrives(models: Models) -> None:
    model = models("toy")
    request = DecodeRequest(
        id="x", prompt_ids=[3, 4], prompt="three", task="count", reference="7", row={"level": 2}
    )
    config = DecodingConfig(max_new_tokens=4, policy="margin")
    decoded = next(Decoder(model, config, fingerprint="f").in_order([request]))
    t = decoded.trajectory
    assert (t.id, t.prompt, t.task, t.reference) == ("x", "three", "count", "7")
    assert (t.method, t.fingerprint, t.row) == ("margin", "f", {"level": 2})
    assert t.prompt_ids.tolist() == [3, 4]
    assert decoded.field_KN is None


def test_training_mode_is_put_back_and_gradients_are_off(models: Models) -> None:
    model = models("toy").train()
    try:
        list(Decoder(model, DecodingConfig(max_new_tokens=2)).in_order(ONE))
        assert model.training
    finally:
        model.eval()
    assert all(p.grad is None for p in model.parameters())


def test_responses_come_as_they_finish_and_say_how_many_follow(
    models: Models, requests_of: Requests
) -> None:
    decoder = Decoder(models("toy"), DecodingConfig(max_new_tokens=2), batch_size=2)
    requests = requests_of([6, 4, 5, 4, 4])
    decoded = list(decoder.decode(iter(requests)))
    assert [d.trajectory.id for d in decoded] == ["r1", "r3", "r4", "r2", "r0"]
    assert [d.num_following for d in decoded] == [1, 0, 1, 0, 0]
    ordered = Decoder(models("toy"), DecodingConfig(max_new_tokens=2), batch_size=2).in_order(
        requests
    )
    assert [d.trajectory.id for d in ordered] == ["r0", "r1", "r2", "r3", "r4"]


def test_nothing_asked_nothing_given(models: Models) -> None:
    assert list(Decoder(models("toy"), DecodingConfig()).in_order([])) == []


@pytest.mark.parametrize(
    "prompt_ids, words",
    [([], "prompt_ids is empty"), ([1, 23], "token 23 is outside"), ([-1, 2], "token -1 is")],
)
def test_bad_prompts(prompt_ids: list[int], words: str, models: Models) -> None:
    with pytest.raises(DataError, match=f"request 'bad': .*{words}"):
        next(
            Decoder(models("toy"), DecodingConfig()).in_order(
                [DecodeRequest(id="bad", prompt_ids=prompt_ids)]
            )
        )


def test_bad_sizes(models: Models) -> None:
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        Decoder(models("toy"), DecodingConfig(), batch_size=0)


@pytest.mark.parametrize("family", ["dream", "sdar"])
def test_the_model_is_few_frames_below_the_decoder(
    family: str, models: Models, requests_of: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Who reads a traceback or steps through a call meets the decoder, its steps, and the model.
    model, found = models(family), []

    def noted(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args: Any, **options: Any) -> Tensor:
            names = [frame.name for frame in traceback.extract_stack() if is_ours(frame)]
            found.append(names[names.index("decode") :])
            return original(*args, **options)

        return call

    def is_ours(frame: traceback.FrameSummary) -> bool:
        return "/src/tabom/" in frame.filename

    for name in ("asked_hidden", "hidden_columns"):
        monkeypatch.setattr(model, name, noted(getattr(model, name)))
    list(Decoder(model, DecodingConfig(max_new_tokens=4)).decode(requests_of([4])))
    assert {len(names) for names in found} <= {2, 3}  # and the model itself
