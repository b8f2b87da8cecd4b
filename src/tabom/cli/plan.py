"""`tabom plan RECIPE`: what a run would do and cost, before anything starts."""

import argparse
import json
import math
from typing import TYPE_CHECKING, Any

from tabom.cli.flags import add_recipe
from tabom.core.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from tabom.stages.estimate import Given, StageEstimate
    from tabom.stages.recipe import Recipe

GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom plan`."""
    add_recipe(parser)
    for flag, kind, text in (
        ("device_name", str, "e.g. H200; this machine if left out"),
        ("mfu", float, "share of the device's peak that the run reaches (default: 0.4)"),
        ("acceptance_rate", float, "share that the verifier accepts (default: 0.4; accept_all: 1)"),
        ("prompt_tokens", int, "mean prompt length; measured if left out and the data are here"),
    ):
        parser.add_argument(f"--{flag}", type=kind, help=text)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Lay out the stages, estimate each, print."""
    from tabom.core.plain import to_plain
    from tabom.stages.estimate import Work, estimate_stages
    from tabom.stages.recipe import load_recipe
    from tabom.stages.study import plan_study

    _check(args)
    given_dir = [] if args.output_dir is None else [("output_dir", args.output_dir)]
    recipe = load_recipe(args.recipe, overrides=[*args.overrides, *given_dir])
    plan = plan_study(recipe)
    given = _given(args, recipe)
    machine = given.machine
    stages = estimate_stages(plan.stages, given)
    total = sum((stage.work for stage in stages if not stage.is_complete), Work())
    notes = _notes(args, recipe, given, stages)
    if args.json:
        found = {
            "recipe": recipe.name,
            "model": {"name_or_path": recipe.model.model_name_or_path, **to_plain(machine.sizes)},
            "device": machine.device,
            "mfu": machine.mfu,
            "stages": [{**to_plain(stage), **to_plain(stage.work)} for stage in stages],
            "total": total,
            "assumptions": notes,
        }
        print(json.dumps(to_plain(found), ensure_ascii=False))
        return 0
    num = sum(stage.is_complete for stage in stages)
    print(f"{recipe.name}: {len(stages)} stages, {num} complete, in {recipe.output_dir}")
    print(_table(stages, total))
    print("\nThis takes for granted:")
    for note in notes:
        print(f"- {note}")
    return 0


def _check(args: argparse.Namespace) -> None:
    for name, most in (("mfu", 1), ("acceptance_rate", 1), ("prompt_tokens", math.inf)):
        value = getattr(args, name)
        if value is not None and not 0 < value <= most:
            bound = "" if most is math.inf else f", at most {most}"
            raise ConfigError(f"--{name} {value}: expected a number above 0{bound}")


def _given(args: argparse.Namespace, recipe: "Recipe") -> "Given":
    from tabom.models.devices import device_by_name
    from tabom.models.ids import Checkpoint
    from tabom.models.sizes import read_sizes
    from tabom.stages.estimate import ACCEPTANCE_RATE, MFU, Given, Machine, measure_prompts

    name = recipe.model.model_name_or_path
    try:
        tokenizer = Checkpoint.find(name, weights=False).tokenizer(is_required=False)
    except ModelError:
        tokenizer = None
    if not getattr(tokenizer, "chat_template", None):
        tokenizer = None
    common = {"tokenizer": tokenizer, "prompt_tokens": args.prompt_tokens}
    rate = 1.0 if recipe.verifier.type == "accept_all" else ACCEPTANCE_RATE
    device = device_by_name(args.device_name)
    return Given(
        machine=Machine(sizes=read_sizes(name), device=device, mfu=args.mfu or MFU),
        acceptance_rate=args.acceptance_rate or rate,
        num_slots=recipe.decoding.max_new_tokens,
        num_samples=recipe.collection.num_samples,
        train=measure_prompts(
            recipe.prompts, seed=recipe.seeds[0], what="training prompts", **common
        ),
        sets={
            item.name: measure_prompts(
                item.prompts,
                seed=recipe.evaluation.seed,
                what=f"evaluation set {item.name}",
                **common,
            )
            for item in recipe.evaluation.sets
        },
    )


def _notes(
    args: argparse.Namespace, recipe: "Recipe", given: "Given", stages: list["StageEstimate"]
) -> list[str]:
    from tabom.cli.layout import parameters
    from tabom.models.sizes import context_problem

    device, sizes = given.machine.device, given.machine.sizes
    how = "measured here" if device.is_measured else "the vendor's figure"
    prompts = {"training prompts": given.train}
    prompts |= {f"prompts of set {name}": found for name, found in given.sets.items()}
    notes = [
        f"model {recipe.model.model_name_or_path}: {parameters(sizes.num_parameters)}, sizes from "
        f"{sizes.source}",
        f"one {device.name}: {device.memory_gib:g} GiB, {device.tflops:g} TFLOP/s ({how}), of "
        f"which the run reaches {100 * given.machine.mfu:g} % (--mfu; `tabom doctor` measures it)",
        *(f"{what}: {found.number} of {found.note}" for what, found in prompts.items()),
    ]
    if any(stage.kind == "train" for stage in stages):
        why = "assumed; the paper kept 22 to 43 %"
        if args.acceptance_rate is not None:
            why = "--acceptance_rate"
        elif recipe.verifier.type == "accept_all":
            why = "verifier accept_all"
        notes.append(
            f"the verifier accepts {100 * given.acceptance_rate:g} % of the trajectories ({why}); "
            "where they are judged already, the accepted ones are counted"
        )
    decodings = [
        item.decoding_at(pace, base=recipe.decoding)
        for item in recipe.evaluation.sets
        for pace in item.tokens_per_step
    ]
    if any(d.schedule in ("threshold", "factor") for d in (recipe.decoding, *decodings)):
        notes.append("decoding reveals one slot a step, the least that its schedule allows")
    notes.append(
        "every response takes all its slots; loading, verification, diagnosis and the report are "
        "not counted"
    )
    for what, found in prompts.items():
        problem = context_problem(
            sizes.max_positions, prompt_tokens=found.longest, max_new_tokens=given.num_slots
        )
        if problem is not None:
            notes.append(f"WARNING: {what}: {problem}")
    fullest = max((stage.work.memory_bytes for stage in stages), default=0) / GIB
    if fullest > 0.95 * device.memory_gib:
        notes.append(
            f"WARNING: {fullest:.1f} GiB do not fit in {device.memory_gib:g} GiB; lower "
            "collection.batch_size, evaluation.batch_size or per_device_train_batch_size, or set "
            "training.gradient_checkpointing"
        )
    return notes


def _table(stages: list["StageEstimate"], total: Any) -> str:
    from tabom.cli.layout import duration, gib, number, table

    def cells(work: Any) -> list[str]:
        return [
            number(work.forwards) if work.forwards else "-",
            number(work.flops) if work.flops else "-",
            gib(work.memory_bytes) if work.memory_bytes else "-",
            duration(work.seconds) if work.seconds else "-",
        ]

    rows = [
        [
            stage.label,
            "complete" if stage.is_complete else "to do",
            str(stage.work.num_items or "-"),
            *cells(stage.work),
        ]
        for stage in stages
    ]
    rows.append(["total to do", "", "", *cells(total)])
    heads = ["stage", "state", "items", "forwards", "FLOP", "memory GiB", "time"]
    return table(heads, rows, num_left=2)
