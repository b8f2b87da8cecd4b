"""`tabom evaluate`: accuracy of a model, or of a model with an adapter, on held-out prompts."""

import argparse
from typing import Any

from tabom.cli import flags, sections
from tabom.collect.prompts import PromptSource
from tabom.core.atomic import read_json
from tabom.core.errors import ConfigError
from tabom.evaluation.benchmarks import names
from tabom.evaluation.manifest import EVALUATION, HELD_OUT
from tabom.stages.evaluate import Evaluate
from tabom.stages.sets import SetConfig
from tabom.stages.stage import Counts

_TASKS = (
    "gsm8k, math500, humaneval, mbpp, ifeval (the paper's prompts and metrics), or any task of "
    "lm-eval's own that generates; separated by space or comma; left out: prompts"
)
_IN_DOMAIN = "tasks that are in domain, the others are not (default: all)"
# Fields of an evaluation set that are flags here, with the flag's name.
_SET_FIELDS = (
    "tokens_per_step", "num_samples", "setting", "limit", "chat_template", "cut",
    "max_prompt_tokens",
)  # fmt: skip
_SET_FLAGS = {name: name for name in _SET_FIELDS} | {"limit": "num_documents"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom evaluate`."""
    group = parser.add_argument_group("set", "What is evaluated, where no recipe lists it.")
    group.add_argument("--tasks", nargs="+", metavar="TASK", help=_TASKS)
    group.add_argument("--in_domain", nargs="+", default=[], metavar="TASK", help=_IN_DOMAIN)
    for field, flag in _SET_FLAGS.items():
        flags.add_field(group, SetConfig, field, flag=flag, dest=f"set_{field}")
    # A recipe alone can list sets, and each has paces of its own.
    sections.add(parser, Evaluate, skip={"sets", "held_out_check", "tokens_per_step"})
    flags.add_section(parser, PromptSource, "prompts")


def _stage(args: argparse.Namespace) -> Evaluate:
    """Tasks, or the sets of the recipe, or one set of the prompts that flags name."""
    return sections.build(Evaluate, args, evaluation=_with_sets(args))


def _with_sets(args: argparse.Namespace) -> dict[str, Any]:
    """The section `evaluation` with the sets that the flags ask for, else those it lists."""
    mapping = sections.recipe_of(args).mapping
    evaluation = dict(mapping.get("evaluation") or {})
    given = {f: getattr(args, f"set_{f}") for f in _SET_FLAGS if hasattr(args, f"set_{f}")}
    if args.tasks:
        # Of the decoding only what was given: a set or its setting has its own.
        given["decoding"] = dict(mapping.get("decoding") or {})
        given["decoding"].pop("tokens_per_step", None)
        return {**evaluation, "sets": _task_sets(args, given)}
    if args.in_domain or (given and evaluation.get("sets")):
        flag = "in_domain" if args.in_domain else _SET_FLAGS[next(iter(given))]
        raise ConfigError(
            f"--{flag} is for tasks or prompts that flags name: give --tasks, or drop it"
        )
    if not evaluation.get("sets"):
        if not mapping.get("prompts"):
            raise ConfigError(
                "nothing to evaluate on: give --prompts_path, --dataset_name, --prompts_function "
                "or --tasks, or a --config RECIPE with evaluation.sets"
            )
        evaluation["sets"] = [{"name": "prompts", "prompts": mapping["prompts"], **given}]
    return evaluation


def _task_sets(args: argparse.Namespace, given: dict[str, Any]) -> list[dict[str, Any]]:
    """A set for each task. given: what flags and recipe say of all of them."""
    tasks, in_domain = flags.words(args.tasks), flags.words(args.in_domain)
    for name in in_domain:
        if name not in tasks:
            raise ConfigError(f"in_domain names {name!r}, which is none of {', '.join(tasks)}")
    return [
        {
            "name": task.partition(":")[0].rpartition(".")[2] if ":" in task else task,
            "benchmark" if task in names() or ":" in task else "task": task,
            "role": "in_domain" if task in (in_domain or tasks) else "out_of_domain",
            **given,
        }
        for task in tasks
    ]


def _print_held_out(stage: Evaluate, counts: Counts) -> None:
    """Say which prompts of the sets occur in the training data, once for all paces."""
    paces = read_json(stage.folder / EVALUATION).values()
    shared = [one.get(HELD_OUT) for by_pace in paces for one in by_pace.values()]
    for note in dict.fromkeys(found["note"] for found in shared if found):
        print(note)


run = sections.verb(_stage, after=_print_held_out)
