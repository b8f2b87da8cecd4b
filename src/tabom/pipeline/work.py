"""What each stage does. Everything heavy is imported inside, in the process that needs it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tabom.collect.prompts import load_prompts
from tabom.core.errors import DataError, StageError
from tabom.pipeline.identity import prompts_identity
from tabom.pipeline.recipe import ArmConfig, ModelConfig, Recipe
from tabom.pipeline.stages import UNFINISHED
from tabom.trajectory.store import TrajectoryStore
from tabom.trajectory.verdicts import count_reasons, read_verdicts, write_verdicts

if TYPE_CHECKING:
    from tabom.evaluation.records import EvaluationRecord
    from tabom.models.contract import MaskedDiffusionModel
    from tabom.trajectory.record import Trajectory

Done = Callable[..., None]  # (done, total), and a note where there is one
VERDICTS = "verdicts.parquet"
VERDICT_LOG = ".verdicts.jsonl"


def open_model(config: ModelConfig, *, trained: Path | None = None) -> "MaskedDiffusionModel":
    """The base model, with the adapter (or the fully trained weights) of an arm if given.

    An adapter of the base itself is merged into it, so that an arm's own can go on top.
    """
    from tabom.models.adapters import load_adapter, merge_adapter
    from tabom.models.loading import load_model

    common: dict[str, Any] = {
        "dtype": config.dtype,
        "attn_implementation": config.attn_implementation,
        "device": config.device,
        "mask_token_id": config.mask_token_id,
    }
    if trained is not None and not (trained / "adapter_config.json").is_file():
        return load_model(str(trained), **common)
    model = load_model(config.model_name_or_path, adapter=config.adapter, **common)
    if config.adapter is not None:
        merge_adapter(model)
    if trained is not None:
        load_adapter(model, trained)
    return model


def collect_work(
    *,
    folder: Path,
    fingerprint: str,
    settings: dict[str, Any],
    report: Done,
    recipe: Recipe,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
) -> dict[str, Any]:
    """Decode the training prompts of one seed."""
    from tabom.collect.worker import collect

    prompts = load_prompts(recipe.prompts, seed=seed)
    return collect(
        open_model(recipe.model),
        prompts,
        folder,
        decoding=recipe.decoding,
        config=recipe.collection,
        seed=seed,
        fingerprint=fingerprint,
        settings=settings,
        rank=rank,
        world_size=world_size,
        progress=report,
    )


def verify_work(
    *,
    folder: Path,
    fingerprint: str,
    settings: dict[str, Any],
    report: Done,
    recipe: Recipe,
    collect_folder: Path,
) -> dict[str, Any]:
    """Judge every trajectory of a collection."""
    from tabom.models.ids import load_ids
    from tabom.verify.checkers import build_checker
    from tabom.verify.filters import verify_trajectories

    store = TrajectoryStore(collect_folder)
    ids = load_ids(recipe.model.model_name_or_path, mask_token_id=recipe.model.mask_token_id)
    verdicts = verify_trajectories(
        store,
        build_checker(recipe.verifier),
        mask_id=ids.mask,
        end_ids=ids.eos,
        log=folder / VERDICT_LOG,
        progress=lambda done: report(done, len(store)),
    )
    write_verdicts(folder / VERDICTS, verdicts)
    return {"num_verdicts": len(verdicts), **count_reasons(verdicts.values())}


def train_work(
    *,
    folder: Path,
    fingerprint: str,
    settings: dict[str, Any],
    report: Done,
    recipe: Recipe,
    arm: ArmConfig,
    seed: int,
    collect_folder: Path | None,
    verify_folder: Path | None,
) -> dict[str, Any]:
    """Train one arm on accepted trajectories, or on ground truth."""
    from dataclasses import replace

    from tabom.objectives.presets import build_objective
    from tabom.training.dataset import examples_from_text, examples_from_trajectories
    from tabom.training.run import train
    from tabom.verify.filters import accepted

    if arm.objective is None:
        raise StageError(f"arm {arm.name!r} has no objective; there is nothing to train")
    model = open_model(recipe.model)
    if collect_folder is not None and verify_folder is not None:
        store = TrajectoryStore(collect_folder)
        verdicts = read_verdicts(verify_folder / VERDICTS)
        examples = examples_from_trajectories(accepted(store, verdicts), end_ids=model.ids.eos)
    else:
        prompts = load_prompts(recipe.prompts, seed=seed)
        examples = examples_from_text(
            [(p.prompt, p.ground_truth) for p in prompts],
            model=model,
            max_new_tokens=recipe.decoding.max_new_tokens,
        )
    result = train(
        model=model,
        objective=build_objective(arm.objective, **arm.options),
        train_examples=examples,
        config=replace(recipe.training_of(arm), seed=seed),
        output_dir=folder,
        progress=report,
        extra_card={
            "data": settings["data"],
            "arm": {"name": arm.name, "recipe": recipe.name},
            **({"base": {"adapter": recipe.model.adapter}} if recipe.model.adapter else {}),
        },
    )
    return {
        "num_examples": result.num_examples,
        "num_dropped": sum(result.dropped.values()),
        "steps": result.steps,
        "train_seconds": result.seconds,
        "peak_memory_bytes": result.peak_memory_bytes,
        **result.speed,
        **{k: v for k, v in result.metrics.items() if k in ("loss", "loss_ce")},
    }


RECORDS = "records.parquet"
TRAJECTORIES = "trajectories.parquet"
FIELDS = "fields.json"


def read_evaluated(folder: Path) -> Iterator[tuple["EvaluationRecord", "Trajectory"]]:
    """Each stored trajectory with its record, which is the one at the set's first speed.

    Paired by place: two sets may ask the same prompts, and ids are then no key.
    """
    from tabom.evaluation.records import read_records

    first: dict[str, int] = {}
    records = [
        r
        for r in read_records(folder / RECORDS)
        if r.tokens_per_step == first.setdefault(r.set, r.tokens_per_step)
    ]
    store = TrajectoryStore.from_parquet(folder / TRAJECTORIES)
    if len(records) != len(store):
        raise DataError(
            f"{folder}: {len(store)} trajectories for {len(records)} records; evaluate again"
        )
    for record, trajectory in zip(records, store, strict=True):
        if record.id != trajectory.id:
            raise DataError(
                f"{folder}: trajectory {trajectory.id!r} stands where {record.id!r} was recorded; "
                "evaluate again"
            )
        yield record, trajectory


def evaluate_work(
    *,
    folder: Path,
    fingerprint: str,
    settings: dict[str, Any],
    report: Done,
    recipe: Recipe,
    trained_folder: Path | None,
) -> dict[str, Any]:
    """Decode and judge every evaluation set at every speed; a rerun resumes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tabom.collect.config import CollectionConfig
    from tabom.collect.prompts import prompts_content
    from tabom.collect.worker import make_requests
    from tabom.core.atomic import replacing, write_json
    from tabom.core.hooks import load_function
    from tabom.evaluation.manifest import EVALUATION, evaluation_manifest
    from tabom.evaluation.records import summarize, write_records
    from tabom.evaluation.run import evaluate_set
    from tabom.trajectory.schema import to_arrow
    from tabom.verify.checkers import build_checker

    model = open_model(recipe.model, trained=trained_folder)
    records, trajectories = [], []
    # set_of: the set whose response to a prompt is kept for the viewer; sets may share prompts.
    notes: dict[str, Any] = {"tds": {}, "fields": {}, "tokens": {}, "set_of": {}}
    manifests: dict[str, dict[str, Any]] = {}
    loaded = [
        (item, load_prompts(item.prompts, seed=recipe.evaluation.seed))
        for item in recipe.evaluation.sets
    ]
    total = sum(len(prompts) * len(item.tokens_per_step) for item, prompts in loaded)
    before = 0
    for number, (item, prompts) in enumerate(loaded):
        requests, _ = make_requests(model, prompts, CollectionConfig())
        result = evaluate_set(
            model,
            requests,
            name=item.name,
            role=item.role,
            checker=build_checker(item.verifier or recipe.verifier),
            decoding=recipe.decoding_of(item, item.tokens_per_step[0]),
            tokens_per_step=item.tokens_per_step,
            seed=recipe.evaluation.seed,
            batch_size=recipe.evaluation.batch_size,
            record_field_for=recipe.evaluation.num_fields,
            extra_metrics={k: load_function(f) for k, f in item.metrics.items()},
            folder=folder / UNFINISHED / str(number),  # a name may not do as a folder's
            progress=lambda done, _, before=before: report(before + done, total),  # type: ignore[misc]
        )
        before += len(requests) * len(item.tokens_per_step)
        manifests[item.name] = {
            str(speed): evaluation_manifest(
                model,
                recipe.decoding_of(item, speed),
                batch_size=recipe.evaluation.batch_size,
                seed=recipe.evaluation.seed,
                data={**prompts_identity(item.prompts), "documents": prompts_content(prompts)},
                extra={"verifier": (item.verifier or recipe.verifier)},
            )
            for speed in item.tokens_per_step
        }
        records += result.records
        trajectories += result.trajectories
        if result.tds is not None:
            notes["tds"][item.name] = {
                "mean_K": _plain(result.tds.mean_K),
                "average": _plain(np.asarray(result.tds.average)),
            }
        shown = num_shown(recipe.decoding.max_new_tokens)
        for trajectory in result.trajectories[:shown]:
            name = trajectory.id
            if name in result.fields and name not in notes["set_of"]:
                ids = trajectory.response_ids_N.tolist()
                notes["set_of"][name] = item.name
                notes["fields"][name] = _plain(result.fields[name])
                notes["tokens"][name] = [model.tokenizer.decode([t]) for t in ids]
    with replacing(folder / TRAJECTORIES) as temporary:
        table = pa.Table.from_batches([to_arrow(trajectories)])
        pq.write_table(table, temporary, compression="zstd")
    write_json(folder / FIELDS, notes)
    write_json(folder / EVALUATION, manifests)
    write_records(folder / RECORDS, records)
    counts: dict[str, Any] = {"num_responses": len(records)}
    for summary in summarize(records):
        name = f"{summary.set}@{summary.speed}"
        counts[name] = round(100 * summary.accuracy.estimate, 2)
    return counts


def num_shown(num_slots: int) -> int:
    """Responses of a set that the viewer can play; a field is N x N numbers."""
    return 6 if num_slots <= 64 else 2


def _plain(values: Any) -> Any:
    """An array as lists for JSON, rounded, with None for NaN."""
    if getattr(values, "ndim", 0):
        return [_plain(v) for v in values]
    return round(float(values), 5) if np.isfinite(values) else None


def diagnose_work(
    *,
    folder: Path,
    fingerprint: str,
    settings: dict[str, Any],
    report: Done,
    recipe: Recipe,
    trained_folder: Path | None,
    base_evaluate_folder: Path,
) -> dict[str, Any]:
    """Order agreement and loss ratio on the base's own held-out, accepted responses.

    Those of the sets' first speed. The loss ratio's canvas is the recipe's, or the largest that was
    decoded: an evaluation set may have more slots than the trajectories of training.
    """
    from tabom.core.atomic import write_json
    from tabom.diagnostics.loss_ratio import loss_ratio
    from tabom.diagnostics.model_order import context_agreement, context_entropies
    from tabom.training.dataset import examples_from_text

    model = open_model(recipe.model, trained=trained_folder)
    config = recipe.diagnostics
    found = [
        trajectory
        for record, trajectory in read_evaluated(base_evaluate_folder)
        if record.correct and record.role == "in_domain"
    ][: config.num_trajectories]
    result: dict[str, Any] = {"num_trajectories": len(found)}
    if found:
        contexts = context_entropies(
            model,
            found,
            cuts_per_trajectory=config.cuts_per_trajectory,
            seed=recipe.evaluation.seed,
            batch_size=config.batch_size,
        )
        agreement = context_agreement(contexts)
        result |= {"order_agreement": agreement.accuracy, "kendall_tau": agreement.tau}
        report(1, 2)
        num_slots = max(recipe.decoding.max_new_tokens, *(t.num_slots for t in found))
        with_truth = [t for t in found if t.row.get("ground_truth")]
        truth = examples_from_text(
            [(t.prompt, str(t.row["ground_truth"])) for t in with_truth],
            model=model,
            max_new_tokens=num_slots,
        )
        by_prompt = {e.prompt_ids.tobytes(): e.response_ids_N.tolist() for e in truth}
        pairs = [t for t in with_truth if t.prompt_ids.tobytes() in by_prompt]
        if pairs:
            ratio = loss_ratio(
                model,
                [(t.prompt_ids.tolist(), by_prompt[t.prompt_ids.tobytes()]) for t in pairs],
                [(t.prompt_ids.tolist(), t.response_ids_N.tolist()) for t in pairs],
                seed=recipe.evaluation.seed,
                batch_size=config.batch_size,
                ratios=config.mask_ratios,
                num_slots=num_slots,
            )
            result["loss_ratio"] = ratio.ratio_M.tolist()
            result["mask_ratios"] = list(config.mask_ratios)
    write_json(folder / "diagnostics.json", result)
    report(2, 2)
    return {k: v for k, v in result.items() if isinstance(v, int | float)}
