"""`tabom evaluate`: accuracy of a model, or of a model with an adapter, on held-out prompts."""

import argparse
from pathlib import Path
from typing import Any

from tabom.cli import sections
from tabom.core.errors import ConfigError

_TASK_FLAGS = ("setting", "in_domain", "num_documents", "cut", "max_prompt_tokens")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom evaluate`."""
    from tabom.collect.prompts import PromptSource
    from tabom.stages.evaluate import Evaluate

    parser.add_argument(
        "--tokens_per_step",
        nargs="+",
        type=int,
        default=[1],
        metavar="K",
        help="paces of the one set made from the prompt flags, or of the tasks (default: 1)",
    )
    parser.add_argument(
        "--num_samples",
        type=int,
        default=1,
        metavar="N",
        help="responses of each document, for pass@k (default: 1)",
    )
    _add_tasks(parser.add_argument_group("published sets and tasks of lm-eval (not prompts)"))
    # A recipe alone can list sets, and each has paces of its own.
    skip = {"sets", "held_out_check", "tokens_per_step"}
    sections.add(parser, Evaluate, skip=skip)
    sections.add_section(parser, PromptSource, "prompts")


def _add_tasks(group: Any) -> None:
    group.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        help="gsm8k, math500, humaneval, mbpp, ifeval (the paper's prompts and metrics), or any "
        "task of lm-eval's own that generates; separated by space or comma",
    )
    group.add_argument(
        "--setting",
        help="dream_paper, dream_release, llada_paper or llada_release: budgets and decoding of "
        "each published set as published",
    )
    group.add_argument(
        "--in_domain",
        nargs="+",
        default=[],
        metavar="TASK",
        help="tasks that are in domain, the others are not (default: all)",
    )
    group.add_argument(
        "--num_documents", type=int, metavar="N", help="the first N documents of each task"
    )
    group.add_argument(
        "--no_chat_template",
        action="store_true",
        help="give the task's text to the model as it is",
    )
    group.add_argument(
        "--cut",
        choices=["all_ends", "release"],
        help="where a response ends (default: what the setting says, else all_ends)",
    )
    group.add_argument(
        "--max_prompt_tokens",
        type=int,
        metavar="N",
        help="keep this many tokens at the end of a longer prompt",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate on tasks, on the recipe's sets, or on one set made from the prompt flags."""
    from tabom.stages.evaluate import Evaluate

    stage = sections.build(Evaluate, args, evaluation=_with_sets(args))
    with sections.ready(stage, args) as report:
        counts = stage.run(report, overwrite=args.overwrite)
    sections.show(stage, counts)
    _print_held_out(stage.folder)
    return 0


def _with_sets(args: argparse.Namespace) -> dict[str, Any]:
    """The section `evaluation` with the sets that the flags ask for, else those it lists."""
    mapping = sections.recipe_of(args).mapping
    evaluation = dict(mapping.get("evaluation") or {})
    if args.tasks:
        return {**evaluation, "sets": _task_sets(args, mapping.get("decoding") or {})}
    given = [name for name in (*_TASK_FLAGS, "no_chat_template") if getattr(args, name)]
    if given:
        raise ConfigError(f"--{given[0]} is for tasks: give --tasks, or drop it")
    if not evaluation.get("sets"):
        if not mapping.get("prompts"):
            raise ConfigError(
                "nothing to evaluate on: give --prompts_path, --dataset_name, --prompts_function "
                "or --tasks, or a --config RECIPE with evaluation.sets"
            )
        one = {"name": "prompts", "prompts": mapping["prompts"], "num_samples": args.num_samples}
        evaluation["sets"] = [{**one, "tokens_per_step": args.tokens_per_step}]
    return evaluation


def _task_sets(args: argparse.Namespace, decoding: dict[str, Any]) -> list[dict[str, Any]]:
    """A set for each task. decoding: what flags and recipe say of it."""
    from tabom.evaluation.benchmarks import names

    tasks, in_domain = _names(args.tasks), _names(args.in_domain)
    unknown = sorted(set(in_domain) - set(tasks))
    if unknown:
        raise ConfigError(f"in_domain names {unknown[0]!r}, which is none of {', '.join(tasks)}")
    common = {
        # Only what was given: a set or its setting has its own.
        "decoding": {k: v for k, v in decoding.items() if k != "tokens_per_step"},
        "tokens_per_step": args.tokens_per_step,
        "num_samples": args.num_samples,
        "setting": args.setting,
        "limit": args.num_documents,
        "chat_template": not args.no_chat_template,
        "cut": args.cut,
        "max_prompt_tokens": args.max_prompt_tokens,
    }
    return [
        {
            "name": task,
            "benchmark" if task in names() or ":" in task else "task": task,
            "role": "in_domain" if task in (in_domain or tasks) else "out_of_domain",
            **common,
        }
        for task in tasks
    ]


def _print_held_out(folder: Path) -> None:
    from tabom.core.atomic import read_json
    from tabom.evaluation.manifest import EVALUATION, HELD_OUT

    manifests = [one for paces in read_json(folder / EVALUATION).values()
                 for one in paces.values()]  # fmt: skip
    for note in dict.fromkeys(one[HELD_OUT]["note"] for one in manifests if one.get(HELD_OUT)):
        print(note)


def _names(given: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for text in given for name in text.split(",") if name))
