"""The benchmarks' plain opponent decodes what our loop decodes, and the suites run when tiny."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoder, DecodeRequest
from tabom.models.contract import MaskedDiffusionModel

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import collector  # noqa: E402
import gpu  # noqa: E402
import gpu_training  # noqa: E402
import usual_decoding as usual  # noqa: E402
from decoding_steps import canvas_of, integrate, our_step, state  # noqa: E402
from random_models import build_model  # noqa: E402

TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_layers": 2,
    "num_heads": 2,
    "num_kv_heads": 2,
    "vocab_size": 97,
    "initializer_range": 0.3,
}
NUM_SLOTS = 16


@pytest.fixture(scope="module")
def dream() -> MaskedDiffusionModel:
    return build_model("dream", **TINY)


@pytest.fixture(scope="module")
def llada() -> MaskedDiffusionModel:
    return build_model("llada", **TINY)


def canvas(
    model: MaskedDiffusionModel, lengths: list[int]
) -> tuple[list[DecodeRequest], torch.Tensor, torch.Tensor | None]:
    """Requests, and the same as left-padded ids with slots."""
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(0, 90, (n,), generator=generator) for n in lengths]
    width = max(lengths) + NUM_SLOTS
    ids_BS = torch.full((len(lengths), width), model.ids.mask)
    mask_BS = torch.ones_like(ids_BS)
    for b, prompt in enumerate(prompts):
        pads = max(lengths) - len(prompt)
        ids_BS[b, :pads], mask_BS[b, :pads] = model.ids.pad, 0
        ids_BS[b, pads : max(lengths)] = prompt
    requests = [
        DecodeRequest(id=str(b), prompt_ids=prompt.tolist()) for b, prompt in enumerate(prompts)
    ]
    return requests, ids_BS, None if bool(mask_BS.all()) else mask_BS


def ours(
    model: MaskedDiffusionModel, requests: list[DecodeRequest], config: DecodingConfig
) -> tuple[list[list[int]], list[list[int]]]:
    done = [
        d.trajectory for d in Decoder(model, config, batch_size=len(requests)).in_order(requests)
    ]
    return [t.response_ids_N.tolist() for t in done], [t.step_N.tolist() for t in done]


@pytest.mark.parametrize("lengths", [[7, 7, 7], [3, 9, 5]])
@pytest.mark.parametrize("schedule", ["official", "uniform"])
def test_dream_is_ours_in_tokens_and_steps(
    dream: MaskedDiffusionModel, lengths: list[int], schedule: str
) -> None:
    requests, ids_BS, mask_BS = canvas(dream, lengths)
    run = usual.dream(dream, ids_BS, mask_BS, num_slots=NUM_SLOTS, schedule=schedule)
    kind = "official" if schedule == "official" else "fixed"
    # Over 97 tokens the mask's share shifts entropies; over 150,000 it does not.
    config = DecodingConfig(
        policy="entropy", schedule=kind, max_new_tokens=NUM_SLOTS, suppress_mask=False
    )
    ids, steps = ours(dream, requests, config)
    assert run.response_ids_BN.tolist() == ids
    assert run.step_BN.tolist() == steps
    first = 1 if schedule == "official" else 0  # the published schedule's first call is empty
    assert min(min(row) for row in steps) == first
    assert all(0 <= token < 97 and token != dream.ids.mask for row in ids for token in row)


@pytest.mark.parametrize("lengths", [[7, 7], [3, 9]])
@pytest.mark.parametrize("block_length", [4, 16])
def test_llada_is_ours_in_tokens_and_steps(
    llada: MaskedDiffusionModel, lengths: list[int], block_length: int
) -> None:
    requests, ids_BS, mask_BS = canvas(llada, lengths)
    run = usual.llada(llada, ids_BS, mask_BS, num_slots=NUM_SLOTS, block_length=block_length)
    shape = {"max_new_tokens": NUM_SLOTS, "block_length": block_length}
    official = DecodingConfig(policy="low_confidence", schedule="official", **shape)
    plain = DecodingConfig(policy="confidence", **shape)
    for config in (official, plain):
        ids, steps = ours(llada, requests, config)
        assert run.response_ids_BN.tolist() == ids
        assert run.step_BN.tolist() == steps


def test_tempered_order_is_ours_where_tokens_are_not_drawn(dream: MaskedDiffusionModel) -> None:
    requests, ids_BS, mask_BS = canvas(dream, [6, 6])
    shape = {"temperature": 2.0, "top_p": 0.9}  # hot, or else kept sets of one token tie at 0 nats
    run = usual.dream(dream, ids_BS, mask_BS, num_slots=NUM_SLOTS, schedule="uniform", **shape)
    config = DecodingConfig(
        policy="entropy", max_new_tokens=NUM_SLOTS, greedy_tokens=True, suppress_mask=False, **shape
    )
    ids, steps = ours(dream, requests, config)
    assert run.response_ids_BN.tolist() == ids
    assert run.step_BN.tolist() == steps


@pytest.mark.parametrize(
    ("num_slots", "steps", "expected"),
    [
        (16, 16, [0, *[1] * 14, 2]),
        (32, 16, [1, *[2] * 14, 3]),
    ],
)
def test_published_schedule_by_hand(num_slots: int, steps: int, expected: list[int]) -> None:
    assert usual.dream_counts(num_slots, steps=steps) == expected


def test_top_p_keeps_the_token_that_crosses() -> None:
    logits_RV = torch.tensor([[0.1, 0.5, 0.4], [0.98, 0.01, 0.01]]).log()
    lowest = torch.finfo(torch.float32).min
    kept_RV = usual.keep_top_p(logits_RV, 0.6) != lowest
    assert kept_RV.tolist() == [[False, True, True], [True, False, False]]


def test_a_drawn_token_is_one_of_the_nucleus() -> None:
    logits_RV = torch.tensor([[0.1, 0.5, 0.4]]).log().expand(200, 3)
    generator = torch.Generator().manual_seed(0)
    _, token_R = usual.entropy_scores(logits_RV, temperature=1.0, top_p=0.6, generator=generator)
    assert set(token_R.tolist()) == {1, 2}


def test_integral_of_a_straight_line_is_its_sum() -> None:
    seconds_at = {8: 2.0 + 8, 4: 2.0 + 4, 1: 2.0 + 1}  # 2 + masked slots, one call for each of 8..1
    assert integrate(seconds_at) == sum(2.0 + n for n in range(1, 9))


def test_a_step_leaves_its_state_alone(dream: MaskedDiffusionModel) -> None:
    shape = {"batch_size": 2, "num_prompt": 5, "num_slots": NUM_SLOTS}
    ids_BS = state(dream, **shape, num_masked=6)
    assert (ids_BS == dream.ids.mask).sum(1).tolist() == [6, 6]
    canvas = canvas_of(dream, ids_BS, num_slots=NUM_SLOTS)
    config = DecodingConfig(policy="entropy", max_new_tokens=NUM_SLOTS, suppress_mask=False)
    first, second = our_step(dream, canvas, config), our_step(dream, canvas, config)
    assert torch.equal(first, second)
    assert (first != ids_BS).sum(1).tolist() == [1, 1]
    with torch.inference_mode():
        assert torch.equal(first, usual.dream_step(dream, ids_BS, None, count=1))


def test_states_of_blocks_fill_the_first_block(llada: MaskedDiffusionModel) -> None:
    shape = {"batch_size": 2, "num_prompt": 5, "num_slots": NUM_SLOTS, "block_length": 4}
    masked_BS = state(llada, **shape, num_masked=1) == llada.ids.mask
    assert masked_BS[:, 5:9].sum(1).tolist() == [1, 1]
    assert bool(masked_BS[:, 9:].all())


def test_a_section_that_fails_loses_nothing_of_the_others(tmp_path: Path) -> None:
    suite = gpu.Suite(tmp_path / "gpu.json", device="cpu", minutes=1, is_tiny=True)

    def fails(record: dict[str, Any]) -> None:
        record["before"] = 1
        raise RuntimeError("no such kernel")

    suite.section("first", fails, seconds=5)
    suite.section("late", lambda record: None, seconds=-1)
    suite.section("last", lambda record: record.update(value=2), seconds=5)
    found = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert found["first"]["before"] == 1
    assert "no such kernel" in found["first"]["failed"]
    assert "spent" in found["late"]["cut short"]
    assert found["last"]["value"] == 2


def test_the_gpu_suite_runs_on_a_cpu(tmp_path: Path) -> None:
    record = gpu.main(["--device", "cpu", "--tiny", "--out", str(tmp_path / "gpu.json")])
    sections = record["sections"]
    assert not [name for name, found in sections.items() if {"failed", "cut short"} & set(found)]
    assert sections["head"]["logits of deviation 3"]["entropy error is within 1e-3 nats"]
    step = sections["Dream-v0-Instruct-7B: LoRA step"]["batch 2"]
    assert step["loss, ours"] == pytest.approx(step["loss, usual"], abs=1e-2)


@pytest.mark.parametrize("has_peft", [True, False])
def test_an_adapter_comes_off_without_a_trace(
    has_peft: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_peft:
        monkeypatch.setattr(gpu_training.importlib.util, "find_spec", lambda name: None)
    model = build_model("dream", **TINY)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ids_BS = torch.arange(12).view(1, 12)
    for _ in range(2):  # a second one is put on like the first
        with gpu_training.adapter(model) as kind:
            assert kind == ("PEFT" if has_peft else "local")
            model.hidden_states(ids_BS, None).sum().backward()
            trained = [p for p in model.parameters() if p.requires_grad]
            assert len(trained) == 8  # two layers, q and v, A and B
            assert any(p.grad is not None and bool(p.grad.any()) for p in trained)
        after = model.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("name", ["A", "LLaDA", "top-p"])
def test_steps_are_compared_before_they_are_timed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = collector.CASES[name].tiny()
    found = collector.measure_steps(case, rounds=1)
    assert found["seconds of a run"].keys() == {"usual", "ours", "body"}
    monkeypatch.setattr(collector, "usual_step", lambda model, ids_BS, case: ids_BS)
    with pytest.raises(AssertionError, match="next states differ"):
        collector.measure_steps(case, rounds=1)


def test_padding_falls_with_sorting() -> None:
    found = collector.padding(num_prompts=1600)
    assert found["arrival order"] > found["all prompts by length"] >= 1
