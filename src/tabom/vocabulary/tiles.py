"""Logits of gathered rows, one tile of the vocabulary at a time, in memory that is used again.

Legend: R gathered rows, V vocabulary, D hidden, T tokens of one tile.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from tabom.vocabulary.sizes import DECODING_WIDTH, kind_of

# Stands for "no probability". It is finite, so that p * log p of such a token is 0 and not NaN.
LOWEST = torch.finfo(torch.float32).min
HAS_OUT_DTYPE = "dtype_out" in torch.ops.aten.mm.overloads()  # since torch 2.8


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Logits of the tokens from `first_id` on, and memory of the same shape to work in.

    logits_RT: float32 (float64 for float64 hidden states). shifted_RT, weight_RT: not initialised;
        shifted_RT may be the memory of logits_RT itself.
    """

    first_id: int
    logits_RT: Tensor
    shifted_RT: Tensor
    weight_RT: Tensor

    def columns_of(self, id_R: Tensor) -> tuple[Tensor, Tensor]:
        """Column `[R, 1]` of one token a row (clamped), and bool `[R]` whether it is in here."""
        num_columns = self.logits_RT.shape[1]
        is_inside_R = (id_R >= self.first_id) & (id_R < self.first_id + num_columns)
        return (id_R - self.first_id).clamp(0, num_columns - 1).unsqueeze(1), is_inside_R


def compute_dtype(hidden_RD: Tensor) -> torch.dtype:
    """The dtype of logits: float32, or float64 for float64 hidden states."""
    return torch.float64 if hidden_RD.dtype == torch.float64 else torch.float32


def sums_in_float32(hidden_RD: Tensor, weight_VD: Tensor) -> bool:
    """Whether a product of these 16-bit tensors can be had with its float32 sums unrounded.

    Tensor cores add up in float32; `mm` hands that out on CUDA alone.
    """
    return hidden_RD.is_cuda and are_half(hidden_RD, weight_VD) and HAS_OUT_DTYPE


def are_half(hidden_RD: Tensor, weight_VD: Tensor) -> bool:
    """Whether both are of one 16-bit dtype."""
    return hidden_RD.dtype == weight_VD.dtype and hidden_RD.dtype.itemsize == 2


class HeadTiles:
    """Logits `hidden_RD @ weight_VD.T`, `width` tokens at a time.

    They are never rounded below float32, unless may_round says that 16-bit inputs may give 16-bit
    logits where there is no other fast way: on a CPU that takes half the time, as decoding wants.
    The logits of the first tiles, as many as `keep_bytes` hold, stay in `kept`; the memory of all
    others is used again by the next tile.
    """

    def __init__(
        self,
        hidden_RD: Tensor,
        weight_VD: Tensor,
        *,
        width: int,
        keep_bytes: int = 0,
        may_round: bool = False,
    ) -> None:
        self.weight_VD = weight_VD
        self.dtype = compute_dtype(hidden_RD)
        self.width, self.keep_bytes = min(width, len(weight_VD)), keep_bytes
        self.kept: list[Tensor] = []
        self.is_mixed = sums_in_float32(hidden_RD, weight_VD)
        self.keeps_half = self.is_mixed or (may_round and are_half(hidden_RD, weight_VD))
        # Otherwise the inputs are upcast, one tile of weight at a time.
        self.rows_RD = hidden_RD if self.keeps_half else hidden_RD.to(self.dtype)
        size = len(hidden_RD) * self.width
        self._scratch = [self.rows_RD.new_empty(size, dtype=self.dtype) for _ in range(2)]

    def __iter__(self) -> Iterator[Tile]:
        return self.walk([])

    def walk(self, known: list[Tensor]) -> Iterator[Tile]:
        """All tiles. known: the logits of the first ones, which were kept; they are let go of."""
        num_rows, num_tokens = len(self.rows_RD), len(self.weight_VD)
        for start in range(0, num_tokens, self.width):
            if known:
                yield self._tile(start, known.pop(0))
                continue
            end, logits_RT = min(start + self.width, num_tokens), None
            if num_rows * end * self.dtype.itemsize <= self.keep_bytes:
                logits_RT = self.rows_RD.new_empty(num_rows, end - start, dtype=self.dtype)
                self.kept.append(logits_RT)
            tile = self._tile(start, logits_RT)
            self.mm(self.rows_RD, self.weight(tile).t(), tile.logits_RT)
            yield tile

    def weight(self, tile: Tile) -> Tensor:
        """The rows `[T, D]` of the head that make a tile, as `mm` multiplies them."""
        weight_TD = self.weight_VD[tile.first_id : tile.first_id + tile.logits_RT.shape[1]]
        return weight_TD if self.keeps_half else weight_TD.to(self.dtype)

    def mm(self, a: Tensor, b: Tensor, out: Tensor) -> Tensor:
        """A matrix product into `out`, of the dtype of the logits."""
        if self.is_mixed:
            return torch.mm(a.to(b.dtype), b, out_dtype=torch.float32, out=out)
        return out.copy_(a @ b) if self.keeps_half else torch.mm(a, b, out=out)

    def _tile(self, start: int, logits_RT: Tensor | None = None) -> Tile:
        num_columns = min(self.width, len(self.weight_VD) - start)
        shape = (len(self.rows_RD), num_columns)
        first_RT, second_RT = (s[: shape[0] * shape[1]].view(shape) for s in self._scratch)
        return Tile(
            first_id=start,
            logits_RT=first_RT if logits_RT is None else logits_RT,
            shifted_RT=first_RT,
            weight_RT=second_RT,
        )


def whole_logits(hidden_RD: Tensor, weight_VD: Tensor) -> Tensor:
    """Logits `[R, V]` of few rows, as `HeadTiles` with may_round has them."""
    if sums_in_float32(hidden_RD, weight_VD):
        return torch.mm(hidden_RD, weight_VD.t(), out_dtype=torch.float32)
    return linear(hidden_RD, weight_VD).to(compute_dtype(hidden_RD))


def tiles_of(logits_RV: Tensor, *, temperature: float = 1.0) -> Iterator[Tile]:
    """Tiles of logits that are there already, over the temperature; they are copies."""
    num_rows, num_tokens = logits_RV.shape
    width = min(DECODING_WIDTH[kind_of(logits_RV.device.type)], num_tokens)
    scratch = [logits_RV.new_empty(num_rows * width) for _ in range(2)]
    for start in range(0, num_tokens, width):
        part_RT = logits_RV[:, start : start + width]
        logits_RT, weight_RT = (s[: part_RT.numel()].view(part_RT.shape) for s in scratch)
        if temperature == 1:
            logits_RT.copy_(part_RT)
        else:  # the clamp undoes LOWEST / temperature = -inf
            torch.div(part_RT, temperature, out=logits_RT).clamp_(min=LOWEST)
        yield Tile(first_id=start, logits_RT=logits_RT, shifted_RT=logits_RT, weight_RT=weight_RT)
