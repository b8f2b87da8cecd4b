"""Nothing of a training step is left on another device, and nothing waits for one.

The `meta` device stands in for a GPU: an operation that mixes it with CPU tensors, or reads a value
of it, raises.
"""

from contextlib import nullcontext
from types import ModuleType
from typing import Any

import pytest
import torch

from tabom.models.adapters import attach_lora
from tabom.objectives.presets import PRESETS, build_objective, options_of
from tabom.training.dataset import ResponseExample, collate
from tabom.training.step import ObjectiveStep, step_inputs, to_device


@pytest.fixture(autouse=True)
def autocast_on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has no autocast for `meta`; where it is switched off there, nothing has to be done."""
    known = torch.autocast

    def autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        is_meta = device_type == "meta"
        return nullcontext() if is_meta else known(device_type, *args, **kwargs)

    monkeypatch.setattr(torch, "autocast", autocast)


def _judged(world: ModuleType) -> list[ResponseExample]:
    """Examples with advantages, old log-probabilities' neighbours, and hints of unequal length."""
    made = []
    for i, e in enumerate(world.examples(4)):
        hint = torch.cat([torch.from_numpy(e.prompt_ids), torch.full((i,), 3)]).numpy()
        fields: dict[str, Any] = {**vars(e), "advantage": (-1.0) ** i, "hint_ids": hint}
        made.append(ResponseExample(**fields))
    return made


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_objective_stays_on_its_device(world: ModuleType, name: str) -> None:
    known = options_of(PRESETS[name], name=name)
    options = {k: v for k, v in (("window", 2), ("block", 4)) if hasattr(known, k)}
    objective = build_objective(name, **options)
    model = world.tiny_model(dtype=torch.float32)
    attach_lora(model, r=2, target_modules=("q_proj", "v_proj"))
    model.to("meta")
    step = ObjectiveStep(model, objective=objective, max_buffer_bytes=2**20)
    batch = collate(_judged(world), pad_id=0, mask_id=world.MASK)
    context = objective.draw(batch, seed=5, step=0)
    inputs = to_device(step_inputs(batch, context), torch.device("meta"))
    if step.reference is not None:
        step.reference.refresh(0)
    outputs = step(**inputs)
    loss = objective.total(outputs["sums"], context.counts)
    loss.backward()
    assert loss.device.type == "meta"
    for total, count in outputs["metrics"].values():
        assert {torch.as_tensor(v).device.type for v in (total, count)} <= {"meta"}
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(g is not None and g.device.type == "meta" for g in grads)
