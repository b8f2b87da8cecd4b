"""Cheap checks that a loaded model is what it claims to be. Each caught a silent failure once.

Legend: B batch, S positions, D hidden.

A few forward passes over 8 tokens (over two blocks under block-causal attention). They need no
meaning in the tokens, so they are valid for any vocabulary and for random weights.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tabom.core.errors import ModelError
from tabom.models.contract import MaskedDiffusionModel

NUM_TOKENS, NUM_PADS = 8, 3
# Relative size of a difference that rounding explains: other shapes take other GEMM kernels.
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """One probe: its name, whether it passed, and what was seen."""

    name: str
    passed: bool
    detail: str


def require_probes(model: MaskedDiffusionModel) -> None:
    """Run all probes. Raises `ModelError` that names every probe that failed."""
    failed = [result for result in run_probes(model) if not result.passed]
    if failed:
        words = "; ".join(f"{result.name}: {result.detail}" for result in failed)
        raise ModelError(
            f"{model.name_or_path} fails {len(failed)} of the load probes. {words}. The "
            "checkpoint, the attention implementation or the transformers version does not fit"
        )


def run_probes(model: MaskedDiffusionModel) -> list[ProbeResult]:
    """Run every probe in eval mode, without gradients; the model is left as it was."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            return [
                probe_rope(model),
                probe_bidirectional(model),
                *([] if model.block_length is None else [probe_block_causal(model)]),
                probe_pad_invariant(model),
                probe_batch_mate_invariant(model),
            ]
    finally:
        model.train(was_training)


def probe_rope(model: MaskedDiffusionModel) -> ProbeResult:
    """The rotary table is finite, float32, starts at 1 and falls.

    A non-persistent buffer that nobody refills after a load on the meta device holds garbage
    (seen: 1.5e26), and a cast of the whole model rounds it.
    """
    tables = [
        (name, buffer)
        for name, buffer in model.base_lm.named_buffers()
        if name.rpartition(".")[2] == "inv_freq"
    ]
    if not tables:
        return ProbeResult(name="rope", passed=False, detail="no rotary table (inv_freq) found")
    for name, table in tables:
        values = table.double()
        if table.dtype != torch.float32 and table.dtype != torch.float64:
            problem = f"dtype {table.dtype}, expected float32 (load with dtype=, do not cast)"
        elif not bool(torch.isfinite(values).all()):
            problem = "it holds values that are not finite"
        elif float(values[0]) != 1.0:
            problem = f"it starts at {float(values[0]):.6g}, expected 1"
        elif not bool((values[1:] < values[:-1]).all() and (values > 0).all()):
            problem = "it does not fall towards 0"
        else:
            continue
        return ProbeResult(name="rope", passed=False, detail=f"{name}: {problem}")
    return ProbeResult(name="rope", passed=True, detail=f"{len(tables)} rotary table(s) in order")


def probe_bidirectional(model: MaskedDiffusionModel) -> ProbeResult:
    """Another last token (of the first block) changes the hidden state at position 0.

    Causal attention forbids it.
    """
    last = (model.block_length or len(_tokens(model)[0])) - 1
    if last == 0:
        return ProbeResult(name="bidirectional", passed=True, detail="a block is one position")
    before_SD, after_SD = _with_other_token(model, last)
    moved = bool((before_SD[0] != after_SD[0]).any())
    return ProbeResult(
        name="bidirectional",
        passed=moved,
        detail="the first position sees the last"
        if moved
        else "the first position does not see the last: attention is causal",
    )


def probe_block_causal(model: MaskedDiffusionModel) -> ProbeResult:
    """Another token in the second block changes nothing in the first, and all of the second."""
    block = model.block_length or 1
    before_SD, after_SD = _with_other_token(model, 2 * block - 1)
    leaks = bool((before_SD[:block] != after_SD[:block]).any())
    moved = bool((before_SD[block:] != after_SD[block:]).any(dim=-1).all())
    problem = "the first block sees the second" if leaks else "a block does not see all of itself"
    return ProbeResult(
        name="block_causal",
        passed=moved and not leaks,
        detail=f"blocks of {block} see themselves and what is before them"
        if moved and not leaks
        else problem,
    )


def probe_pad_invariant(model: MaskedDiffusionModel) -> ProbeResult:
    """Left padding, and which token pads, change nothing at real positions."""
    ids_S, other = _tokens(model)
    mask_1S = torch.ones(1, NUM_PADS + len(ids_S), dtype=torch.long, device=model.device)
    mask_1S[:, :NUM_PADS] = 0
    pads = torch.full((NUM_PADS,), model.ids.pad, dtype=torch.long, device=model.device)
    plain = _hidden(model, ids_S[None])
    padded = _hidden(model, torch.cat([pads, ids_S])[None], mask_1S)[:, NUM_PADS:]
    pads = torch.full_like(pads, other)
    repadded = _hidden(model, torch.cat([pads, ids_S])[None], mask_1S)[:, NUM_PADS:]
    return _invariance(
        model,
        "pad_invariant",
        {"left padding": (plain, padded), "another pad token": (padded, repadded)},
    )


def probe_batch_mate_invariant(model: MaskedDiffusionModel) -> ProbeResult:
    """A row's hidden states do not depend on the other rows of its batch."""
    ids_S, other = _tokens(model)
    mate_S = torch.full_like(ids_S, other)
    alone, together = _hidden(model, ids_S[None]), _hidden(model, torch.stack([mate_S, ids_S]))
    return _invariance(model, "batch_mate_invariant", {"a batch-mate": (alone, together[1:])})


def _invariance(
    model: MaskedDiffusionModel, name: str, pairs: dict[str, tuple[Tensor, Tensor]]
) -> ProbeResult:
    allowed = ROUNDING.get(model.head_weight_VD.dtype, 1e-3)
    seen = []
    for what, (before, after) in pairs.items():
        before, after = before.double(), after.double()
        size = float((before - after).norm() / before.norm().clamp(min=1e-30))
        seen.append(f"{what} moves hidden states by {size:.1e} (allowed {allowed:.0e})")
        if not size <= allowed:  # written so that NaN fails
            return ProbeResult(name=name, passed=False, detail=seen[-1])
    return ProbeResult(name=name, passed=True, detail="; ".join(seen))


def _with_other_token(model: MaskedDiffusionModel, position: int) -> tuple[Tensor, Tensor]:
    """The hidden states `[S, D]` before and after another token is put at `position`."""
    ids_S, other = _tokens(model)
    changed_S = ids_S.clone()
    changed_S[position] = other
    return _hidden(model, ids_S[None])[0], _hidden(model, changed_S[None])[0]


def _tokens(model: MaskedDiffusionModel) -> tuple[Tensor, int]:
    """Ordinary tokens and another to swap in, spread over the first half of the vocabulary.

    The tail of a published vocabulary is often padding whose embeddings are all alike.
    """
    special = {model.ids.mask, model.ids.pad, *model.ids.eos}
    ordinary = [i for i in range(max(model.vocab_size // 2, 16)) if i not in special]
    ordinary = [i for i in ordinary if i < model.vocab_size]
    picked = [ordinary[k * (len(ordinary) - 1) // NUM_TOKENS] for k in range(NUM_TOKENS + 1)]
    num_tokens = NUM_TOKENS if model.block_length is None else 2 * model.block_length
    ids = [picked[k % NUM_TOKENS] for k in range(num_tokens)]
    return torch.tensor(ids, device=model.device), picked[NUM_TOKENS]


def _hidden(
    model: MaskedDiffusionModel, ids_BS: Tensor, attention_mask_BS: Tensor | None = None
) -> Tensor:
    return model.hidden_states(ids_BS, attention_mask_BS)
