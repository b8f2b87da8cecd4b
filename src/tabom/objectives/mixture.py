"""Several objectives in one step: shares of the responses, or all of each response at once.

Legend: B batch, C contexts, R gathered rows, N response slots.

Every part draws its contexts as it would alone. Their contexts stand behind one another and go
through the model in one forward pass; sums and counts are kept under the part's label, and those
of equal names are pooled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from tabom.core.configs import Brief
from tabom.core.errors import ConfigError
from tabom.objectives.batch import Context, TrajectoryBatch
from tabom.objectives.compose import (
    Objective,
    TermOutputs,
    describe_one,
    rows_of_a_full_response,
    weighted_total,
)
from tabom.objectives.contexts import Sample
from tabom.objectives.reference import Reference
from tabom.objectives.rows import Rows
from tabom.objectives.slots import PART, Draws


@dataclass(frozen=True, kw_only=True)
class Part:
    """One objective of a mixture.

    share: of the responses that are asked by it. label: put behind the names of its sums
        ("ce_far"); parts whose names are equal are pooled: one sum, one count.
    """

    objective: Objective
    share: float | None = None
    label: str = ""

    def named(self, name: str) -> str:
        return f"{name}_{self.label}" if self.label else name


@dataclass(frozen=True, kw_only=True)
class Mixture(Brief):
    """A loss of several objectives.

    With shares each response is asked by one part, drawn by key (seed, step, response id); without
    any every response is asked by all of them, in one forward pass of that many more rows.
    reference: the model that terms of any part compare with.
    """

    parts: tuple[Part, ...]
    name: str = "mixture"
    reference: Reference | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        shares = [part.share for part in self.parts]
        given = [share for share in shares if share is not None]
        if not self.parts:
            raise ConfigError("a mixture needs at least one part")
        if given and (len(given) < len(shares) or min(given) < 0 or abs(sum(given) - 1) > 1e-6):
            raise ConfigError(
                f"the shares of a mixture are all left out (every part asks each response), or all "
                f"given with sum 1; got {shares}"
            )
        pooled: dict[str, float] = {}
        for part in self.parts:
            for name, weight in part.objective.coefficients().items():
                if pooled.setdefault(part.named(name), weight) != weight:
                    raise ConfigError(
                        f"two parts of a mixture weigh {part.named(name)!r} differently; give one "
                        "of them a label, so that their sums are kept apart"
                    )

    @property
    def requires_order(self) -> bool:
        return any(part.objective.requires_order for part in self.parts)

    @property
    def contexts_per_response(self) -> int:
        """Contexts that each response is asked at in one step."""
        return len(self.parts) if self.parts[0].share is None else 1

    def coefficients(self) -> dict[str, float]:
        return {
            part.named(name): weight
            for part in self.parts
            for name, weight in part.objective.coefficients().items()
        }

    def draw(
        self,
        batch: TrajectoryBatch,
        *,
        seed: int,
        step: int,
        progress: float = 0.0,
        cut_B: Tensor | None = None,
        sample: Sequence[Sample] | None = None,
    ) -> Context:
        """The contexts of all parts behind one another; see `Objective.draw`.

        sample: one for each part, of the responses that it asks.
        """
        groups = self._deal(Draws(seed=seed, step=step, key_B=batch.key_B))
        contexts = []
        for i, (part, response_C) in enumerate(zip(self.parts, groups, strict=True)):
            contexts.append(
                part.objective.draw(
                    batch.take(response_C),
                    seed=seed,
                    step=step,
                    progress=progress,
                    cut_B=None if cut_B is None else cut_B[response_C],
                    sample=None if sample is None else sample[i],
                )
            )
        counts: dict[str, float] = {}
        for part, context in zip(self.parts, contexts, strict=True):
            for _, term in part.objective.terms:
                name = part.named(term.name)
                counts[name] = counts.get(name, 0.0) + context.counts[term.name]
        return _joined(contexts, groups, counts)

    def rows_per_response(self, num_slots: int, *, has_order: bool) -> float:
        """See `Objective.rows_per_response`."""
        return rows_of_a_full_response(self, num_slots, has_order=has_order)

    def term_sums(self, rows: Rows, context: Context) -> TermOutputs:
        """Sums and metrics of every part under its label; equal names are added up."""
        sums: dict[str, Tensor] = {}
        metrics: dict[str, tuple[Tensor, Tensor]] = {}
        first = 0
        for part, of_part in zip(self.parts, context.parts, strict=True):
            end = first + len(of_part.row_slot_R)
            found = part.objective.term_sums(rows.narrow(slice(first, end)), of_part)
            first = end
            for name, total in found.sums.items():
                known = sums.get(part.named(name))
                sums[part.named(name)] = total if known is None else known + total
            for name, pair in found.metrics.items():
                # Vectors of unequal windows cannot be added up: the first part that has one shows.
                other = metrics.get(part.named(name))
                if other is None:
                    metrics[part.named(name)] = pair
                elif other[0].shape == pair[0].shape:
                    metrics[part.named(name)] = (other[0] + pair[0], other[1] + pair[1])
        return TermOutputs(sums=sums, metrics=metrics)

    def total(self, sums: Mapping[str, Tensor], counts: Mapping[str, float | Tensor]) -> Tensor:
        """See `Objective.total`."""
        return weighted_total(self.coefficients(), sums, counts)

    def _deal(self, draws: Draws) -> list[Tensor]:
        """The responses (int64) that each part asks."""
        everyone = torch.arange(len(draws.key_B))
        if self.parts[0].share is None:
            return [everyone] * len(self.parts)
        bounds = torch.tensor([part.share for part in self.parts], dtype=torch.float64).cumsum(0)
        part_B = torch.bucketize(draws.uniform(PART), bounds[:-1], right=True)
        return [everyone[part_B == i] for i in range(len(self.parts))]


AnyObjective = Objective | Mixture


def _joined(
    contexts: Sequence[Context], groups: Sequence[Tensor], counts: dict[str, float]
) -> Context:
    sizes = [context.size for context in contexts]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    stats: dict[str, tuple[float, float]] = {}
    for context in contexts:
        for name, (total, count) in context.stats.items():
            old = stats.get(name, (0.0, 0.0))
            stats[name] = (old[0] + total, old[1] + count)
    reference_ids = None
    if any(context.reference_ids_BN is not None for context in contexts):
        reference_ids = torch.cat(
            [c.input_ids_BN if c.reference_ids_BN is None else c.reference_ids_BN for c in contexts]
        )
    return Context(
        input_ids_BN=torch.cat([context.input_ids_BN for context in contexts]),
        row_batch_R=torch.cat(
            [context.row_batch_R + start for context, start in zip(contexts, starts, strict=True)]
        ),
        row_slot_R=torch.cat([context.row_slot_R for context in contexts]),
        label_R=torch.cat([context.label_R for context in contexts]),
        ce_weight_R=torch.cat([context.ce_weight_R for context in contexts]),
        window_BW=torch.full((sum(sizes), 0), -1),
        reference_ids_BN=reference_ids,
        response_C=torch.cat(list(groups)),
        parts=tuple(contexts),
        counts=counts,
        stats=stats,
    )


def describe(objective: AnyObjective) -> dict[str, Any]:
    """An objective or a mixture as plain data for manifests."""
    if isinstance(objective, Objective):
        return describe_one(objective)
    return {
        "name": objective.name,
        "parts": [
            {"share": part.share, "label": part.label, **describe_one(part.objective)}
            for part in objective.parts
        ],
        "reference": None if objective.reference is None else asdict(objective.reference),
        "options": dict(objective.options),
    }
