"""A task of lm-eval's own as a benchmark: its documents, prompts and metrics, our decoding."""

import json
import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, ClassVar

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from tabom.core import keys
from tabom.core.configs import nearest
from tabom.core.errors import ConfigError
from tabom.evaluation.benchmark import Benchmark, Row
from tabom.evaluation.benchmarks import names
from tabom.evaluation.harness import VERSION
from tabom.evaluation.harness.options import (
    NO_LIKELIHOOD,
    chat_text,
    decoding_options,
    ends_of,
    text_ids,
)
from tabom.evaluation.records import EvaluationRecord
from tabom.models.contract import MaskedDiffusionModel
from tabom.trajectory.verdicts import Verdict
from tabom.verify.checker import Checker, Response

_FEWSHOT_SEED = 1234  # lm-eval's own default
# Columns that hold a document's own text, the likeliest first.
_TEXT_COLUMNS = ("question", "problem", "prompt", "query", "instruction", "input", "text")


class HarnessTask(Benchmark):
    """A task that generates, and scores a document with 0 or 1 by its first metric.

    That metric is taken of the last filter; the others stand beside it.
    """

    columns: ClassVar = {"question": str}

    def __init__(self, task: str, *, include_path: str | None = None) -> None:
        """include_path: a folder of further task files.

        Raises: ConfigError for a task that is not known, a group of several, or one that asks for
            likelihoods.
        """
        # Its routine lines would stand between the lines of our progress bars.
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        found = _manager(task, include_path)
        tasks = found.load(found.match_tasks([task]))["tasks"]
        if len(tasks) != 1:
            raise ConfigError(f"task {task!r} is a group; name one of {', '.join(tasks)}")
        ((name, self._task),) = tasks.items()
        if self._task.OUTPUT_TYPE != "generate_until":
            raise ConfigError(NO_LIKELIHOOD.format(task=task))
        # A task that says nothing of examples has none; lm-eval's evaluator sets it so, too.
        if self._task.get_config("num_fewshot") is None:
            self._task.set_config("num_fewshot", 0)
        generation = dict(self._task.config.generation_kwargs or {})
        self.name, self.until = name, ends_of(generation)
        self.decoding = decoding_options(task, generation)
        self._docs: list[Any] = []
        self._scores: dict[tuple[int, str], dict[str, float]] = {}

    def documents(self, data_dir: str | None = None) -> list[dict[str, Any]]:
        """Of each its number, its own text and a hash; what lm-eval needs of it stays here."""
        # Few-shot examples are drawn document after document from here on, as lm-eval draws them.
        self._task.set_fewshot_seed(_FEWSHOT_SEED)
        self._docs = [doc for _, doc in self._task.doc_iterator(rank=0, limit=None, world_size=1)]
        return [
            {
                "doc_id": i,
                "question": _text_of(doc),
                "content": keys.content_id(json.dumps(doc, sort_keys=True, default=str)),
            }
            for i, doc in enumerate(self._docs)
        ]

    def identity(self, data_dir: str | None) -> dict[str, Any]:
        return {"task": self.name, "lm_eval": VERSION, "task_version": self._task.VERSION}

    def prompt(self, row: Row) -> str:
        return str(row["question"])

    def prompt_ids(
        self, row: Row, model: MaskedDiffusionModel, *, chat_template: bool
    ) -> list[int]:
        doc = self._docs[row["doc_id"]]
        text = self._task.fewshot_context(
            doc,
            num_fewshot=self._task.config.num_fewshot,
            apply_chat_template=chat_template,
            fewshot_as_multiturn=chat_template,
            chat_template=partial(chat_text, model) if chat_template else None,
            gen_prefix=self._task.doc_to_prefix(doc),
        )
        return text_ids(model, text, place=f"document {row['doc_id']} of task {self.name!r}")

    def judges(self, rows: Sequence[Row], *, unsafe_exec: bool = False) -> dict[str, Checker]:
        if getattr(self._task, "UNSAFE_CODE", False) and not unsafe_exec:
            raise ConfigError(
                f"task {self.name!r} runs programs without a sandbox; allow it with --unsafe_exec "
                "(evaluation.unsafe_exec), or take humaneval or mbpp of ours"
            )
        # A metric may be a name or a function of the task file's own.
        config = self._task.config
        metric = config.metric_list[0]["metric"]
        filters = config.filter_list or [{"name": "none"}]
        first = f"{getattr(metric, '__name__', metric)},{filters[-1]['name']}"

        def judge(response: Response) -> Verdict:
            score = self.numbers(response.row, response.text).get(first)
            if score not in (0.0, 1.0):
                raise ConfigError(
                    f"task {self.name!r} scores a document with {first} = {score!r}; records hold "
                    "right or wrong, so run that task with lm-eval's own command line"
                )
            return Verdict("accepted" if score else "wrong")

        return {first: Checker(name=f"lm-eval {self.name}", judge=judge, needs_complete=False)}

    def numbers(self, row: Row, text: str) -> dict[str, float]:
        """Every metric of every filter that gives a number."""
        # A judge asks for the same numbers as the record, and filters may be slow.
        key = (int(row["doc_id"]), text)
        if key not in self._scores:
            doc = self._docs[key[0]]
            place = (self.name, key[0], 1)
            one = Instance("generate_until", doc, ("", {}), 0, metadata=place, resps=[text])
            scores: dict[str, float] = {}
            for each in self._task._filters:
                each.apply([one])
                found = self._task.process_results(doc, [one.filtered_resps[each.name]])
                scores |= {
                    f"{name},{each.name}": float(value)
                    for name, value in found.items()
                    if isinstance(value, int | float)
                }
            self._scores[key] = scores
        return self._scores[key]

    def totals(self, records: Sequence[EvaluationRecord]) -> dict[str, float]:
        """As lm-eval puts the scores of all documents together."""
        aggregation = self._task.aggregation()
        found = {}
        for name in (name for name in records[0].metrics if "," in name):
            values = [record.metrics[name] for record in records]
            found[name] = float(aggregation.get(name.split(",")[0], np.mean)(values))
        return found


@lru_cache(maxsize=64)
def open_task(task: str, include_path: str | None) -> HarnessTask:
    """The task of that name, opened once: lm-eval takes seconds for it."""
    return HarnessTask(task, include_path=include_path)


def _manager(task: str, include_path: str | None) -> Any:
    """lm-eval's tasks. Reading all of its own task files takes ten seconds: only where needed."""
    for has_defaults in (False, True):
        manager = TaskManager(include_path=include_path, include_defaults=has_defaults)
        if manager.match_tasks([task]):
            return manager
    raise ConfigError(
        f"no task {task!r}{nearest(task, names())}; ours are {', '.join(names())}, lm-eval's are "
        "listed by `lm-eval ls tasks`"
    )


def _text_of(doc: Mapping[str, Any]) -> str:
    # Only the held-out check reads it, so a document without such a column has no text.
    return next((doc[name] for name in _TEXT_COLUMNS if isinstance(doc.get(name), str)), "")
