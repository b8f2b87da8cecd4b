"""Loss ratio: how much further from the model are ground-truth answers than its own?

Legend: N canvas slots, M mask ratios.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tabom.core import keys
from tabom.core.errors import DataError
from tabom.diagnostics.slot_losses import AskedCanvas, slot_losses
from tabom.models.contract import MaskedDiffusionModel
from tabom.trajectory.order import length_to_end

Filler = Literal["ignore", "supervise"]
Floats = NDArray[np.float64]
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, kw_only=True, eq=False)
class AnswerPair:
    """Two answers to one prompt. A response ends with an end token; the rest of it is filler."""

    prompt_ids: Sequence[int]
    ground_truth: Sequence[int]
    self_distilled: Sequence[int]


@dataclass(frozen=True, kw_only=True, eq=False)
class LossRatio:
    """Cross-entropies (nats) by mask ratio. Above 1: the ground truth surprises the model more.

    ground_truth_M, self_distilled_M: means over prompts of the mean over the asked slots.
    ratio_M: their quotient, NaN where no prompt counts.
    count_M: prompts that count (both of their responses have an asked slot).
    """

    ground_truth_M: Floats
    self_distilled_M: Floats
    ratio_M: Floats
    count_M: NDArray[np.int64]


def loss_ratio(
    model: MaskedDiffusionModel,
    pairs: Sequence[AnswerPair],
    *,
    seed: int,
    batch_size: int,
    ratios: Sequence[float] = RATIOS,
    num_slots: int | None = None,
    filler: Filler = "ignore",
) -> LossRatio:
    """Cross-entropy of ground-truth answers over that of self-distilled ones, by mask ratio.

    Both answers to a prompt lie on the same canvas, ended and filled up as in training, under the
    same mask: the round(ratio * N) slots (at least one) with the least keyed draws, so that the
    masks of rising ratios are nested.

    num_slots: N; None takes the longest response. A longer response is an error.
    filler: "ignore" asks only at slots up to the first end token; "supervise" asks at filler too.
    Raises: DataError if a mask ratio is no ratio, or a response does not fit the canvas.
    Source: TABOM figure 3.
    """
    if filler not in get_args(Filler):
        raise DataError(f"loss ratio: filler {filler!r} is not one of {get_args(Filler)}")
    wrong = [r for r in ratios if not 0 < r <= 1]
    if wrong or not ratios:
        raise DataError(f"loss ratio: mask ratios must be in (0, 1], got {list(ratios)}")
    longest = max((len(r) for p in pairs for r in (p.ground_truth, p.self_distilled)), default=0)
    if num_slots is None:
        num_slots = longest
    if longest > num_slots:
        raise DataError(
            f"loss ratio: a response has {longest} tokens for {num_slots} slots; cut the responses "
            "or raise num_slots"
        )
    # Both sides have the same masks, so that they differ in nothing but the answers.
    rank_IN = _mask_ranks(len(pairs), num_slots, seed)
    hidden_MIN = np.stack([rank_IN < max(1, round(ratio * num_slots)) for ratio in ratios])
    # NaN stays where a mask hides no slot that is asked: such a prompt does not count.
    losses_2IM = np.full((2, len(pairs), len(ratios)), np.nan)
    for side, name in enumerate(("ground_truth", "self_distilled")):
        asked = [
            (i, m, canvas)
            for i, pair in enumerate(pairs)
            for m, canvas in _canvases(model, pair, name, hidden_MIN[:, i], filler)
        ]
        answers = slot_losses(model, [canvas for *_, canvas in asked], batch_size=batch_size)
        for (i, m, _), (ce_R, _) in zip(asked, answers, strict=True):
            losses_2IM[side, i, m] = ce_R.astype(np.float64).mean()
    counts_IM = ~np.isnan(losses_2IM).any(axis=0)
    count_M = counts_IM.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):  # where no prompt counts, 0 / 0 is NaN
        means_2M = np.where(counts_IM, losses_2IM, 0.0).sum(axis=1) / count_M
        ratio_M = means_2M[0] / means_2M[1]
    return LossRatio(
        ground_truth_M=means_2M[0],
        self_distilled_M=means_2M[1],
        ratio_M=ratio_M,
        count_M=count_M,
    )


def _mask_ranks(num_pairs: int, num_slots: int, seed: int) -> NDArray[np.int64]:
    """Per prompt, the place of each slot in the order in which slots become masked."""
    pair_I1 = np.arange(num_pairs, dtype=np.int64)[:, None]
    slot_1N = np.arange(num_slots, dtype=np.int64)[None]
    draw_IN = keys.uniform(seed, keys.text_key("loss_ratio"), pair_I1, slot_1N)
    return np.argsort(np.argsort(draw_IN, axis=1, kind="stable"), axis=1, kind="stable")


def _canvases(
    model: MaskedDiffusionModel,
    pair: AnswerPair,
    name: str,
    hidden_MN: NDArray[np.bool_],
    filler: Filler,
) -> Iterator[tuple[int, AskedCanvas]]:
    """One answer of a pair under each mask that hides a slot which is asked."""
    response_ids, num_slots = getattr(pair, name), hidden_MN.shape[1]
    length = length_to_end(response_ids, model.ids.eos)
    canvas_N = np.full(num_slots, model.ids.filler, dtype=np.int64)
    canvas_N[:length] = response_ids[:length]
    num_asked = length if filler == "ignore" else num_slots
    for m, is_hidden_N in enumerate(hidden_MN):
        # A slot that the decoder never revealed has no token to be asked for.
        slot_R = np.flatnonzero((is_hidden_N & (canvas_N != model.ids.mask))[:num_asked])
        if len(slot_R):
            yield (
                m,
                AskedCanvas(
                    prompt_ids=pair.prompt_ids,
                    input_ids_N=np.where(is_hidden_N, model.ids.mask, canvas_N),
                    slot_R=slot_R,
                    label_R=canvas_N[slot_R],
                ),
            )
