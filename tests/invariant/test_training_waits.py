"""What one training step does not do: wait for the device, or build logits of all positions.

A GPU is stood in for by watching the operations: those whose result the host has to read, or whose
size depends on values on the device, would each make it wait.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tabom.diagnostics.slot_losses import AskedCanvas, slot_losses
from tabom.objectives.presets import PRESETS, build_objective, options_of
from tabom.training.dataset import ResponseExample, collate
from tabom.training.metrics import Meter
from tabom.training.step import ObjectiveStep, step_inputs, to_device

WAITS = {
    "_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "repeat_interleave",
    "bincount", "equal", "is_nonzero", "item",
}  # fmt: skip


class Watch(TorchDispatchMode):
    """Names of operations that wait, and the most rows of anything as wide as the vocabulary."""

    def __init__(self, *, width: int = 0) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.width = width
        self.num_rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            isinstance(i, torch.Tensor) and i.dtype == torch.bool
            for i in (args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ())
        )
        if name in WAITS or by_mask:
            self.waits.append(name)
        result = func(*args, **(kwargs or {}))
        is_new = isinstance(result, torch.Tensor) and name != "t"
        if is_new and self.width and result.ndim and result.shape[-1] == self.width:
            self.num_rows = max(self.num_rows, result.numel() // self.width)
        return result


def step_of(
    world: ModuleType, name: str, examples: list[ResponseExample], **options: Any
) -> Callable[[], tuple[Any, int]]:
    """A forward and backward pass on inputs that have reached the device, and its rows."""
    objective = build_objective(name, **options)
    step = ObjectiveStep(world.tiny_model(), objective=objective, max_buffer_bytes=2**20)
    batch = collate(examples, pad_id=0, mask_id=world.MASK)
    context = objective.draw(batch, seed=5, step=0)
    inputs = to_device(step_inputs(batch, context), torch.device("cpu"))

    def run() -> tuple[Any, int]:
        meter = Meter()
        outputs = step(**inputs)
        objective.total(outputs["sums"], context.counts).backward()
        for key, total in outputs["sums"].items():
            meter.add(key, total, context.counts[key])
        for key, (total, count) in outputs["metrics"].items():
            meter.add(key, total, count)
        return outputs, len(context.row_slot_R)

    return run


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_nothing_is_read_back_between_the_collator_and_the_log(
    world: ModuleType, name: str, padded: bool
) -> None:
    known = options_of(PRESETS[name], name=name)
    options = {k: v for k, v in (("window", 2), ("block", 4)) if hasattr(known, k)}
    data = world.examples(4) if padded else [world.examples(1)[0]] * 3
    run = step_of(world, name, data, **options)
    with Watch() as watch:
        run()
    assert watch.waits == []


def test_the_watch_sees(world: ModuleType) -> None:
    x = torch.arange(4)
    with Watch() as watch:
        x[x > 1]
        x.nonzero()
        int(x.sum())
    assert watch.waits[-1] == "_local_scalar_dense"
    assert "nonzero" in watch.waits[1:]
    assert len(watch.waits) >= 3


@pytest.mark.parametrize("name", ["tabom", "nelbo"])
def test_no_tensor_holds_the_logits_of_all_positions(world: ModuleType, name: str) -> None:
    data = world.examples(4)
    run = step_of(world, name, data, **({"window": 2} if name == "tabom" else {}))
    with Watch(width=world.NUM_VOCAB) as watch:
        _, num_rows = run()
    assert watch.num_rows == num_rows < 4 * world.NUM_SLOTS


def test_diagnostics_ask_for_their_rows_only(world: ModuleType) -> None:
    model, data = world.tiny_model(), world.examples(4)
    questions = [
        AskedCanvas(
            prompt_ids=e.prompt_ids,
            input_ids_N=e.response_ids_N,
            slot_R=np.arange(i + 1),
            label_R=e.response_ids_N[: i + 1],
        )
        for i, e in enumerate(data)
    ]
    together = list(slot_losses(model, questions, batch_size=4))
    for question, (ce_R, entropy_R) in zip(questions, together, strict=True):
        ids = torch.tensor([[*question.prompt_ids.tolist(), *question.input_ids_N.tolist()]])
        log_p = (
            model.lm(input_ids=ids).logits[0, len(question.prompt_ids) :].detach().log_softmax(-1)
        )
        for i, slot in enumerate(question.slot_R):
            entropy = float(-(log_p[slot].exp() * log_p[slot]).sum())
            assert entropy_R[i] == pytest.approx(entropy, abs=1e-5)
            assert ce_R[i] == pytest.approx(-float(log_p[slot, question.label_R[i]]), abs=1e-5)


def test_autocast_leaves_the_loss_in_float32(world: ModuleType) -> None:
    model = world.tiny_model(dtype=torch.float32)
    objective, data = world.objective(), world.examples(4)
    batch = collate(data, pad_id=0, mask_id=world.MASK)
    context = objective.draw(batch, seed=5, step=0)
    step = ObjectiveStep(model, objective=objective, max_buffer_bytes=2**20)

    def sums() -> dict[str, torch.Tensor]:
        return step(**step_inputs(batch, context))["sums"]  # type: ignore[no-any-return]

    exact = sums()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = sums()
    loss = objective.total(rounded, context.counts)
    loss.backward()
    assert loss.dtype == torch.float32
    for name, value in rounded.items():
        assert value.dtype == torch.float32
        assert not torch.equal(value, exact[name])  # autocast was on
        torch.testing.assert_close(value, exact[name], rtol=0.1, atol=0.1)
    gradients = [p.grad for p in model.lm.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    assert any(g is not None and g.any() for g in gradients)
