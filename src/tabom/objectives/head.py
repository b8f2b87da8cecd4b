"""Cross-entropy and entropy of gathered rows, without ever holding more logits than a budget.

Legend: R gathered rows, V vocabulary, D hidden, T columns of one vocabulary tile.

With z = W h, m = max z, S = sum e^(z-m), Q = sum e^(z-m) (z-m), per row:
    ce = log S - (z_y - m),    entropy = log S - Q / S,
    d ce / dz = p - e_y,       d entropy / dz = -p (log p + entropy).
The vocabulary is walked in tiles with running (m, S, Q). The first tiles of logits, as many as a
byte budget holds, are kept for the backward pass; the others are computed again. With room for all
the head is "dense", with none "tiled": then no R x V tensor exists at any time.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tabom.core.errors import ObjectiveError

# Columns of one tile. On a CPU a tile of logits should stay in the cache next to the weights; a GPU
# wants few large products, so there the scratch memory of one tile bounds it.
_CPU_TILE = 2048
_GPU_TILE_BYTES = 64 * 2**20

# exp(-1000) is 0 in float32 and in float64, so this bound changes no sum; it keeps a logit of
# -inf (a vocabulary entry somebody masked) from making 0 * inf = NaN.
_LEAST = -1000.0


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
    if hidden_RD.ndim != 2 or weight_VD.ndim != 2 or hidden_RD.shape[1] != weight_VD.shape[1]:
        raise ObjectiveError(
            f"the head got hidden rows {tuple(hidden_RD.shape)} and weight "
            f"{tuple(weight_VD.shape)}; expected [R, D] and [V, D] with one D"
        )
    if labels_R.shape != hidden_RD.shape[:1] or labels_R.dtype != torch.int64:
        raise ObjectiveError(
            f"the head got labels {tuple(labels_R.shape)} {labels_R.dtype}; expected one int64 "
            f"label for each of the {hidden_RD.shape[0]} rows"
        )
    dtype = _compute_dtype(hidden_RD)
    if tile_size is None:
        tile_size = _default_tile(hidden_RD, dtype)
    if tile_size < 1:
        raise ObjectiveError(f"tile_size must be at least 1, got {tile_size}")
    needs_grad = torch.is_grad_enabled() and (hidden_RD.requires_grad or weight_VD.requires_grad)
    if not needs_grad:
        with torch.no_grad():
            tiles = _Tiles(hidden_RD, weight_VD, labels_R, tile_size)
            m_R, log_S_R, entropy_R, label_logit_R = _reduce(tiles, [], max_bytes=0)
            return log_S_R - (label_logit_R - m_R), entropy_R
    ce_R, entropy_R = _LinearCeEntropy.apply(
        hidden_RD, weight_VD, labels_R, max_buffer_bytes, tile_size
    )
    return ce_R, entropy_R


def _compute_dtype(hidden_RD: Tensor) -> torch.dtype:
    return torch.float64 if hidden_RD.dtype == torch.float64 else torch.float32


def _default_tile(hidden_RD: Tensor, dtype: torch.dtype) -> int:
    if hidden_RD.device.type == "cpu":
        return _CPU_TILE
    return max(_CPU_TILE, _GPU_TILE_BYTES // (dtype.itemsize * max(len(hidden_RD), 1)))


class _Tiles:
    """The vocabulary in tiles: slices of the weight, logits, and where the labels fall."""

    def __init__(
        self, hidden_RD: Tensor, weight_VD: Tensor, labels_R: Tensor, tile_size: int
    ) -> None:
        self.hidden_RD, self.weight_VD, self.labels_R = hidden_RD, weight_VD, labels_R
        self.dtype = _compute_dtype(hidden_RD)
        self.tile_size = min(tile_size, weight_VD.shape[0])
        # Tensor cores multiply 16-bit inputs and add up in float32. `mm` can hand that sum out
        # unrounded on CUDA only; elsewhere the inputs are upcast, one tile of weight at a time.
        self.keeps_16_bit = (
            hidden_RD.is_cuda
            and hidden_RD.dtype == weight_VD.dtype
            and hidden_RD.dtype in (torch.bfloat16, torch.float16)
            and _mm_has_out_dtype()
        )
        self.rows_RD = hidden_RD if self.keeps_16_bit else hidden_RD.to(self.dtype)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        num_vocab = self.weight_VD.shape[0]
        for start in range(0, num_vocab, self.tile_size):
            yield start, min(start + self.tile_size, num_vocab)

    def scratch(self) -> Tensor:
        return self.rows_RD.new_empty(self.rows_RD.shape[0] * self.tile_size, dtype=self.dtype)

    def view(self, scratch: Tensor, width: int) -> Tensor:
        """A contiguous [R, width] over the start of a scratch buffer."""
        num_rows = self.rows_RD.shape[0]
        return scratch[: num_rows * width].view(num_rows, width)

    def weight(self, start: int, end: int) -> Tensor:
        tile_TD = self.weight_VD[start:end]
        return tile_TD if self.keeps_16_bit else tile_TD.to(self.dtype)

    def logits(self, weight_TD: Tensor, out_RT: Tensor) -> Tensor:
        return self.mm(self.rows_RD, weight_TD.t(), out_RT)

    def mm(self, a: Tensor, b: Tensor, out: Tensor) -> Tensor:
        if self.keeps_16_bit:
            return torch.mm(a.to(b.dtype), b, out_dtype=torch.float32, out=out)
        return torch.mm(a, b, out=out)

    def label_columns(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Column of each label inside this tile (clamped), and whether it lies inside."""
        is_inside_R = (self.labels_R >= start) & (self.labels_R < end)
        return (self.labels_R - start).clamp(0, end - start - 1).unsqueeze(1), is_inside_R


def _mm_has_out_dtype() -> bool:
    return "dtype_out" in torch.ops.aten.mm.overloads()  # torch >= 2.8


def _reduce(
    tiles: _Tiles, kept: list[Tensor], *, max_bytes: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(max, log S, entropy, logit of the label) per row; fills `kept` with the first logits."""
    num_rows, new = tiles.rows_RD.shape[0], tiles.rows_RD.new_full
    # Finite, so that a tile of nothing but -inf is no -inf - -inf.
    m_R = new((num_rows,), torch.finfo(tiles.dtype).min, dtype=tiles.dtype)
    S_R = new((num_rows,), 0.0, dtype=tiles.dtype)
    Q_R = new((num_rows,), 0.0, dtype=tiles.dtype)
    label_logit_R = new((num_rows,), torch.nan, dtype=tiles.dtype)
    first, second = tiles.scratch(), tiles.scratch()
    with torch.autocast(device_type=m_R.device.type, enabled=False):
        for start, end in tiles:
            width = end - start
            if num_rows * end * tiles.dtype.itemsize > max_bytes:
                z_RT = tiles.view(first, width)
            else:
                z_RT = tiles.rows_RD.new_empty(num_rows, width, dtype=tiles.dtype)
                kept.append(z_RT)
            tiles.logits(tiles.weight(start, end), z_RT)
            column_R1, is_inside_R = tiles.label_columns(start, end)
            label_logit_R = torch.where(
                is_inside_R, z_RT.gather(1, column_R1).squeeze(1), label_logit_R
            )
            new_m_R = torch.maximum(m_R, z_RT.amax(1))
            moved_R = m_R - new_m_R
            scale_R = moved_R.exp()
            Q_R = (Q_R + moved_R * S_R) * scale_R
            S_R = S_R * scale_R
            shifted_RT = torch.sub(z_RT, new_m_R.unsqueeze(1), out=tiles.view(first, width))
            exp_RT = torch.exp(shifted_RT.clamp_(min=_LEAST), out=tiles.view(second, width))
            S_R = S_R + exp_RT.sum(1)
            Q_R = Q_R + shifted_RT.mul_(exp_RT).sum(1)
            m_R = new_m_R
    log_S_R = S_R.log()
    return m_R, log_S_R, log_S_R - Q_R / S_R, label_logit_R


class _LinearCeEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_RD: Tensor,
        weight_VD: Tensor,
        labels_R: Tensor,
        max_buffer_bytes: int,
        tile_size: int,
    ) -> tuple[Tensor, Tensor]:
        kept: list[Tensor] = []
        tiles = _Tiles(hidden_RD, weight_VD, labels_R, tile_size)
        m_R, log_S_R, entropy_R, label_logit_R = _reduce(tiles, kept, max_bytes=max_buffer_bytes)
        ctx.save_for_backward(hidden_RD, weight_VD, labels_R, m_R, log_S_R, entropy_R)
        ctx.kept, ctx.num_kept, ctx.tile_size = kept, len(kept), tile_size
        ctx.set_materialize_grads(False)
        return log_S_R - (label_logit_R - m_R), entropy_R

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(
        ctx: Any, grad_ce_R: Tensor | None, grad_entropy_R: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        if grad_ce_R is None and grad_entropy_R is None:
            return None, None, None, None, None
        kept, ctx.kept = ctx.kept, []
        if len(kept) < ctx.num_kept:
            raise ObjectiveError(
                "a second backward through one linear_ce_entropy call: its logits were overwritten "
                "by the first one. Call the forward again, or pass max_buffer_bytes=0"
            )
        hidden_RD, weight_VD, labels_R, m_R, log_S_R, entropy_R = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        tiles = _Tiles(hidden_RD, weight_VD, labels_R, ctx.tile_size)
        grad_RD = torch.zeros_like(hidden_RD, dtype=tiles.dtype) if needs_hidden else None
        grad_VD = torch.empty_like(weight_VD) if needs_weight else None
        first, second = tiles.scratch(), tiles.scratch()
        product_RD = None if grad_RD is None else torch.empty_like(grad_RD)
        with torch.autocast(device_type=m_R.device.type, enabled=False):
            for i, (start, end) in enumerate(tiles):
                weight_TD = tiles.weight(start, end)
                if i < len(kept):
                    z_RT, kept[i] = kept[i], None
                else:
                    z_RT = tiles.logits(weight_TD, tiles.view(first, end - start))
                log_p_RT = z_RT.sub_(m_R.unsqueeze(1)).sub_(log_S_R.unsqueeze(1))
                p_RT = torch.exp(log_p_RT.clamp_(min=_LEAST), out=tiles.view(second, end - start))
                if grad_entropy_R is None:
                    assert grad_ce_R is not None
                    grad_z_RT = p_RT.mul_(grad_ce_R.unsqueeze(1))
                else:
                    grad_z_RT = log_p_RT.add_(entropy_R.unsqueeze(1))
                    grad_z_RT.mul_(-grad_entropy_R.unsqueeze(1))
                    if grad_ce_R is not None:
                        grad_z_RT.add_(grad_ce_R.unsqueeze(1))
                    grad_z_RT.mul_(p_RT)
                if grad_ce_R is not None:
                    column_R1, is_inside_R = tiles.label_columns(start, end)
                    push_R = torch.where(is_inside_R, -grad_ce_R, torch.zeros_like(grad_ce_R))
                    grad_z_RT.scatter_add_(1, column_R1, push_R.unsqueeze(1))
                if grad_RD is not None and product_RD is not None:
                    grad_RD += tiles.mm(grad_z_RT, weight_TD, product_RD)
                if grad_VD is not None:
                    grad_VD[start:end] = grad_z_RT.t() @ hidden_RD.to(tiles.dtype)
        return (
            grad_RD.to(hidden_RD.dtype) if grad_RD is not None else None,
            grad_VD,
            None,
            None,
            None,
        )
