"""The one decoding loop: prompts in, trajectories out.

What differs from the published functions of Dream and LLaDA, and why, is told in
`tabom.decoding.official`, which reproduces them.

Legend: B batch, S prompt + response, N response slots, R gathered rows, V vocabulary, D hidden,
L live rows (those with slots left to decode).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from tabom.core.errors import ConfigError
from tabom.core.keys import uniform
from tabom.decoding.answers import LOGIT_BYTES, RowStats, head_stats
from tabom.decoding.batch import Batch
from tabom.decoding.canvas import Canvas, require_finite
from tabom.decoding.config import DecodingConfig
from tabom.decoding.counts import DecodeCounts
from tabom.decoding.official import check_official, official_steps
from tabom.decoding.policies import candidates_in_block, quota, select
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

TOKEN_STREAM = 1  # keeps the draws of tokens apart from those of the random policy


def decode(
    model: MaskedDiffusionModel,
    requests: Iterable[DecodeRequest],
    config: DecodingConfig,
    *,
    seed: int = 0,
    batch_size: int = 32,
    sort_window: int = SORT_WINDOW,
    is_ordered: bool = True,
    record_field: bool = False,
    max_logit_bytes: int | None = None,
    fingerprint: str = "",
    progress: Callable[[int], None] | None = None,
    on_step: Observer | None = None,
    counts: DecodeCounts | None = None,
) -> Iterator[Decoded]:
    """Decode each request; results come in request order and do not depend on the batch.

    Under the official schedule they do: batches are then taken in request order, unsorted.
    Where rows finish at different steps, prompts of alike length enter in the place of those that
    have; not with a cache, record_field or on_step.

    requests: read lazily, `batch_size * sort_window` at a time; each such window is sorted by
        prompt length into batches, and its results are yielded when the window is done.
    seed: key of all draws, together with the request's id, the step and the slot; under the
        official schedule, of one generator for the whole call.
    is_ordered: False yields each result as soon as its row leaves the batch instead.
    record_field: also keep the entropy of every masked slot at every step (of the block alone in
        approximate decoding, where the others are not asked).
    max_logit_bytes: of one float32 tensor of logits, whatever batch, length and vocabulary (above
        temperature 0 at least one row's); a few are alive at once. Default: 256 MiB on a GPU,
        16 MiB on a CPU, where temperature 0 takes 2 MiB.
    fingerprint: copied into the trajectories.
    progress: called with the number of responses finished, after every batch.
    on_step: called after every reveal with copies of the batch's state; it changes no result.
    counts: is added to after every model call.
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
    check_decoding(model, config)
    generator = None
    if config.is_official:
        generator = torch.Generator(device=model.device).manual_seed(seed)
    for window in windows(requests, size=batch_size * sort_window):
        for request in window:
            check_request(request, vocab_size=model.vocab_size)
        batches = list(
            length_sorted_batches(window, batch_size=batch_size, is_sorted=not config.is_official)
        )
        order = [i for indices in batches for i in indices]
        done: dict[int, Decoded] = {}
        for finished in decode_queue(
            model,
            [window[i] for i in order],
            config,
            batch_size=batch_size,
            seed=seed,
            record_field=record_field,
            max_logit_bytes=max_logit_bytes,
            fingerprint=fingerprint,
            on_step=on_step,
            generator=generator,
            counts=DecodeCounts() if counts is None else counts,
        ):
            if progress is not None:
                progress(len(finished))
            if is_ordered:
                done.update((order[place], decoded) for place, decoded in finished)
            else:
                yield from (decoded for _, decoded in finished)
        if is_ordered:
            yield from (done[i] for i in range(len(window)))


def check_decoding(model: MaskedDiffusionModel, config: DecodingConfig) -> None:
    """Raises `ConfigError` on settings that do not go with the model."""
    check_blocks(model, config)
    if config.is_official:
        check_official(model, config)


def decode_queue(
    model: MaskedDiffusionModel,
    queue: Sequence[DecodeRequest],
    config: DecodingConfig,
    *,
    batch_size: int,
    seed: int,
    record_field: bool,
    max_logit_bytes: int,
    fingerprint: str,
    on_step: Observer | None,
    generator: torch.Generator | None,
    counts: DecodeCounts,
) -> Iterator[list[tuple[int, Decoded]]]:
    """Decode the requests of a queue in its order; yields places in it with their results."""
    # A field needs the slots behind the block, which a block-causal cache leaves out.
    is_cached = config.approximate is not None or (
        model.block_length is not None and not record_field
    )
    may_refill = generator is None and on_step is None and not record_field and not is_cached
    start, num_slots = 0, config.max_new_tokens
    batch: Batch | None = None
    while batch is not None or start < len(queue):
        with evaluating(model):
            if batch is None:
                places = range(start, min(start + batch_size, len(queue)))
                batch = Batch.of(model, queue, places, num_slots=num_slots)
                start += len(places)
            if generator is not None:
                calls = official_steps(
                    model,
                    batch.canvas,
                    config,
                    generator=generator,
                    record_field=record_field,
                )
            else:
                cached = BlockWindows(model, batch.canvas, config) if is_cached else None
                calls = own_steps(
                    model,
                    batch.canvas,
                    config,
                    seed=seed,
                    every_slot=record_field and config.approximate is None,
                    max_logit_bytes=max_logit_bytes,
                    cached=cached,
                    counts=counts,
                )
            num_entering = 0
            for step, entropy_BN in enumerate(calls):
                if generator is not None:
                    counts.add_official(batch.canvas.ids_BS, batch.canvas.attention_mask_BS, config)
                if record_field:
                    batch.fields.append(entropy_BN)
                if on_step is not None:
                    on_step(batch.canvas.view(batch.requests, step=step))
                if may_refill and start < len(queue):
                    num_entering = batch.num_entering(queue, start=start, batch_size=batch_size)
                    if num_entering:
                        break
            finished = batch.finished(
                model,
                is_all=not num_entering,
                method=config.policy,
                fingerprint=fingerprint,
            )
            counts.num_finished += len(finished)
            if num_entering:
                batch = batch.refilled(model, queue, start=start, num_entering=num_entering)
                start += num_entering
                counts.num_refills += 1
            else:
                batch = None
        yield finished


@contextmanager
def evaluating(model: MaskedDiffusionModel) -> Iterator[None]:
    """Eval mode without gradients; the model's mode is put back."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def own_steps(
    model: MaskedDiffusionModel,
    canvas: Canvas,
    config: DecodingConfig,
    *,
    seed: int,
    every_slot: bool,
    max_logit_bytes: int,
    cached: BlockWindows | None,
    counts: DecodeCounts,
) -> Iterator[Tensor]:
    """Call the model until every row is finished; yield the entropies of each call."""
    while bool((live_L := canvas.open_BN.any(dim=1).nonzero().squeeze(1)).numel()):
        yield reveal(
            model,
            canvas,
            live_L,
            config,
            seed=seed,
            every_slot=every_slot,
            max_logit_bytes=max_logit_bytes,
            cached=cached,
            counts=counts,
        )


def reveal(
    model: MaskedDiffusionModel,
    canvas: Canvas,
    live_L: Tensor,
    config: DecodingConfig,
    *,
    seed: int,
    every_slot: bool,
    max_logit_bytes: int,
    cached: BlockWindows | None = None,
    counts: DecodeCounts | None = None,
) -> Tensor:
    """One model call on the live rows: answer the best candidates of each, write them in place.

    every_slot: send all open slots through the head, not only those of the active block.
    cached: asks the model about the active block alone.
    A row's step is the number of calls that it took part in before.
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
        max_logit_bytes=max_logit_bytes,
        cached=cached,
        counts=counts,
    )
    require_finite(stats.entropy_R, model, canvas.num_forwards_B[batch_R])

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
    canvas.step_BN = torch.where(revealed_BN, canvas.num_forwards_B[:, None], canvas.step_BN)
    canvas.entropy_BN[revealed_BN] = entropy_BN[revealed_BN]
    canvas.confidence_BN[revealed_BN] = confidence_BN[revealed_BN]
    canvas.open_BN &= ~chosen_BN
    canvas.num_forwards_B[live_L] += 1
    if config.stop == "text":
        canvas.finish_texts(model)
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
    max_logit_bytes: int,
    cached: BlockWindows | None = None,
    counts: DecodeCounts | None = None,
) -> RowStats:
    """Statistics of the slots `slot_R` of rows `batch_R`, through the head in bounded chunks."""
    if cached is None:
        hidden_RD = hidden_rows(model, canvas, live_L, batch_R, slot_R, counts=counts)
    else:
        hidden_RD = cached.hidden_rows(live_L, batch_R, slot_R, counts=counts)
    if counts is not None:
        counts.num_calls += 1
        counts.num_rows += len(slot_R)
    key_R, step_R = canvas.key_B[batch_R], canvas.num_forwards_B[batch_R]
    order_uniform_R = token_uniform_R = None
    if config.policy == "random":
        order_uniform_R = uniform(seed, key_R, step_R, slot_R)
    if config.draws_tokens:
        token_uniform_R = uniform(seed, key_R, step_R, slot_R, TOKEN_STREAM)
    return head_stats(
        hidden_RD,
        model.head_weight_VD,
        config=config,
        mask_id=model.ids.mask,
        max_logit_bytes=max_logit_bytes,
        token_uniform_R=token_uniform_R,
        order_uniform_R=order_uniform_R,
    )


def hidden_rows(
    model: MaskedDiffusionModel,
    canvas: Canvas,
    live_L: Tensor,
    batch_R: Tensor,
    slot_R: Tensor,
    *,
    counts: DecodeCounts | None = None,
) -> Tensor:
    """The hidden rows `[R, D]` that predict `slot_R`, from a call on the whole canvas."""
    ids_LS, mask_LS = canvas.ids_BS, canvas.attention_mask_BS
    row_R = batch_R
    if len(live_L) < len(ids_LS):
        ids_LS, mask_LS = ids_LS[live_L], None if mask_LS is None else mask_LS[live_L]
        row_R = torch.searchsorted(live_L, batch_R)
    if counts is not None:
        counts.add_tokens(mask_LS, num_tokens=ids_LS.numel(), num_keys=ids_LS.shape[1])
    prompt_width = ids_LS.shape[1] - canvas.open_BN.shape[1]
    return model.asked_hidden(ids_LS, mask_LS, row_R, prompt_width + slot_R)
