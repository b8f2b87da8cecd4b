"""How fast a run is: tokens a second, the share of padding, and of the device's peak.

Real tokens are counted, prompts and response slots; padding is work without use, so it lowers the
figures. Model FLOPs are those of the plain model's forward and backward pass (`models/costs.py`):
what activation checkpointing computes again is not counted, what trimming the last layer leaves
out is.
"""

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from tabom.models.costs import step_flops
from tabom.models.devices import present_device
from tabom.models.sizes import ModelSizes
from tabom.objectives.batch import Context, TrajectoryBatch

# What a micro-batch adds up, over micro-batches and ranks, until the log asks.
TOKENS, PADDED, SQUARES, ROWS = WORK = (
    "tokens", "padded_tokens", "squared_lengths", "rows",
)  # fmt: skip


def work_of(batch: TrajectoryBatch, context: Context) -> dict[str, float]:
    """Sums over a micro-batch that time and FLOPs depend on; from the CPU's copy, no waiting."""
    length_B = batch.prompt_mask_BP.sum(1) + batch.response_ids_BN.shape[1]
    if context.response_C is not None:
        length_B = length_B[context.response_C]
    num_columns = batch.prompt_ids_BP.shape[1] + batch.response_ids_BN.shape[1]
    return {
        TOKENS: float(length_B.sum()),
        PADDED: float(len(length_B) * num_columns),
        SQUARES: float(length_B.square().sum()),
        ROWS: float(len(context.row_slot_R)),
    }


def peak_flops() -> tuple[float, bool]:
    """FLOP/s of the device at hand, and whether each process has one of its own."""
    device = present_device()
    return 1e12 * device.tflops, device.is_gpu


def peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU's allocations, or of the process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Speed:
    """Figures since the last log and over the whole run; pauses are not counted.

    sizes: of the model. lora_parameters: of an adapter; None trains all weights.
    world_size: processes. peak: FLOP/s, asked once, when first needed.
    """

    def __init__(
        self,
        sizes: ModelSizes,
        *,
        lora_parameters: int | None,
        world_size: int,
        peak: Callable[[], tuple[float, bool]] = peak_flops,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.sizes = sizes
        self.lora_parameters = lora_parameters
        self.world_size = world_size
        self._peak = peak
        self._clock = clock
        self._peak_flops: float | None = None
        self._start: float | None = None
        self._seconds = 0.0
        self._sums: dict[str, float] = {}

    def start(self) -> None:
        """Start the clock, if it does not run yet: what came before is not counted."""
        if self._start is None:
            self._start = self._clock()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Work inside (an evaluation, a save) is not training time."""
        before = self._clock()
        try:
            yield
        finally:
            if self._start is not None:
                self._start += self._clock() - before

    def lap(self, sums: Mapping[str, float]) -> dict[str, float]:
        """tokens_per_second, padding and mfu since the last lap.

        sums: of `work_of`, over all ranks and all micro-batches since then.
        """
        self.start()
        assert self._start is not None
        now = self._clock()
        seconds, self._start = now - self._start, now
        self._seconds += seconds
        for name, value in sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        return self._figures(sums, seconds)

    def whole(self) -> dict[str, float]:
        """The same over all laps of this process; empty before the first."""
        return self._figures(self._sums, self._seconds) if self._sums else {}

    def _figures(self, sums: Mapping[str, float], seconds: float) -> dict[str, float]:
        if self._peak_flops is None:
            with self.paused():
                peak, has_own_device = self._peak()
            self._peak_flops = peak * (self.world_size if has_own_device else 1)
        flops = step_flops(
            self.sizes,
            num_tokens=sums[TOKENS],
            context=sums[SQUARES] / sums[TOKENS],
            num_rows=sums[ROWS],
            lora_parameters=self.lora_parameters,
            is_checkpointed=False,
        )
        return {
            "tokens_per_second": sums[TOKENS] / seconds,
            "padding": 1 - sums[TOKENS] / sums[PADDED],
            "mfu": flops / seconds / self._peak_flops,
        }
