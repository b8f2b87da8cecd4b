"""`tabom plan RECIPE`: what a run would do and cost, before anything starts."""

import argparse
import json
from typing import TYPE_CHECKING

from tabom.cli import flags
from tabom.core.errors import ModelError

if TYPE_CHECKING:
    from tabom.stages.estimate import Assumptions, Given
    from tabom.stages.recipe import Recipe

GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom plan`."""
    from tabom.stages.estimate import Assumptions

    flags.add_common(parser, "recipe", "--set", "--output_dir")
    flags.add_section(parser, Assumptions, "assumptions")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Lay out the stages, estimate each, print."""
    from tabom.cli.layout import records
    from tabom.core.plain import to_plain
    from tabom.stages.estimate import Assumptions, Work, stage_work
    from tabom.stages.preflight import problems
    from tabom.stages.recipe import load_recipe
    from tabom.stages.study import plan_study

    assumed = flags.build(Assumptions, args, "assumptions")
    # A folder may hold "=" and the like, so it goes in as a value, not as text of an override.
    given_dir = [] if args.output_dir is None else [("output_dir", args.output_dir)]
    recipe = load_recipe(args.recipe, overrides=[*(args.overrides or []), *given_dir])
    given = _given(recipe, assumed)
    found = [(s, stage_work(s, given), s.is_complete()) for s in plan_study(recipe).stages]
    total = sum((work for _, work, is_done in found if not is_done), Work())
    most_bytes = max((work.memory_bytes for _, work, _ in found), default=0)
    notes = _notes(recipe, assumed, given, most_bytes)
    stopped_by = problems(stage for stage, _, is_done in found if not is_done)
    if args.json:
        plan = {
            "recipe": recipe.name,
            "model": {"name_or_path": recipe.model.model_name_or_path, **vars(given.machine.sizes)},
            "device": given.machine.device,
            "mfu": given.machine.mfu,
            "stages": [
                {"kind": s.kind, "label": s.label, "folder": str(s.folder), "is_complete": is_done}
                | vars(work)
                for s, work, is_done in found
            ],
            "total": total,
            "assumptions": notes,
            "problems": stopped_by,
        }
        print(json.dumps(to_plain(plan), ensure_ascii=False))
        return 0
    rows = [
        {"stage": stage.label, "state": "complete" if is_done else "to do", **vars(work)}
        for stage, work, is_done in found
    ]
    rows.append({"stage": "total to do", "state": "", **vars(total)})
    num_done = sum(is_done for _, _, is_done in found)
    print(f"{recipe.name}: {len(found)} stages, {num_done} complete, in {recipe.output_dir}")
    print(records(rows, num_left=2))
    print("\nThis takes for granted:\n" + "\n".join(f"- {note}" for note in notes))
    if stopped_by:
        print("\nA run on this machine would be stopped by:\n- " + "\n- ".join(stopped_by))
    return 0


def _given(recipe: "Recipe", assumed: "Assumptions") -> "Given":
    """The assumptions, with what the model, the device and the prompts say themselves."""
    from functools import partial

    from tabom.models.checkpoint import Checkpoint
    from tabom.models.costs import Machine
    from tabom.models.devices import find_device
    from tabom.models.sizes import read_sizes
    from tabom.stages.estimate import ACCEPTANCE_RATE, Given, measure_prompts

    name, evaluation = recipe.model.model_name_or_path, recipe.evaluation
    try:
        tokenizer = Checkpoint.find(name, weights=False).tokenizer(is_required=False)
    except ModelError:
        tokenizer = None
    # One tokenizer serves all prompts; without it, lengths are assumed.
    measure = partial(measure_prompts, tokenizer=tokenizer, prompt_tokens=assumed.prompt_tokens)
    rate = 1.0 if recipe.verifier.type == "accept_all" else ACCEPTANCE_RATE
    device = find_device(assumed.device_name)
    return Given(
        machine=Machine(
            sizes=read_sizes(name),
            device=device,
            mfu=assumed.mfu,
            quantization=recipe.model.quantization,
        ),
        acceptance_rate=assumed.acceptance_rate or rate,
        num_slots=recipe.decoding.max_new_tokens,
        num_samples=recipe.collection.num_samples,
        train=measure(recipe.prompts, seed=recipe.seeds[0], what="training prompts"),
        sets={
            item.name: measure(
                item.source(evaluation.data_dir),
                seed=evaluation.seed,
                what=f"evaluation set {item.name}",
            )
            for item in evaluation.sets
        },
    )


def _notes(recipe: "Recipe", assumed: "Assumptions", given: "Given", most_bytes: int) -> list[str]:
    """What the estimate assumes, and what will not fit."""
    from tabom.core.text import parameters
    from tabom.models.sizes import context_problem
    from tabom.stages.estimate import cache_bound

    device, sizes = given.machine.device, given.machine.sizes
    how = "measured here" if device.is_measured else "the vendor's figure"
    prompts = {"training prompts": given.train}
    prompts |= {f"prompts of set {name}": found for name, found in given.sets.items()}
    why = "accept_all" if recipe.verifier.type == "accept_all" else "assumed"
    why = "--acceptance_rate" if assumed.acceptance_rate else why
    active = ""
    if sizes.active_parameters is not None:
        active = f", of which a token uses {parameters(sizes.active_parameters)}"
    notes = [
        f"model {recipe.model.model_name_or_path}: {parameters(sizes.num_parameters)}{active}, "
        f"sizes: {sizes.source}",
        f"one {device.name}: {device.memory_gib:g} GiB, {device.tflops:g} TFLOP/s ({how}), of "
        f"which the run reaches {100 * given.machine.mfu:g} % (--mfu; `tabom doctor` measures it)",
        *(f"{what}: {found.number} of {found.note}" for what, found in prompts.items()),
        f"{100 * given.acceptance_rate:g} % of the trajectories are accepted ({why}; the paper "
        "kept 22 to 43 %); where they are judged already, the accepted ones are counted",
        "every response takes all its slots, and a threshold or factor reveals one slot a step; "
        "loading, verification, diagnosis and the report are not counted",
    ]
    if recipe.decoding.approximate is not None:
        prompt = given.train.padded_mean(recipe.collection.batch_size, is_sorted=True)
        bound = cache_bound(recipe.decoding, sizes, prompt=prompt)
        weak = "" if bound >= 1.1 else "WARNING: "
        notes.append(
            f"{weak}decoding approximate {recipe.decoding.approximate}: at most {bound:.2f} times "
            f"faster than exact decoding{'; leave it out' if weak else ''}"
        )
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
