"""An objective: one context sampler and a weighted list of terms.

Legend: B batch, N response slots, R gathered rows, W window, M masked slots.

    draw        on the CPU, between collation and the forward pass: which slots are visible and
                which rows are asked for, as index tensors
    term_sums   on the device, from the losses of the asked rows
    total       sum over terms of coefficient * local sum / global count

Counts are summed over micro-batches and ranks before `total`, so batch layout never shows.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from tabom.core.configs import Brief
from tabom.core.errors import ConfigError, ObjectiveError
from tabom.core.plain import to_plain
from tabom.objectives.batch import Context, TrajectoryBatch
from tabom.objectives.contexts import Sample, Sampler
from tabom.objectives.reference import Reference
from tabom.objectives.rows import Rows
from tabom.objectives.slots import Draws, compact, scatter_slots
from tabom.objectives.terms import Metrics, Ranking, Term
from tabom.objectives.terms_order import NextSlot, OrderLikelihood, RevealedSet
from tabom.objectives.weights import Reduction, Weighting, target_weights

OrderTerm = NextSlot | OrderLikelihood | RevealedSet


class Drawing(Protocol):
    """What draws contexts: an objective, or a mixture of some."""

    def draw(self, batch: TrajectoryBatch, *, seed: int, step: int) -> Context: ...


@dataclass(frozen=True, kw_only=True)
class TermOutputs:
    """Local sums per term (with gradient) and detached (sum, count) metrics, both by name."""

    sums: dict[str, Tensor]
    metrics: dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Objective(Brief):
    """A loss over trajectories: where the model is asked, for what, and at which price.

    name: the preset's. sampler: draws the contexts. terms: (coefficient, term) pairs.
    reduction of the cross-entropy: "response": mean over a response's targets, then over
        responses that have one. "token": mean over all target tokens. "sum": sum over a
        response's targets, mean over responses. "length": sum over a response's targets divided
        by the slots that may be targets, mean over all responses that have such slots.
        "labelled": sum over all targets divided by all slots that may be targets. "batch": the
        same sum divided by the responses that have such slots.
    weighting of a target: see `Weighting`.
    reference: the other model that terms compare with.
    options: what the preset was built from, for manifests.
    """

    sampler: Sampler
    terms: tuple[tuple[float, Term], ...]
    name: str = "objective"
    reduction: Reduction = "response"
    weighting: Weighting = field(default_factory=Weighting)
    reference: Reference | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for weight, term in self.terms:
            if not 0 <= weight < float("inf"):
                raise ConfigError(
                    f"{term.name}_weight must be a number of at least 0, got {weight}"
                )
        names = [term.name for _, term in self.terms]
        if len(set(names)) < len(names):
            raise ConfigError(f"one objective has the same term twice: {', '.join(names)}")
        candidates = {term.candidates for _, term in self.terms if isinstance(term, OrderTerm)}
        if len(candidates) > 1:
            raise ConfigError(
                "the order terms of one objective have different candidates; give them the same, "
                "or put them into two parts of a mixture"
            )

    @property
    def requires_order(self) -> bool:
        return self.sampler.needs_order or self._order_term is not None

    @property
    def _order_term(self) -> OrderTerm | None:
        return next((term for _, term in self.terms if isinstance(term, OrderTerm)), None)

    @property
    def contexts_per_response(self) -> int:
        """Contexts that each response is asked at in one step."""
        return 1

    def coefficients(self) -> dict[str, float]:
        """The weight of each term's sum in the loss, by its name in sums and counts."""
        return {term.name: weight for weight, term in self.terms}

    def draw(
        self,
        batch: TrajectoryBatch,
        *,
        seed: int,
        step: int,
        progress: float = 0.0,
        cut_B: Tensor | None = None,
        sample: Sample | None = None,
    ) -> Context:
        """Draw one context per response: a pure function of (seed, step, response id).

        seed, step: non-negative keys of the draw; the optimiser step in training, a fixed number
            for evaluation contexts that can be compared over time.
        progress: share of the training that is done, for contexts that change with it.
        cut_B: int64 [B], forces the cut (for tests, evaluation and comparison with others).
        sample: forces the whole context.
        Returns: a Context on the CPU.
        Raises: ObjectiveError for data without an order where the objective needs one.
        """
        self._check(batch, cut_B)
        if sample is None:
            draws = Draws(seed=seed, step=step, key_B=batch.key_B, progress=progress)
            sample = self.sampler.sample(batch, draws, cut_B)
        sets = self._sets(batch, sample)
        # A row is asked for once, however many terms want it, so that the head computes it once.
        needed_BN = sample.target_BN | scatter_slots(sample.window_slot_BW, batch.slot_BN.shape[1])
        for set_BN in sets.values():
            needed_BN = needed_BN | set_BN
        candidates: tuple[Tensor, Tensor] | None = None
        if self._order_term is not None:
            candidates = self._candidates(batch, sample)
            needed_BN = needed_BN | candidates[0]

        row_batch_R, row_slot_R = needed_BN.nonzero(as_tuple=True)
        # The place of each needed slot among the R rows, which run through the batch row by row.
        index_BN = (needed_BN.flatten().cumsum(0) - 1).view_as(needed_BN)

        def rows_of(slot_BW: Tensor) -> Tensor:
            return index_BN.gather(1, slot_BW.clamp(min=0)).masked_fill(slot_BW < 0, -1)

        weight_BN, ce_count = target_weights(
            batch,
            sample,
            weighting=self.weighting,
            reduction=self.reduction,
            eligible_BN=self.sampler.filler.eligible(batch),
        )
        counts = {"ce": ce_count}
        window_BW = rows_of(sample.window_slot_BW)
        pair_BWW: Tensor | None = None
        if any(isinstance(term, Ranking) for _, term in self.terms):
            pair_BWW = _known_pairs(batch, sample)
            if batch.advantage_B is not None:  # the order of a wrong answer is no order to keep
                width = window_BW.shape[1]
                is_right_B = (batch.advantage_B > 0)[:, None, None].expand(-1, width, width)
                pair_BWW = is_right_B if pair_BWW is None else pair_BWW & is_right_B
        masked_BM: Tensor | None = None
        next_B: Tensor | None = None
        if candidates is not None:
            candidate_BN, next_slot_B = candidates
            # One column at least, so that the term always has an axis to sum over.
            width = max(int(candidate_BN.sum(1).max()), 1) if len(candidate_BN) else 1
            slot_N = torch.arange(candidate_BN.shape[1]).expand_as(candidate_BN)
            masked_BM = rows_of(compact(slot_N, candidate_BN, width))
            next_B = rows_of(next_slot_B.unsqueeze(1)).squeeze(1)
        input_ids_BN = sample.input_ids_BN
        if input_ids_BN is None:
            input_ids_BN = batch.response_ids_BN.masked_fill(~sample.visible_BN, batch.mask_id)
        old_logp_BN = batch.old_logp_BN
        context = Context(
            input_ids_BN=input_ids_BN,
            row_batch_R=row_batch_R,
            row_slot_R=row_slot_R,
            label_R=batch.response_ids_BN[row_batch_R, row_slot_R],
            ce_weight_R=weight_BN[row_batch_R, row_slot_R],
            window_BW=window_BW,
            pair_BWW=pair_BWW,
            masked_BM=masked_BM,
            next_B=next_B,
            sets={name: set_BN[row_batch_R, row_slot_R] for name, set_BN in sets.items()},
            reference_ids_BN=sample.reference_ids_BN,
            advantage_B=batch.advantage_B,
            old_logp_R=None if old_logp_BN is None else old_logp_BN[row_batch_R, row_slot_R],
            counts=counts,
            stats=_stats(batch, sample),
        )
        # Known before any forward pass, so that micro-batches and ranks can add them up first.
        counts |= {term.name: term.count(context) for _, term in self.terms}
        return context

    def rows_per_response(self, num_slots: int, *, has_order: bool) -> float:
        """Mean rows of the head that a full response of N slots costs, by drawing some contexts.

        has_order: whether the data has one (a slot a step, for the estimate).
        """
        return rows_of_a_full_response(self, num_slots, has_order=has_order)

    def term_sums(self, rows: Rows, context: Context) -> TermOutputs:
        """Every term's local sum and metrics from the losses of the rows."""
        sums: dict[str, Tensor] = {}
        metrics: dict[str, tuple[Tensor, Tensor]] = {}
        for _, term in self.terms:
            found: Metrics
            sums[term.name], found = term.value(rows, context)
            metrics.update(found)
        return TermOutputs(sums=sums, metrics=metrics)

    def total(self, sums: Mapping[str, Tensor], counts: Mapping[str, float | Tensor]) -> Tensor:
        """The loss: sum over terms of coefficient * sum / max(count, 1).

        counts: GLOBAL counts per term name, over micro-batches and ranks. A term whose count is 0
            adds 0 and keeps its graph, so that every rank runs the same backward.
        """
        return weighted_total(self.coefficients(), sums, counts)

    def _check(self, batch: TrajectoryBatch, cut_B: Tensor | None) -> None:
        if self.requires_order and (batch.order_BN is None or batch.step_BN is None):
            raise ObjectiveError(
                f"objective {self.name!r} learns from the order in which tokens were revealed, and "
                "this data has none (ground-truth answers). Collect trajectories for it with "
                "`tabom collect`, or train on this data with the objective 'nelbo'"
            )
        if cut_B is not None and (
            cut_B.shape != batch.key_B.shape
            or cut_B.dtype != torch.int64
            or bool((cut_B < 0).any())
        ):
            raise ObjectiveError(
                f"cut_B must be int64, at least 0, one for each of {len(batch.key_B)} responses; "
                f"got {cut_B.dtype} of shape {tuple(cut_B.shape)}"
            )

    def _sets(self, batch: TrajectoryBatch, sample: Sample) -> dict[str, Tensor]:
        """The slots [B, N] that terms ask for by name."""
        wanted = {name for _, term in self.terms for name in getattr(term, "sets", ())}
        found = {"target": sample.target_BN, "right": sample.target_BN, **sample.sets}
        if batch.advantage_B is not None:
            found["right"] = sample.target_BN & (batch.advantage_B > 0).unsqueeze(1)
        if "masked" in wanted:
            found["masked"] = batch.slot_BN & ~sample.visible_BN
        if "next_step" in wanted and batch.step_BN is not None:
            found["next_step"] = _next_step(batch, sample)
        for name in sorted(wanted - set(found)):
            raise ObjectiveError(
                f"objective {self.name!r}: a term asks for the slots {name!r}, which its context "
                f"{type(self.sampler).__name__} does not have ({', '.join(found)}, masked)"
            )
        return {name: found[name] for name in sorted(wanted)}

    def _candidates(self, batch: TrajectoryBatch, sample: Sample) -> tuple[Tensor, Tensor]:
        """Masked slots that could come next (bool [B, N]), and the one that did ([B], -1 none)."""
        assert batch.order_BN is not None
        assert self._order_term is not None
        candidate_BN = batch.slot_BN & (batch.order_BN >= 0) & ~sample.visible_BN
        if self._order_term.candidates == "eligible":
            candidate_BN = candidate_BN & self.sampler.filler.eligible(batch)
        # No target, no decision: a response that the sampler skipped has no next slot either.
        candidate_BN = candidate_BN & sample.target_BN.any(1, keepdim=True)
        last = torch.iinfo(torch.int64).max
        next_slot_B = batch.order_BN.masked_fill(~candidate_BN, last).argmin(1)
        return candidate_BN, next_slot_B.masked_fill(~candidate_BN.any(1), -1)


def rows_of_a_full_response(objective: "Drawing", num_slots: int, *, has_order: bool) -> float:
    """Mean rows of the head that a full response of N slots costs, by drawing some contexts."""
    slot_BN = torch.arange(num_slots).repeat(128, 1)
    batch = TrajectoryBatch(
        prompt_ids_BP=slot_BN[:, :1],
        prompt_mask_BP=torch.ones_like(slot_BN[:, :1]),
        response_ids_BN=slot_BN,
        key_B=torch.arange(len(slot_BN)),
        slot_BN=torch.ones_like(slot_BN, dtype=torch.bool),
        length_B=torch.full((len(slot_BN),), num_slots),
        mask_id=num_slots,
        order_BN=slot_BN if has_order else None,
        step_BN=slot_BN if has_order else None,
    )
    return len(objective.draw(batch, seed=0, step=0).row_batch_R) / len(slot_BN)


def weighted_total(
    coefficients: Mapping[str, float],
    sums: Mapping[str, Tensor],
    counts: Mapping[str, float | Tensor],
) -> Tensor:
    """Sum over names of coefficient * sum / max(count, 1)."""
    parts = []
    for name, coefficient in coefficients.items():
        count = counts[name]
        divisor = count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1)
        parts.append(coefficient * sums[name] / divisor)
    return torch.stack(parts).sum()


def _next_step(batch: TrajectoryBatch, sample: Sample) -> Tensor:
    """bool [B, N]: the masked slots that the decoder reveals in the next step."""
    assert batch.step_BN is not None
    last = torch.iinfo(torch.int64).max
    is_masked_BN = batch.slot_BN & (batch.step_BN >= 0) & ~sample.visible_BN
    # No target, no decision, as for the next slot.
    is_masked_BN = is_masked_BN & sample.target_BN.any(1, keepdim=True)
    step_BN = batch.step_BN.masked_fill(~is_masked_BN, last)
    return is_masked_BN & (step_BN == step_BN.amin(1, keepdim=True))


def _known_pairs(batch: TrajectoryBatch, sample: Sample) -> Tensor | None:
    """Leave out pairs of one step whose order the recorded entropies do not decide."""
    if sample.ties_ordered or batch.step_BN is None or sample.window_slot_BW.shape[1] < 2:
        return None
    slot_BW = sample.window_slot_BW.clamp(min=0)
    step_BW = batch.step_BN.gather(1, slot_BW)
    if batch.entropy_BN is None:
        unknown_BW = torch.ones_like(slot_BW, dtype=torch.bool)
    else:
        unknown_BW = batch.entropy_BN.gather(1, slot_BW).isnan()
    # Most data have every entropy, and then no mask of W x W pairs is carried along.
    if not bool((unknown_BW & (sample.window_slot_BW >= 0)).any()):
        return None
    is_same_step_BWW = step_BW.unsqueeze(2) == step_BW.unsqueeze(1)
    return ~(is_same_step_BWW & (unknown_BW.unsqueeze(2) | unknown_BW.unsqueeze(1)))


def _stats(batch: TrajectoryBatch, sample: Sample) -> dict[str, tuple[float, float]]:
    batch_size = float(len(batch.key_B))
    num_B = batch.slot_BN.sum(1)
    size_B = sample.target_BN.sum(1)
    masked_share_B = (batch.slot_BN & ~sample.visible_BN).sum(1) / num_B.clamp(min=1)
    return {
        "masked_fraction": (float(masked_share_B.double().sum()), float((num_B > 0).sum())),
        "cut": (float(sample.cut_B.sum()), batch_size),
        "targets": (float(size_B.sum()), batch_size),
        "shortened_windows": (float(sample.is_short_B.sum()), batch_size),
        "skipped_responses": (float((size_B == 0).sum()), batch_size),
    }


def describe_one(objective: Objective) -> dict[str, Any]:
    """The objective as plain data for manifests: every setting that shapes its numbers."""
    plain: dict[str, Any] = to_plain(
        {
            "name": objective.name,
            "context": {"kind": type(objective.sampler).__name__, **asdict(objective.sampler)},  # type: ignore[call-overload]
            "terms": [
                {"term": term.name, "weight": weight, **asdict(term)}  # type: ignore[call-overload]
                for weight, term in objective.terms
            ],
            "reduction": objective.reduction,
            "weighting": asdict(objective.weighting),
            "reference": None if objective.reference is None else asdict(objective.reference),
            "options": dict(objective.options),
        }
    )
    return plain
