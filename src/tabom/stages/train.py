"""Train: one arm, on accepted trajectories or on the data set's own answers."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from tabom.collect.prompts import PromptSource, load_prompts, require_ground_truth
from tabom.core.errors import ConfigError
from tabom.core.identity import FREE, identity
from tabom.decoding.config import DecodingConfig
from tabom.models.config import ModelConfig
from tabom.stages.held_out import question_of, write_trained_on
from tabom.stages.preflight import Check, check_objective, check_quantized
from tabom.stages.stage import CACHE, Counts, Done, Output, Stage, is_first_process, reads
from tabom.stages.verify import VERDICTS
from tabom.training.config import Rejected, TrainingConfig

if TYPE_CHECKING:
    import pyarrow as pa

    from tabom.models.contract import MaskedDiffusionModel
    from tabom.training.dataset import ResponseDataset


@dataclass(frozen=True, kw_only=True)
class Train(Stage):
    """An adapter (or all weights) of one arm and seed.

    It is trained on accepted trajectories; or on the prompts' own answers, in
    decoding.max_new_tokens slots.
    """

    kind: ClassVar[str] = "train"
    cost: ClassVar[float] = 2.0
    resumes: ClassVar[bool] = True

    model: ModelConfig
    objective: str
    """A preset (tabom, boltzmann, trajectory_ce, ...), or a function of your own."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the objective."""
    trajectories: Output | None = field(default=None, metadata=reads("collect"))
    """What `tabom collect` wrote."""
    verdicts: Output | None = field(default=None, metadata=reads("verify"))
    """What `tabom verify` wrote for these trajectories."""
    trained: Output | None = field(default=None, metadata=reads("train"))
    """What an earlier `tabom train` wrote, to train on; left out: the base."""
    rejected: Rejected = "leave_out"
    """What becomes of rejected trajectories: left out; or trained on, with advantage -1 beside 1
    for accepted ones ("advantage") or relative to the prompt's other samples ("group"). Only terms
    that take advantages learn from them."""
    hint: str = "{prompt}\n\nReference answer: {answer}"
    """What a privileged teacher reads, of objectives that have one."""
    prompts: PromptSource | None = None
    decoding: DecodingConfig | None = None
    training: TrainingConfig = field(default_factory=TrainingConfig)
    arm: str = field(default="", metadata=FREE)
    """The name on the model card."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.trajectories is None) != (self.verdicts is None):
            raise ConfigError("trajectories and verdicts go together: only accepted ones train")
        if (self.trajectories is None) == (self.prompts is None):
            raise ConfigError(
                "give either trajectories with verdicts, or prompts with answers (--ground_truth)"
            )

    def checks(self) -> Iterator[Check]:
        here = f"arms.{self.arm}" if self.arm else "objective"
        yield from super().checks()
        yield Check("training", check_quantized, (self.training, self.model))
        yield Check(here, check_objective, (self.objective, self.options, self.prompts is None))

    def work(self, report: Done) -> Counts:
        from tabom.objectives.presets import build_objective
        from tabom.training.run import train

        trained = self.trained.local() if self.trained else None
        model = self.model.load(trained=trained, trainable=True)
        objective = build_objective(self.objective, **self.options)
        has_hint = objective.reference is not None and objective.reference.hint
        examples, questions = self._data(model, hint=self.hint if has_hint else None)
        data = {"trajectories": self.trajectories, "verdicts": self.verdicts}
        given = {"adapter": self.model.adapter, "quantization": self.model.quantization}
        base = {name: value for name, value in given.items() if value is not None}
        result = train(
            model=model,
            objective=objective,
            dataset=examples,
            config=self.training,
            output_dir=self.folder,
            progress=report,
            extra_card={
                "data": identity(data if self.prompts is None else {"prompts": self.prompts}),
                "arm": {"name": self.arm or self.objective},
                **({"base": base} if base else {}),
            },
        )
        # Whoever evaluates the adapter later can then tell which prompts were held out.
        if is_first_process():
            write_trained_on(self.folder, questions)
        return {
            "num_examples": result.num_examples,
            "num_dropped": sum(result.dropped.values()),
            "steps": result.steps,
            "train_seconds": result.seconds,
            "peak_memory_bytes": result.peak_memory_bytes,
            **result.speed,
            **{k: v for k, v in result.metrics.items() if k in ("loss", "loss_ce")},
        }

    def _data(
        self, model: "MaskedDiffusionModel", *, hint: str | None
    ) -> "tuple[ResponseDataset, Callable[[], Iterable[pa.Array]]]":
        """What is trained on, and the questions behind it. hint: of a teacher, or None."""
        import pyarrow as pa

        from tabom.training.dataset import ResponseDataset, examples_from_text
        from tabom.training.rows import mapped

        if self.trajectories is not None and self.verdicts is not None:
            # Columns of a file that is made once, of this stage's own fingerprint, and mapped.
            rows = mapped(self.folder / CACHE / "rows", lambda: self._rows(model, hint))
            examples = ResponseDataset(rows)
            if self.rejected == "group":
                examples = examples.in_groups()
            examples = examples.revealed()
            return examples, examples.questions
        assert self.prompts is not None
        if hint is not None:
            raise ConfigError(
                f"objective {self.objective} has a teacher that reads the answer: it learns from "
                "trajectories; collect and verify some"
            )
        prompts = load_prompts(self.prompts, seed=self.training.seed)
        require_ground_truth(prompts, self.prompts)
        examples = examples_from_text(
            [(p.prompt, p.ground_truth) for p in prompts],
            model=model,
            max_new_tokens=(self.decoding or DecodingConfig()).max_new_tokens,
        )
        return examples, lambda: [pa.array([p.question or p.text for p in prompts], pa.string())]

    def _rows(self, model: "MaskedDiffusionModel", hint: str | None) -> "Iterator[pa.RecordBatch]":
        """Training rows of the trajectories that were accepted, or judged at all."""
        import numpy as np
        import pyarrow.compute as pc

        from tabom.training.dataset import hint_ids
        from tabom.training.rows import COLUMNS, from_trajectories
        from tabom.trajectory.store import TrajectoryStore
        from tabom.trajectory.verdicts import read_verdict_table, read_verdicts
        from tabom.verify.filters import judged, require_accepted

        assert self.trajectories is not None
        assert self.verdicts is not None
        store = TrajectoryStore(self.trajectories.checked())
        path = self.verdicts.checked() / VERDICTS
        verdicts = read_verdict_table(path)
        if not pc.any(pc.equal(verdicts["reason"], "accepted")).as_py():
            require_accepted(read_verdicts(path), trajectories=store)
        batches, all_judged = store.batches(COLUMNS), self.rejected != "leave_out"
        for batch, is_accepted in judged(batches, verdicts, with_rejected=all_judged):
            told = batch.select(["id", "prompt", "reference", "row"]).to_pylist()
            told = [{**one, "row": json.loads(one["row"])} for one in told]
            yield from_trajectories(
                batch,
                end_ids=model.ids.eos,
                advantages=np.where(is_accepted, 1.0, -1.0) if all_judged else None,
                questions=[question_of(one["prompt"], one["row"]) for one in told],
                hints=None
                if hint is None
                else [hint_ids(one, template=hint, model=model) for one in told],
            )
