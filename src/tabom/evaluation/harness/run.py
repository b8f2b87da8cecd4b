"""Run tasks of lm-eval on a loaded model, and turn what they give into records of ours."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from tabom.core.errors import ConfigError, DataError
from tabom.evaluation.harness.model import TabomLM
from tabom.evaluation.passk import sample_id
from tabom.evaluation.records import EvaluationRecord
from tabom.evaluation.tasks import NAMES, folder

_FEWSHOT_SEED = 1234  # lm-eval's own default


@dataclass(frozen=True, kw_only=True)
class TaskRun:
    """What lm-eval gave for some tasks at one speed.

    records: one a document and sample. results: lm-eval's own numbers. samples: its logged
    documents, by task.
    """

    records: list[EvaluationRecord]
    results: dict[str, Any]
    samples: dict[str, list[dict[str, Any]]]


def run_tasks(
    lm: TabomLM,
    tasks: Sequence[str],
    *,
    in_domain: Sequence[str] = (),
    tokens_per_step: int = 1,
    data_dir: str | None = None,
    include_path: str | None = None,
    num_documents: int | None = None,
    num_samples: int = 1,
    apply_chat_template: bool = True,
    unsafe_exec: bool = False,
) -> TaskRun:
    """Evaluate tasks, ours or lm-eval's own, and keep a record of every document.

    in_domain: tasks whose records have that role; the others are out of domain. Without any, all
        are in domain.
    tokens_per_step: the speed, as the records carry it.
    data_dir: a folder of documents, see `tabom.evaluation.tasks.data`.
    include_path: a folder of further task files. num_documents: the first so many of each task.
    num_samples: responses of each document. Above 1 needs a task of ours, which judges each.
    unsafe_exec: lm-eval's own code tasks, which have no sandbox, may run.
    Raises: ConfigError for an unknown task, or one whose scores are not 0 or 1 a document.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    stock = [t for t in tasks if t not in NAMES]
    if num_samples > 1 and stock:
        raise ConfigError(
            f"several samples of a document are judged one by one only by the tasks "
            f"{', '.join(NAMES)}; {stock[0]!r} looks at the first alone"
        )

    def manager_of(include_defaults: bool) -> Any:
        return TaskManager(
            include_path=[str(folder()), *([include_path] if include_path else [])],
            include_defaults=include_defaults,
            metadata=None if data_dir is None else {"data_dir": data_dir},
        )

    manager = manager_of(False)
    if not all(manager.match_tasks([task]) for task in tasks):
        manager = manager_of(True)  # lm-eval's own: reading all its task files takes ten seconds
    names: list[str] = []
    for task in tasks:
        matches = manager.match_tasks([task])
        if not matches:
            raise ConfigError(
                f"no task {task!r}; ours are {', '.join(NAMES)}, lm-eval's are listed by "
                "`lm-eval ls tasks`"
            )
        names += matches
    with _quiet():
        loaded = manager.load(list(dict.fromkeys(names)))
        for task in loaded["tasks"].values():
            if task.get_config("num_fewshot") is None:
                task.set_config("num_fewshot", 0)
            task.set_fewshot_seed(_FEWSHOT_SEED)
            if num_samples > 1:
                task.set_config("repeats", num_samples)
        roles = _roles(list(loaded["tasks"]), in_domain)
        # Not `simple_evaluate`: it would seed the global generators and look around the machine.
        results = evaluate(
            lm,
            loaded,
            limit=num_documents,
            apply_chat_template=apply_chat_template,
            fewshot_as_multiturn=apply_chat_template,
            log_samples=True,
            bootstrap_iters=0,
            confirm_run_unsafe_code=unsafe_exec,
        )
    assert results is not None
    samples = results.pop("samples")
    records = [
        record
        for task, rows in samples.items()
        for record in task_records(
            lm,
            task,
            rows,
            primary=_primary(results["configs"][task]),
            role=roles[task],
            tokens_per_step=tokens_per_step,
        )
    ]
    return TaskRun(records=records, results=dict(results), samples=samples)


def task_records(
    lm: TabomLM,
    task: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    primary: tuple[str, str],
    role: Any,
    tokens_per_step: int,
) -> list[EvaluationRecord]:
    """The records of one task.

    rows: lm-eval's logged documents. primary: the metric and the filter that decide `correct`.
    """
    metric, filter_name = primary
    records = []
    for row in rows:
        if row["filter"] != filter_name:
            continue
        document = f"{row['doc_id']:05d}-{row['doc_hash'][:12]}"
        judged = [v for v in row["filtered_resps"][0] if isinstance(v, Mapping)]
        texts = row["resps"][0]
        for sample, text in enumerate(texts if judged else texts[:1]):
            response = lm.responses[task, row["doc_id"], sample]
            if judged:
                found = judged[sample]
                correct, reason = int(found["correct"]), str(found["reason"])
                detail = str(found.get("detail", "") or found.get("answer", ""))[:500]
            else:
                correct = _share(row.get(metric), task, metric)
                reason, detail = ("accepted" if correct else "wrong"), ""
            records.append(
                EvaluationRecord(
                    set=task,
                    role=role,
                    id=sample_id(document, sample),
                    tokens_per_step=tokens_per_step,
                    correct=correct,
                    reason=reason,
                    detail=detail,
                    num_forwards=response.num_forwards,
                    length=response.length,
                    tokens_per_forward=response.tokens_per_forward,
                    end_step=response.end_step,
                    response=text,
                )
            )
    if not records:
        raise DataError(f"task {task!r} logged no document under the filter {filter_name!r}")
    return records


def _share(value: Any, task: str, metric: str) -> int:
    number = float(value) if isinstance(value, int | float) else -1.0
    if number not in (0.0, 1.0):
        raise ConfigError(
            f"task {task!r} scores a document with {metric} = {value!r}; records hold right or "
            "wrong, so run that task with lm-eval's own command line"
        )
    return int(number)


def _primary(config: Mapping[str, Any]) -> tuple[str, str]:
    """The number that counts: named by our tasks, else the first metric of the last filter."""
    named = (config.get("metadata") or {}).get("primary")
    if named:
        metric, _, filter_name = str(named).rpartition(",")
        return metric, filter_name
    filters = config.get("filter_list") or [{"name": "none"}]
    first = config["metric_list"][0]["metric"]
    return getattr(first, "__name__", str(first)), str(filters[-1]["name"])


def _roles(tasks: Sequence[str], in_domain: Sequence[str]) -> dict[str, str]:
    unknown = sorted(set(in_domain) - set(tasks))
    if unknown:
        raise ConfigError(f"in_domain names {unknown[0]!r}, which is none of {', '.join(tasks)}")
    inside = set(in_domain or tasks)
    return {task: "in_domain" if task in inside else "out_of_domain" for task in tasks}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without lm-eval's routine lines and its bars over the building of prompts."""
    from lm_eval.api import task

    logger = logging.getLogger("lm_eval")
    level, bar = logger.level, task.tqdm
    logger.setLevel(logging.ERROR)
    task.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        logger.setLevel(level)
        task.tqdm = bar
