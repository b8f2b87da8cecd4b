"""The stage that evaluates a model on tasks of lm-eval."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

from tabom._version import __version__
from tabom.collect.columns import PROMPT_COLUMNS
from tabom.core import keys
from tabom.core.errors import ConfigError
from tabom.core.identity import FREE, identity
from tabom.models.config import ModelConfig
from tabom.stages.evaluate import RECORDS
from tabom.stages.stage import Counts, Done, Output, Stage, reads
from tabom.stages.trained_on import CARD

RESPONSES = "responses.jsonl"
RESULTS = "results.json"


@dataclass(frozen=True, kw_only=True)
class TasksConfig:
    """What is evaluated, and how, beside the model.

    tasks: names of tasks. in_domain: those of them that are in domain. setting: a published
    setting. decoding: the decoding options that were given. tokens_per_step: the speeds.
    data_dir, include_path, num_documents, num_samples, apply_chat_template: as `run_tasks`. cut,
    max_prompt_tokens: as the model's own. batch_size, seed: of decoding. unsafe_exec: run programs
    without a sandbox.
    """

    tasks: tuple[str, ...]
    in_domain: tuple[str, ...] = ()
    setting: str | None = None
    decoding: Mapping[str, Any] = field(default_factory=dict)
    tokens_per_step: tuple[int, ...] = (1,)
    data_dir: str | None = field(default=None, metadata=FREE)
    include_path: str | None = field(default=None, metadata=FREE)
    num_documents: int | None = None
    num_samples: int = 1
    apply_chat_template: bool = True
    cut: str | None = None
    max_prompt_tokens: int | None = None
    batch_size: int = field(default=32, metadata=FREE)
    seed: int = 1000
    unsafe_exec: bool = False
    quiet: bool = field(default=False, metadata=FREE)

    def model_arguments(self, pretrained: str, tokens_per_step: int) -> dict[str, Any]:
        """The arguments of the lm-eval model."""
        return {
            **self.decoding,
            "tokens_per_step": tokens_per_step,
            "pretrained": pretrained,
            "setting": self.setting,
            "cut": self.cut,
            "max_prompt_tokens": self.max_prompt_tokens,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "quiet": self.quiet,
        }


@dataclass(frozen=True, kw_only=True)
class EvaluateTasks(Stage):
    """Records of one model on tasks of lm-eval.

    trained: what a training wrote; null: the base alone.
    """

    kind: ClassVar[str] = "evaluate"
    cost: ClassVar[float] = 1.5

    model: ModelConfig
    tasks: TasksConfig
    trained: Output | None = field(default=None, metadata=reads("train"))
    """What `tabom train` wrote; left out: the base alone."""

    @property
    def settings(self) -> dict[str, Any]:
        from tabom.evaluation.tasks.data import data_identity

        data = {task: data_identity(task, self.tasks.data_dir) for task in self.tasks.tasks}
        return {
            "tabom": __version__,
            "lm_eval": _lm_eval(),
            "model": identity(self.model),
            "trained": identity(self.trained),
            **identity(self.tasks),
            "data": data,
        }

    def work(self, report: Done) -> Counts:
        """Decode (what is not on disk yet), judge, and write records, samples and results."""
        trained = None if self.trained is None else self.trained.folder
        return tasks_work(self, report, trained)


def _lm_eval() -> str:
    try:
        return version("lm_eval")
    except PackageNotFoundError as error:
        raise ConfigError(
            "--tasks needs lm-eval, which is not installed: pip install 'tabom[eval]'"
        ) from error


def check_tasks(config: TasksConfig, model: ModelConfig) -> None:
    """Check everything that does not need the model.

    Raises: ConfigError for a task, setting or option that does not exist; DataError for a missing
        file of documents.
    """
    _lm_eval()
    from tabom.evaluation.harness.options import HarnessConfig

    if len(set(config.tokens_per_step)) != len(config.tokens_per_step):
        raise ConfigError(f"tokens_per_step names a speed twice: {list(config.tokens_per_step)}")
    for speed in config.tokens_per_step:
        options = HarnessConfig.of(config.model_arguments(model.model_name_or_path, speed))
        if config.setting is not None:
            for task in config.tasks:
                options.decoding_for(task, {})


def tasks_work(stage: EvaluateTasks, report: Done, trained_folder: Path | None) -> Counts:
    """The work of `EvaluateTasks`."""
    config, model, folder, settings = stage.tasks, stage.model, stage.folder, stage.settings
    from tabom.core.atomic import replacing, write_json
    from tabom.evaluation.harness.model import TabomLM
    from tabom.evaluation.harness.run import run_tasks
    from tabom.evaluation.manifest import EVALUATION, HELD_OUT
    from tabom.evaluation.records import EvaluationRecord, summarize, write_records
    from tabom.evaluation.tasks.code import UNSAFE
    from tabom.evaluation.tasks.judged import QUIET
    from tabom.stages.held_out import tasks_held_out

    loaded = model.load(trained=trained_folder)
    records: list[EvaluationRecord] = []
    results: dict[str, Any] = {}
    manifests: dict[str, dict[str, Any]] = {}
    documents: dict[str, list[str]] = {}
    tokens = UNSAFE.set(config.unsafe_exec), QUIET.set(config.quiet)
    try:
        for speed in config.tokens_per_step:
            lm = TabomLM(
                model=loaded,
                progress=report,
                **config.model_arguments(loaded.name_or_path, speed),
                responses=str(folder / RESPONSES),
            )
            run = run_tasks(
                lm,
                config.tasks,
                in_domain=config.in_domain,
                tokens_per_step=speed,
                data_dir=config.data_dir,
                include_path=config.include_path,
                num_documents=config.num_documents,
                num_samples=config.num_samples,
                apply_chat_template=config.apply_chat_template,
                unsafe_exec=config.unsafe_exec,
            )
            records += run.records
            results[str(speed)] = {
                "results": run.results["results"],
                "versions": run.results["versions"],
                "decoding": {task: lm.cost_of(task) for task in run.samples},
            }
            for task, rows in run.samples.items():
                documents[task] = questions(rows)
                manifests.setdefault(task, {})[str(speed)] = {
                    **lm.manifest_of(task),
                    "data": {
                        **settings["data"].get(task, {}),
                        # What was asked, wherever it came from: a name on the hub may move.
                        "documents": keys.content_id(*sorted({str(r["doc_hash"]) for r in rows})),
                    },
                    "unsafe_exec": config.unsafe_exec,
                    "chat_template": config.apply_chat_template,
                    "num_samples": config.num_samples,
                    "num_documents": config.num_documents,
                    "lm_eval": settings["lm_eval"],
                    "task_version": run.results["versions"].get(task),
                }
                with replacing(folder / f"samples_{task}@{speed}.jsonl") as temporary:
                    temporary.write_text(_lines(rows), encoding="utf-8")
    finally:
        UNSAFE.reset(tokens[0])
        QUIET.reset(tokens[1])
    held_out = tasks_held_out(documents, trained=_trainings(model, trained_folder))
    for task, found in held_out.items():
        for manifest in manifests[task].values():
            manifest[HELD_OUT] = found
    write_json(folder / RESULTS, json.loads(json.dumps(results, default=str)))
    write_json(folder / EVALUATION, manifests)
    write_records(folder / RECORDS, records)
    counts: dict[str, Any] = {"num_responses": len(records)}
    for summary in summarize(records):
        name = f"{summary.set}@{summary.pace}"
        counts[name] = round(100 * summary.accuracy.value, 2)
        counts[f"{name} tokens_per_forward"] = round(summary.tokens_per_forward, 3)
    for task, found in held_out.items():
        if "num_exact" in found:
            counts[f"{task} in_training"] = found["num_exact"]
            counts[f"{task} near_training"] = found["num_near"]
    return counts


def questions(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The question of each logged document, once: its prompt column, else what was asked."""
    found: dict[Any, str] = {}
    for row in rows:
        document = row.get("doc") or {}
        texts = [document[name] for name in (*PROMPT_COLUMNS, "text")
                 if isinstance(document.get(name), str)]  # fmt: skip
        found[row["doc_id"]] = texts[0] if texts else str(row["arguments"][0][0])
    return [found[number] for number in sorted(found)]


def _trainings(model: ModelConfig, trained: Path | None) -> list[Path]:
    """The folders of all trainings behind a model: its own, its adapter's, the arm's."""
    own = Path(model.model_name_or_path)
    found = [own] if (own / CARD).is_file() else []
    return [*found, *(Path(p) for p in (model.adapter, trained) if p is not None)]


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
