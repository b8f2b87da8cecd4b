"""Decoding with a cache: which columns of which rows a model call has to ask again.

A block-causal model never looks behind its block, so keys and values before it are final once they
were computed with the block finished: nothing is lost. For models that attend both ways they go
out of date with every reveal; using them all the same is an approximation (Fast-dLLM), on request
alone. Both renew the cache when a block begins, where

    block-causal  asks the finished block and the new one,   then the new block;
    prefix        asks the whole canvas,                     then the block and all after it;
    dual          asks the whole canvas,                     then the block.

Unlike the published code, the first slot of a block needs no call of its own in models whose logits
are shifted: the column before the block is asked with it.

Legend: B batch, S prompt + response, N response slots, L live rows, G rows of one call, W columns
of one call, R gathered rows, D hidden.
"""

import torch
from torch import Tensor

from tabom.core.errors import ConfigError
from tabom.decoding.canvas import Canvas
from tabom.decoding.config import DecodingConfig
from tabom.decoding.counts import DecodeCounts
from tabom.models.cache import CanvasCache
from tabom.models.contract import MaskedDiffusionModel


def check_blocks(model: MaskedDiffusionModel, config: DecodingConfig) -> None:
    """Raises `ConfigError` if a block-causal model is asked for other blocks than its own."""
    own = model.block_length
    if own is None:
        return
    if config.approximate is not None:
        raise ConfigError(
            f"decoding approximate {config.approximate!r}: {model.name_or_path} is block-causal "
            "and decodes with an exact cache; leave it out"
        )
    if config.block_length not in (None, own) and not config.is_official:
        raise ConfigError(
            f"decoding block_length {config.block_length}: {model.name_or_path} decodes blocks of "
            f"{own}, counted from the first token of the prompt; leave it out"
        )


class CachedBlocks:
    """Hidden states of the active block of each row, with what lies outside of it cached."""

    def __init__(
        self,
        model: MaskedDiffusionModel,
        canvas: Canvas,
        config: DecodingConfig,
        counts: DecodeCounts,
    ) -> None:
        self.model, self.canvas, self.counts = model, canvas, counts
        rows, self.num_columns = canvas.ids_BS.shape
        self.num_prompt = self.num_columns - canvas.open_BN.shape[1]
        self.approximate = config.approximate
        self.length = model.block_length or config.block_length or config.max_new_tokens
        self.cache = CanvasCache(rows, self.num_columns)
        # The column where block 0 begins: a row's first token, or its first slot.
        self.origin_B = torch.full_like(canvas.num_forwards_B, self.num_prompt)
        if model.block_length is not None:
            self.origin_B = self.num_prompt - canvas.prompt_length_B
        self.start_B = torch.full_like(self.origin_B, -1)  # of the block last asked; -1: none

    def hidden_rows(self, live_L: Tensor, batch_R: Tensor, slot_R: Tensor) -> Tensor:
        """The hidden rows `[R, D]` that predict `slot_R`, all of them in their row's block."""
        low_L, high_L = self._bounds(live_L)
        width_L = high_L - low_L
        low_B = torch.zeros_like(self.origin_B).index_copy_(0, live_L, low_L)
        width_B = torch.zeros_like(self.origin_B).index_copy_(0, live_L, width_L)
        weight_VD, mask_BS = self.model.head_weight_VD, self.canvas.attention_mask_BS
        hidden_RD = weight_VD.new_empty(len(batch_R), weight_VD.shape[1])
        for width in width_L.unique().tolist():
            row_G = live_L[width_L == width]
            column_GW = low_B[row_G][:, None] + torch.arange(width, device=live_L.device)
            # With an exact cache nothing behind the block is ever seen.
            num_keys = int(column_GW.max()) + 1 if self.approximate is None else self.num_columns
            mask_GW = None if mask_BS is None else mask_BS[row_G[:, None], column_GW]
            self.counts.add_tokens(mask_GW, num_tokens=column_GW.numel(), num_keys=num_keys)
            hidden_GWD = self.model.hidden_columns(
                self.canvas.ids_BS,
                mask_BS,
                row_L=row_G,
                column_LW=column_GW,
                num_keys=num_keys,
                cache=self.cache,
            )
            mine_R = width_B[batch_R] == width
            batch_M = batch_R[mine_R]
            hidden_RD[mine_R] = self.model.gather_rows(
                hidden_GWD,
                torch.searchsorted(row_G, batch_M),
                self.num_prompt + slot_R[mine_R] - low_B[batch_M],
            )
        return hidden_RD

    def _bounds(self, live_L: Tensor) -> tuple[Tensor, Tensor]:
        """First column, and the one after the last, that each live row has to ask."""
        first_L = self.num_prompt + self.canvas.open_BN[live_L].int().argmax(dim=1)
        origin_L, before_L = self.origin_B[live_L], self.start_B[live_L]
        start_L = (
            origin_L + (first_L - origin_L).div(self.length, rounding_mode="floor") * self.length
        )
        is_new_L = start_L != before_L
        shift = 1 if self.model.family.alignment == "shift_right" else 0
        low_L = (start_L - shift).clamp(min=0)
        high_L = (start_L + self.length).clamp(max=self.num_columns)
        if self.approximate is None:
            low_L = torch.where(is_new_L, before_L.clamp(min=0), low_L)
        else:
            whole_L = is_new_L if self.approximate == "dual" else torch.ones_like(is_new_L)
            high_L = high_L.masked_fill(whole_L, self.num_columns)
            low_L = low_L.masked_fill(is_new_L, 0)
        self.start_B[live_L] = start_L
        return low_L, high_L
