"""What an objective is given, and what it draws from it.

Legend: B batch, N response slots, R gathered rows, W window, M masked slots.

A `TrajectoryBatch` and a `Context` live on the CPU until the trainer moves the context's tensors
to the device: contexts are drawn vectorised between collation and the forward pass, so the hot
path has no Python loop over the batch and no host sync.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from torch import Tensor

from tabom.core.errors import ObjectiveError


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
    advantage_B: float32, how much better than expected a response was judged; None: all are right.
    old_logp_BN: float32, log-probabilities of the tokens under the model that decoded them; None:
        as the present one has them.
    hint_ids_BQ, hint_mask_BQ: the prompt of a privileged reference, left-padded, or None.
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
    advantage_B: Tensor | None = None
    old_logp_BN: Tensor | None = None
    hint_ids_BQ: Tensor | None = None
    hint_mask_BQ: Tensor | None = None

    @property
    def num_slots(self) -> int:
        return self.response_ids_BN.shape[1]

    def take(self, response_C: Tensor) -> "TrajectoryBatch":
        """Some of the responses, in the order of `response_C` (int64)."""
        taken: dict[str, Any] = {
            f.name: value[response_C]
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **taken)


@dataclass(kw_only=True)
class Context:
    """One drawn context per response: what is visible, what is asked, how terms find their rows.

    Here B counts contexts: a mixture may ask a response at several, and `response_C` says whose
    each one is.

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
    sets: per name, bool over R: the rows that a term asks for beside or instead of the targets
        ("target", "masked", and those of the sampler).
    reference_ids_BN: int64, the response region as the reference sees it. None: as the model.
    response_C: int64, the response in the batch of each context. None: one each, in order.
    advantage_B, old_logp_R: of the batch, by context and by row. None where it has none.
    parts: of a mixture, the context of each part; their rows and contexts are this one's in order.
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
    sets: dict[str, Tensor] = field(default_factory=dict)
    reference_ids_BN: Tensor | None = None
    response_C: Tensor | None = None
    advantage_B: Tensor | None = None
    old_logp_R: Tensor | None = None
    parts: "tuple[Context, ...]" = ()
    counts: dict[str, float] = field(default_factory=dict)
    stats: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of contexts, B."""
        return self.input_ids_BN.shape[0]

    def of_set(self, name: str) -> Tensor:
        """The rows of a set, bool `[R]`.

        Raises: ObjectiveError for a set that this context has not.
        """
        if name not in self.sets:
            raise ObjectiveError(
                f"a term asks for the slots {name!r}; this context has {', '.join(self.sets)}"
            )
        return self.sets[name]

    def per_response(self, value_R: Tensor) -> Tensor:
        """The sum `[B]` of a value per row over the rows of each response."""
        return value_R.new_zeros(self.size).index_add(0, self.row_batch_R, value_R)

    def moved(self, move: Callable[[Any], Any]) -> "Context":
        """A copy with `move` applied to every tensor."""
        found: dict[str, Any] = {f.name: move(getattr(self, f.name)) for f in fields(self)}
        found["sets"] = {name: move(value) for name, value in self.sets.items()}
        found["parts"] = tuple(part.moved(move) for part in self.parts)
        return replace(self, **found)
