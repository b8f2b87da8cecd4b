"""Evaluate: decode and judge every evaluation set, for the base or for a trained model."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from tabom.core.hooks import load_function
from tabom.decoding.config import DecodingConfig
from tabom.models.config import ModelConfig
from tabom.stages.held_out import held_out_of, trainings
from tabom.stages.launch import Chunked
from tabom.stages.preflight import SECTION_CHECKS, Check, check_decoding
from tabom.stages.sets import EvaluationConfig, bind, check_published, check_sets
from tabom.stages.stage import UNFINISHED, Counts, Done, Output, reads
from tabom.verify.config import VerifierConfig

if TYPE_CHECKING:
    from tabom.evaluation.run import SetResult
    from tabom.evaluation.sets import EvaluationSet
    from tabom.models.contract import MaskedDiffusionModel


@dataclass(frozen=True, kw_only=True)
class Evaluate(Chunked):
    """Records of one model on every evaluation set at every pace.

    The sections decoding and verifier are of the sets that have none of their own.
    """

    kind: ClassVar[str] = "evaluate"
    cost: ClassVar[float] = 1.5

    model: ModelConfig
    trained: Output | None = field(default=None, metadata=reads("train"))
    """What `tabom train` wrote; left out: the base alone."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    verifier: VerifierConfig = field(default_factory=VerifierConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sets(self.evaluation, decoding=self.decoding, verifier=self.verifier)

    def checks(self) -> Iterator[Check]:
        yield from super().checks()
        for item in self.evaluation.sets:
            here = f"evaluation.sets.{item.name}"
            for decoding in item.decodings(self.decoding):
                yield Check(f"{here}.decoding", check_decoding, (decoding, self.model))
            if item.prompts is None:
                kind = "task" if item.benchmark is None else "benchmark"
                yield Check(f"{here}.{kind}", check_published, (item, self.evaluation))
            for name in ("prompts", "verifier"):
                if (section := getattr(item, name)) is not None:
                    yield Check(f"{here}.{name}", SECTION_CHECKS[type(section)], (section,))
            for name, function in item.metrics.items():
                yield Check(f"{here}.metrics.{name}", load_function, (function,))

    def work(self, report: Done) -> Counts:
        from tabom.evaluation.run import answer_chunks, cut_questions, evaluate

        config = self.evaluation
        trained = self.trained.local() if self.trained else None
        model = self.model.load(trained=trained)
        own: dict[str, Any] = {"decoding": self.decoding, "verifier": self.verifier}
        sets = [bind(one, model, evaluation=config, **own) for one in config.sets]
        here = self.folder / UNFINISHED
        how: dict[str, Any] = {
            "seed": config.seed,
            "batch_size": config.batch_size,
            "num_fields": config.num_fields,
        }

        if not self.is_one_of_many:
            return self._written(
                model, sets, evaluate(model, sets, folder=here, progress=report, **how)
            )
        chunks, size = self.chunks(), self.launch.chunk_size
        chunks.begin(
            self.fingerprint,
            lambda: cut_questions(
                sets, size=size, batch_size=config.batch_size, num_fields=config.num_fields
            ),
        )
        answer_chunks(model, sets, chunks, **how)
        return self.ended(
            chunks, lambda: self._written(model, sets, evaluate(model, sets, folder=here, **how))
        )

    def _written(
        self, model: "MaskedDiffusionModel", sets: "list[EvaluationSet]", results: "list[SetResult]"
    ) -> Counts:
        from tabom.evaluation.results import write_evaluation

        is_asked = self.evaluation.held_out_check != "off"
        trained = self.trained.local() if self.trained else None
        held_out = held_out_of(
            {one.name: one.texts for one in sets},
            trained=trainings(self.model, trained) if is_asked else (),
        )
        return write_evaluation(self.folder, results, model=model, held_out=held_out)
