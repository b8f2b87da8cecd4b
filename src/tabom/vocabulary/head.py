"""Cross-entropy and entropy of gathered rows, without ever holding more logits than a budget.

Legend: R gathered rows, V vocabulary, D hidden, T tokens of one tile.

With z = W h and p = softmax(z), per row:
    d ce / dz = p - e_y,       d entropy / dz = -p (log p + entropy).
The vocabulary is walked in tiles. The first tiles of logits, as many as a byte budget holds, are
kept for the backward pass; the others are computed again. With room for all the head is "dense",
with none "tiled": then no R x V tensor exists at any time.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tabom.core.errors import ObjectiveError
from tabom.vocabulary.sizes import training_width
from tabom.vocabulary.softmax import LEAST, RunningSoftmax
from tabom.vocabulary.tiles import HeadTiles, Tile, compute_dtype


def linear_ce_entropy(
    hidden_RD: Tensor,
    weight_VD: Tensor,
    labels_R: Tensor,
    *,
    max_buffer_bytes: int = 192 * 2**20,
    tile_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and entropy (nats) of softmax(hidden @ weight.T) per row, both differentiable.

    hidden_RD: any float dtype; R may be 0. weight_VD: the head; it gets a gradient only if it
        requires one. labels_R: int64 in [0, V); a label outside gives NaN, never a wrong number.
    max_buffer_bytes: of logits to keep for the backward pass, in whole tiles; those that find no
        room are computed again. Where any are kept, a second backward through the same call is
        refused. 0: none (tiled).
    tile_size: vocabulary entries per tile; None: 2048 on a CPU, on a GPU as many as make 64 MiB of
        logits.
    Returns: ce_R, entropy_R in float32 (float64 for float64 hidden states), also under autocast.
    Raises: ObjectiveError where the shapes do not fit.
    Source: the terms of TABOM eq. 8-9; docs/objectives.md.
    """
    ce_R, entropy_R, _ = linear_rows(
        hidden_RD,
        weight_VD,
        labels_R,
        max_buffer_bytes=max_buffer_bytes,
        tile_size=tile_size,
    )
    return ce_R, entropy_R


def linear_rows(
    hidden_RD: Tensor,
    weight_VD: Tensor,
    labels_R: Tensor,
    *,
    max_buffer_bytes: int = 192 * 2**20,
    tile_size: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `linear_ce_entropy`, and a third: whether no logit is above the label's (bool, no
    gradient)."""
    is_matrix = hidden_RD.ndim == weight_VD.ndim == 2 and hidden_RD.shape[1] == weight_VD.shape[1]
    is_labelled = labels_R.shape == hidden_RD.shape[:1] and labels_R.dtype == torch.int64
    if not (is_matrix and is_labelled):
        raise ObjectiveError(
            f"the head got hidden rows {tuple(hidden_RD.shape)}, weight {tuple(weight_VD.shape)}, "
            f"labels {tuple(labels_R.shape)} {labels_R.dtype}; expected [R, D], [V, D], int64 [R]"
        )
    if tile_size is None:
        tile_size = training_width(
            len(hidden_RD),
            device_type=hidden_RD.device.type,
            itemsize=compute_dtype(hidden_RD).itemsize,
        )
    if tile_size < 1:
        raise ObjectiveError(f"tile_size must be at least 1, got {tile_size}")
    if torch.is_grad_enabled() and (hidden_RD.requires_grad or weight_VD.requires_grad):
        return _LinearCeEntropy.apply(hidden_RD, weight_VD, labels_R, max_buffer_bytes, tile_size)  # type: ignore[no-any-return]
    with torch.no_grad():
        tiles = HeadTiles(hidden_RD, weight_VD, width=tile_size)
        softmax = RunningSoftmax.of_head(tiles, labels_R=labels_R)
        return _cross_entropy(softmax), softmax.entropy_nats(), _is_best(softmax)


def _cross_entropy(softmax: RunningSoftmax) -> Tensor:
    return softmax.log_total() - (softmax.label_logit_R - softmax.greatest_R)


def _is_best(softmax: RunningSoftmax) -> Tensor:
    return softmax.label_logit_R >= softmax.greatest_R


class _LinearCeEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_RD: Tensor,
        weight_VD: Tensor,
        labels_R: Tensor,
        max_buffer_bytes: int,
        tile_size: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        tiles = HeadTiles(hidden_RD, weight_VD, width=tile_size, keep_bytes=max_buffer_bytes)
        softmax = RunningSoftmax.of_head(tiles, labels_R=labels_R)
        entropy_R = softmax.entropy_nats()
        ctx.save_for_backward(
            hidden_RD, weight_VD, labels_R, softmax.greatest_R, softmax.log_total(), entropy_R
        )
        ctx.kept, ctx.num_kept, ctx.tile_size = tiles.kept, len(tiles.kept), tile_size
        # Where only one of the two results is used, the other's gradient stays None.
        ctx.set_materialize_grads(False)
        is_best_R = _is_best(softmax)
        ctx.mark_non_differentiable(is_best_R)
        return _cross_entropy(softmax), entropy_R, is_best_R

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(
        ctx: Any, grad_ce_R: Tensor | None, grad_entropy_R: Tensor | None, _: None
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        if grad_ce_R is None and grad_entropy_R is None:
            return None, None, None, None, None
        kept, ctx.kept = ctx.kept, []
        if len(kept) < ctx.num_kept:
            raise ObjectiveError(
                "a second backward through one linear_ce_entropy call: its logits were overwritten "
                "by the first one. Call the forward again, or pass max_buffer_bytes=0"
            )
        hidden_RD, weight_VD, labels_R, greatest_R, log_total_R, entropy_R = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        tiles = HeadTiles(hidden_RD, weight_VD, width=ctx.tile_size)
        grad_RD = torch.zeros_like(hidden_RD, dtype=tiles.dtype) if needs_hidden else None
        grad_VD = torch.empty_like(weight_VD) if needs_weight else None
        product_RD = None if grad_RD is None else torch.empty_like(grad_RD)
        slope_R1, offset_R1 = _line(grad_ce_R, grad_entropy_R, log_total_R, entropy_R)
        with torch.autocast(device_type=hidden_RD.device.type, enabled=False):
            # Logits become a gradient in the memory of the tile.
            for tile in tiles.walk(kept):
                lag_RT = tile.logits_RT.sub_(greatest_R[:, None]).clamp_(min=LEAST)
                weight_RT = torch.exp(lag_RT, out=tile.weight_RT)
                if slope_R1 is None:
                    grad_RT = weight_RT.mul_(offset_R1)
                else:
                    line_RT = torch.addcmul(offset_R1, lag_RT, slope_R1, out=lag_RT)
                    grad_RT = line_RT.mul_(weight_RT)
                if grad_ce_R is not None:
                    _push_labels_(grad_RT, tile, labels_R, grad_ce_R)
                if grad_RD is not None and product_RD is not None:
                    grad_RD += tiles.mm(grad_RT, tiles.weight(tile), product_RD)
                if grad_VD is not None:
                    end = tile.first_id + grad_RT.shape[1]
                    grad_VD[tile.first_id : end] = grad_RT.t() @ hidden_RD.to(tiles.dtype)
        grad_hidden_RD = None if grad_RD is None else grad_RD.to(hidden_RD.dtype)
        return grad_hidden_RD, grad_VD, None, None, None


def _line(
    grad_ce_R: Tensor | None,
    grad_entropy_R: Tensor | None,
    log_total_R: Tensor,
    entropy_R: Tensor,
) -> tuple[Tensor | None, Tensor]:
    """Slope (None: 0) and offset `[R, 1]`: a logit's gradient, but for the -1 at the label, is
    e^lag (slope lag + offset), with lag the logit less the row's greatest."""
    total_R = log_total_R.exp()
    offset_R = torch.zeros_like(total_R) if grad_ce_R is None else grad_ce_R / total_R
    if grad_entropy_R is None:
        return None, offset_R[:, None]
    slope_R = -grad_entropy_R / total_R
    return slope_R[:, None], (offset_R + slope_R * (entropy_R - log_total_R))[:, None]


def _push_labels_(grad_RT: Tensor, tile: Tile, labels_R: Tensor, grad_ce_R: Tensor) -> None:
    column_R1, is_inside_R = tile.columns_of(labels_R)
    push_R = torch.where(is_inside_R, -grad_ce_R, torch.zeros_like(grad_ce_R))
    grad_RT.scatter_add_(1, column_R1, push_R[:, None])
