"""Loss ratio: how much further from the model are ground-truth answers than its own?

Legend: N canvas slots, M mask ratios.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tabom.core import keys
from tabom.core.errors import DataError
from tabom.diagnostics.rows import Question, slot_losses
from tabom.models.contract import MaskedDiffusionModel
from tabom.trajectory.order import length_to_end

Filler = Literal["ignore", "supervise"]
Pair = tuple[Sequence[int], Sequence[int]]  # prompt ids, response ids
Floats = NDArray[np.float64]
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, kw_only=True, eq=False)
class LossRatio:
    """Cross-entropies (nats) by mask ratio. Above 1: the ground truth surprises the model more.

    ratios_M: mask ratios. ground_truth_M, self_distilled_M: means over prompts of the mean over
        the asked slots. ratio_M: their quotient, NaN where no prompt counts.
    count_M: prompts that count (both of their responses have an asked slot).
    """

    ratios_M: Floats
    ground_truth_M: Floats
    self_distilled_M: Floats
    ratio_M: Floats
    count_M: NDArray[np.int64]


def loss_ratio(
    model: MaskedDiffusionModel,
    ground_truth: Sequence[Pair],
    self_distilled: Sequence[Pair],
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

    ground_truth, self_distilled: (prompt_ids, response_ids) pairs on the same prompts in the same
        order. A response ends with an end token; what follows the first one is filler.
    num_slots: N; None takes the longest response. A longer response is an error.
    filler: "ignore" asks only at slots up to the first end token; "supervise" asks at filler too.
    Raises: DataError if the lists do not match, or a response does not fit the canvas.
    Source: TABOM figure 3.
    """
    if filler not in get_args(Filler):
        raise DataError(f"loss ratio: filler {filler!r} is not one of {get_args(Filler)}")
    wrong = [r for r in ratios if not 0 < r <= 1]
    if wrong or not ratios:
        raise DataError(f"loss ratio: mask ratios must be in (0, 1], got {list(ratios)}")
    _check_prompts(ground_truth, self_distilled)
    longest = max((len(r) for _, r in (*ground_truth, *self_distilled)), default=0)
    if num_slots is None:
        num_slots = longest
    if longest > num_slots:
        raise DataError(
            f"loss ratio: a response has {longest} tokens for {num_slots} slots; cut the responses "
            "or raise num_slots"
        )
    rank_IN = _mask_ranks(len(ground_truth), num_slots, seed)
    losses_2IM = np.stack(
        [
            _losses(model, pairs, rank_IN, ratios, filler, batch_size)
            for pairs in (ground_truth, self_distilled)
        ]
    )
    counts_IM = ~np.isnan(losses_2IM).any(axis=0)
    count_M = counts_IM.sum(axis=0)
    sums_2M = np.where(counts_IM, losses_2IM, 0.0).sum(axis=1)
    means_2M = np.full_like(sums_2M, np.nan)
    np.divide(sums_2M, count_M, out=means_2M, where=np.broadcast_to(count_M > 0, means_2M.shape))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_M = means_2M[0] / means_2M[1]
    return LossRatio(
        ratios_M=np.asarray(ratios, dtype=np.float64),
        ground_truth_M=means_2M[0],
        self_distilled_M=means_2M[1],
        ratio_M=ratio_M,
        count_M=count_M,
    )


def _check_prompts(ground_truth: Sequence[Pair], self_distilled: Sequence[Pair]) -> None:
    if len(ground_truth) != len(self_distilled):
        raise DataError(
            f"loss ratio: {len(ground_truth)} ground-truth and {len(self_distilled)} "
            "self-distilled answers; expected one of each a prompt"
        )
    for i, ((mine, _), (other, _)) in enumerate(zip(ground_truth, self_distilled, strict=True)):
        if list(mine) != list(other):
            raise DataError(
                f"loss ratio: the answers of row {i} are to different prompts; give both lists in "
                "the order of the same prompts"
            )


def _mask_ranks(num_pairs: int, num_slots: int, seed: int) -> NDArray[np.int64]:
    """Per prompt, the place of each slot in the order in which slots become masked."""
    pair_I1 = np.arange(num_pairs, dtype=np.int64)[:, None]
    slot_1N = np.arange(num_slots, dtype=np.int64)[None]
    draw_IN = keys.uniform(seed, keys.text_key("loss_ratio"), pair_I1, slot_1N)
    return np.argsort(np.argsort(draw_IN, axis=1, kind="stable"), axis=1, kind="stable")


def _losses(
    model: MaskedDiffusionModel,
    pairs: Sequence[Pair],
    rank_IN: NDArray[np.int64],
    ratios: Sequence[float],
    filler: Filler,
    batch_size: int,
) -> Floats:
    """Mean cross-entropy per prompt and ratio, NaN where no masked slot is asked."""
    losses_IM = np.full((len(pairs), len(ratios)), np.nan)
    questions, places = [], []
    num_slots = rank_IN.shape[1]
    for i, (prompt_ids, response_ids) in enumerate(pairs):
        length = length_to_end(response_ids, model.ids.eos)
        canvas_N = np.full(num_slots, model.ids.filler, dtype=np.int64)
        canvas_N[:length] = response_ids[:length]
        num_asked = length if filler == "ignore" else num_slots
        for m, ratio in enumerate(ratios):
            masked_N = rank_IN[i] < max(1, round(ratio * num_slots))
            # A slot that the decoder never revealed has no token to be asked for.
            slot_R = np.flatnonzero((masked_N & (canvas_N != model.ids.mask))[:num_asked])
            if len(slot_R) == 0:
                continue
            questions.append(
                Question(
                    prompt_ids=prompt_ids,
                    input_ids_N=np.where(masked_N, model.ids.mask, canvas_N),
                    slot_R=slot_R,
                    label_R=canvas_N[slot_R],
                )
            )
            places.append((i, m))
    answers = slot_losses(model, questions, batch_size=batch_size)
    for place, (ce_R, _) in zip(places, answers, strict=True):
        losses_IM[place] = ce_R.astype(np.float64).mean()
    return losses_IM
