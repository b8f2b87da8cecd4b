"""Given slots, suppressed tokens, the EOS penalty, floors, left to right and blocks ahead.

The oracle decodes one response at a time, with whole float64 logits and Python loops.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tabom.core.errors import ConfigError, DataError
from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoder, DecodeRequest
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.loading import load_model

GOLDEN = Path(__file__).parents[2] / "golden"
N = 12
EOS = -1  # stands for the model's own
FIXED: list[dict[int, int]] = [{}, {0: 7, 5: 9}, {11: 3}, {i: 4 + i for i in range(2, 10)}]
REQUESTS = [
    DecodeRequest(id=f"r{i}", prompt_ids=list(range(1, 4 + i)), fixed=fixed)
    for i, fixed in enumerate(FIXED)
]


@pytest.fixture(scope="module", params=["dream", "llada", "lladamoe"])
def model(request: pytest.FixtureRequest) -> MaskedDiffusionModel:
    return load_model(GOLDEN / f"{request.param}-tiny", require_tokenizer=False, device="cpu")


def logits_of(model: MaskedDiffusionModel, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """float64 `[N, V]` that predict the slots, without the mask."""
    ids_BS = torch.tensor([[*prompt, *answer]])
    with torch.inference_mode():
        hidden_BSD = model.hidden_states(ids_BS, None)
        position_R = len(prompt) + torch.arange(len(answer))
        rows_RD = model.gather_rows(hidden_BSD, torch.zeros_like(position_R), position_R)
        found = (rows_RD @ model.head_weight_VD.T).double()
    found = found.clone()
    found[:, model.ids.mask] = -math.inf
    return found


def oracle(
    model: MaskedDiffusionModel, request: DecodeRequest, config: DecodingConfig
) -> tuple[list[int], list[int], int]:
    """Tokens, steps and calls."""
    mask = model.ids.mask
    answer = [request.fixed.get(slot, mask) for slot in range(config.max_new_tokens)]
    steps, calls = [-1] * len(answer), 0
    while mask in answer:
        logits = logits_of(model, list(request.prompt_ids), answer)
        decoded = 1 - answer.count(mask) / len(answer)
        if config.eos_penalty:
            logits[:, model.ids.filler] += config.eos_penalty * math.log(decoded + 1e-3)
        logits[:, list(config.suppress_ids)] = -math.inf
        p = logits.softmax(-1)
        open_slots = [i for i, token in enumerate(answer) if token == mask]
        length = config.block_length or len(answer)
        block = open_slots[0] // length
        candidates = [i for i in open_slots if i // length == block]
        best = {i: int(p[i].argmax()) for i in candidates}

        def score(i: int, p: torch.Tensor = p, best: dict[int, int] = best) -> float:
            if best[i] in config.begin_suppress_ids:
                return -math.inf
            if config.policy == "left_to_right":
                return -i
            q = p[i].clone()
            q[list(config.begin_suppress_ids)] = 0
            q = q / q.sum()
            return float(q[best[i]]) if config.policy == "confidence" else float(
                (q * q.clamp(min=1e-300).log()).sum()
            )  # fmt: skip

        ranked = sorted(candidates, key=lambda i: (-score(i), i))
        count = config.tokens_per_step
        if config.threshold is not None:
            count = max(sum(score(i) >= config.threshold for i in candidates), config.min_per_step)
        for i in ranked[: max(count, 1)]:
            answer[i], steps[i] = best[i], calls
        calls += 1
    return answer, steps, calls


CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "suppressed": {"suppress_ids": (5, 9, 21)},
    "eos-never": {"suppress_ids": (EOS,)},
    "penalty": {"eos_penalty": 4.0},
    "begin": {"begin_suppress_ids": (EOS, 11)},
    "left-to-right": {"policy": "left_to_right", "tokens_per_step": 2},
    "floor": {
        "policy": "confidence", "schedule": "threshold", "threshold": 0.9, "min_per_step": 3,
    },
    "floor-in-blocks": {
        "policy": "confidence", "schedule": "threshold", "threshold": 0.5, "min_per_step": 2,
        "block_length": 4, "suppress_ids": (3,),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_every_option_against_loops(name: str, model: MaskedDiffusionModel) -> None:
    options = {
        key: tuple(model.ids.filler if i == EOS else i for i in value)
        if isinstance(value, tuple)
        else value
        for key, value in CONFIGS[name].items()
    }
    config = DecodingConfig(max_new_tokens=N, **options)
    wanted = [oracle(model, request, config) for request in REQUESTS]
    for batch_size in (1, 2, 4):
        decoder = Decoder(model, config, batch_size=batch_size)
        found = [d.trajectory for d in decoder.in_order(REQUESTS)]
        for request, t, (tokens, steps, calls) in zip(REQUESTS, found, wanted, strict=True):
            assert t.response_ids_N.tolist() == tokens, (name, batch_size, request.id)
            assert t.step_N.tolist() == steps
            assert t.num_forwards == calls
            assert t.row.get("fixed", []) == sorted(request.fixed)


def test_entropy_and_confidence_are_the_models_own(model: MaskedDiffusionModel) -> None:
    config = DecodingConfig(
        max_new_tokens=N, eos_penalty=4.0, suppress_ids=(5, 9), policy="confidence"
    )
    (item,) = Decoder(model, config).in_order([REQUESTS[0]])
    t = item.trajectory
    for slot in range(N):
        before = [
            int(t.response_ids_N[i]) if t.step_N[i] < t.step_N[slot] else model.ids.mask
            for i in range(N)
        ]
        p = logits_of(model, list(REQUESTS[0].prompt_ids), before)[slot].softmax(-1)
        entropy = -float((p * p.clamp(min=1e-300).log()).sum())
        assert t.entropy_N[slot] == pytest.approx(entropy, rel=1e-4, abs=1e-5)
        assert t.confidence_N[slot] == pytest.approx(float(p[t.response_ids_N[slot]]), rel=1e-4)


@pytest.mark.parametrize("cached", [False, True])
def test_given_slots_under_refills_and_approximate_caches(
    cached: bool, model: MaskedDiffusionModel
) -> None:
    options: dict[str, Any] = {"max_new_tokens": N, "block_length": 4, "policy": "confidence"}
    if cached:
        options["approximate"] = "prefix"
    else:
        options |= {"schedule": "threshold", "threshold": 0.3}
    config = DecodingConfig(**options)
    many = [
        DecodeRequest(id=f"{i}", prompt_ids=[1, 2, 3 + i % 3], fixed=FIXED[i % 4])
        for i in range(14)
    ]
    one = [d.trajectory for d in Decoder(model, config, batch_size=1).in_order(many)]
    four = [d.trajectory for d in Decoder(model, config, batch_size=4).in_order(many)]
    for request, a, b in zip(many, one, four, strict=True):
        assert np.array_equal(a.response_ids_N, b.response_ids_N)
        assert np.array_equal(a.step_N, b.step_N)
        for slot, token in request.fixed.items():
            assert (a.response_ids_N[slot], a.step_N[slot]) == (token, -1)
        open_slots = [i for i in range(N) if i not in request.fixed]
        assert (a.step_N[open_slots] >= 0).all()


def test_an_answer_that_is_given_whole_costs_no_call(model: MaskedDiffusionModel) -> None:
    request = DecodeRequest(id="a", prompt_ids=[1, 2], fixed=dict.fromkeys(range(N), 3))
    (item,) = Decoder(model, DecodingConfig(max_new_tokens=N)).in_order([request])
    assert (item.trajectory.num_forwards, item.trajectory.num_revealed) == (0, 0)


def test_blocks_ahead_take_fewer_calls_and_no_other_batch(model: MaskedDiffusionModel) -> None:
    options: dict[str, Any] = {
        "max_new_tokens": 24, "block_length": 4, "policy": "confidence", "schedule": "threshold",
        "threshold": 0.35,
    }  # fmt: skip
    requests = [DecodeRequest(id=f"{i}", prompt_ids=[1 + i, 2, 3]) for i in range(6)]
    calls = {}
    for ahead in (0, 1, 3):
        config = DecodingConfig(**options, blocks_ahead=ahead)
        one = [d.trajectory for d in Decoder(model, config, batch_size=1).in_order(requests)]
        six = [d.trajectory for d in Decoder(model, config, batch_size=6).in_order(requests)]
        for a, b in zip(one, six, strict=True):
            assert np.array_equal(a.response_ids_N, b.response_ids_N)
            assert np.array_equal(a.step_N, b.step_N)
            assert (a.step_N >= 0).all()
            first = [a.step_N[k : k + 4].min() for k in range(0, 24, 4)]
            assert first == sorted(first)  # no block begins before the one to its left
            if not ahead:
                last = [a.step_N[k : k + 4].max() for k in range(0, 24, 4)]
                assert all(x < y for x, y in zip(last, first[1:], strict=False))
        calls[ahead] = sum(t.num_forwards for t in one)
    assert calls[3] <= calls[1] <= calls[0]


@pytest.mark.parametrize(
    "fixed, words", [({N: 3}, "slot 12"), ({-1: 3}, "slot -1"), ({0: 10**6}, "vocabulary")]
)
def test_given_slots_that_are_none(
    fixed: dict[int, int], words: str, model: MaskedDiffusionModel
) -> None:
    request = DecodeRequest(id="a", prompt_ids=[1], fixed=fixed)
    with pytest.raises(DataError, match=words):
        list(Decoder(model, DecodingConfig(max_new_tokens=N)).decode([request]))


def test_a_given_mask_and_an_official_schedule_are_refused(model: MaskedDiffusionModel) -> None:
    masked = DecodeRequest(id="a", prompt_ids=[1], fixed={0: model.ids.mask})
    with pytest.raises(DataError, match="other than the mask"):
        list(Decoder(model, DecodingConfig(max_new_tokens=N)).decode([masked]))
    with pytest.raises(ConfigError, match="no token of a vocabulary"):
        Decoder(model, DecodingConfig(max_new_tokens=N, suppress_ids=(10**6,)))


@pytest.mark.parametrize(
    "options, words",
    [
        ({"min_per_step": 2}, "min_per_step"),
        ({"blocks_ahead": 1, "block_length": 4}, "blocks_ahead"),
        ({"eos_penalty": 1.0, "schedule": "official"}, "eos_penalty"),
        ({"suppress_ids": (3,), "schedule": "official"}, "suppress_ids"),
        (
            {"blocks_ahead": 1, "schedule": "threshold", "threshold": 0.5, "policy": "confidence"},
            "block_length",
        ),
        (
            {"policy": "left_to_right", "schedule": "threshold", "threshold": 0.5},
            "left_to_right",
        ),
    ],
)
def test_what_means_nothing_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DecodingConfig(max_new_tokens=N, **options)
