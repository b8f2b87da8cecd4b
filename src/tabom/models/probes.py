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
# Relative size of a difference that rounding explains: other shapes take other GEMM kernels, and
# rotary tables are float32 in any case.
ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}


@dataclass(frozen=True)
class ProbeResult:
    """One probe: its name, whether it passed, and what was seen."""

    name: str
    passed: bool
    detail: str


class ProbeError(ModelError):
    """A model that was loaded and fails a probe. model: as it was loaded."""

    def __init__(self, message: str, *, model: MaskedDiffusionModel) -> None:
        super().__init__(message)
        self.model = model


def require_probes(model: MaskedDiffusionModel) -> None:
    """Run all probes. Raises `ProbeError` that names every probe that failed."""
    failed = [result for result in run_probes(model) if not result.passed]
    if failed:
        words = "; ".join(f"{result.name}: {result.detail}" for result in failed)
        raise ProbeError(
            f"{model.name_or_path} fails {len(failed)} of the load probes. {words}. The "
            "checkpoint, the attention implementation or the transformers version does not fit",
            model=model,
        )


def run_probes(model: MaskedDiffusionModel) -> list[ProbeResult]:
    """Run every probe in eval mode, without gradients; the model is left as it was."""
    was_training = model.training
    model.eval()
    results = []
    try:
        with torch.inference_mode():
            for probe in PROBES:
                problem, rule = probe(model), (probe.__doc__ or "").split("\n")[0]
                results.append(ProbeResult(probe.__name__, not problem, problem or rule))
    finally:
        model.train(was_training)
    return results


# A probe returns what is wrong, "" if nothing is; its first line says what is right.


def rope(model: MaskedDiffusionModel) -> str:
    """The rotary tables are finite, float32, start at 1 and fall.

    A non-persistent buffer that nobody refills after a load on the meta device holds garbage
    (seen: 1.5e26), and a cast of the whole model rounds it.
    """
    buffers = dict(model.base_lm.named_buffers())
    tables = {n: b for n, b in buffers.items() if n.rpartition(".")[2] == "inv_freq"}
    for name, table in tables.items():
        if table.dtype not in (torch.float32, torch.float64):
            return f"{name}: dtype {table.dtype}, expected float32 (load with dtype=, do not cast)"
        if float(table[0]) != 1.0:
            return f"{name}: it starts at {float(table[0]):.6g}, expected 1"
        # Written so that NaN fails.
        if not bool((table[1:] < table[:-1]).all() and (table > 0).all()):
            return f"{name}: it does not fall towards 0"
    return "" if tables else "no rotary table (inv_freq) found"


def bidirectional(model: MaskedDiffusionModel) -> str:
    """The first position sees the last (of its block)."""
    last = (model.block_length or NUM_TOKENS) - 1
    before_SD, after_SD = _with_other_token(model, last)
    moved = last == 0 or bool((before_SD[0] != after_SD[0]).any())
    return "" if moved else "the first position does not see the last: attention is causal"


def block_causal(model: MaskedDiffusionModel) -> str:
    """Under block-causal attention, blocks see themselves and what is before them."""
    if model.block_length is None:
        return ""
    block = model.block_length
    before_SD, after_SD = _with_other_token(model, 2 * block - 1)
    changed = (before_SD - after_SD)[:block].norm() / before_SD[:block].norm()
    # Which tokens share an expert, and so the shapes of its products, depends on all of them.
    allowed = ROUNDING.get(before_SD.dtype, 1e-3) / 100 if model.family.has_experts else 0.0
    if not bool(changed <= allowed):  # written so that NaN fails
        return "the first block sees the second"
    moved = bool((before_SD[block:] != after_SD[block:]).any(dim=-1).all())
    return "" if moved else "a block does not see all of itself"


def pad_invariant(model: MaskedDiffusionModel) -> str:
    """Left padding, and which token pads, change nothing at real positions."""
    ids_S, other = _tokens(model)
    mask_1S = torch.ones(1, NUM_PADS + len(ids_S), dtype=torch.long, device=model.device)
    mask_1S[:, :NUM_PADS] = 0

    def padded(token: int) -> Tensor:
        pads = torch.full((NUM_PADS,), token, dtype=torch.long, device=model.device)
        hidden_1SD = model.hidden_states(torch.cat([pads, ids_S])[None], mask_1S)
        return hidden_1SD[:, NUM_PADS:]

    plain, with_pads = model.hidden_states(ids_S[None], None), padded(model.ids.pad)
    return _moved(model, "left padding", plain, with_pads) or _moved(
        model, "another pad token", with_pads, padded(other)
    )


def batch_mate_invariant(model: MaskedDiffusionModel) -> str:
    """A row's hidden states do not depend on the other rows of its batch."""
    ids_S, other = _tokens(model)
    mate_S = torch.full_like(ids_S, other)
    alone = model.hidden_states(ids_S[None], None)
    together = model.hidden_states(torch.stack([mate_S, ids_S]), None)
    return _moved(model, "a batch-mate", alone, together[1:])


PROBES = (rope, bidirectional, block_causal, pad_invariant, batch_mate_invariant)


def _moved(model: MaskedDiffusionModel, what: str, before: Tensor, after: Tensor) -> str:
    """What moved hidden states by more than rounding; "" if nothing did."""
    allowed = ROUNDING.get(model.head_weight_VD.dtype, 1e-3)
    before, after = before.double(), after.double()
    size = float((before - after).norm() / before.norm().clamp(min=1e-30))
    if size <= allowed:  # written so that NaN fails
        return ""
    return f"{what} moves hidden states by {size:.1e} (allowed {allowed:.0e})"


def _with_other_token(model: MaskedDiffusionModel, position: int) -> tuple[Tensor, Tensor]:
    """The hidden states `[S, D]` before and after another token is put at `position`."""
    ids_S, other = _tokens(model)
    changed_S = ids_S.clone()
    changed_S[position] = other
    before_BSD, after_BSD = (model.hidden_states(ids[None], None) for ids in (ids_S, changed_S))
    return before_BSD[0], after_BSD[0]


def _tokens(model: MaskedDiffusionModel) -> tuple[Tensor, int]:
    """Ordinary tokens and another to swap in, spread over the first half of the vocabulary.

    The tail of a published vocabulary is often padding whose embeddings are all alike.
    """
    special = {model.ids.mask, model.ids.pad, *model.ids.eos}
    num_known = min(max(model.vocab_size // 2, 16), model.vocab_size)
    ordinary = [i for i in range(num_known) if i not in special]
    picked = [ordinary[k * (len(ordinary) - 1) // NUM_TOKENS] for k in range(NUM_TOKENS + 1)]
    num_tokens = NUM_TOKENS if model.block_length is None else 2 * model.block_length
    ids = [picked[k % NUM_TOKENS] for k in range(num_tokens)]
    return torch.tensor(ids, device=model.device), picked[NUM_TOKENS]
