"""Gathered rows as columns of a rectangle: ragged requests, one line a row of the batch.

Legend: B batch, S prompt + response, R gathered rows, W columns asked of each row, D features.
"""

import torch
from torch import Tensor


def group_by_row(
    batch_R: Tensor,
    column_R: Tensor,
    *,
    num_rows: int,
    num_columns: int,
    widest: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Columns asked, one line a row of the batch, and where in its line each of the R lies.

    batch_R, column_R: int64, in any order; a pair may come twice. num_columns: S.
    widest: the largest number asked of one row; None counts it, which waits for the device.
    Returns: `asked_BW`, filled up with the last column (a slot of the response, never padding),
        and `place_R`: `asked_BW[batch_R, place_R] == column_R`.
    """
    rows_B = torch.arange(num_rows, device=batch_R.device)
    is_mine_BR = batch_R == rows_B[:, None]
    place_R = is_mine_BR.cumsum(1).gather(0, batch_R[None])[0] - 1
    if widest is None:
        widest = int(is_mine_BR.sum(1).max())
    asked_BW = batch_R.new_full((num_rows, widest), num_columns - 1)
    asked_BW[batch_R, place_R] = column_R
    return asked_BW, place_R


def take_columns(x_BSD: Tensor, column_BW: Tensor) -> Tensor:
    """`x[b, column[b, w]]`, `[B, W, D]`; an x of one row serves all."""
    rows_B = torch.arange(len(column_BW), device=column_BW.device)
    return x_BSD.expand(len(column_BW), -1, -1)[rows_B[:, None], column_BW]
