"""Run tasks of lm-eval's own, and turn what they give into records of ours."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tabom.core import keys
from tabom.core.atomic import replacing
from tabom.core.configs import nearest
from tabom.core.errors import ConfigError, DataError
from tabom.evaluation.benchmarks import names
from tabom.evaluation.harness import folder as own_tasks
from tabom.evaluation.harness.model import TabomLM
from tabom.evaluation.records import EvaluationRecord, Pace, Role
from tabom.evaluation.run import SetResult, costs_of

_FEWSHOT_SEED = 1234  # lm-eval's own default
# Columns that hold a document's own text, the likeliest first.
_TEXT_COLUMNS = ("question", "problem", "prompt", "query", "instruction", "input", "text")


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """A task of lm-eval's own (or a group of them) as an evaluation set.

    task: its name. role: of its records. limit: the first so many documents. chat_template: put
    prompts into the model's. include_path: a folder of further task files. unsafe_exec: its code
    tasks, which have no sandbox, may run. folder: for lm-eval's logged documents; None: nowhere.
    """

    task: str
    role: Role = "in_domain"
    limit: int | None = None
    chat_template: bool = True
    include_path: str | None = None
    unsafe_exec: bool = False
    folder: Path | None = None


def run_task(lms: Sequence[TabomLM], options: TaskOptions) -> list[SetResult]:
    """Evaluate a task, and keep a record of every document; a result for each task of a group.

    lms: the model at each pace.
    Raises: ConfigError for an unknown task, or one whose scores are not 0 or 1 a document.
    """
    results: dict[str, SetResult] = {}
    for lm in lms:
        found = _evaluated(lm, options)
        for task, rows in found["samples"].items():
            result = results.setdefault(task, SetResult(name=task, questions=_questions(rows)))
            _add(result, lm, options, found, rows)
    return list(results.values())


def _evaluated(lm: TabomLM, options: TaskOptions) -> dict[str, Any]:
    """What lm-eval gives for a task at one pace."""
    from lm_eval.evaluator import evaluate

    manager = _manager(options)
    with _quiet():
        loaded = manager.load(manager.match_tasks([options.task]))
        for task in loaded["tasks"].values():
            if task.get_config("num_fewshot") is None:
                task.set_config("num_fewshot", 0)
            task.set_fewshot_seed(_FEWSHOT_SEED)
        # Not `simple_evaluate`: it would seed the global generators and look around the machine.
        results = evaluate(
            lm,
            loaded,
            limit=options.limit,
            apply_chat_template=options.chat_template,
            fewshot_as_multiturn=options.chat_template,
            log_samples=True,
            bootstrap_iters=0,
            confirm_run_unsafe_code=options.unsafe_exec,
        )
    assert results is not None
    return dict(results)


def require_task(task: str, include_path: str | None) -> None:
    """Raise ConfigError for a task that is not known. include_path: of further task files."""
    _manager(TaskOptions(task=task, include_path=include_path))


def _manager(options: TaskOptions) -> Any:
    """lm-eval's tasks. Reading all of its own task files takes ten seconds: only where needed."""
    from lm_eval.tasks import TaskManager

    paths = [str(own_tasks()), *([options.include_path] if options.include_path else [])]
    for has_defaults in (False, True):
        manager = TaskManager(include_path=paths, include_defaults=has_defaults)
        if manager.match_tasks([options.task]):
            return manager
    raise ConfigError(
        f"no task {options.task!r}{nearest(options.task, names())}; ours are {', '.join(names())}, "
        "lm-eval's are listed by `lm-eval ls tasks`"
    )


def _add(
    result: SetResult,
    lm: TabomLM,
    options: TaskOptions,
    found: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """Add what a task gave at one pace to its result. rows: lm-eval's logged documents."""
    task = result.name
    pace = Pace.of(lm.decodings[task])
    metric, filter_name = _primary(found["configs"][task])
    is_first = not result.records
    kept = [row for row in rows if row["filter"] == filter_name]
    if not kept:
        raise DataError(f"task {task!r} logged no document under the filter {filter_name!r}")
    for row in kept:
        trajectory = lm.responses[task, row["doc_id"], 0]
        correct = _share(row.get(metric), task, metric)
        result.records.append(
            EvaluationRecord(
                set=task,
                role=options.role,
                id=f"{row['doc_id']:05d}-{row['doc_hash'][:12]}",
                tokens_per_step=pace.tokens_per_step,
                schedule=pace.schedule,
                correct=correct,
                reason="accepted" if correct else "wrong",
                response=row["resps"][0][0],
                trajectory=trajectory.id,
                **costs_of(trajectory, lm.model.ids.eos),
            )
        )
        if is_first:
            result.trajectories.append(trajectory)
    result.totals[str(pace)] = {
        **{k: v for k, v in found["results"][task].items() if isinstance(v, int | float)},
        **lm.cost_of(task),
    }
    result.manifests[str(pace)] = {
        **lm.manifest_of(task),
        "data": {
            "task": task,
            "documents": keys.content_id(*sorted({str(row["doc_hash"]) for row in rows})),
        },
        "chat_template": options.chat_template,
        "num_documents": len(kept),
        "unsafe_exec": options.unsafe_exec,
        "lm_eval": version("lm_eval"),
        "task_version": found["versions"].get(task),
    }
    if options.folder is not None:
        lines = (json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
        with replacing(options.folder / f"samples_{task}@{pace}.jsonl") as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")


def _questions(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The question of each logged document, once: its own text, else what was asked."""
    found: dict[Any, str] = {}
    for row in rows:
        document = row.get("doc") or {}
        texts = [document[n] for n in _TEXT_COLUMNS if isinstance(document.get(n), str)]
        found[row["doc_id"]] = texts[0] if texts else str(row["arguments"][0][0])
    return tuple(found[number] for number in sorted(found))


def _share(value: Any, task: str, metric: str) -> int:
    number = float(value) if isinstance(value, int | float) else -1.0
    if number not in (0.0, 1.0):
        raise ConfigError(
            f"task {task!r} scores a document with {metric} = {value!r}; records hold right or "
            "wrong, so run that task with lm-eval's own command line"
        )
    return int(number)


def _primary(config: Mapping[str, Any]) -> tuple[str, str]:
    """The number that counts: the first metric of the last filter."""
    filters = config.get("filter_list") or [{"name": "none"}]
    first = config["metric_list"][0]["metric"]
    return getattr(first, "__name__", str(first)), str(filters[-1]["name"])


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
