"""References: the base under an adapter, snapshots that survive a resume, privileged prompts."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from tabom.models.adapters import attach_lora
from tabom.objectives.presets import build_objective
from tabom.training.config import TrainingConfig
from tabom.training.dataset import ResponseDataset, ResponseExample, collate
from tabom.training.reference import ReferenceModel
from tabom.training.run import train
from tabom.training.step import ObjectiveStep, step_inputs


def _step(world: ModuleType, name: str, data: list[ResponseExample], **options: Any) -> Any:
    """A step with an adapter that is not zero any more, its batch and a context."""
    model = world.tiny_model()
    attach_lora(model, r=2, alpha=2, dropout=0.3, target_modules=("q_proj", "v_proj"), seed=0)
    for name_, p in model.lm.named_parameters():
        if "lora_B" in name_:
            p.data = torch.full_like(p, 0.3)
    objective = build_objective(name, **options)
    step = ObjectiveStep(model, objective=objective, max_buffer_bytes=2**20)
    batch = collate(data, pad_id=0, mask_id=world.MASK)
    return step, batch, objective.draw(batch, seed=0, step=0)


def test_the_base_is_the_model_without_its_adapter(world: ModuleType) -> None:
    """KL against full logits of a fresh base, dropout off, the adapter on again afterwards."""
    step, batch, context = _step(world, "nelbo_kl", world.examples(5))
    step.eval()
    found = step(**step_inputs(batch, context))["sums"]["kl"]
    base, ids = world.tiny_model(), torch.cat([batch.prompt_ids_BP, context.input_ids_BN], 1)
    mask = torch.cat([batch.prompt_mask_BP, torch.ones_like(context.input_ids_BN)], 1)
    logits = []
    for model in (base, step.model):
        hidden = model.hidden_states(ids, mask)
        rows = context.row_batch_R, context.row_slot_R + batch.prompt_ids_BP.shape[1]
        logits.append((hidden[rows] @ base.head_weight_VD.t()).log_softmax(-1))
    kl_R = (logits[0].exp() * (logits[0] - logits[1])).sum(-1)
    size_B = context.per_response(torch.ones_like(kl_R))
    expected = (context.per_response(kl_R) / size_B).sum()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert float(expected) > 1e-3
    step.train()
    step(**step_inputs(batch, context))
    assert step.model.training
    lora = [m for m in step.model.modules() if hasattr(m, "lora_A")]
    assert lora
    assert all(not m.disable_adapters for m in lora)


def test_no_gradient_goes_through_the_reference(world: ModuleType) -> None:
    step, batch, context = _step(world, "t3d", world.examples(4), block=4)
    step.reference.refresh(0)
    outputs = step(**step_inputs(batch, context))
    step.objective.total(outputs["sums"], context.counts).backward()
    grads = [p.grad for p in step.model.parameters() if p.requires_grad]
    assert all(g is not None for g in grads)
    assert any(g.any() for g in grads)


def test_a_snapshot_is_taken_every_few_steps(world: ModuleType) -> None:
    model = world.tiny_model()
    reference = ReferenceModel(model, build_objective("t3d", reference_every=3).reference)
    weight = model.base_lm.model.layers[0].mlp.up_proj.weight
    seen = []
    for step in range(7):
        weight.data.fill_(step)
        reference.refresh(step)
        with reference.active():
            seen.append(float(weight[0, 0]))
        assert float(weight[0, 0]) == step
    assert seen == [0, 0, 0, 3, 3, 3, 6]


def test_all_weights_keep_their_base(world: ModuleType) -> None:
    """Without an adapter the base is a copy, taken once."""
    model = world.tiny_model()
    reference = ReferenceModel(model, build_objective("nelbo_kl").reference)
    weight = model.base_lm.model.layers[0].mlp.up_proj.weight
    first = weight.detach().clone()
    for step in range(3):
        reference.refresh(step)
        weight.data += 1
        with reference.active():
            assert torch.equal(weight, first)


def _train(world: ModuleType, folder: Path, name: str, **settings: Any) -> dict[str, torch.Tensor]:
    model = world.tiny_model()
    defaults: dict[str, Any] = {
        "learning_rate": 1e-2, "warmup_steps": 0, "use_peft": False, "max_steps": 7,
        "per_device_train_batch_size": 4, "disable_tqdm": True, "seed": 5, "logging_steps": 1,
        "save_strategy": "steps", "save_steps": 1,
    }  # fmt: skip
    train(
        model=model,
        objective=build_objective(name, **({"block": 4} if name == "t3d" else {})),
        dataset=ResponseDataset(world.examples(16)),
        config=TrainingConfig(**{**defaults, **settings}),
        output_dir=folder,
    )
    return world.weights(model)


@pytest.mark.parametrize("name", ["t3d", "nelbo_kl"])
def test_a_resumed_run_has_the_same_reference(world: ModuleType, tmp_path: Path, name: str) -> None:
    """Stopped after 5 steps, between two snapshots, and gone on: the same weights to the bit."""
    whole = _train(world, tmp_path / "whole", name)

    class StoppedError(Exception):
        pass

    def stop(done: int, total: int, note: str) -> None:
        if done == 6:
            raise StoppedError

    model = world.tiny_model()
    config: dict[str, Any] = {
        "learning_rate": 1e-2, "warmup_steps": 0, "use_peft": False, "max_steps": 7,
        "per_device_train_batch_size": 4, "seed": 5, "logging_steps": 1,
        "save_strategy": "steps", "save_steps": 1,
    }  # fmt: skip
    with pytest.raises(StoppedError):
        train(
            model=model,
            objective=build_objective(name, **({"block": 4} if name == "t3d" else {})),
            dataset=ResponseDataset(world.examples(16)),
            config=TrainingConfig(**config),
            output_dir=tmp_path / "part",
            progress=stop,
        )
    again = _train(world, tmp_path / "part", name)
    for key, value in whole.items():
        assert torch.equal(again[key], value), key


def test_a_privileged_teacher_reads_its_own_prompt(world: ModuleType) -> None:
    """Hints of unequal length, left-padded: rows are found behind each, one at a time or all."""
    plain = world.examples(4)
    hinted = [
        ResponseExample(
            **{**vars(e), "hint_ids": np.concatenate([e.prompt_ids, np.full(3 * i, 7)])}
        )
        for i, e in enumerate(plain)
    ]
    step, batch, context = _step(world, "tad", hinted, steps=2)
    step.eval()
    together = step(**step_inputs(batch, context))["sums"]["kl"]
    alone = 0.0
    for e in hinted:
        one = collate([e], pad_id=0, mask_id=world.MASK)
        inputs = step_inputs(one, step.objective.draw(one, seed=0, step=0))
        alone += float(step(**inputs)["sums"]["kl"].detach())
    assert float(together.detach()) == pytest.approx(alone, abs=1e-8)
    without = collate(plain, pad_id=0, mask_id=world.MASK)
    other = step(**step_inputs(without, context))["sums"]["kl"]
    assert abs(float((other - together).detach())) > 1e-4
