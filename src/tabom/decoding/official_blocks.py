"""The published decoding functions of LLaDA2.0, LLaDA2.1 and SDAR, block by block.

Greedy: the token is the argmax, its confidence the softmax probability at temperature 1. Blocks are
counted from the first token of the prompt, so the first one may begin inside it and the last one
may end behind the response: the slots behind are decoded too, are seen by their block, and dropped.

Three repairs: no more slots are revealed than are masked (SDAR's function writes over known tokens
instead), LLaDA2.1's never answers with the mask token (it would go on for ever), and rows of a
batch each go their own way, as if they were alone.

Legend: B batch, X columns of the canvas with what lies behind the response, L slots of a block,
A rows of one call, V vocabulary, N response slots.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import linear

from tabom.decoding.canvas import Canvas, require_finite
from tabom.decoding.config import DecodingConfig
from tabom.decoding.counts import DecodeCounts
from tabom.decoding.policies import select
from tabom.models.contract import MaskedDiffusionModel
from tabom.vocabulary.softmax import RunningSoftmax

Answers = tuple[Tensor, Tensor]  # token and confidence of each slot of the block asked
Loop = Generator[slice, Answers, None]  # asks for the columns of a block, is sent the answers


@dataclass
class Row:
    """One response and the canvas it is decoded in.

    ids_X: a view of the canvas, which a loop writes to. origin: the column of the first token.
    first, end: columns of the response. length: of a block.
    """

    ids_X: Tensor
    origin: int
    first: int
    end: int
    length: int
    mask_id: int

    def blocks(self) -> Iterator[slice]:
        """Columns of the blocks with a slot of the response, left to right."""
        start = self.origin + (self.first - self.origin) // self.length * self.length
        for low in range(start, self.end, self.length):
            yield slice(low, low + self.length)

    def masked(self, block: slice) -> Tensor:
        return self.ids_X[block] == self.mask_id

    def has(self, end_ids: tuple[int, ...], *, until: int) -> bool:
        """Whether an end token stands in the response left of a column."""
        found_L = self.ids_X[self.first : until]
        return any(bool((found_L == end).any()) for end in end_ids)


@dataclass
class OfficialBlocks:
    """The published function of the model's family; `steps` as of `OfficialDecoding`."""

    model: MaskedDiffusionModel
    config: DecodingConfig
    counts: DecodeCounts
    every_slot: bool
    length: int = field(init=False)

    def __post_init__(self) -> None:
        self.length = self.config.block_length or self.model.block_length or 1

    def steps(self, canvas: Canvas) -> Iterator[Tensor]:
        """Make the calls for one batch; yields entropies, float32 `[B, N]`, NaN elsewhere."""
        config, mask_id = self.config, self.model.ids.mask
        width, num_prompt = canvas.ids_BS.shape[1], canvas.ids_BS.shape[1] - config.max_new_tokens
        # Up to one block less a slot lies behind the response.
        tail_BT = canvas.ids_BS.new_full((len(canvas.ids_BS), self.length - 1), mask_id)
        ids_BX, mask_BX = torch.cat([canvas.ids_BS, tail_BT], dim=1), canvas.attention_mask_BS
        if mask_BX is not None:
            mask_BX = torch.cat([mask_BX, mask_BX.new_ones(tail_BT.shape)], dim=1)
        name = self.config.official_loop or config.policy
        loop: Callable[[Row], Loop] = {
            "llada2.0": self._llada20, "llada2.1": self._llada21,
        }.get(name, self._sdar)  # fmt: skip
        loops: dict[int, Loop] = {}
        asked: dict[int, slice] = {}
        for b, length in enumerate(canvas.prompt_length_B.tolist()):
            loops[b] = loop(
                Row(ids_BX[b], num_prompt - length, num_prompt, width, self.length, mask_id)
            )
            asked[b] = next(loops[b])
        while asked:
            before_BX = ids_BX.clone()
            logits_ALV = self._logits(ids_BX, mask_BX, asked)
            probability_ALV = logits_ALV.softmax(dim=-1)
            token_AL = logits_ALV.argmax(dim=-1)
            confidence_AL = probability_ALV.gather(-1, token_AL[..., None]).squeeze(-1)
            rows, blocks = list(asked), list(asked.values())
            for a, b in enumerate(rows):
                try:
                    asked[b] = loops[b].send((token_AL[a], confidence_AL[a]))
                except StopIteration:
                    del asked[b]
            canvas.response_BN[:] = ids_BX[:, num_prompt:width]
            yield self._record(canvas, before_BX[:, num_prompt:width], (rows, blocks), logits_ALV)

    def _logits(self, ids_BX: Tensor, mask_BX: Tensor | None, asked: dict[int, slice]) -> Tensor:
        """Logits `[A, L, V]` of a block of each row; nothing behind a block is seen by it."""
        start_A = torch.tensor([block.start for block in asked.values()])
        end = int(start_A.max()) + self.length
        column_AL = start_A.to(ids_BX.device)[:, None] + torch.arange(
            self.length, device=ids_BX.device
        )
        row_A = torch.tensor(list(asked), device=ids_BX.device)
        ids_AX, mask_AX = ids_BX[row_A, :end], None if mask_BX is None else mask_BX[row_A, :end]
        self.counts.add_tokens(mask_AX, num_tokens=ids_AX.numel(), num_keys=end)
        self.counts.add_call(num_rows=column_AL.numel())
        hidden_AXD = self.model.hidden_states(ids_AX, mask_AX, block_length=self.length)
        batch_AL = torch.arange(len(row_A), device=ids_BX.device)[:, None].expand_as(column_AL)
        hidden_RD = self.model.gather_rows(hidden_AXD, batch_AL.flatten(), column_AL.flatten())
        logits_RV: Tensor = linear(hidden_RD, self.model.head_weight_VD)
        if self.config.is_mask_suppressed:
            logits_RV[:, self.model.ids.mask] = torch.finfo(logits_RV.dtype).min
        return logits_RV.view(*column_AL.shape, -1)

    # ---- the loops, as published ----

    def _schedule(self, steps: int) -> list[int]:
        """Slots due in each call of a block: evenly, the remainder in the first ones."""
        return [self.length // steps + (i < self.length % steps) for i in range(steps)]

    def _llada20(self, row: Row) -> Loop:
        config, ends = self.config, (self.model.ids.filler,)
        steps = min(config.steps or self.length, config.max_new_tokens // config.minimal_topk)
        for block in row.blocks():
            for due in self._schedule(max(steps, 1)):
                if not bool(row.masked(block).any()):
                    break
                token_L, confidence_L = yield block
                chosen_L = self._surest(row.masked(block), confidence_L, at_least=due)
                row.ids_X[block][chosen_L] = token_L[chosen_L]
                if config.eos_early_stop and bool(torch.isin(token_L[chosen_L], ends[0]).any()):
                    first = row.first + int((row.ids_X[row.first :] == ends[0]).int().argmax())
                    if not bool(row.masked(slice(row.first, first)).any()):
                        return
            if row.has(ends, until=block.stop):
                return

    def _llada21(self, row: Row) -> Loop:
        config, ends = self.config, (self.model.ids.filler,)
        for block in row.blocks():
            is_slot_L = torch.arange(block.start, block.stop, device=row.ids_X.device) >= row.first
            num_post = 0
            while True:
                masked_L = row.masked(block)
                is_filled = not bool(masked_L.any())
                num_post += is_filled
                if num_post > config.max_post_steps:
                    break
                token_L, confidence_L = yield block
                chosen_L = self._surest(masked_L, confidence_L, at_least=config.num_to_transfer)
                edited_L = torch.zeros_like(chosen_L)
                if config.editing_threshold is not None:
                    edited_L = (
                        is_slot_L
                        & ~masked_L
                        & (confidence_L > config.editing_threshold)
                        & (token_L != row.ids_X[block])
                    )
                changed_L = chosen_L | edited_L
                row.ids_X[block][changed_L] = token_L[changed_L]
                if is_filled and not bool(edited_L.any()):
                    break
            is_whole = not bool(row.masked(slice(row.first, block.stop)).any())
            if config.eos_early_stop and is_whole and row.has(ends, until=block.stop):
                return

    def _sdar(self, row: Row) -> Loop:
        config = self.config
        for block in row.blocks():
            for due in self._schedule(config.steps or self.length):
                masked_L = row.masked(block)
                if not bool(masked_L.any()):
                    break
                token_L, confidence_L = yield block
                if config.policy == "sequential":
                    chosen_L = masked_L & (masked_L.cumsum(dim=0) <= due)
                else:
                    chosen_L = self._surest(masked_L, confidence_L, at_least=due)
                row.ids_X[block][chosen_L] = token_L[chosen_L]
            if config.eos_early_stop and row.has(self.model.ids.eos, until=block.stop):
                return

    def _surest(self, masked_L: Tensor, confidence_L: Tensor, *, at_least: int) -> Tensor:
        """The masked slots above the threshold; the surest ones where those are too few."""
        if self.config.threshold is not None:
            above_L = masked_L & (confidence_L > self.config.threshold)
            if int(above_L.sum()) >= at_least:
                return above_L
        quota_1 = torch.tensor([at_least], device=masked_L.device)
        return select(confidence_L[None], masked_L[None], quota_1)[0]

    # ---- what is noted ----

    def _record(
        self,
        canvas: Canvas,
        before_BN: Tensor,
        asked: tuple[list[int], list[slice]],
        logits_ALV: Tensor,
    ) -> Tensor:
        """Note what a call revealed and what it replaced."""
        mask_id, num_prompt = self.model.ids.mask, canvas.ids_BS.shape[1] - canvas.num_slots
        rows, blocks = asked
        was_open_BN, response_BN = before_BN == mask_id, canvas.response_BN
        canvas.open_BN = response_BN == mask_id
        revealed_BN = was_open_BN & ~canvas.open_BN
        edited_BN = ~was_open_BN & (response_BN != before_BN)
        for b, n in edited_BN.nonzero().tolist():
            step, old, new = canvas.num_forwards_B[b], before_BN[b, n], response_BN[b, n]
            canvas.edits.setdefault(b, []).append((n, int(step), int(old), int(new)))
        # Of each slot of the response that lies in the block of its row: where its logits are.
        place_BN = torch.full_like(response_BN, -1)
        for a, (b, block) in enumerate(zip(rows, blocks, strict=True)):
            low, high = (
                min(max(c - num_prompt, 0), canvas.num_slots) for c in (block.start, block.stop)
            )
            start = a * self.length + low + num_prompt - block.start
            place_BN[b, low:high] = torch.arange(start, start + high - low)
        wanted_BN = (was_open_BN if self.every_slot else revealed_BN) & (place_BN >= 0)
        rows_RV = logits_ALV.flatten(0, 1)[place_BN[wanted_BN]]
        entropy_BN, confidence_BN = plain_statistics(self.model, canvas, wanted_BN, rows_RV)
        canvas.reveal(revealed_BN, entropy_BN, confidence_BN)
        canvas.num_forwards_B[torch.tensor(rows, device=response_BN.device)] += 1
        return entropy_BN


def plain_statistics(
    model: MaskedDiffusionModel, canvas: Canvas, asked_BN: Tensor, logits_RV: Tensor
) -> tuple[Tensor, Tensor]:
    """Entropies and confidences `[B, N]` to note, NaN where not asked: of the untempered
    distribution without the mask token.

    asked_BN: bool, slots whose logits are given, row by row. Their tokens stand in the canvas.
    Raises: `ModelError` if the logits are not finite.
    """
    mask_id, rows_RV = model.ids.mask, logits_RV.float()
    softmax = RunningSoftmax.of_logits(rows_RV, without=(mask_id,))
    entropy_R = softmax.entropy_nats()
    require_finite(entropy_R, model, canvas.num_forwards_B[asked_BN.nonzero()[:, 0]])
    token_R1 = canvas.response_BN[asked_BN][:, None]
    logit_R = rows_RV.gather(1, token_R1).masked_fill(token_R1 == mask_id, -torch.inf).squeeze(1)
    entropy_BN = torch.full_like(canvas.entropy_BN, torch.nan)
    confidence_BN = entropy_BN.clone()
    entropy_BN[asked_BN], confidence_BN[asked_BN] = entropy_R, softmax.probability(logit_R)
    return entropy_BN, confidence_BN
