"""`tabom evaluate`: accuracy of a model, or of a model with an adapter, on held-out prompts."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabom.cli import sections
from tabom.core import configs
from tabom.core.errors import ConfigError

if TYPE_CHECKING:
    from tabom.stages.stage import Stage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom evaluate`."""
    from tabom.collect.prompts import PromptSource
    from tabom.stages.evaluate import Evaluate

    parser.add_argument(
        "--tokens_per_step",
        "--tokens-per-step",
        nargs="+",
        type=int,
        default=[1],
        metavar="K",
        help="speeds of the one set made from the prompt flags, or of the tasks (default: 1)",
    )
    _add_tasks(parser.add_argument_group("tasks of lm-eval (instead of prompts)"))
    # A recipe alone can list sets, and each has speeds of its own.
    skip = {"sets", "held_out_check", "tokens_per_step"}
    sections.add(parser, Evaluate, output="where to write the records", skip=skip)
    sections.add_section(parser, PromptSource, "prompts")


def _add_tasks(group: Any) -> None:
    group.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        help="gsm8k_tabom, math500_tabom, humaneval_tabom, mbpp_tabom, ifeval_tabom (the paper's "
        "prompts and metrics), or any task of lm-eval that generates; separated by space or comma",
    )
    group.add_argument(
        "--data_dir",
        "--data-dir",
        metavar="DIR",
        help="a folder with gsm8k.jsonl, math500.jsonl, ...; left out: the hub or its cache",
    )
    group.add_argument(
        "--setting",
        help="dream_paper, dream_release, llada_paper or llada_release: budgets and decoding of "
        "each task as published",
    )
    group.add_argument(
        "--in_domain",
        "--in-domain",
        nargs="+",
        default=[],
        metavar="TASK",
        help="tasks that are in domain, the others are not (default: all)",
    )
    group.add_argument(
        "--num_documents",
        "--num-documents",
        type=int,
        metavar="N",
        help="the first N documents of each task",
    )
    group.add_argument(
        "--num_samples",
        "--num-samples",
        type=int,
        default=1,
        metavar="N",
        help="responses of each document, for pass@k (default: 1)",
    )
    group.add_argument(
        "--no_chat_template",
        "--no-chat-template",
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
        "--max-prompt-tokens",
        type=int,
        metavar="N",
        help="keep this many tokens at the end of a longer prompt",
    )
    group.add_argument(
        "--include_path", "--include-path", metavar="DIR", help="a folder of further task files"
    )
    group.add_argument(
        "--unsafe_exec",
        "--unsafe-exec",
        action="store_true",
        help="run the programs of code tasks without a sandbox",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate on tasks, on the recipe's sets, or on one set made from the prompt flags."""
    from tabom.stages.evaluate import Evaluate

    stage: Stage
    if args.tasks:
        stage = _tasks_stage(args)
    else:
        _refuse_task_flags(args)
        stage = sections.build(Evaluate, args, evaluation=_with_sets(args))
    with sections.ready(stage, args) as report:
        counts = stage.run(report, overwrite=args.overwrite)
    sections.show(stage, counts)
    if args.tasks:
        _print_held_out(stage.folder)
    return 0


def _with_sets(args: argparse.Namespace) -> dict[str, Any]:
    """The section `evaluation`, with one set made of the prompts where it lists none."""
    mapping = sections.recipe_of(args).mapping
    evaluation = dict(mapping.get("evaluation") or {})
    if not evaluation.get("sets"):
        if not mapping.get("prompts"):
            raise ConfigError(
                "nothing to evaluate on: give --prompts_path, --dataset_name or "
                "--prompts_function, or a --config RECIPE with evaluation.sets"
            )
        one = {"name": "prompts", "role": "in_domain", "prompts": mapping["prompts"]}
        evaluation["sets"] = [{**one, "tokens_per_step": args.tokens_per_step}]
    return evaluation


def _tasks_stage(args: argparse.Namespace) -> "Stage":
    from tabom.pipeline.tasks import EvaluateTasks, TasksConfig, check_tasks
    from tabom.stages.recipe import EvaluationConfig

    # Of the decoding options only those that were given: a task or a setting has its own.
    mapping = sections.recipe_of(args).mapping
    decoding = {k: v for k, v in (mapping.get("decoding") or {}).items() if k != "tokens_per_step"}
    given = {k: v for k, v in (mapping.get("evaluation") or {}).items() if k != "sets"}
    evaluation = configs.build(EvaluationConfig, given, where="evaluation")
    tasks = TasksConfig(
        tasks=_names(args.tasks),
        in_domain=_names(args.in_domain),
        setting=args.setting,
        decoding=decoding,
        tokens_per_step=tuple(args.tokens_per_step),
        data_dir=args.data_dir,
        include_path=args.include_path,
        num_documents=args.num_documents,
        num_samples=args.num_samples,
        apply_chat_template=not args.no_chat_template,
        cut=args.cut,
        max_prompt_tokens=args.max_prompt_tokens,
        batch_size=evaluation.batch_size,
        seed=evaluation.seed,
        unsafe_exec=args.unsafe_exec,
        quiet=args.quiet,
    )
    stage = sections.build(EvaluateTasks, args, tasks=tasks)
    check_tasks(stage.tasks, stage.model)
    return stage


def _print_held_out(folder: Path) -> None:
    from tabom.core.atomic import read_json
    from tabom.evaluation.manifest import EVALUATION, HELD_OUT

    manifests = [one for speeds in read_json(folder / EVALUATION).values()
                 for one in speeds.values()]  # fmt: skip
    for note in dict.fromkeys(one[HELD_OUT]["note"] for one in manifests if one.get(HELD_OUT)):
        print(note)


def _names(given: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for text in given for name in text.split(",") if name))


def _refuse_task_flags(args: argparse.Namespace) -> None:
    names = ("data_dir", "setting", "in_domain", "num_documents", "cut", "max_prompt_tokens")
    given = [name for name in names if getattr(args, name)]
    if args.num_samples != 1:
        given.append("num_samples")
    given += [n for n in ("no_chat_template", "include_path", "unsafe_exec") if getattr(args, n)]
    if given:
        raise ConfigError(f"--{given[0]} is for tasks: give --tasks, or drop it")
