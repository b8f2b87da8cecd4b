"""Rows that are decoded together; finished ones leave, and prompts of alike length enter.

Legend: B batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from tabom.decoding.canvas import Canvas
from tabom.decoding.requests import Decoded, DecodeRequest
from tabom.models.contract import MaskedDiffusionModel

REFILL_SHARE = 4  # prompts enter when one row in so many is finished
# Tokens of a refilled batch, pads included, over those that are none. Beyond it the batch runs
# empty first: what an empty seat costs is less than what it costs every other row to be padded.
MAX_PADDING = 1.02


@dataclass(kw_only=True)
class Batch:
    """Some requests, their places in the queue that they came from, and their state.

    fields: the entropies `[B, N]` of each call, where they are recorded.
    """

    places: list[int]
    requests: list[DecodeRequest]
    canvas: Canvas
    fields: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        model: MaskedDiffusionModel,
        queue: Sequence[DecodeRequest],
        places: Sequence[int],
        *,
        num_slots: int,
    ) -> "Batch":
        """A batch of which nothing is decoded."""
        requests = [queue[i] for i in places]
        canvas = Canvas.blank(model, requests, num_slots)
        return cls(places=list(places), requests=requests, canvas=canvas)

    def live_L(self) -> Tensor:
        """The rows with slots left to decode."""
        return self.canvas.open_BN.any(dim=1).nonzero().squeeze(1)

    def num_entering(self, queue: Sequence[DecodeRequest], *, start: int, batch_size: int) -> int:
        """How many requests of the queue, from `start` on, would come in now; 0: it does not pay.

        0 as well if no row is at work: then the next batch is a new one.
        """
        live_L = self.live_L()
        num_free = batch_size - len(live_L)
        if num_free * REFILL_SHARE < batch_size or start >= len(queue) or not len(live_L):
            return 0
        num_slots = self.canvas.open_BN.shape[1]
        lengths = [len(self.requests[b].prompt_ids) for b in live_L.tolist()]
        num_fitting = 0
        for request in queue[start : start + num_free]:
            lengths.append(len(request.prompt_ids))
            columns = max(lengths) + num_slots
            if columns * len(lengths) > MAX_PADDING * (sum(lengths) + num_slots * len(lengths)):
                break
            num_fitting += 1
        return num_fitting

    def refilled(
        self,
        model: MaskedDiffusionModel,
        queue: Sequence[DecodeRequest],
        *,
        start: int,
        num_entering: int,
    ) -> "Batch":
        """The live rows as they are, and new ones behind them."""
        live_L = self.live_L()
        places = [self.places[b] for b in live_L.tolist()]
        places += range(start, start + num_entering)
        new = Batch.of(model, queue, places, num_slots=self.canvas.open_BN.shape[1])
        new.canvas.take(self.canvas, live_L)
        return new

    def finished(
        self, model: MaskedDiffusionModel, *, is_all: bool, method: str, fingerprint: str
    ) -> list[tuple[int, Decoded]]:
        """Places and results of the rows without open slots; is_all: of every row."""
        is_open = self.canvas.open_BN.any(dim=1).tolist()
        rows = [b for b in range(len(self.places)) if is_all or not is_open[b]]
        results = self.canvas.results(
            model, self.requests, self.fields, rows=rows, method=method, fingerprint=fingerprint
        )
        return [(self.places[b], decoded) for b, decoded in zip(rows, results, strict=True)]
