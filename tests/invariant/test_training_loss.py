"""The loss that the Trainer logs is the paper's, counted by hand in float64."""

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from tabom.core import keys
from tabom.core.errors import DataError, ObjectiveError, TrainingError
from tabom.objectives.compose import Objective
from tabom.objectives.presets import PRESETS, build_objective, options_of
from tabom.training.config import TrainingConfig
from tabom.training.dataset import ResponseDataset, ResponseExample, collate
from tabom.training.run import train
from tabom.training.step import ObjectiveStep, step_inputs


def oracle(world: ModuleType, lm: torch.nn.Module, example: ResponseExample, step: int) -> Tensor:
    """[ce, rank, number of pairs] of one response, from full logits, slot by slot.

    Context: the first c revealed slots in order, c keyed by (seed, step, id).
    """
    order = [int(i) for i in example.order_N.argsort(kind="stable") if example.order_N[i] >= 0]
    cut = keys.below(len(order), 5, step, keys.text_key(example.id), 1)
    canvas = [world.MASK] * world.NUM_SLOTS
    for slot in order[:cut]:
        canvas[slot] = int(example.response_ids_N[slot])
    num_prompt = len(example.prompt_ids)
    ids = torch.tensor([[*example.prompt_ids.tolist(), *canvas]])
    logits = lm(input_ids=ids, use_cache=False).logits[0].double()
    window = order[cut : cut + world.WINDOW]
    ce, entropies = [], []
    for slot in window:
        log_p = logits[num_prompt + slot].log_softmax(-1)
        ce.append(-log_p[int(example.response_ids_N[slot])])
        entropies.append(-(log_p.exp() * log_p).sum())
    hinges = [
        (entropies[i] - entropies[j] + world.MARGIN).clamp(min=0)
        for i in range(len(window))
        for j in range(i + 1, len(window))
    ]
    rank = torch.stack(hinges).mean() if hinges else torch.tensor(0.0)
    return torch.stack([torch.stack(ce).mean(), rank.double(), torch.tensor(float(len(hinges)))])


def test_logged_loss_is_the_equation(world: ModuleType, tmp_path: Path) -> None:
    """Weights do not move (rate 0), so the oracle can look at every step, the uneven one included.

    One epoch shows each response once: the sum over its steps of loss x responses is known.
    """
    model = world.tiny_model()
    data = world.examples(20)
    with torch.no_grad():
        per_step = [
            torch.stack([oracle(world, model.lm, e, step) for e in data]) for step in range(3)
        ]
    world.run(
        tmp_path,
        model=model,
        next_slot=False,
        learning_rate=0.0,
        weight_decay=0.0,
        num_train_epochs=1,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
    )
    lines = [line for line in world.journal(tmp_path) if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3]
    # Which responses a step saw is the sampler's business; find them by their known losses.
    order = shuffled(len(data), seed=5)
    for i, line in enumerate(lines):
        found = per_step[i][order[8 * i : 8 * i + 8]]
        ce = found[:, 0].mean()
        rank = found[:, 1].sum() / (found[:, 2] > 0).sum()
        assert line["loss_ce"] == pytest.approx(float(ce), abs=1e-6)
        assert line["loss_rank"] == pytest.approx(float(rank), abs=1e-6)
        assert line["loss"] == pytest.approx(float(ce + world.LAMBDA * rank), abs=2e-6)


def shuffled(number: int, *, seed: int) -> list[int]:
    """The order of epoch 0: accelerate's seedable sampler."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(number, generator=generator).tolist()


def test_gradient_is_the_equations(world: ModuleType) -> None:
    model = world.tiny_model()
    objective = world.objective(next_slot=False)
    data = world.examples(6)
    batch = collate(data, pad_id=0, mask_id=world.MASK)
    context = objective.draw(batch, seed=5, step=2)
    step = ObjectiveStep(model, objective=objective, max_buffer_bytes=2**20)
    outputs = step(**step_inputs(batch, context))
    objective.total(outputs["sums"], context.counts).backward()
    found = {n: p.grad.clone() for n, p in model.lm.named_parameters()}
    model.lm.zero_grad()
    parts = torch.stack([oracle(world, model.lm, e, 2) for e in data])
    pairs = (parts[:, 2] > 0).sum()
    (parts[:, 0].mean() + world.LAMBDA * parts[:, 1].sum() / pairs).backward()
    for name, parameter in model.lm.named_parameters():
        # The weights 1/|window| travel in float32.
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-6, atol=1e-7)


def test_a_longer_prompt_beside_it_changes_nothing(world: ModuleType) -> None:
    """Left padding is invisible: alone (no mask at all) or beside a prompt three times as long."""
    model, objective = world.tiny_model(), world.objective()
    example = world.examples(1)[0]
    mate = world.examples(2)[1]
    long = ResponseExample(
        **{**vars(mate), "prompt_ids": torch.arange(2, 27).numpy(), "id": "long"}
    )
    step = ObjectiveStep(model, objective=objective, max_buffer_bytes=2**20)

    def sums(examples: list[ResponseExample]) -> dict[str, Tensor]:
        batch = collate(examples, pad_id=0, mask_id=world.MASK)
        inputs = step_inputs(batch, objective.draw(batch, seed=5, step=0))
        assert (inputs["attention_mask_BS"] is None) == (len(examples) == 1)
        return step(**inputs)["sums"]

    both, one, other = sums([example, long]), sums([example]), sums([long])
    for name in both:
        torch.testing.assert_close(both[name], one[name] + other[name], rtol=0, atol=1e-7)


@pytest.mark.parametrize("poisoned", [1, 3])
def test_nan_stops_the_run_and_names_the_step(
    world: ModuleType, tmp_path: Path, poisoned: int
) -> None:
    model = world.tiny_model()
    weight = model.lm.model.layers[0].mlp.up_proj.weight

    def poison(done: int, total: int, metrics: dict[str, float]) -> None:
        if done == poisoned - 1:
            weight.data[0, 0] = torch.nan

    if poisoned == 1:
        poison(0, 0, {})
    before = model.lm.model.norm.weight.detach().clone()
    with pytest.raises(TrainingError, match=rf"stopped at step {poisoned}: loss nan"):
        world.run(
            tmp_path,
            model=model,
            progress=poison,
            per_device_train_batch_size=4,
            save_strategy="steps",
            save_steps=1,
        )
    saved = sorted(f.name for f in tmp_path.glob("checkpoint-*"))
    assert f"checkpoint-{poisoned}" not in saved  # no checkpoint of the damage
    assert not (tmp_path / "tabom_manifest.json").exists()
    if poisoned == 1:
        assert torch.equal(model.lm.model.norm.weight, before)  # stopped before the optimiser


def test_held_out_contexts_are_fixed(world: ModuleType, tmp_path: Path) -> None:
    """With weights that do not move, every evaluation gives the same number, in any batch size."""
    values = set()
    for size, seed in ((2, 5), (5, 6)):
        world.run(
            tmp_path / str(size),
            learning_rate=0.0,
            weight_decay=0.0,
            per_device_train_batch_size=4,
            per_device_eval_batch_size=size,
            seed=seed,
        )
        lines = world.journal(tmp_path / str(size))
        values |= {round(line["eval_loss"], 6) for line in lines if "eval_loss" in line}
    assert len(values) == 1


# PEFT asks transformers under a deprecated name; here it is called as any user would call it.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_the_adapter_is_pefts(world: ModuleType, tmp_path: Path) -> None:
    """What is on disk loads through PEFT alone and gives the trained model's numbers."""
    from peft import PeftModel

    model, result = world.run(
        tmp_path, use_peft=True, lora_r=4, learning_rate=0.05, per_device_train_batch_size=4
    )
    ids = torch.randint(2, 30, (2, 9))
    base = world.tiny_model().lm
    before = base(input_ids=ids).logits
    loaded = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    expected = model.lm(input_ids=ids).logits
    assert (before - expected).abs().max() > 1e-3
    torch.testing.assert_close(loaded(input_ids=ids).logits, expected, rtol=0, atol=1e-12)

    manifest = json.loads((tmp_path / "tabom_manifest.json").read_text())
    assert manifest["kind"] == "adapter"
    assert manifest["identity"]["lora_r"] == 4
    assert manifest["result"]["steps"] == result.steps == 10
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nbase_model: tiny\nlibrary_name: peft\n")
    assert "| responses trained on | 20 |" in card
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "metrics.jsonl",
        "tabom_manifest.json",
    ]  # fmt: skip


def test_nothing_to_train_on(world: ModuleType, tmp_path: Path) -> None:
    three = ResponseDataset(world.examples(3))
    config = TrainingConfig(use_peft=False, disable_tqdm=True)
    model, objective = world.tiny_model(), world.objective()
    with pytest.raises(DataError, match=r"nothing to train on.*3 longer than max_length 5"):
        train(
            model=model, objective=objective, dataset=three,
            config=replace(config, max_length=5),
            output_dir=tmp_path / "out",
        )  # fmt: skip
    with pytest.raises(DataError, match=r"3 responses do not fill one batch of 4"):
        train(
            model=model, objective=objective, dataset=three, config=config,
            output_dir=tmp_path / "out",
        )  # fmt: skip
    unordered = [
        ResponseExample(**{**vars(e), "order_N": None, "step_N": None, "entropy_N": None})
        for e in world.examples(4)
    ]
    with pytest.raises(ObjectiveError, match="order"):
        train(
            model=model, objective=objective, dataset=ResponseDataset(unordered), config=config,
            output_dir=tmp_path / "out",
        )  # fmt: skip
    assert not (tmp_path / "out" / "tabom_manifest.json").exists()


def loss_and_gradient(
    world: ModuleType, objective: Objective, parts: list[list[ResponseExample]]
) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Micro-batches of one optimiser step: counts first, then a backward for each."""
    model = world.tiny_model()
    step = ObjectiveStep(model, objective=objective, max_buffer_bytes=2**20)
    counts: dict[str, float] = {}
    inputs = []
    for part in parts:
        batch = collate(part, pad_id=0, mask_id=world.MASK)
        context = objective.draw(batch, seed=1, step=3)
        for name, count in context.counts.items():
            counts[name] = counts.get(name, 0.0) + count
        inputs.append(step_inputs(batch, context))
    loss = torch.zeros(())
    for micro in inputs:
        share = objective.total(step(**micro)["sums"], counts)
        share.backward()
        loss = loss + share.detach()
    return loss, {name: p.grad for name, p in model.lm.named_parameters()}


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_objective_is_blind_to_the_layout(world: ModuleType, name: str) -> None:
    """One batch of 8 == micro-batches of 3, 4 and 1."""
    known = options_of(PRESETS[name], name=name)
    options = {k: v for k, v in (("window", 2), ("block", 4)) if hasattr(known, k)}
    objective = build_objective(name, **options)
    data = world.examples(8)
    whole, grad = loss_and_gradient(world, objective, [data])
    parts, part_grad = loss_and_gradient(world, objective, [data[:3], data[3:7], data[7:]])
    assert whole != 0
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-7)
    for key, value in grad.items():
        torch.testing.assert_close(part_grad[key], value, rtol=1e-6, atol=1e-7)


def test_a_micro_batch_without_rows_still_runs_backward(world: ModuleType) -> None:
    """A rank whose responses are all skipped must still join the all-reduce of every weight."""
    objective = build_objective("tabom_release", window=64)
    loss, grad = loss_and_gradient(world, objective, [world.examples(2)])
    assert loss == 0
    assert all(g is not None and not g.any() for g in grad.values())
