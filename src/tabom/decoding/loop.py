"""The one decoding loop: prompts in, trajectories out.

Legend: B batch, S prompt + response, N response slots, R gathered rows, V vocabulary, D hidden,
L live rows (those with slots left to decode).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from tabom.core.errors import ConfigError, ModelError
from tabom.core.keys import uniform
from tabom.decoding.canvas import Canvas
from tabom.decoding.config import DecodingConfig
from tabom.decoding.policies import RowStats, candidates_in_block, fixed_quota, row_stats, select
from tabom.decoding.requests import (
    SORT_WINDOW,
    Decoded,
    DecodeRequest,
    check_request,
    length_sorted_batches,
    windows,
)
from tabom.models.contract import MaskedDiffusionModel

__all__ = ["DecodeRequest", "Decoded", "decode"]

# On a CPU larger tensors come fresh from the system for every operation: twice the time a row.
LOGIT_BYTES = {"cpu": 16 * 2**20, "gpu": 256 * 2**20}
TOKEN_STREAM = 1  # keeps the draws of tokens apart from those of the random policy


def decode(
    model: MaskedDiffusionModel,
    requests: Iterable[DecodeRequest],
    config: DecodingConfig,
    *,
    seed: int = 0,
    batch_size: int = 32,
    sort_window: int = SORT_WINDOW,
    record_field: bool = False,
    max_logit_bytes: int | None = None,
    fingerprint: str = "",
    progress: Callable[[int], None] | None = None,
) -> Iterator[Decoded]:
    """Decode each request; results come in request order and do not depend on the batch.

    requests: read lazily, `batch_size * sort_window` at a time; each such window is sorted by
        prompt length into batches, and its results are yielded when the window is done.
    seed: key of all draws, together with the request's id, the step and the slot.
    record_field: also keep the entropy of every masked slot at every step.
    max_logit_bytes: size of one float32 [rows, vocabulary] tensor; a few are alive at once.
        Default: 256 MiB on a GPU, 16 MiB on a CPU.
    fingerprint: copied into the trajectories.
    progress: called with the number of responses finished, after every batch.
    Raises: `ConfigError` on a size below 1, `DataError` on a bad prompt, `ModelError` if the
        logits are not finite.
    """
    if max_logit_bytes is None:
        max_logit_bytes = LOGIT_BYTES["cpu" if model.device.type == "cpu" else "gpu"]
    for name, value in (
        ("batch_size", batch_size),
        ("sort_window", sort_window),
        ("max_logit_bytes", max_logit_bytes),
    ):
        if value < 1:
            raise ConfigError(f"decoding {name} must be at least 1, got {value}")
    for window in windows(requests, size=batch_size * sort_window):
        for request in window:
            check_request(request, vocab_size=model.vocab_size)
        done: dict[int, Decoded] = {}
        for indices in length_sorted_batches(window, batch_size=batch_size):
            decoded = decode_batch(
                model,
                [window[i] for i in indices],
                config,
                seed=seed,
                record_field=record_field,
                max_logit_bytes=max_logit_bytes,
                fingerprint=fingerprint,
            )
            done.update(zip(indices, decoded, strict=True))
            if progress is not None:
                progress(len(indices))
        yield from (done[i] for i in range(len(window)))


def decode_batch(
    model: MaskedDiffusionModel,
    requests: Sequence[DecodeRequest],
    config: DecodingConfig,
    *,
    seed: int,
    record_field: bool,
    max_logit_bytes: int,
    fingerprint: str,
) -> list[Decoded]:
    """Decode one batch, in eval mode and without gradients; the model's mode is put back."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            canvas = Canvas.blank(model, requests, config.max_new_tokens)
            fields: list[Tensor] = []
            step = 0
            while bool((live_L := canvas.open_BN.any(dim=1).nonzero().squeeze(1)).numel()):
                entropy_BN = reveal(
                    model,
                    canvas,
                    live_L,
                    config,
                    seed=seed,
                    step=step,
                    every_slot=record_field,
                    max_logit_bytes=max_logit_bytes,
                )
                if record_field:
                    fields.append(entropy_BN)
                step += 1
    finally:
        model.train(was_training)
    return canvas.results(model, requests, fields, method=config.policy, fingerprint=fingerprint)


def reveal(
    model: MaskedDiffusionModel,
    canvas: Canvas,
    live_L: Tensor,
    config: DecodingConfig,
    *,
    seed: int,
    step: int,
    every_slot: bool,
    max_logit_bytes: int,
) -> Tensor:
    """One model call on the live rows: answer the best candidates of each, write them in place.

    every_slot: send all open slots through the head, not only those of the active block.
    Returns: float32 `[B, N]`, the entropies of this call, NaN where no row was asked.
    """
    candidates_BN = candidates_in_block(canvas.open_BN, block_length=config.block_length)
    batch_R, slot_R = (canvas.open_BN if every_slot else candidates_BN).nonzero(as_tuple=True)
    stats = ask(
        model,
        canvas,
        live_L,
        batch_R,
        slot_R,
        config,
        seed=seed,
        step=step,
        max_logit_bytes=max_logit_bytes,
    )
    if not bool(torch.isfinite(stats.entropy_R).all()):
        raise ModelError(
            f"{model.name_or_path} gives logits that are not finite at step {step}; the weights "
            "or the dtype are broken (float16 overflows; take bfloat16 or float32)"
        )

    def on_slots(value_R: Tensor, fill: float) -> Tensor:
        slots_BN = value_R.new_full(canvas.open_BN.shape, fill)
        slots_BN[batch_R, slot_R] = value_R
        return slots_BN

    token_BN = on_slots(stats.token_R, 0)
    entropy_BN = on_slots(stats.entropy_R, torch.nan)
    confidence_BN = on_slots(stats.confidence_R, torch.nan)
    quota_B = fixed_quota(candidates_BN, tokens_per_step=config.tokens_per_step)
    chosen_BN = select(on_slots(stats.score_R, -torch.inf), candidates_BN, quota_B)
    revealed_BN = chosen_BN & (token_BN != model.ids.mask)
    response_BN = canvas.ids_BS[:, -canvas.open_BN.shape[1] :]  # a view: written in place
    response_BN[revealed_BN] = token_BN[revealed_BN]
    canvas.step_BN[revealed_BN] = step
    canvas.entropy_BN[revealed_BN] = entropy_BN[revealed_BN]
    canvas.confidence_BN[revealed_BN] = confidence_BN[revealed_BN]
    canvas.open_BN &= ~chosen_BN
    canvas.num_forwards_B[live_L] += 1
    return entropy_BN


def ask(
    model: MaskedDiffusionModel,
    canvas: Canvas,
    live_L: Tensor,
    batch_R: Tensor,
    slot_R: Tensor,
    config: DecodingConfig,
    *,
    seed: int,
    step: int,
    max_logit_bytes: int,
) -> RowStats:
    """Statistics of the slots `slot_R` of rows `batch_R`, through the head in bounded chunks."""
    ids_LS, mask_LS = canvas.ids_BS, canvas.attention_mask_BS
    row_R = batch_R
    if len(live_L) < len(ids_LS):
        ids_LS, mask_LS = ids_LS[live_L], None if mask_LS is None else mask_LS[live_L]
        row_R = torch.searchsorted(live_L, batch_R)
    hidden_LSD = model.hidden_states(ids_LS, mask_LS)
    prompt_width = ids_LS.shape[1] - canvas.open_BN.shape[1]
    hidden_RD = model.gather_rows(hidden_LSD, row_R, prompt_width + slot_R)
    key_R = canvas.key_B[batch_R]
    order_uniform_R = token_uniform_R = None
    if config.policy == "random":
        order_uniform_R = uniform(seed, key_R, step, slot_R)
    if config.temperature > 0:
        token_uniform_R = uniform(seed, key_R, step, slot_R, TOKEN_STREAM)
    weight_VD = model.head_weight_VD
    rows = max(1, max_logit_bytes // (4 * weight_VD.shape[0]))
    parts = []
    for start in range(0, len(slot_R), rows):
        chunk = slice(start, start + rows)
        parts.append(
            row_stats(
                linear(hidden_RD[chunk], weight_VD),
                config=config,
                mask_id=model.ids.mask,
                token_uniform_R=None if token_uniform_R is None else token_uniform_R[chunk],
                order_uniform_R=None if order_uniform_R is None else order_uniform_R[chunk],
            )
        )
    return RowStats(
        **{
            name: torch.cat([getattr(part, name) for part in parts])
            for name in ("token_R", "score_R", "entropy_R", "confidence_R")
        }
    )
