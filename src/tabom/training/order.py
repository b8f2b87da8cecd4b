"""The order in which an epoch shows the responses, so that little of a batch is padding.

The order is cut into optimiser steps, a step into micro-batches, and these are dealt out to the
ranks in turn. Inside a step the responses are sorted by length: which ones a step sees does not
change, so its result does not, and neighbours in a micro-batch (and micro-batches that the ranks
work on at the same time) are alike in length.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

from tabom.trajectory.record import IntArray

# As transformers' LengthGroupedSampler: so many steps are sorted together.
GROUP = 50
_TOGETHER = 4096


class StepSampler(Sampler[int]):
    """Shuffles anew in each epoch, by (seed, epoch) alone, and sorts inside what may be sorted.

    lengths: tokens of each response. num_taken: responses that an epoch shows; the last ones of
        its shuffle, which fill no micro-batch, are left out.
    step_batch: responses of an optimiser step.
    group_by_length: also put responses of like length into one step: of each 50 steps' worth of
        shuffled responses, sorted; the steps are then shuffled.
    epoch: asked whenever an epoch starts.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        *,
        num_taken: int,
        step_batch: int,
        group_by_length: bool,
        seed: int,
        epoch: Callable[[], int],
    ) -> None:
        self.lengths = np.asarray(lengths)
        self.num_taken = num_taken
        self.step_batch = step_batch
        self.group_by_length = group_by_length
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_taken

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch())
        order = torch.randperm(len(self.lengths), generator=generator).numpy()
        # Sorted before the cut, the rest that no micro-batch takes would be the longest ones.
        num_whole = self.num_taken // self.step_batch * self.step_batch
        whole = order[:num_whole]
        if self.group_by_length:
            whole = self._sort(whole, GROUP * self.step_batch).reshape(-1, self.step_batch)
            whole = whole[torch.randperm(len(whole), generator=generator).numpy()].reshape(-1)
        last = self._sort(order[num_whole : self.num_taken], self.step_batch)
        for part in (self._sort(whole, self.step_batch), last):
            for start in range(0, len(part), _TOGETHER):  # a list of a million numbers is 40 MB
                yield from part[start : start + _TOGETHER].tolist()

    def _sort(self, order: IntArray, size: int) -> IntArray:
        """Sorted by length inside each `size` of an order; ties stay in their order."""
        parts = [order[i : i + size] for i in range(0, len(order), size)]
        parts = [part[np.argsort(self.lengths[part], kind="stable")] for part in parts]
        return np.concatenate([order[:0], *parts])
