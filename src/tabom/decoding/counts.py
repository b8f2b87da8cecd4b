"""What a decoding cost, counted while it runs.

Legend: B batch; L rows and S columns of one call.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tabom.models.costs import forward_flops
from tabom.models.sizes import ModelSizes

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(kw_only=True)
class DecodeCounts:
    """Sums over model calls; read them at any time from `Decoder.counts`.

    num_calls: model calls, each of one batch. num_tokens: tokens through the layers, pads included.
    num_real: those that are no pads. num_pairs: tokens times the tokens that each of them sees.
    num_rows: rows through the head. num_finished: responses. num_refills: times that prompts came
    into a batch that was still at work.
    """

    num_calls: int = 0
    num_tokens: int = 0
    num_real: int = 0
    num_pairs: int = 0
    num_rows: int = 0
    num_finished: int = 0
    num_refills: int = 0

    def add_tokens(self, mask_LS: "Tensor | None", *, num_tokens: int, num_keys: int) -> None:
        """Note a call: its attention mask over the tokens asked (None: no pads), keys of each."""
        self.num_tokens += num_tokens
        self.num_real += num_tokens if mask_LS is None else int(mask_LS.sum())
        self.num_pairs += num_tokens * num_keys

    def add_call(self, *, num_rows: int) -> None:
        """Note the end of a call: its rows through the head."""
        self.num_calls += 1
        self.num_rows += num_rows

    @property
    def padding(self) -> float:
        """Share of the tokens through the layers that were padding."""
        return 1 - self.num_real / self.num_tokens if self.num_tokens else 0.0

    def flops(self, sizes: ModelSizes) -> float:
        """Model FLOPs of all calls, every layer counted for every token."""
        context = self.num_pairs / self.num_tokens if self.num_tokens else 0.0
        return forward_flops(
            sizes, num_tokens=self.num_tokens, context=context, num_rows=self.num_rows
        )
