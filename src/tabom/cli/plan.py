"""`tabom plan RECIPE`: what a run would do and cost, before anything starts."""

import argparse
from typing import TYPE_CHECKING, Any

from tabom.cli.flags import add_recipe

if TYPE_CHECKING:
    from tabom.decoding.config import DecodingConfig
    from tabom.models.sizes import ModelSizes
    from tabom.pipeline.estimate import Assumptions, StageEstimate
    from tabom.stages.recipe import Recipe

GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom plan`."""
    add_recipe(parser)
    parser.add_argument(
        "--device_name", "--device-name", metavar="NAME", help="e.g. H200; this machine if left out"
    )
    parser.add_argument(
        "--mfu",
        type=float,
        default=0.4,
        help="share of the device's peak that the run reaches (default: 0.4)",
    )
    parser.add_argument(
        "--acceptance_rate",
        "--acceptance-rate",
        type=float,
        help="share of trajectories that the verifier accepts (default: 0.4, or 1 for accept_all)",
    )
    parser.add_argument(
        "--prompt_tokens",
        "--prompt-tokens",
        type=int,
        help="mean prompt length; measured with the tokenizer if left out and it is here",
    )
    parser.add_argument(
        "--num_prompts",
        "--num-prompts",
        type=int,
        help="training prompts; counted if left out and the data are here",
    )
    parser.add_argument(
        "--num_set_prompts",
        "--num-set-prompts",
        metavar="SET=N",
        action="append",
        default=[],
        help="prompts of an evaluation set; counted if left out and the data are here; repeatable",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Lay out the stages, estimate each, print."""
    from tabom.core.plain import to_plain
    from tabom.models.devices import device_by_name
    from tabom.models.sizes import read_sizes
    from tabom.pipeline import estimate
    from tabom.stages.recipe import load_recipe
    from tabom.stages.study import plan_study

    _check(args)
    overrides = list(args.overrides)
    if args.output_dir is not None:
        overrides.append(f"output_dir={args.output_dir}")
    recipe = load_recipe(args.recipe, overrides=overrides)
    plan = plan_study(recipe)
    read = read_sizes(recipe.model.model_name_or_path)
    rate = args.acceptance_rate
    if rate is None:
        is_all = recipe.verifier.type == "accept_all"
        rate = 1.0 if is_all else estimate.ACCEPTANCE_RATE
    given = _assumptions(args, recipe, rate, device_by_name(args.device_name))
    stages = estimate.estimate_study(recipe, plan, read=read, given=given)
    notes = _notes(args, recipe, read, given, stages)
    total = estimate.total(stages)
    if args.json:
        import json

        found = {
            "recipe": recipe.name,
            "model": {"name_or_path": recipe.model.model_name_or_path, **to_plain(read)},
            "device": given.device,
            "mfu": args.mfu,
            "stages": stages,
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
    from tabom.core.errors import ConfigError

    for name in ("mfu", "acceptance_rate"):
        value = getattr(args, name)
        if value is not None and not 0 < value <= 1:
            raise ConfigError(f"--{name} {value}: expected a share above 0, at most 1")
    for name in ("prompt_tokens", "num_prompts"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} {value}: expected at least 1")


def _assumptions(
    args: argparse.Namespace, recipe: "Recipe", rate: float, device: Any
) -> "Assumptions":
    from tabom.pipeline.estimate import Assumptions
    from tabom.pipeline.lengths import prompt_lengths

    tokenizer = _tokenizer(recipe.model.model_name_or_path)
    common = {"tokenizer": tokenizer, "prompt_tokens": args.prompt_tokens}
    given = _set_prompts(args.num_set_prompts, [s.name for s in recipe.evaluation.sets])
    return Assumptions(
        device=device,
        mfu=args.mfu,
        acceptance_rate=rate,
        train=prompt_lengths(
            recipe.prompts, seed=recipe.seeds[0], num_prompts=args.num_prompts, **common
        ),
        sets={
            item.name: prompt_lengths(
                item.prompts,
                seed=recipe.evaluation.seed,
                num_prompts=given.get(item.name),
                what=f"evaluation set {item.name}",
                flag=f"--num_set_prompts {item.name}=N",
                **common,
            )
            for item in recipe.evaluation.sets
        },
    )


def _set_prompts(flags: list[str], names: list[str]) -> dict[str, int]:
    """`SET=N` flags by name. Raises ConfigError for another form or a set that is not there."""
    from tabom.core.errors import ConfigError

    found: dict[str, int] = {}
    for flag in flags:
        name, _, number = flag.rpartition("=")
        if name not in names:
            raise ConfigError(
                f"--num_set_prompts {flag}: expected SET=N, with a set of the recipe "
                f"({', '.join(names) or 'it has none'})"
            )
        if not number.isdecimal() or int(number) < 1:
            raise ConfigError(f"--num_set_prompts {flag}: {number!r} is no number of prompts")
        found[name] = int(number)
    return found


def _tokenizer(name: str) -> Any:
    """The model's tokenizer with its chat template, or None if it is not here."""
    from tabom.core.errors import ModelError
    from tabom.models.sizes import read_tokenizer

    try:
        tokenizer = read_tokenizer(name)
    except ModelError:
        return None
    return tokenizer if getattr(tokenizer, "chat_template", None) else None


def _notes(
    args: argparse.Namespace,
    recipe: "Recipe",
    read: "ModelSizes",
    given: "Assumptions",
    stages: list["StageEstimate"],
) -> list[str]:
    from tabom.cli.layout import parameters

    device = given.device
    how = "measured here" if device.is_measured else "the vendor's figure"
    notes = [
        f"model {recipe.model.model_name_or_path}: {parameters(read.num_parameters)}, "
        f"sizes from {read.source}",
        f"one {device.name}: {device.memory_gib:g} GiB, {device.tflops:g} TFLOP/s ({how}), of "
        f"which the run reaches {100 * given.mfu:g} % (--mfu)",
        f"training prompts: {given.train.num_prompts} of {given.train.note}",
    ]
    notes += [
        f"prompts of set {name}: {lengths.num_prompts} of {lengths.note}"
        for name, lengths in given.sets.items()
    ]
    if any(stage.kind == "train" for stage in stages):
        if any(stage.kind == "verify" and stage.is_complete for stage in stages):
            notes.append("where trajectories are judged already, their accepted ones are counted")
        notes.append(
            f"the verifier accepts {100 * given.acceptance_rate:g} % of the trajectories "
            + f"({_why_rate(args, recipe)})"
        )
    if any(d.schedule in ("threshold", "factor") for d in _decodings(recipe)):
        notes.append("decoding reveals one slot a step, the least that its schedule allows")
    notes.append(
        "every response takes all its slots; diagnosis is counted for as many right responses as "
        "it may use; loading, verification and the report are not counted"
    )
    fullest = max((stage.memory_bytes for stage in stages), default=0) / GIB
    if fullest > 0.95 * device.memory_gib:
        notes.append(
            f"WARNING: {fullest:.1f} GiB do not fit in {device.memory_gib:g} GiB; lower "
            "collection.batch_size, evaluation.batch_size or per_device_train_batch_size, or set "
            "training.gradient_checkpointing"
        )
    return notes


def _why_rate(args: argparse.Namespace, recipe: "Recipe") -> str:
    if args.acceptance_rate is not None:
        return "--acceptance_rate"
    if recipe.verifier.type == "accept_all":
        return "verifier accept_all"
    return "assumed; the paper kept 22 to 43 %"


def _decodings(recipe: "Recipe") -> list["DecodingConfig"]:
    return [
        recipe.decoding,
        *(
            item.decoding_at(speed, base=recipe.decoding)
            for item in recipe.evaluation.sets
            for speed in item.tokens_per_step
        ),
    ]


def _table(stages: list["StageEstimate"], total: dict[str, float]) -> str:
    from tabom.cli.layout import duration, gib, number, table

    rows = [
        [
            stage.label,
            "complete" if stage.is_complete else "to do",
            str(stage.num_items),
            number(stage.forwards) if stage.forwards else "-",
            number(stage.flops) if stage.flops else "-",
            gib(stage.memory_bytes) if stage.memory_bytes else "-",
            gib(stage.disk_bytes),
            "-" if stage.seconds is None else duration(stage.seconds),
        ]
        for stage in stages
    ]
    rows.append(
        [
            "total to do",
            "",
            "",
            number(total["forwards"]),
            number(total["flops"]),
            gib(total["memory_bytes"]),
            gib(total["disk_bytes"]),
            duration(total["seconds"]),
        ]
    )
    heads = ["stage", "state", "items", "forwards", "FLOP", "memory GiB", "disk GiB", "time"]
    return table(heads, rows, num_left=2)
