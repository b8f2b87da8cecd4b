"""Keys and values of a whole canvas, rewritten column by column while it is decoded.

Legend: B rows of the canvas, S columns, L rows of one call, W columns of one call, H key heads,
d head width.
"""

from typing import Any

import torch
from torch import Tensor


class CanvasCache:
    """What every layer stored for every column; a call rewrites some columns and reads all.

    Unlike a cache that grows, it holds the response slots too, so that a block can be asked again
    and again while the rest stands still. It has the one method of transformers' caches that
    attention layers call. Columns that were never written are zeros: what may be read of them is
    the attention mask's business.
    """

    def __init__(self, num_rows: int, num_columns: int) -> None:
        self.num_rows = num_rows
        self.num_columns = num_columns
        self.keys_BHSd: list[Tensor] = []
        self.values_BHSd: list[Tensor] = []
        self._row_L = torch.empty(0, dtype=torch.long)
        self._column_LW = torch.empty(0, 0, dtype=torch.long)
        self._num_keys = num_columns

    def aim(self, row_L: Tensor, column_LW: Tensor, *, num_keys: int) -> None:
        """Say which rows and columns the next call is about, and how many columns it may see."""
        self._row_L, self._column_LW, self._num_keys = row_L, column_LW, num_keys

    def update(
        self, key_LHWd: Tensor, value_LHWd: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store a layer's keys and values at the columns aimed at; return those of all columns."""
        while len(self.keys_BHSd) <= layer_idx:
            _, heads, _, width = key_LHWd.shape
            shape = (self.num_rows, heads, self.num_columns, width)
            self.keys_BHSd.append(key_LHWd.new_zeros(shape))
            self.values_BHSd.append(value_LHWd.new_zeros(shape))
        seen = []
        for store, new in ((self.keys_BHSd, key_LHWd), (self.values_BHSd, value_LHWd)):
            store_BHSd = store[layer_idx]
            store_BHSd[self._row_L[:, None], :, self._column_LW] = new.transpose(1, 2)
            every_row = len(self._row_L) == self.num_rows
            rows = store_BHSd if every_row else store_BHSd[self._row_L]
            seen.append(rows[:, :, : self._num_keys])
        return seen[0], seen[1]
