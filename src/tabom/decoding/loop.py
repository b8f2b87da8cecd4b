"""The one decoding loop: prompts in, trajectories out.

What differs from the published functions of Dream and LLaDA, and why, is told in
`tabom.decoding.official`, which reproduces them.

Legend: B batch, S prompt + response, N response slots, R gathered rows, V vocabulary, D hidden,
L live rows (those with slots left to decode).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from tabom.core.errors import ConfigError
from tabom.core.keys import uniform
from tabom.decoding.canvas import Canvas, require_finite
from tabom.decoding.config import DecodingConfig
from tabom.decoding.official import official_steps
from tabom.decoding.policies import RowStats, candidates_in_block, quota, row_stats, select
from tabom.decoding.requests import (
    SORT_WINDOW,
    Decoded,
    DecodeRequest,
    Observer,
    check_request,
    length_sorted_batches,
    windows,
)
from tabom.decoding.windows import BlockWindows, check_blocks
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
    on_step: Observer | None = None,
) -> Iterator[Decoded]:
    """Decode each request; results come in request order and do not depend on the batch.

    Under the official schedule they do: batches are then taken in request order, unsorted.

    requests: read lazily, `batch_size * sort_window` at a time; each such window is sorted by
        prompt length into batches, and its results are yielded when the window is done.
    seed: key of all draws, together with the request's id, the step and the slot; under the
        official schedule, of one generator for the whole call.
    record_field: also keep the entropy of every masked slot at every step (of the block alone in
        approximate decoding, where the others are not asked).
    max_logit_bytes: size of one float32 [rows, vocabulary] tensor; a few are alive at once.
        Default: 256 MiB on a GPU, 16 MiB on a CPU.
    fingerprint: copied into the trajectories.
    progress: called with the number of responses finished, after every batch.
    on_step: called after every reveal with copies of the batch's state; it changes no result.
    Raises: `ConfigError` on a size below 1 or settings that do not go with the model, `DataError`
        on a bad prompt, `ModelError` if the logits are not finite.
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
    check_blocks(model, config)
    generator = None
    if config.is_official:
        generator = torch.Generator(device=model.device).manual_seed(seed)
    for window in windows(requests, size=batch_size * sort_window):
        for request in window:
            check_request(request, vocab_size=model.vocab_size)
        done: dict[int, Decoded] = {}
        for indices in length_sorted_batches(
            window, batch_size=batch_size, is_sorted=not config.is_official
        ):
            decoded = decode_batch(
                model,
                [window[i] for i in indices],
                config,
                seed=seed,
                record_field=record_field,
                max_logit_bytes=max_logit_bytes,
                fingerprint=fingerprint,
                on_step=on_step,
                generator=generator,
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
    on_step: Observer | None = None,
    generator: torch.Generator | None = None,
) -> list[Decoded]:
    """Decode one batch, in eval mode and without gradients; the model's mode is put back."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            canvas = Canvas.blank(model, requests, config.max_new_tokens)
            fields: list[Tensor] = []
            if generator is not None:
                calls = official_steps(
                    model, canvas, config, generator=generator, record_field=record_field
                )
            else:
                calls = own_steps(
                    model,
                    canvas,
                    config,
                    seed=seed,
                    record_field=record_field,
                    max_logit_bytes=max_logit_bytes,
                )
            for step, entropy_BN in enumerate(calls):
                if record_field:
                    fields.append(entropy_BN)
                if on_step is not None:
                    on_step(canvas.view(requests, step=step))
    finally:
        model.train(was_training)
    return canvas.results(model, requests, fields, method=config.policy, fingerprint=fingerprint)


def own_steps(
    model: MaskedDiffusionModel,
    canvas: Canvas,
    config: DecodingConfig,
    *,
    seed: int,
    record_field: bool,
    max_logit_bytes: int,
) -> Iterator[Tensor]:
    """Call the model until every slot is decoded; yield the entropies of each call."""
    is_approximate = config.approximate is not None
    cached = None
    # A field needs the slots behind the block, which a block-causal cache leaves out.
    if is_approximate or (model.block_length is not None and not record_field):
        cached = BlockWindows(model, canvas, config)
    step = 0
    while bool((live_L := canvas.open_BN.any(dim=1).nonzero().squeeze(1)).numel()):
        yield reveal(
            model,
            canvas,
            live_L,
            config,
            seed=seed,
            step=step,
            every_slot=record_field and not is_approximate,
            max_logit_bytes=max_logit_bytes,
            cached=cached,
        )
        step += 1


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
    cached: BlockWindows | None = None,
) -> Tensor:
    """One model call on the live rows: answer the best candidates of each, write them in place.

    every_slot: send all open slots through the head, not only those of the active block.
    cached: asks the model about the active block alone.
    Returns: float32 `[B, N]`, the entropies of this call, NaN where no row was asked.
    """
    candidates_BN = candidates_in_block(
        canvas.open_BN,
        block_length=model.block_length or config.block_length,
        offset_B=None if model.block_length is None else canvas.prompt_length_B,
    )
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
        cached=cached,
    )
    require_finite(stats.entropy_R, model, step)

    def on_slots(value_R: Tensor, fill: float) -> Tensor:
        slots_BN = value_R.new_full(canvas.open_BN.shape, fill)
        slots_BN[batch_R, slot_R] = value_R
        return slots_BN

    token_BN = on_slots(stats.token_R, 0)
    entropy_BN = on_slots(stats.entropy_R, torch.nan)
    confidence_BN = on_slots(stats.confidence_R, torch.nan)
    score_BN = on_slots(stats.score_R, -torch.inf)
    chosen_BN = select(score_BN, candidates_BN, quota(score_BN, candidates_BN, config))
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
    cached: BlockWindows | None = None,
) -> RowStats:
    """Statistics of the slots `slot_R` of rows `batch_R`, through the head in bounded chunks."""
    if cached is None:
        hidden_RD = hidden_rows(model, canvas, live_L, batch_R, slot_R)
    else:
        hidden_RD = cached.hidden_rows(live_L, batch_R, slot_R)
    key_R = canvas.key_B[batch_R]
    order_uniform_R = token_uniform_R = None
    if config.policy == "random":
        order_uniform_R = uniform(seed, key_R, step, slot_R)
    if config.draws_tokens:
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


def hidden_rows(
    model: MaskedDiffusionModel, canvas: Canvas, live_L: Tensor, batch_R: Tensor, slot_R: Tensor
) -> Tensor:
    """The hidden rows `[R, D]` that predict `slot_R`, from a call on the whole canvas."""
    ids_LS, mask_LS = canvas.ids_BS, canvas.attention_mask_BS
    row_R = batch_R
    if len(live_L) < len(ids_LS):
        ids_LS, mask_LS = ids_LS[live_L], None if mask_LS is None else mask_LS[live_L]
        row_R = torch.searchsorted(live_L, batch_R)
    prompt_width = ids_LS.shape[1] - canvas.open_BN.shape[1]
    return model.asked_hidden(ids_LS, mask_LS, row_R, prompt_width + slot_R)
