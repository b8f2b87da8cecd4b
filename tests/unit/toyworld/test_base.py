"""The recipe of the base (on a few steps) and the checkpoint that travels with the package."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoder, DecodeRequest
from tabom.models.loading import load_model
from tabom.toyworld.alphabet import EOS_CHAR, NUM_SLOTS
from tabom.toyworld.base import build_config, build_model, encode, nelbo, pretrain, rate
from tabom.toyworld.curriculum import (
    LESSONS,
    MAPS,
    MIXTURE,
    WARMUP,
    WORLDS,
    Lesson,
    curriculum,
    draw_pair,
)
from tabom.toyworld.diagnostics import premature_commit
from tabom.toyworld.tasks import DOMAINS, prompts, split_of
from tabom.toyworld.tokenizer import build_tokenizer

SHIPPED = Path(str(files("tabom"))) / "assets" / "toy-base"
HASTY = SHIPPED.parent / "toy-hasty"
TINY = (replace(MAPS, num_steps=2, batch_size=4), replace(MIXTURE, num_steps=2, batch_size=4))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def shipped() -> LlamaForCausalLM:
    model, info = LlamaForCausalLM.from_pretrained(SHIPPED, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


def test_shipped_configuration_is_as_promised(shipped: LlamaForCausalLM) -> None:
    config = json.loads((SHIPPED / "config.json").read_text())
    assert config["tabom_family"] == "toy"
    assert config["model_type"] == "llama"
    assert config["is_causal"] is False
    assert config["use_cache"] is False
    tokenizer = PreTrainedTokenizerFast.from_pretrained(SHIPPED)
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    assert config["vocab_size"] == len(tokenizer)
    assert config["mask_token_id"] == tokenizer.mask_token_id
    assert (SHIPPED / "model.safetensors").stat().st_size < 1_000_000


def test_shipped_record_is_of_this_code() -> None:
    """A checkpoint whose recipe has changed since could not be made again."""
    record = json.loads((SHIPPED / "pretraining.json").read_text())
    assert record["lessons"] == as_data(LESSONS)
    assert record["command"] == "tabom toyworld pretrain --seed 0"
    hasty = json.loads((HASTY / "pretraining.json").read_text())
    assert hasty["lessons"] == as_data(curriculum(chain_share=0.001))
    assert hasty["command"] == "tabom toyworld pretrain --seed 0 --chain_share 0.001"
    for name, world in WORLDS.items():
        folder = SHIPPED.parent / f"toy-{name}"
        made = json.loads((folder / "pretraining.json").read_text())
        assert made["lessons"] == as_data(world.lessons)
        assert made["command"] == f"tabom toyworld pretrain --seed 0 --world {name}"
        config = json.loads((folder / "config.json").read_text())
        assert config["num_hidden_layers"] == world.num_layers


def as_data(lessons: Sequence[Lesson]) -> list[dict[str, Any]]:
    return [{**vars(lesson), "shares": dict(lesson.shares)} for lesson in lessons]


def test_the_hasty_base_commits_too_early_where_the_other_does_not() -> None:
    rows = prompts(task="chain", split="eval", seed=3, num=48)
    share = {}
    for name in ("toy-base", "toy-hasty"):
        model = load_model(name)
        requests = [
            DecodeRequest(id=row["id"], prompt_ids=model.encode_prompt(row["prompt"]), row=row)
            for row in rows
        ]
        found = []
        for item in Decoder(model, DecodingConfig(max_new_tokens=NUM_SLOTS)).in_order(requests):
            tokens = [int(i) for i in item.trajectory.response_ids_N]
            slots = [
                EOS_CHAR if i in model.ids.eos else model.tokenizer.decode([i]) for i in tokens
            ]
            step = item.trajectory.step_N.tolist()
            found.append(premature_commit(row=item.trajectory.row, slots=slots, step=step))
        share[name] = sum(map(bool, found)) / len(found)
    assert share["toy-base"] < 0.1
    assert share["toy-hasty"] > 0.25


def test_shipped_base_attends_both_ways_and_not_to_padding(shipped: LlamaForCausalLM) -> None:
    tokenizer = build_tokenizer()
    rows = prompts(task="chain", split="eval", seed=0, num=1)
    alone = encode(tokenizer, [(rows[0]["prompt"], rows[0]["reference"])])
    longer = encode(
        tokenizer, [(rows[0]["prompt"], rows[0]["reference"]), ("#" + "1" * 16, "1" * 16)]
    )
    with torch.no_grad():
        wanted = shipped(**alone).logits[0, -NUM_SLOTS:]
        padded = shipped(**longer).logits[0, -NUM_SLOTS:]
        changed = dict(alone, input_ids=alone["input_ids"].clone())
        changed["input_ids"][0, -1] = shipped.config.mask_token_id
        other = shipped(**changed).logits[0, -NUM_SLOTS:]
    assert longer["attention_mask"][0].min() == 0
    torch.testing.assert_close(padded, wanted, rtol=1e-4, atol=1e-4)
    assert (other[0] - wanted[0]).abs().max() > 1e-3


def test_shipped_base_knows_the_world(shipped: LlamaForCausalLM) -> None:
    """One slot hidden, the rest given: at least nine of ten right in every task. An untrained net
    gets one in a hundred, so this cannot pass by chance."""
    tokenizer = build_tokenizer()
    for task in MIXTURE.shares:
        rows = prompts(task=task, split="eval", seed=1, num=60)
        batch = encode(tokenizer, [(row["prompt"], row["reference"]) for row in rows])
        slots = torch.tensor([3 % len(row["reference"]) for row in rows])
        places = slots + batch["input_ids"].shape[1] - NUM_SLOTS
        wanted = batch["input_ids"].gather(1, places[:, None])[:, 0]
        batch["input_ids"][torch.arange(len(rows)), places] = shipped.config.mask_token_id
        with torch.no_grad():
            logits = shipped(**batch).logits[torch.arange(len(rows)), places]
        assert (logits.argmax(-1) == wanted).float().mean() >= 0.9, task


def test_pretraining_is_a_function_of_its_seed(tmp_path: Path) -> None:
    weights = []
    for name, seed in (("one", 3), ("again", 3), ("other", 4)):
        torch.manual_seed(len(weights))  # the caller's random state must not matter
        pretrain(tmp_path / name, seed=seed, lessons=TINY)
        weights.append(load_file(tmp_path / name / "model.safetensors"))
    one, again, other = weights
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)
    record = json.loads((tmp_path / "other" / "pretraining.json").read_text())
    assert record["seed"] == 4
    assert set(record["cpu_seconds"]) == {"maps", "mixture"}


def test_base_reads_its_own_split_only() -> None:
    for lesson in LESSONS:
        assert sum(lesson.shares.values()) == pytest.approx(1.0)
        assert set(lesson.shares) <= {WARMUP, *DOMAINS}
        pairs = [draw_pair(lesson, seed=0, step=700, row=row) for row in range(60)]
        assert {split_of(prompt) for prompt, _ in pairs} == {"pretrain"}
        assert pairs == [draw_pair(lesson, seed=0, step=700, row=row) for row in range(60)]


def test_first_maps_follow_the_alphabet() -> None:
    """The crutch without which the look-up is not found: it must be there, and go away."""

    def share_in_order(step: int) -> float:
        hits = total = 0
        for row in range(80):
            prompt, _ = draw_pair(MAPS, seed=0, step=step, row=row)
            entries = prompt.split(":")[0]
            sources, targets = entries[::2].lower(), entries[1::2]
            hits += sum(a == b for a, b in zip(sources[1:] + sources[:1], targets, strict=True))
            total += len(sources)
        return hits / total

    assert share_in_order(0) == 1.0
    assert share_in_order(1050) < 0.25


def test_rate_ends_at_its_share() -> None:
    assert rate(0, lesson=MIXTURE) < MIXTURE.learning_rate / 20
    end = rate(MIXTURE.num_steps, lesson=MIXTURE)
    assert end == pytest.approx(MIXTURE.learning_rate * MIXTURE.final_rate)


def test_loss_of_an_untrained_net_is_that_of_a_guess() -> None:
    tokenizer = build_tokenizer()
    model = build_model(build_config(tokenizer), seed=0)
    rows = prompts(task="sort", split="pretrain", seed=0, num=32)
    batch = encode(tokenizer, [(row["prompt"], row["reference"]) for row in rows])
    loss = nelbo(model, batch, generator=torch.Generator().manual_seed(0))
    assert loss.item() == pytest.approx(torch.tensor(float(len(tokenizer))).log().item(), abs=0.15)
