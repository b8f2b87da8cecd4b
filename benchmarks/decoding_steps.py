"""One step of decoding on a state of our making, by the product's loop: for timing and equality.

Legend: B batch, S prompt + response, P prompt, N response slots.
"""

from dataclasses import fields, replace
from itertools import pairwise

import torch
from torch import Tensor

from tabom.decoding.canvas import Canvas
from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoder, DecodeRequest
from tabom.models.contract import MaskedDiffusionModel


def state(
    model: MaskedDiffusionModel,
    *,
    batch_size: int,
    num_prompt: int,
    num_slots: int,
    num_masked: int,
    block_length: int | None = None,
    seed: int = 0,
) -> Tensor:
    """Ids `[B, S]`: random prompts, random tokens in random slots, `num_masked` slots masked.

    With blocks, so many slots of the first block, and all slots of the others.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (batch_size, num_prompt + num_slots)
    ids_BS = torch.randint(0, model.vocab_size - 8, shape, generator=generator)
    ids_BS[:, num_prompt:] = model.ids.mask
    for row_S in ids_BS:
        filled = torch.randperm(block_length or num_slots, generator=generator)[num_masked:]
        tokens = torch.randint(0, model.vocab_size - 8, filled.shape, generator=generator)
        row_S[num_prompt + filled] = tokens
    return ids_BS.to(model.device)


def canvas_of(model: MaskedDiffusionModel, ids_BS: Tensor, *, num_slots: int) -> Canvas:
    """The product's state of a batch without padding, some of its slots already filled."""
    requests = [
        DecodeRequest(id=str(b), prompt_ids=prompt)
        for b, prompt in enumerate(ids_BS[:, :-num_slots].tolist())
    ]
    canvas = Canvas.blank(model, requests, num_slots)
    return replace(canvas, ids_BS=ids_BS.clone(), open_BN=ids_BS[:, -num_slots:] == model.ids.mask)


@torch.inference_mode()
def our_step(model: MaskedDiffusionModel, canvas: Canvas, config: DecodingConfig) -> Tensor:
    """The ids `[B, S]` after one call of the product's loop; `canvas` stays as it is."""
    values = {f.name: getattr(canvas, f.name) for f in fields(canvas)}
    canvas = Canvas(**{k: v.clone() if isinstance(v, Tensor) else v for k, v in values.items()})
    next(Decoder(model, config).steps(canvas))
    return canvas.ids_BS


@torch.inference_mode()
def body(model: MaskedDiffusionModel, ids_BS: Tensor) -> Tensor:
    """The layers alone, of the whole canvas: what no saving at the head can go below."""
    return model.hidden_states(ids_BS, None)


def integrate(seconds_at: dict[int, float]) -> float:
    """Seconds of all calls from the first number of masked slots to the last: trapezoids.

    seconds_at: of one call, by masked slots, falling (the last is 1): one slot is revealed a call.
    """
    points = list(seconds_at.items())
    total = (points[0][1] + points[-1][1]) / 2
    for (high, a), (low, b) in pairwise(points):
        total += (high - low) * (a + b) / 2
    return total
