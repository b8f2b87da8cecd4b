"""What the GPU suite measures of training: the head and the LoRA step. `gpu.py` runs it.

Legend: B batch, S prompt + response, N response slots, R rows, V vocabulary, D hidden.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import usual
from synthetic import make_batch
from tabom.models import costs
from tabom.models.adapters import attach_lora
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.sizes import sizes_of
from tabom.objectives.presets import build_objective
from tabom.objectives.rows import Rows
from tabom.training.step import ObjectiveStep, step_inputs, to_device
from tabom.vocabulary.head import linear_ce_entropy

if TYPE_CHECKING:
    from gpu import Suite

Record = dict[str, Any]
DATASHEET_FLOPS = 989e12  # H100 and H200, dense bfloat16
LORA_R = 16


def products(suite: Suite, record: Record) -> None:
    """The peak to hold everything against: one large product of random bfloat16 matrices."""
    size = 256 if suite.is_tiny else 8192
    generator = torch.Generator(device=suite.device).manual_seed(0)
    a, b = (
        torch.randn(size, size, device=suite.device, generator=generator).bfloat16()
        for _ in range(2)
    )
    record["product"] = suite.timed(lambda: a @ b, rounds=10)
    suite.peak_flops = 2 * size**3 / record["product"]["ms"] * 1000
    record["TFLOP/s"] = suite.peak_flops / 1e12


# ---- the head ----


def head(suite: Suite, record: Record) -> None:
    """Loss on a window of 32 of 512 positions, batch 8; and the error of the entropies."""
    B, N, W, D, V = (2, 8, 4, 32, 512) if suite.is_tiny else (8, 256, 32, 3584, 152064)
    generator = torch.Generator(device=suite.device).manual_seed(0)

    def normal(*shape: int, deviation: float) -> Tensor:
        value = torch.randn(*shape, device=suite.device, generator=generator)
        return (deviation * value).bfloat16()

    weight_VD = normal(V, D, deviation=1.0)
    batch = make_batch(B, num_prompt=N, num_slots=N, vocab_size=V)
    objective = build_objective("tabom", window=W, cut_rule="full_window")
    context = objective.draw(batch, seed=0, step=0)
    asked = _on_device(suite, usual.usual_batch(batch, context))
    inputs = to_device(step_inputs(batch, context), suite.device)
    on_device = inputs["context"]
    column_R = N + on_device.row_slot_R - 1  # as Dream's alignment has it
    for deviation in (1.0, 3.0, 6.0):
        hidden_BSD = normal(B, 2 * N, D, deviation=deviation / D**0.5).requires_grad_()

        def ours(hidden_BSD: Tensor = hidden_BSD) -> Tensor:
            rows_RD = hidden_BSD[on_device.row_batch_R, column_R]
            rows = Rows.of_head(rows_RD, weight_VD, on_device.label_R)
            sums = objective.term_sums(rows, on_device).sums
            return objective.total(sums, context.counts)

        def theirs(hidden_BSD: Tensor = hidden_BSD) -> Tensor:
            logits_BSV = hidden_BSD @ weight_VD.t()
            return usual.full_logit_loss(logits_BSV, asked, shift=True)

        found: Record = {}
        record[f"logits of deviation {deviation:g}"] = found
        if deviation == 3.0:
            found["loss, ours"] = float(ours().detach())
            found["loss, usual"] = float(theirs().detach())
            found["ours"] = suite.timed(_backward(ours, hidden_BSD), rounds=5)
            found["usual"] = suite.timed(_backward(theirs, hidden_BSD), rounds=5)
            compare(found)
        found.update(_entropy_errors(hidden_BSD.detach().flatten(0, 1)[:512], weight_VD))


def _backward(loss: Callable[[], Tensor], *inputs: Tensor) -> Callable[[], None]:
    def call() -> None:
        loss().backward()
        for value in inputs:
            value.grad = None

    return call


def _entropy_errors(hidden_RD: Tensor, weight_VD: Tensor) -> dict[str, float]:
    """Largest |dH| in nats against float64 of the same bfloat16 inputs, over 512 rows."""
    entropy_R, low = [], hidden_RD.shape[0] // 8 or 1
    for rows_RD in hidden_RD.split(low):
        log_RV = (rows_RD.double() @ weight_VD.double().t()).log_softmax(-1)
        entropy_R.append(-(log_RV.exp() * log_RV).sum(-1))
    exact_R = torch.cat(entropy_R)
    label_R = torch.zeros(len(hidden_RD), dtype=torch.long, device=hidden_RD.device)
    with torch.no_grad():
        ours_R = linear_ce_entropy(hidden_RD, weight_VD, label_R)[1]
        p_RV = (hidden_RD @ weight_VD.t()).float().softmax(-1)
        usual_R = -(p_RV * torch.log(p_RV + 1e-10)).sum(-1)
    worst = float((ours_R - exact_R).abs().max())
    return {
        "entropy error, ours": worst,
        "entropy error, bfloat16 logits": float((usual_R - exact_R).abs().max()),
        "entropy error is within 1e-3 nats": worst <= 1e-3,
    }


# ---- the training step ----


def training(suite: Suite, model: MaskedDiffusionModel, record: Record) -> None:
    """Forward, backward and AdamW of a LoRA adapter, with each way of doing it."""
    with adapter(model) as kind:
        record["adapter"] = kind
        for batch_size in (1, 2) if suite.is_tiny else (4, 8):
            found: Record = {}
            record[f"batch {batch_size}"] = found
            ours, theirs, flops = training_calls(suite, model, batch_size)
            for name, call in (("ours", ours), ("usual", theirs)):
                found[f"loss, {name}"] = suite.tried(lambda call=call: float(call()))
            found["ours"] = with_mfu(suite, suite.timed(ours), flops)
            found["usual"] = with_mfu(suite, suite.timed(theirs), flops)
            compare(found)
            with sdpa_kernel(SDPBackend.MATH):
                found["usual, math attention"] = with_mfu(suite, suite.timed(theirs), flops)
            found["roofline ms"] = 1000 * flops / suite.peak_flops
            found["host syncs"] = _host_syncs(suite, model, batch_size)


def training_calls(
    suite: Suite, model: MaskedDiffusionModel, batch_size: int
) -> tuple[Callable[[], Tensor], Callable[[], Tensor], float]:
    """One optimiser step our way and the usual way, and the FLOPs that it needs."""
    num_slots, window = (8, 4) if suite.is_tiny else (256, 32)
    step, inputs, objective, batch = _step(model, batch_size, num_slots, window)
    counts = inputs["context"].counts
    asked = _on_device(suite, usual.usual_batch(batch, inputs["context"]))
    inputs = to_device(inputs, suite.device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, fused=suite.is_cuda)

    def run(loss_of: Callable[[], Tensor]) -> Tensor:
        with torch.autocast(suite.device.type, dtype=torch.bfloat16):
            loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    def our_loss() -> Tensor:
        return objective.total(step(**inputs)["sums"], counts)

    def usual_loss() -> Tensor:
        return usual.usual_step_loss(model, asked, rank_weight=1.0, margin=0.2)

    flops = costs.step_flops(
        sizes_of(model.base_lm),
        num_tokens=batch_size * 2 * num_slots,
        context=2 * num_slots,
        num_rows=batch_size * window,
        lora_parameters=sum(p.numel() for p in trained),
        is_checkpointed=False,
    )
    return lambda: run(our_loss), lambda: run(usual_loss), flops


def _step(
    model: MaskedDiffusionModel, batch_size: int, num_slots: int, window: int
) -> tuple[ObjectiveStep, dict[str, Any], Any, Any]:
    objective = build_objective("tabom", window=window, cut_rule="full_window")
    batch = make_batch(
        batch_size,
        num_prompt=num_slots,
        num_slots=num_slots,
        vocab_size=model.vocab_size,
        mask_id=model.ids.mask,
    )
    context = objective.draw(batch, seed=0, step=0)
    step = ObjectiveStep(model, objective=objective, max_buffer_bytes=192 * 2**20)
    return step, step_inputs(batch, context), objective, batch


def _host_syncs(suite: Suite, model: MaskedDiffusionModel, batch_size: int) -> str:
    """Whether forward and backward wait for the device anywhere: torch raises where they do."""
    if not suite.is_cuda:
        return "not measured on a CPU"
    step, inputs, objective, _ = _step(model, batch_size, 256, 32)
    counts = inputs["context"].counts
    inputs = to_device(inputs, suite.device)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = objective.total(step(**inputs)["sums"], counts)
        loss.backward()
    except RuntimeError as error:
        return f"found: {str(error)[:300]}"
    finally:
        torch.cuda.set_sync_debug_mode("default")
        model.zero_grad()
    return "none"


class _LocalLora(nn.Module):
    """A linear layer with a low-rank update, where PEFT is not installed."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        place = linear.weight.device
        self.a = nn.Parameter(torch.full((LORA_R, linear.in_features), 1e-3, device=place))
        self.b = nn.Parameter(torch.zeros(linear.out_features, LORA_R, device=place))

    def forward(self, x: Tensor) -> Tensor:
        update: Tensor = (x @ self.a.t().to(x.dtype)) @ self.b.t().to(x.dtype)
        return self.linear(x) + update  # type: ignore[no-any-return]


@contextmanager
def adapter(model: MaskedDiffusionModel) -> Iterator[str]:
    """A LoRA adapter on q_proj and v_proj, taken off afterwards."""
    bare, attentions = model.lm, [layer.self_attn for layer in model.base_lm.model.layers]  # type: ignore[union-attr]
    has_peft = importlib.util.find_spec("peft") is not None
    linears = [(a, name, getattr(a, name)) for a in attentions for name in ("q_proj", "v_proj")]
    try:
        if has_peft:
            attach_lora(model, r=LORA_R, alpha=LORA_R)
        else:
            for attention, name, linear in linears:
                setattr(attention, name, _LocalLora(linear))
        model.train()
        yield "PEFT" if has_peft else "local"
    finally:
        for attention, name, linear in linears:
            setattr(attention, name, linear)
        model.lm = bare
        if has_peft:
            del bare.peft_config  # else the next adapter would be taken for a second one
        model.eval()


def compare(found: Record) -> None:
    """Ratios of the usual way to ours, where both ran."""
    ours, theirs = found.get("ours", {}), found.get("usual", {})
    if "ms" in ours and "ms" in theirs:
        found["times faster"] = theirs["ms"] / ours["ms"]
        if ours["extra GiB"]:
            found["times less memory"] = theirs["extra GiB"] / ours["extra GiB"]


def with_mfu(suite: Suite, found: dict[str, Any], flops: float) -> dict[str, Any]:
    if "ms" in found:
        found["MFU"] = 1000 * flops / suite.peak_flops / found["ms"]
        found["MFU of the datasheet's peak"] = 1000 * flops / DATASHEET_FLOPS / found["ms"]
    return found


def _on_device(suite: Suite, batch: usual.UsualBatch) -> usual.UsualBatch:
    return replace(
        batch,
        input_ids_BS=batch.input_ids_BS.to(suite.device),
        attention_mask_BS=batch.attention_mask_BS.to(suite.device),
        label_BN=batch.label_BN.to(suite.device),
        window=[slot_W.to(suite.device) for slot_W in batch.window],
    )
