"""Softmax statistics of rows whose logits come in tiles.

With z the logits of a row, m their maximum, S = sum e^(z-m) and Q = sum e^(z-m) (m-z):

    log of the normaliser = m + log S,    entropy = log S + Q / S.

S and Q are running sums: with a new maximum they are scaled to it. All terms are non-negative, so
nothing cancels.

Legend: R gathered rows, T tokens of one tile, M rows that got a new maximum.
"""

import copy
from typing import Any

import torch
from torch import Tensor

from tabom.vocabulary.tiles import LOWEST, HeadTiles, Tile, tiles_of

# The last exponent whose exponential is no subnormal number: on a CPU those cost 10 to 30 times.
LEAST = -87.0
FAR = 1000.0  # nats; its exponential is 0 in every dtype
# A sum of all that was cut off at LEAST stays below this, for any vocabulary.
NOTHING = 1e-30


class RunningSoftmax:
    """Maximum, normaliser, entropy and chosen logits of rows, after one pass over the tiles.

    Weights below e^-87 count as e^-87. There are two accuracies:

    - as training needs it: sums in the dtype of the logits, and no operation that waits for a GPU;
    - has_token, as decoding needs it to tell very certain slots from each other: the greatest
      token is known, its weight (1) is kept out of S, and sums are float64, since 1 + rest in
      float32 forgets the rest. The entropy is accurate to about 1e-7 of its size or 1e-6 nats.

    greatest_R: the maximum. token_R: with has_token, its id, the lowest of equal ones.
    second_R: the greatest of the other logits; None unless asked for (with has_token alone).
    label_logit_R: the logits of `labels_R`, NaN for a label outside or without labels.
    left_out_R: the logits of the token `without`, which has no probability here.
    """

    def __init__(
        self,
        num_rows: int,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        has_token: bool = False,
        has_second: bool = False,
        without: int | None = None,
        labels_R: Tensor | None = None,
    ) -> None:
        self.has_token, self.without, self.labels_R = has_token, without, labels_R
        # Finite, so that a tile of nothing but -inf makes no -inf - -inf.
        self.greatest_R = torch.full(
            (num_rows,), torch.finfo(dtype).min, dtype=dtype, device=device
        )
        self.sum_R = self.greatest_R.new_zeros(
            num_rows, dtype=torch.float64 if has_token else dtype
        )
        self.spread_R = torch.zeros_like(self.sum_R)
        self.token_R = torch.zeros_like(self.sum_R, dtype=torch.long)
        self.second_R = self.greatest_R.clone() if has_second else None
        self.label_logit_R = torch.full_like(self.greatest_R, torch.nan)
        self.left_out_R = torch.full_like(self.greatest_R, LOWEST)

    @classmethod
    def of_head(cls, tiles: HeadTiles, **options: Any) -> "RunningSoftmax":
        """The softmax of rows times the head. options: see the class."""
        rows_RD = tiles.rows_RD
        # Under autocast the products would be rounded to 16 bits.
        with torch.autocast(device_type=rows_RD.device.type, enabled=False):
            softmax = cls(len(rows_RD), device=rows_RD.device, dtype=tiles.dtype, **options)
            for tile in tiles:
                softmax.add_(tile)
        return softmax

    @classmethod
    def of_logits(
        cls, logits_RV: Tensor, *, temperature: float = 1.0, **options: Any
    ) -> "RunningSoftmax":
        """The softmax, with its token, of float32 logits over the temperature; they stay."""
        softmax = cls(len(logits_RV), device=logits_RV.device, has_token=True, **options)
        for tile in tiles_of(logits_RV, temperature=temperature):
            softmax.add_(tile)
        return softmax

    def add_(self, tile: Tile) -> None:
        """Take in a tile. Its memory is overwritten, the logits too unless they are kept."""
        logits_RT = tile.logits_RT
        self._note_asked(tile)
        if self.second_R is not None:
            best_RT = logits_RT.topk(min(2, logits_RT.shape[1]), dim=-1).values
            best_RT = torch.cat([self.greatest_R[:, None], self.second_R[:, None], best_RT], dim=-1)
            self.second_R = best_RT.topk(2, dim=-1).values[:, 1]
        tile_greatest_R = logits_RT.amax(dim=-1)
        best = self._best(tile, tile_greatest_R) if self.has_token else None
        if best is not None or not self.has_token:
            rows = slice(None) if best is None else best[0]
            self._raise_to(torch.maximum(tile_greatest_R, self.greatest_R), rows)
        log_weight_RT = torch.sub(logits_RT, self.greatest_R[:, None], out=tile.shifted_RT)
        weight_RT = torch.exp(log_weight_RT.clamp_(min=LEAST), out=tile.weight_RT)
        if best is not None:
            weight_RT[best] = 0.0
        self.sum_R += weight_RT.sum(dim=-1)
        self.spread_R -= log_weight_RT.mul_(weight_RT).sum(dim=-1)

    def _note_asked(self, tile: Tile) -> None:
        """Note the logits that were asked for, and take out the token that is left out."""
        if self.labels_R is not None:
            column_R1, is_inside_R = tile.columns_of(self.labels_R)
            found_R = tile.logits_RT.gather(1, column_R1).squeeze(1)
            self.label_logit_R = torch.where(is_inside_R, found_R, self.label_logit_R)
        if self.without is not None and 0 <= self.without - tile.first_id < tile.logits_RT.shape[1]:
            column = self.without - tile.first_id
            self.left_out_R = tile.logits_RT[:, column].clone()
            tile.logits_RT[:, column] = LOWEST

    def _best(self, tile: Tile, tile_greatest_R: Tensor) -> tuple[Tensor, Tensor] | None:
        """Rows `[M]` whose maximum lies in this tile, and its columns; None if there is no row."""
        row_M = (tile_greatest_R > self.greatest_R).nonzero().squeeze(1)
        if not len(row_M):
            return None
        # A maximum with its place costs ten times one without: only rows that need it are asked.
        column_M = tile.logits_RT[row_M].max(dim=-1).indices
        self.token_R[row_M] = tile.first_id + column_M
        return row_M, column_M

    def _raise_to(self, greatest_R: Tensor, rows: Tensor | slice) -> None:
        """Make `greatest_R` what weights are relative to; it is greater in `rows` alone."""
        dtype = self.sum_R.dtype
        lag_M = greatest_R[rows].to(dtype) - self.greatest_R[rows].to(dtype)
        # Beyond it nothing is left of the old sums; a larger one would overflow before that shows.
        lag_M = lag_M.clamp(max=FAR)
        # The old maximum is one of the others from now on.
        total_M = 1 + self.sum_R[rows] if self.has_token else self.sum_R[rows]
        scale_M = (-lag_M).exp()
        self.spread_R[rows] = (self.spread_R[rows] + lag_M * total_M) * scale_M
        self.sum_R[rows] = total_M * scale_M
        self.greatest_R = greatest_R

    def with_token(self, logit_R: Tensor, *, token: int) -> "RunningSoftmax":
        """A copy that has one token more."""
        new = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(new, name, value.clone())
        new.without = None
        z_R1 = logit_R[:, None].clone()
        new.add_(Tile(first_id=token, logits_RT=z_R1, shifted_RT=z_R1, weight_RT=z_R1.clone()))
        # Tiles come in the order of their ids but for this one, so that a tie is not decided yet.
        new.token_R[(logit_R == self.greatest_R) & (token < self.token_R)] = token
        return new

    @property
    def total_R(self) -> Tensor:
        """The normaliser, relative to the maximum: sum of e^(z - greatest)."""
        return 1 + self._rest_R() if self.has_token else self.sum_R

    def log_total(self) -> Tensor:
        """The log of `total_R`, which is -log p of the greatest token."""
        return self._rest_R().log1p() if self.has_token else self.sum_R.log()

    def entropy_nats(self) -> Tensor:
        """The entropy `[R]` in nats."""
        spread_R = self.spread_R
        if self.has_token:
            # Where the rest is nothing, so is its spread; but what is not finite has to show.
            is_nothing_R = (self._rest_R() == 0) & torch.isfinite(spread_R)
            spread_R = spread_R.masked_fill(is_nothing_R, 0.0)
        return (self.log_total() + spread_R / self.total_R).to(self.greatest_R.dtype)

    def probability(self, logit_R: Tensor) -> Tensor:
        """The probability `[R]` of the token with this logit."""
        weight_R = (logit_R - self.greatest_R).double().exp()
        return (weight_R / self.total_R).to(self.greatest_R.dtype)

    def margin(self) -> Tensor:
        """The greatest probability less the second, `[R]`."""
        assert self.second_R is not None
        lag_R = (self.second_R - self.greatest_R).double()
        return (-lag_R.expm1() / self.total_R).to(self.greatest_R.dtype)

    def _rest_R(self) -> Tensor:
        return self.sum_R.masked_fill(self.sum_R < NOTHING, 0.0)
