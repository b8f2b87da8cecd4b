"""Estimates against what the decoding loop, the objectives and a small study really do."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tabom.collect.prompts import PromptSource
from tabom.core.errors import DataError
from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoder, DecodeRequest
from tabom.decoding.requests import StepView
from tabom.models.costs import Machine
from tabom.models.devices import find_device
from tabom.models.loading import load_model
from tabom.models.sizes import PUBLISHED_SIZES
from tabom.objectives.presets import build_objective
from tabom.stages.estimate import (
    Given,
    Prompts,
    Work,
    cache_bound,
    measure_prompts,
    response_counts,
    stage_work,
)
from tabom.stages.recipe import load_recipe
from tabom.stages.study import plan_study

DREAM = PUBLISHED_SIZES["Dream-org/Dream-v0-Instruct-7B"]


@pytest.mark.parametrize(
    "config",
    [
        DecodingConfig(max_new_tokens=12),
        DecodingConfig(max_new_tokens=12, tokens_per_step=5),
        DecodingConfig(max_new_tokens=12, block_length=4),
        DecodingConfig(max_new_tokens=12, block_length=4, tokens_per_step=3),
    ],
)
def test_response_counts_is_what_the_loop_does(config: DecodingConfig, random_toy: Path) -> None:
    model = load_model(random_toy, device="cpu")
    views: list[StepView] = []
    request = DecodeRequest(id="a", prompt_ids=[5, 6, 7])
    (decoded,) = Decoder(model, config).in_order([request], on_step=views.append)
    work = response_counts(config, prompt=3)
    assert work.num_calls == decoded.trajectory.num_forwards == len(views)
    assert work.num_tokens == len(views) * 15
    # Rows asked at a step: the slots of the first unfinished block that are open before it.
    block, rows, is_open = config.block_length or 12, 0, [True] * 12
    for view in views:
        first = is_open.index(True) // block
        rows += sum(is_open[first * block : (first + 1) * block])
        is_open = view.open_BN[0].tolist()
    assert work.num_rows == rows


def test_response_counts_of_caches_and_bounds() -> None:
    base = {"max_new_tokens": 256, "block_length": 32}
    # Fast-dLLM's counting: 256 prompt tokens, 256 slots, blocks of 32.
    assert response_counts(DecodingConfig(**base), prompt=256).num_tokens == 131_072
    prefix = response_counts(DecodingConfig(**base, approximate="prefix"), prompt=256)
    assert prefix.num_tokens == 8 * 512 + 31 * sum(range(32, 257, 32))
    dual = response_counts(DecodingConfig(**base, approximate="dual"), prompt=256)
    assert dual.num_tokens == 8 * 512 + 31 * 256
    most = DecodingConfig(**base, schedule="threshold", threshold=0.9, policy="confidence")
    assert response_counts(most, prompt=256).num_calls == 256
    official = DecodingConfig(max_new_tokens=256, schedule="official", steps=128)
    assert response_counts(official, prompt=256).num_calls == 128
    # Block-causal with its exact cache: everything once, and each block again at each of its calls.
    blocks = response_counts(DecodingConfig(max_new_tokens=256), prompt=256, block_length=4)
    assert blocks.num_calls == 256
    assert blocks.num_tokens == 512 + 256 * 4


@pytest.mark.parametrize("approximate", ["prefix", "dual"])
def test_what_a_cache_can_gain_is_bounded_by_the_layers(approximate: Any) -> None:
    """1 / (1 - b r), b the layers' share of exact decoding, r the share of them that is saved."""
    config = DecodingConfig(max_new_tokens=64, block_length=16, approximate=approximate)
    exact = response_counts(replace(config, approximate=None), prompt=100)
    layers = replace(exact, num_rows=0).flops(DREAM)
    kept = replace(response_counts(config, prompt=100), num_rows=0).flops(DREAM)
    b, r = layers / exact.flops(DREAM), 1 - kept / layers
    assert cache_bound(config, DREAM, prompt=100) == pytest.approx(1 / (1 - b * r))
    thin = replace(DREAM, num_layers=1, hidden_size=64, intermediate_size=64, num_heads=1)
    assert 1 < cache_bound(config, thin, prompt=100) < cache_bound(config, DREAM, prompt=100)


def test_rows_per_response_by_objective() -> None:
    # Mean window: cuts c ~ U{0..63}, min(8, 64 - c) rows each: 8 - 28 / 64.
    windows = build_objective("tabom", window=8).rows_per_response(64, has_order=True)
    assert windows == pytest.approx(7.56, abs=0.3)
    # k ~ U{1..64} masked slots: mean 32.5, standard error 1.6.
    masks = build_objective("nelbo").rows_per_response(64, has_order=False)
    assert masks == pytest.approx(32.5, abs=6)


def given(num_prompts: int = 18_000, *, mfu: float = 0.6 * 790 / 989, **changes: object) -> Given:
    prompts = Prompts(number=num_prompts, tokens=(150,), note="given")
    fields = {
        "machine": Machine(sizes=DREAM, device=find_device("H200"), mfu=mfu),
        "acceptance_rate": 0.5,
        "train": prompts,
        "sets": {"sort": prompts, "reverse": prompts},
        **changes,
    }
    return Given(**fields)  # type: ignore[arg-type]


def works(recipe: Path, overrides: list[str], given: Given) -> dict[str, Work]:
    stages = plan_study(load_recipe(str(recipe), overrides=overrides)).stages
    return {stage.label: stage_work(stage, given) for stage in stages}


def test_a_collection_of_the_published_size(tiny_recipe: Path, tmp_path: Path) -> None:
    """18k Dream trajectories of 150 + 256 tokens: 14.5 GPU hours at 60 % of 790 TFLOP/s.

    That figure skips one empty step of 256 and two tenths of the last layer (2.4 %): 14.9 here.
    """
    overrides = [f"output_dir={tmp_path}", "decoding.max_new_tokens=256", "training.max_steps=-1",
                 "training.num_train_epochs=5",
                 "training.per_device_train_batch_size=4"]  # fmt: skip
    found = works(tiny_recipe, overrides, given(num_slots=256))
    collect = found["seed 0 collect"]
    assert collect.seconds == pytest.approx(14.9 * 3600, rel=0.01)
    assert collect.forwards == 18_000 * 256
    train = found["seed 0 train TABOM"]
    assert (train.num_items, train.forwards) == (9000, 45_000)
    evaluate = found["base evaluate No-SFT"]
    assert evaluate.num_items == 3 * 18_000  # sort at two speeds, reverse at one
    assert evaluate.forwards == 18_000 * (256 + 64 + 256)
    assert found["seed 0 verify"] == Work()
    whole = sum(found.values(), Work())
    assert whole.forwards == sum(work.forwards for work in found.values())
    assert whole.memory_bytes == max(work.memory_bytes for work in found.values())


def test_one_response_a_call_is_bound_by_reading_the_weights(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    overrides = [f"output_dir={tmp_path}", "collection.batch_size=1", "decoding.max_new_tokens=8"]
    short = Prompts(number=10, tokens=(4,), note="given")
    found = works(tiny_recipe, overrides, given(mfu=1.0, train=short, num_slots=8))
    expected = 10 * 8 * 2 * DREAM.num_parameters / 4.8e12
    assert found["seed 0 collect"].seconds == pytest.approx(expected)


def test_padding_of_batches() -> None:
    prompts = Prompts(number=4, tokens=(10, 2, 8, 4), note="")
    assert prompts.padded_mean(1, is_sorted=False) == 6
    assert prompts.padded_mean(2, is_sorted=False) == (10 + 10 + 8 + 8) / 4
    assert prompts.padded_mean(2, is_sorted=True) == (4 + 4 + 10 + 10) / 4
    assert prompts.longest == 10


def test_lengths_are_measured_assumed_or_given(tmp_path: Path, random_toy: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "abcd"}\n{"prompt": "ab"}\n')
    tokenizer = load_model(random_toy).tokenizer

    def measured(source: PromptSource, **changes: Any) -> Prompts:
        options = {"tokenizer": tokenizer, "prompt_tokens": None, **changes}
        return measure_prompts(source, seed=0, what="set x", **options)

    found = measured(PromptSource(path=str(path)))
    assert (found.number, found.tokens) == (2, (6, 4))  # with <user> and <assistant>
    assert "measured on 2" in found.note
    assert "assumed" in measured(PromptSource(path=str(path)), tokenizer=None).note
    assert measured(PromptSource(path=str(path)), prompt_tokens=9).tokens == (9,)
    unseen = measured(PromptSource(dataset_name="no/such-data", limit=50))
    assert (unseen.number, unseen.tokens) == (50, (150,))
    unseen = measured(PromptSource(dataset_name="no/such-data"))
    assert (unseen.number, unseen.tokens) == (1000, (150,))
    assert "number is assumed" in unseen.note
    with pytest.raises(DataError, match=r"set x: .*no\.jsonl"):  # no typing error is planned around
        measured(PromptSource(path="no.jsonl"))


def test_a_mixture_and_a_reference_cost_what_they_ask(tmp_path: Path) -> None:
    """All parts of each response: twice the tokens and the batch; a reference: one more forward."""

    def work(objective: str, **options: Any) -> Work:
        arm = {"name": "A", "objective": objective, "options": options}
        overrides: list[Any] = [("arms", [arm]), ("output_dir", str(tmp_path))]
        recipe = load_recipe("dream_prm12k", overrides=overrides)
        plan = plan_study(recipe)
        assert plan.runs[0].train is not None
        return stage_work(plan.runs[0].train, given(num_slots=256))

    plain, both = work("nelbo"), work("dparallel")
    assert both.forwards == 2 * plain.forwards
    assert both.flops > 1.5 * plain.flops
    assert both.memory_bytes > plain.memory_bytes
    assert work("two_contexts").forwards == plain.forwards
    assert 1.3 < work("nelbo_kl").flops / plain.flops < 1.7
