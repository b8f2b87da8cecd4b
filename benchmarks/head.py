"""The loss head: cross-entropy, entropy and ranking of a window, forward and backward.

    python benchmarks/head.py                 # about eight minutes on one core
    PYTHONPATH=opponents python benchmarks/head.py

The second form adds the fused losses of TRL and Liger, if they were installed with
`pip install --no-deps --target opponents trl==1.16.0 liger-kernel==0.8.5 triton`.

Opponents: the usual way (the head on every position), plain autograd on the gathered rows. Ours:
`linear_ce_entropy` as it comes, and "tiled": with no logits kept for the backward pass. All get
one hidden tensor [B, S, D] and give the loss and its gradient. The logits are shifted by one, as
Dream's are.

Legend: B batch, S prompt + response, R gathered rows, V vocabulary, D hidden.
"""

import argparse
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import usual
from common import SEED, Call, assert_close, claim, paired, peak_memory, ratio, run_benchmark, say
from synthetic import make_batch
from tabom.objectives.batch import Context
from tabom.objectives.compose import Objective
from tabom.objectives.presets import build_objective
from tabom.objectives.rows import Rows as LossRows
from tabom.vocabulary.head import linear_ce_entropy

# Above any entropy, so that every pair counts: at the kink of the hinge rounding would decide if a
# pair has a gradient, and of 65,000 pairs some are there. The cost does not depend on it.
MARGIN = 12.0
TILE = 8192
NUM_PROMPT, NUM_SLOTS = 256, 256
TINY: dict[str, Any] = {"vocab_size": 600, "hidden_size": 16, "num_slots": 32, "num_prompt": 8}
CASES: dict[str, dict[str, Any]] = {
    "B=2 D=512 R=64": {"batch_size": 2, "hidden_size": 512, "window": 32},
    "B=4 D=1024 R=128": {"batch_size": 4, "hidden_size": 1024, "window": 32},
    "B=2 D=512 R=512 (all masked)": {"batch_size": 2, "hidden_size": 512, "window": 256},
}
Rows = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # -> ce_R, entropy_R


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What every variant is given."""

    hidden_BSD: Tensor
    weight_VD: Tensor
    context: Context
    objective: Objective
    batch: usual.UsualBatch
    row_R: tuple[Tensor, Tensor]  # batch and position of the gathered hidden states


def make_inputs(
    *,
    batch_size: int,
    hidden_size: int,
    window: int,
    vocab_size: int = 152064,
    num_prompt: int = NUM_PROMPT,
    num_slots: int = NUM_SLOTS,
) -> Inputs:
    """Random hidden states and a random head; logits of standard deviation 3."""
    generator = torch.Generator().manual_seed(SEED)
    window = min(window, num_slots)
    responses = make_batch(
        batch_size, num_prompt=num_prompt, num_slots=num_slots, vocab_size=vocab_size, seed=SEED
    )
    objective = build_objective("tabom", window=window, cut_rule="full_window", margin=MARGIN)
    context = objective.draw(responses, seed=SEED, step=0)
    hidden_BSD = torch.randn(
        batch_size, num_prompt + num_slots, hidden_size, generator=generator
    ).requires_grad_()
    weight_VD = torch.randn(vocab_size, hidden_size, generator=generator)
    weight_VD *= 3 / hidden_size**0.5
    return Inputs(
        hidden_BSD=hidden_BSD,
        weight_VD=weight_VD,
        context=context,
        objective=objective,
        batch=usual.usual_batch(responses, context),
        row_R=(context.row_batch_R, context.row_slot_R + num_prompt - 1),
    )


# ---- variants: each returns the loss; `make_call` runs it backward ----


def usual_loss(inputs: Inputs) -> Tensor:
    logits_BSV = inputs.hidden_BSD @ inputs.weight_VD.t()
    return usual.full_logit_loss(logits_BSV, inputs.batch, shift=True, margin=MARGIN)


def gathered_loss(inputs: Inputs) -> Tensor:
    rows_RD = inputs.hidden_BSD[inputs.row_R]
    return usual.gathered_loss(rows_RD, inputs.weight_VD, inputs.objective, inputs.context)


def rows_loss(inputs: Inputs, *, rows: Rows) -> Tensor:
    context, objective = inputs.context, inputs.objective
    ce_R, entropy_R = rows(inputs.hidden_BSD[inputs.row_R], inputs.weight_VD, context.label_R)
    return objective.total(
        objective.term_sums(LossRows(ce_R=ce_R, entropy_R=entropy_R), context).sums, context.counts
    )


def trl_rows(hidden_RD: Tensor, weight_VD: Tensor, label_R: Tensor) -> tuple[Tensor, Tensor]:
    from trl.kernels import ChunkedLogProbFunction

    log_p_R, entropy_R, *_ = ChunkedLogProbFunction.apply(
        hidden_RD, weight_VD, None, label_R, 1.0, TILE, None, 1.0, ("entropy",)
    )
    return -log_p_R, entropy_R


def liger_rows(hidden_RD: Tensor, weight_VD: Tensor, label_R: Tensor) -> tuple[Tensor, Tensor]:
    from liger_kernel.ops.fused_linear_scaled_cross_entropy import (
        LigerFusedLinearScaledCrossEntropyFunction,
    )

    ce_R, entropy_R = LigerFusedLinearScaledCrossEntropyFunction.apply(
        hidden_RD, weight_VD, label_R, 1.0, -100, 1, True
    )
    return ce_R, entropy_R


VARIANTS: dict[str, Callable[[Inputs], Tensor]] = {
    "usual": usual_loss,
    "gathered": gathered_loss,
    "ours": functools.partial(rows_loss, rows=linear_ce_entropy),
    "tiled": functools.partial(
        rows_loss, rows=functools.partial(linear_ce_entropy, max_buffer_bytes=0)
    ),
    "trl": functools.partial(rows_loss, rows=trl_rows),
    "liger": functools.partial(rows_loss, rows=liger_rows),
}


def installed(variant: str) -> bool:
    """Whether a variant can run; the two libraries are no dependencies."""
    try:
        if variant == "trl":
            import trl.kernels  # noqa: F401
        elif variant == "liger":
            import liger_kernel.ops.fused_linear_scaled_cross_entropy  # noqa: F401
    except ImportError:
        return False
    return True


def make_call(*, variant: str, **sizes: Any) -> Call:
    """Forward and backward of one variant; returns the loss and the hidden gradient."""
    return bind(variant, make_inputs(**sizes))


def bind(variant: str, inputs: Inputs) -> Call:
    def call() -> dict[str, Tensor]:
        inputs.hidden_BSD.grad = None
        loss = VARIANTS[variant](inputs)
        loss.backward()
        gradient = inputs.hidden_BSD.grad
        assert gradient is not None
        return {"loss": loss.detach(), "hidden gradient": gradient}

    return call


def reference(inputs: Inputs) -> dict[str, Tensor]:
    """Loss and hidden gradient in float64, by plain autograd in chunks of rows.

    In float32 the usual way is itself off by more than ours is, so it is no reference.
    """
    hidden_BSD = inputs.hidden_BSD.detach().double().requires_grad_()
    weight_VD = inputs.weight_VD.double()

    def plain(rows_RD: Tensor, label_R: Tensor) -> tuple[Tensor, Tensor]:
        log_p_RV = torch.log_softmax(rows_RD @ weight_VD.t(), dim=-1)
        ce_R = -log_p_RV.gather(1, label_R.unsqueeze(1)).squeeze(1)
        return ce_R, -(log_p_RV.exp() * log_p_RV).sum(-1)

    context, objective = inputs.context, inputs.objective
    chunks = zip(hidden_BSD[inputs.row_R].split(64), context.label_R.split(64), strict=True)
    found = [checkpoint(plain, *chunk, use_reentrant=False) for chunk in chunks]
    ce_R, entropy_R = (torch.cat(parts) for parts in zip(*found, strict=True))
    loss = objective.total(
        objective.term_sums(LossRows(ce_R=ce_R, entropy_R=entropy_R), context).sums, context.counts
    )
    loss.backward()
    assert hidden_BSD.grad is not None
    return {"loss": loss.detach(), "hidden gradient": hidden_BSD.grad}


def check(variant: str, call: Call, expected: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Ours must be within 2e-5 of float64, relative; the opponents are held to 1e-4."""
    rtol = 2e-5 if variant in ("ours", "tiled") else 1e-4
    try:
        return assert_close(call(), expected, atol={"loss": 2e-5}, rtol={"hidden gradient": rtol})
    except AssertionError as error:
        raise AssertionError(f"{variant}: {error}") from error


def measure_case(
    name: str, sizes: dict[str, Any], *, variants: list[str], rounds: int, no_memory: bool
) -> dict[str, Any]:
    inputs = make_inputs(**sizes)
    calls = {variant: bind(variant, inputs) for variant in variants}
    expected = reference(inputs)
    differences = {variant: check(variant, calls[variant], expected) for variant in variants}
    times = paired(calls, rounds=rounds)
    say(f"{name}: timed")
    memory = {}
    if not no_memory:
        for variant in variants:
            memory[variant] = peak_memory(make_call, warm_up=TINY, variant=variant, **sizes)
        say(f"{name}: memory measured")
    return {
        "sizes": sizes,
        "differences_from_float64": differences,
        "seconds": times,
        "peak_bytes": memory,
    }


def claims_of(name: str, case: dict[str, Any]) -> list[dict[str, Any]]:
    """What this head must show, for the window's rows and with everything masked."""
    times, memory = case["seconds"], case["peak_bytes"]
    is_all = "all masked" in name

    def time(slow: str, fast: str, bar: float) -> dict[str, Any]:
        words = f"{name}: {fast} against {slow}"
        return claim(f"{words}, time", ratio(times, slow, fast), bar=bar)

    def space(fast: str, bar: float) -> list[dict[str, Any]]:
        if not memory:
            return []
        words = f"{name}: {fast} against usual, extra peak memory"
        return [claim(words, memory["usual"] / memory[fast], bar=bar, unit="x less memory")]

    if is_all:
        return [
            time("usual", "ours", 3),
            *space("ours", 10),
        ]
    found = [time("usual", "ours", 20), time("gathered", "ours", 1.2)]
    if "trl" in times:
        found.append(time("trl", "ours", 1.3))
    return [*found, *space("ours", 30), *space("tiled", 80)]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    variants = [v for v in VARIANTS if installed(v)]
    cases, claims = {}, []
    for name, sizes in CASES.items():
        case = measure_case(
            name,
            {**sizes, **(TINY if args.tiny else {})},
            variants=variants,
            rounds=args.rounds,
            no_memory=args.no_memory,
        )
        cases[name] = case
        claims += claims_of(name, case)
    missing = {v: "not installed" for v in VARIANTS if v not in variants}
    return {"missing": missing, "cases": cases, "claims": claims}


if __name__ == "__main__":
    run_benchmark("head", measure, rounds=3)
