"""The decoder: prompts in, trajectories out.

What differs from the published functions of Dream and LLaDA, and why, is told in
`tabom.decoding.official`, which reproduces them.

Legend: B batch, S prompt + response, N response slots, R slots asked, D hidden, L live rows (those
with slots left to decode).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tabom.core.errors import ConfigError
from tabom.decoding.answers import Answers, SlotStats
from tabom.decoding.blocks import CachedBlocks, check_blocks
from tabom.decoding.canvas import Canvas
from tabom.decoding.config import DecodingConfig
from tabom.decoding.counts import DecodeCounts
from tabom.decoding.official import OfficialDecoding, check_official
from tabom.decoding.policies import (
    blocks_at_work,
    candidates_in_block,
    quota,
    select,
    select_ahead,
)
from tabom.decoding.requests import Decoded, DecodeRequest, Observer, by_length, check_request
from tabom.models.contract import MaskedDiffusionModel
from tabom.vocabulary.sizes import LOGIT_BYTES, kind_of

__all__ = ["DecodeRequest", "Decoded", "Decoder"]


class Decoder:
    """Decodes requests with one model under one configuration.

    This is the one door to decoding: requests go in, responses come out as they finish. Callers
    use `decode`, `in_order`, `counts` and what it was made from alone, so that another engine could
    stand here. It alone decides which prompts share a batch. Responses do not depend on that, but
    for the official schedule, whose functions do.

    seed: key of all draws, together with the request's id, the step and the slot; under the
        official schedule, of one generator for each `decode`.
    batch_size: responses decoded together.
    max_logit_bytes: of one float32 tensor of logits, whatever batch, length and vocabulary (above
        temperature 0 at least one row's); a few are alive at once. Default: 256 MiB on a GPU,
        16 MiB on a CPU, where temperature 0 takes 2 MiB.
    fingerprint: copied into the trajectories.
    counts: what all decoding so far has cost; read it at any time.
    Raises: `ConfigError` on a size below 1 or settings that do not go with the model.
    """

    def __init__(
        self,
        model: MaskedDiffusionModel,
        config: DecodingConfig,
        *,
        seed: int = 0,
        batch_size: int = 32,
        max_logit_bytes: int | None = None,
        fingerprint: str = "",
    ) -> None:
        if max_logit_bytes is None:
            max_logit_bytes = LOGIT_BYTES[kind_of(model.device.type)]
        for name, value in (("batch_size", batch_size), ("max_logit_bytes", max_logit_bytes)):
            if value < 1:
                raise ConfigError(f"decoding {name} must be at least 1, got {value}")
        check_blocks(model, config)
        if config.is_official:
            check_official(model, config)
        for token in (*config.suppress_ids, *config.begin_suppress_ids):
            if not 0 <= token < model.vocab_size:
                raise ConfigError(
                    f"decoding suppress_ids or begin_suppress_ids has {token}, which is no token "
                    f"of a vocabulary of {model.vocab_size}"
                )
        self.model, self.config, self.seed = model, config, seed
        self.batch_size, self.fingerprint = batch_size, fingerprint
        self.counts = DecodeCounts()
        self._answers = Answers(
            config=config,
            mask_id=model.ids.mask,
            max_logit_bytes=max_logit_bytes,
            eos_id=model.ids.filler,
            seed=seed,
        )

    def __repr__(self) -> str:
        name, size = self.model.name_or_path, self.batch_size
        return f"Decoder({name!r}, {self.config!r}, seed={self.seed}, batch_size={size})"

    def decode(
        self,
        requests: Iterable[DecodeRequest],
        *,
        record_field: bool = False,
        on_step: Observer | None = None,
    ) -> Iterator[Decoded]:
        """Decode each request; responses come as they finish, which is not in request order.

        All requests are read first. Batches are of prompts of alike length. Where rows finish at
        different steps, waiting prompts take the places of those that have; not with a cache,
        record_field or on_step. Under the official schedule batches are in request order.

        record_field: also keep the entropy of every masked slot at every step (of the block alone
            in approximate decoding, where the others are not asked).
        on_step: called after every reveal with copies of the batch's state; it changes no result.
        Raises: `DataError` on a bad prompt, `ModelError` if the logits are not finite.
        """
        # The published functions draw from one stream, so for them the order of requests counts.
        waiting = list(requests) if self.config.is_official else by_length(requests)
        # All are looked at first, so that a bad prompt ends the run before hours of decoding.
        for request in waiting:
            check_request(request, self.config, self.model.ids.mask, self.model.vocab_size)
        longest = max((len(request.prompt_ids) for request in waiting), default=0)
        self.model.require_positions(
            prompt_tokens=longest, max_new_tokens=self.config.max_new_tokens
        )
        generator = torch.Generator(device=self.model.device).manual_seed(self.seed)
        # A field needs the slots behind the block, which a block-causal cache leaves out.
        is_cached = self.config.approximate is not None or (
            self.model.block_length is not None and not record_field
        )
        # Fields and observers belong to one batch from its first step to its last.
        may_refill = not (self.config.is_official or is_cached or record_field or on_step)
        every_slot = record_field and self.config.approximate is None
        canvas: Canvas | None = None
        while canvas is not None or waiting:
            with evaluating(self.model):
                if canvas is None:
                    num_slots = self.config.max_new_tokens
                    canvas = Canvas.blank(self.model, waiting[: self.batch_size], num_slots)
                    del waiting[: self.batch_size]
                if self.config.is_official:
                    steps = OfficialDecoding(
                        self.model, self.config, self.counts, generator, every_slot
                    ).steps(canvas)
                else:
                    steps = self.steps(canvas, is_cached=is_cached, every_slot=every_slot)
                num_entering = 0
                for step, entropy_BN in enumerate(steps):
                    if record_field:
                        canvas.fields.append(entropy_BN)
                    if on_step is not None:
                        on_step(canvas.view(step=step))
                    if may_refill and waiting:
                        num_entering = canvas.num_entering(waiting, batch_size=self.batch_size)
                        if num_entering:
                            break
                if not num_entering:
                    # What an official function has left masked at its end stays so.
                    canvas.open_BN.fill_(False)
                finished = canvas.finished(
                    self.model, method=self.config.policy, fingerprint=self.fingerprint
                )
                self.counts.num_finished += len(finished)
                if num_entering:
                    canvas = canvas.refilled(self.model, waiting[:num_entering])
                    del waiting[:num_entering]
                    self.counts.num_refills += 1
                else:
                    canvas = None
            # Out of the context, which would else reach into the caller's code.
            yield from finished

    def in_order(self, requests: Iterable[DecodeRequest], **options: Any) -> Iterator[Decoded]:
        """As `decode`, in the order of the requests: each response waits for those before it."""
        requests, found = list(requests), dict[str, Decoded]()
        decoded = self.decode(requests, **options)
        for request in requests:
            while request.id not in found:
                item = next(decoded)
                found[item.trajectory.id] = item
            yield found.pop(request.id)

    def steps(
        self, canvas: Canvas, *, is_cached: bool = False, every_slot: bool = False
    ) -> Iterator[Tensor]:
        """Call the model until every row is finished: answer the best candidates of each row.

        canvas: written in place. is_cached: ask the model about the active block alone.
        every_slot: send all open slots through the head, not only those of the active block.
        Yields: after each call its entropies, float32 `[B, N]`, NaN where no row was asked.
        """
        model, config, length = self.model, self.config, self.model.block_length
        blocks = CachedBlocks(model, canvas, config, self.counts) if is_cached else None
        while len(live_L := canvas.live_L()):
            if config.blocks_ahead:
                candidates_BN, _ = blocks_at_work(canvas.open_BN, config)
            else:
                candidates_BN = candidates_in_block(
                    canvas.open_BN,
                    block_length=length or config.block_length,
                    offset_B=None if length is None else canvas.prompt_length_B,
                )
            # The head is much of the work, so only what may be revealed goes through it.
            asked_BN = canvas.open_BN if every_slot else candidates_BN
            batch_R, slot_R = asked_BN.nonzero(as_tuple=True)
            if blocks is not None:
                hidden_RD = blocks.hidden_rows(live_L, batch_R, slot_R)
            else:
                ids_LS, mask_LS, row_R = canvas.asked(live_L, batch_R)
                num_columns = ids_LS.shape[1]
                self.counts.add_tokens(mask_LS, num_tokens=ids_LS.numel(), num_keys=num_columns)
                position_R = num_columns - canvas.num_slots + slot_R
                hidden_RD = model.asked_hidden(ids_LS, mask_LS, row_R, position_R)
            self.counts.add_call(num_rows=len(slot_R))
            stats = self._answers.on_slots(model, canvas, (batch_R, slot_R), hidden_RD)
            yield self._reveal(canvas, candidates_BN, stats)

    def _reveal(self, canvas: Canvas, candidates_BN: Tensor, stats: SlotStats) -> Tensor:
        """Write the best answers of each row to the canvas; returns the entropies `[B, N]`."""
        if self.config.blocks_ahead:
            chosen_BN = select_ahead(stats.score_BN, self.config, canvas.open_BN)
        else:
            quota_B = quota(stats.score_BN, candidates_BN, self.config)
            chosen_BN = select(stats.score_BN, candidates_BN, quota_B)
        revealed_BN = chosen_BN & (stats.token_BN != self.model.ids.mask)
        canvas.response_BN[revealed_BN] = stats.token_BN[revealed_BN]
        canvas.reveal(revealed_BN, stats.entropy_BN, stats.confidence_BN)
        canvas.num_forwards_B += canvas.open_BN.any(dim=1)
        canvas.open_BN &= ~chosen_BN
        if self.config.stop == "text":
            canvas.finish_texts(self.model)
        return stats.entropy_BN


@contextmanager
def evaluating(model: MaskedDiffusionModel) -> Iterator[None]:
    """Eval mode (no dropout) without gradients; the model's mode is put back."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)
