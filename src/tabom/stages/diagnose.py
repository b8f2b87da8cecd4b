"""Diagnose: order agreement and loss ratio of a model on the base's own responses."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from tabom.decoding.config import DecodingConfig
from tabom.evaluation.results import read_evaluated
from tabom.models.config import ModelConfig
from tabom.stages.recipe import DiagnosticsConfig
from tabom.stages.stage import Counts, Done, Output, Stage, reads

if TYPE_CHECKING:
    from tabom.diagnostics.loss_ratio import AnswerPair
    from tabom.models.contract import MaskedDiffusionModel
    from tabom.trajectory.record import Trajectory

DIAGNOSTICS = "diagnostics.json"


@dataclass(frozen=True, kw_only=True)
class Diagnose(Stage):
    """Order agreement and loss ratio of one model.

    The canvas of the loss ratio has decoding.max_new_tokens slots, or as many as the largest that
    was decoded: an evaluation set may have more slots than the trajectories of training.
    """

    kind: ClassVar[str] = "diagnose"
    cost: ClassVar[float] = 0.4

    model: ModelConfig
    base_evaluation: Output = field(metadata=reads("evaluate"))
    """What `tabom evaluate` wrote for the base: the accepted responses of its sets in domain, at
    the first pace of each, are asked about."""
    trained: Output | None = field(default=None, metadata=reads("train"))
    """What `tabom train` wrote; left out: the base alone."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    diagnostics: DiagnosticsConfig = field(default_factory=DiagnosticsConfig)
    seed: int = 1000
    """Key of the contexts."""

    def work(self, report: Done) -> Counts:
        from tabom.core.atomic import write_json
        from tabom.diagnostics.loss_ratio import loss_ratio
        from tabom.diagnostics.model_order import context_agreement, context_entropies

        model = self.model.load(trained=self.trained.local() if self.trained else None)
        config = self.diagnostics
        found = [
            trajectory
            for record, trajectory in read_evaluated(self.base_evaluation.checked())
            if record.correct and record.role == "in_domain"
        ][: config.num_trajectories]
        # Without a right response of the base there is nothing to ask about, which is a result too.
        result: dict[str, Any] = {"num_trajectories": len(found)}
        if found:
            contexts = context_entropies(
                model,
                found,
                cuts_per_trajectory=config.cuts_per_trajectory,
                seed=self.seed,
                batch_size=config.batch_size,
            )
            agreement = context_agreement(contexts)
            result |= {"order_agreement": agreement.accuracy, "kendall_tau": agreement.tau}
            report(1, 2)
            num_slots = max(self.decoding.max_new_tokens, *(t.num_slots for t in found))
            pairs = _pairs(model, found, num_slots)
            if pairs:
                ratio = loss_ratio(
                    model,
                    pairs,
                    seed=self.seed,
                    batch_size=config.batch_size,
                    ratios=config.mask_ratios,
                    num_slots=num_slots,
                )
                result["loss_ratio"] = ratio.ratio_M.tolist()
                result["mask_ratios"] = list(config.mask_ratios)
        write_json(self.folder / DIAGNOSTICS, result)
        report(2, 2)
        return {k: v for k, v in result.items() if isinstance(v, int | float)}


def _pairs(
    model: "MaskedDiffusionModel", found: "list[Trajectory]", num_slots: int
) -> "list[AnswerPair]":
    """The base's own response and the prompt's answer, where it has one that fits."""
    from tabom.diagnostics.loss_ratio import AnswerPair
    from tabom.training.dataset import examples_from_text

    rows = [(t.prompt, str(t.row.get("ground_truth") or "")) for t in found]
    truth = examples_from_text(rows, model=model, max_new_tokens=num_slots)
    answers = {e.prompt_ids.tobytes(): e.response_ids_N.tolist() for e in truth}
    return [
        AnswerPair(
            prompt_ids=t.prompt_ids.tolist(),
            ground_truth=answers[t.prompt_ids.tobytes()],
            self_distilled=t.response_ids_N.tolist(),
        )
        for t in found
        if t.prompt_ids.tobytes() in answers
    ]
