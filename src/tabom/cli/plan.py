"""`tabom plan RECIPE`: what a run would do and cost, before anything starts."""

import argparse
import json
from typing import TYPE_CHECKING

from tabom.cli.flags import add_common, overrides_of
from tabom.core.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from tabom.stages.estimate import Given
    from tabom.stages.recipe import Recipe

GIB = 2**30
NUMBERS: dict[str, tuple[type, float, str]] = {
    "mfu": (float, 1.0, "share of the device's peak that the run reaches (default: 0.4)"),
    "acceptance_rate": (float, 1.0, "share that the verifier accepts (default: 0.4; all: 1)"),
    "prompt_tokens": (int, 1e9, "mean prompt length; measured if left out and the data are here"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom plan`."""
    add_common(parser, "recipe", "--set", "--output_dir")
    parser.add_argument("--device_name", help="e.g. H200; this machine if left out")
    for name, (kind, _, text) in NUMBERS.items():
        parser.add_argument(f"--{name}", type=kind, help=text)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Lay out the stages, estimate each, print."""
    from tabom.cli.layout import records
    from tabom.core.plain import to_plain
    from tabom.stages.estimate import Work, stage_work
    from tabom.stages.preflight import problems
    from tabom.stages.recipe import load_recipe
    from tabom.stages.study import plan_study

    for name, (_, most, _) in NUMBERS.items():
        value = getattr(args, name)
        if value is not None and not 0 < value <= most:
            raise ConfigError(f"--{name} {value}: expected a number above 0, at most {most:g}")
    given_dir = [] if args.output_dir is None else [("output_dir", args.output_dir)]
    recipe = load_recipe(args.recipe, overrides=[*overrides_of(args), *given_dir])
    stages = plan_study(recipe).stages
    given = _given(args, recipe)
    works = [stage_work(stage, given) for stage in stages]
    states = [stage.is_complete() for stage in stages]
    total = sum((w for w, done in zip(works, states, strict=True) if not done), Work())
    notes = _notes(args, recipe, given, max((w.memory_bytes for w in works), default=0))
    stopped_by = problems(s for s, done in zip(stages, states, strict=True) if not done)
    if args.json:
        found = {
            "recipe": recipe.name,
            "model": {"name_or_path": recipe.model.model_name_or_path, **vars(given.machine.sizes)},
            "device": given.machine.device,
            "mfu": given.machine.mfu,
            "stages": [
                {"kind": s.kind, "label": s.label, "folder": str(s.folder), "is_complete": done}
                | vars(work)
                for s, work, done in zip(stages, works, states, strict=True)
            ],
            "total": total,
            "assumptions": notes,
            "problems": stopped_by,
        }
        print(json.dumps(to_plain(found), ensure_ascii=False))
        return 0
    rows = [
        {"stage": s.label, "state": "complete" if done else "to do", **vars(work)}
        for s, work, done in zip(stages, works, states, strict=True)
    ]
    rows.append({"stage": "total to do", "state": "", **vars(total)})
    print(f"{recipe.name}: {len(stages)} stages, {sum(states)} complete, in {recipe.output_dir}")
    print(records(rows, num_left=2))
    print("\nThis takes for granted:\n" + "\n".join(f"- {note}" for note in notes))
    if stopped_by:
        print("\nA run on this machine would be stopped by:\n- " + "\n- ".join(stopped_by))
    return 0


def _given(args: argparse.Namespace, recipe: "Recipe") -> "Given":
    from tabom.models.checkpoint import Checkpoint
    from tabom.models.costs import MFU, Machine
    from tabom.models.devices import find_device
    from tabom.models.sizes import read_sizes
    from tabom.stages.estimate import ACCEPTANCE_RATE, Given, measure_prompts

    name = recipe.model.model_name_or_path
    try:
        tokenizer = Checkpoint.find(name, weights=False).tokenizer(is_required=False)
    except ModelError:
        tokenizer = None
    if not getattr(tokenizer, "chat_template", None):
        tokenizer = None
    common = {"tokenizer": tokenizer, "prompt_tokens": args.prompt_tokens}
    rate = 1.0 if recipe.verifier.type == "accept_all" else ACCEPTANCE_RATE
    device = find_device(args.device_name)
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
                item.source(recipe.evaluation.data_dir),
                seed=recipe.evaluation.seed,
                what=f"evaluation set {item.name}",
                **common,
            )
            for item in recipe.evaluation.sets
        },
    )


def _notes(
    args: argparse.Namespace, recipe: "Recipe", given: "Given", most_bytes: int
) -> list[str]:
    """What the estimate assumes, and what will not fit."""
    from tabom.core.text import parameters
    from tabom.models.sizes import context_problem

    device, sizes = given.machine.device, given.machine.sizes
    how = "measured here" if device.is_measured else "the vendor's figure"
    prompts = {"training prompts": given.train}
    prompts |= {f"prompts of set {name}": found for name, found in given.sets.items()}
    why = "accept_all" if recipe.verifier.type == "accept_all" else "assumed"
    why = "--acceptance_rate" if args.acceptance_rate else why
    notes = [
        f"model {recipe.model.model_name_or_path}: {parameters(sizes.num_parameters)}, sizes from "
        f"{sizes.source}",
        f"one {device.name}: {device.memory_gib:g} GiB, {device.tflops:g} TFLOP/s ({how}), of "
        f"which the run reaches {100 * given.machine.mfu:g} % (--mfu; `tabom doctor` measures it)",
        *(f"{what}: {found.number} of {found.note}" for what, found in prompts.items()),
        f"{100 * given.acceptance_rate:g} % of the trajectories are accepted ({why}; the paper "
        "kept 22 to 43 %); where they are judged already, the accepted ones are counted",
        "every response takes all its slots, and a threshold or factor reveals one slot a step; "
        "loading, verification, diagnosis and the report are not counted",
    ]
    for what, found in prompts.items():
        problem = context_problem(
            sizes.max_positions, prompt_tokens=found.longest, max_new_tokens=given.num_slots
        )
        if problem is not None:
            notes.append(f"WARNING: {what}: {problem}")
    if most_bytes > 0.95 * device.memory_gib * GIB:
        notes.append(
            f"WARNING: {most_bytes / GIB:.1f} GiB do not fit in {device.memory_gib:g} GiB; lower "
            "collection.batch_size, evaluation.batch_size or per_device_train_batch_size, or set "
            "training.gradient_checkpointing"
        )
    return notes
