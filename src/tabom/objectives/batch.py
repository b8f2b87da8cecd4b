"""What an objective is given, and what it draws from it.

Legend: B batch, N response slots, R gathered rows, W window, M masked slots.

A `TrajectoryBatch` and a `Context` live on the CPU until the trainer moves the context's tensors
to the device: contexts are drawn vectorised between collation and the forward pass, so the hot
path has no Python loop over the batch and no host sync.
"""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(kw_only=True)
class TrajectoryBatch:
    """A collated batch of responses. Deliberately without a `.to`: it stays on the CPU.

    prompt_ids_BP: int64, left-padded. prompt_mask_BP: int64, 1 for real tokens.
    response_ids_BN: int64, the finished canvas.
    key_B: int64, `core.keys.text_key` of each response's id: the key of its draws.
    slot_BN: bool, slots that take part at all (revealed by the decoder, or given by the data).
        All others are masked in every input, never a target, never in a pair.
    order_BN, step_BN: int64, -1 where never revealed; both None for data without an order
        (ground truth), which objectives that need one refuse.
    entropy_BN: float32 recorded at reveal (NaN unknown), or None.
    length_B: int64, slots up to and including the first end token (N if there is none).
    mask_id: the id that hides a slot.
    """

    prompt_ids_BP: Tensor
    prompt_mask_BP: Tensor
    response_ids_BN: Tensor
    key_B: Tensor
    slot_BN: Tensor
    length_B: Tensor
    mask_id: int
    order_BN: Tensor | None = None
    step_BN: Tensor | None = None
    entropy_BN: Tensor | None = None


@dataclass(kw_only=True)
class Context:
    """One drawn context per response: what is visible, what is asked, how terms find their rows.

    input_ids_BN: int64, the response region with hidden slots set to the mask id.
    row_batch_R, row_slot_R: int64, the slots that go through the head, sorted by (batch, slot).
    label_R: int64, the finished token of each row.
    ce_weight_R: float32; sum_R ce_weight * ce is the `ce` term's local sum (the reducer inside a
        response is folded in; 0 for rows that only the other terms need).
    window_BW: int64 indices into R in decoding order, -1 where the window is shorter: the rows
        that the ranking term compares (column i was revealed before column j > i). Its width
        depends on the settings and N only, never on the batch.
    pair_BWW: bool, the pairs (i, j > i) of the window whose order is known. None: all of them, as
        is so unless slots shared a step and their entropies were not recorded.
    masked_BM: int64 indices into R of every slot still masked, -1 padding: the candidates of the
        next-slot likelihood. None unless a term needs them.
    next_B: int64 index into R of the slot revealed next, -1 if none. None unless needed.
    counts: per term name, the local count that the global sum of that term is divided by.
    stats: plain numbers for the log (masked fraction, cut, shortened windows, skipped responses),
        each a (sum, count) pair.

    Every -1 index also works as an index into rows with one zero row appended at the end.
    """

    input_ids_BN: Tensor
    row_batch_R: Tensor
    row_slot_R: Tensor
    label_R: Tensor
    ce_weight_R: Tensor
    window_BW: Tensor
    pair_BWW: Tensor | None = None
    masked_BM: Tensor | None = None
    next_B: Tensor | None = None
    counts: dict[str, float] = field(default_factory=dict)
    stats: dict[str, tuple[float, float]] = field(default_factory=dict)
