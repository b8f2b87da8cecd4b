"""Order arithmetic: from the steps at which slots were revealed to orders and lengths.

Legend: N response slots.
"""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float32]


def order_from_step(step_N: ArrayLike, entropy_N: ArrayLike) -> IntArray:
    """The 0-based total order in which the slots were revealed.

    step_N: int, the model call that revealed the slot, -1 never. entropy_N: nats at reveal; inside
        a step the surer slot comes first, NaN (unknown) after the known ones, then the lower slot.
    Returns: int32 `[N]`, a permutation of 0..n-1 over the n revealed slots, -1 elsewhere.
    Source: TABOM section 3 (tokens of one step are ranked by their entropy).
    """
    step, entropy = np.asarray(step_N), np.asarray(entropy_N, dtype=np.float64)
    slot = np.flatnonzero(step >= 0)
    # numpy sorts NaN behind every number, and lexsort keeps equal keys in the order of the slots.
    by_order = slot[np.lexsort((entropy[slot], step[slot]))]
    order_N = np.full(step.shape, -1, dtype=np.int32)
    order_N[by_order] = np.arange(len(by_order), dtype=np.int32)
    return order_N


def visible_at_cut(order_N: ArrayLike, cut: int) -> NDArray[np.bool_]:
    """Which slots are visible when `cut` of them are: bool `[N]`, order in [0, cut)."""
    order = np.asarray(order_N)
    return (order >= 0) & (order < cut)


def non_left_to_right_slots(step_N: ArrayLike, length: int) -> NDArray[np.int64]:
    """The slots that were revealed after some slot to their right.

    length: leading slots that are looked at, on both sides of the comparison. Give the content
        without its end token: the end and the filler behind it are often revealed early, which
        says nothing about the order of the content.
    Returns: int64, increasing: every j < length with a k in (j, length) of strictly smaller step.
        Ties do not count; slots never revealed take no part.
    """
    step = np.asarray(step_N, dtype=np.int64)[:length]
    known = np.where(step >= 0, step, np.iinfo(np.int64).max)
    earliest_from = np.minimum.accumulate(known[::-1])[::-1]  # least step at or right of a slot
    return np.flatnonzero(earliest_from[1:] < step[:-1]).astype(np.int64)


def length_to_end(response_ids: Sequence[int] | IntArray, end_ids: Collection[int]) -> int:
    """Slots up to and including the first end token; all of them if there is none.

    response_ids: the canvas. end_ids: every id that ends a response.
    """
    is_end = np.isin(np.asarray(response_ids), np.asarray(list(end_ids), dtype=np.int64))
    return int(is_end.argmax()) + 1 if is_end.any() else len(is_end)
