"""Decode an evaluation set, judge every response, keep what the reports need.

Legend: K steps (model calls), N response slots.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabom.core.errors import DataError
from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoded, DecodeRequest
from tabom.diagnostics.curves import end_step
from tabom.diagnostics.tds import TdsCurve, tds
from tabom.evaluation.records import EvaluationRecord, Role
from tabom.evaluation.resume import decode_resuming
from tabom.models.contract import MaskedDiffusionModel
from tabom.trajectory.order import length_to_end
from tabom.trajectory.record import Trajectory
from tabom.trajectory.verdicts import Verdict
from tabom.verify.checker import Checker, Response, row_of

# `f(*, row, slots, step)`: the prompt row; the text of each slot, "_" for a slot without text (end,
# filler, mask); the step of each slot. None: does not apply.
Metric = Callable[..., float | bool | None]
NO_TEXT = "_"


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationResult:
    """What one set gave.

    records: one per request and speed, in that order of speeds and requests.
    trajectories: at the first speed, in the order of the requests.
    fields: request id -> float32 `[K, N]`, predictive entropy (nats) before each step, NaN where a
        slot was no candidate; of the first requests, at the first speed.
    tds: over these fields; None if there are none.
    """

    records: list[EvaluationRecord]
    trajectories: list[Trajectory]
    fields: dict[str, NDArray[np.float32]]
    tds: TdsCurve | None


def evaluate_set(
    model: MaskedDiffusionModel,
    requests: Sequence[DecodeRequest],
    *,
    name: str,
    role: Role,
    checker: Checker,
    decoding: DecodingConfig,
    tokens_per_step: Sequence[int] = (1,),
    seed: int,
    batch_size: int,
    record_field_for: int = 64,
    extra_metrics: Mapping[str, Metric] | None = None,
    folder: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Answer every request at every speed and judge the answers.

    name, role: of the set, for the records. decoding: its tokens_per_step is replaced by each of
    `tokens_per_step` in turn; the first of them is the speed of trajectories, fields and TDS.
    record_field_for: requests (the first ones) whose entropies at every step are kept.
    extra_metrics: further numbers of a response, see `Metric`.
    folder: where each response is kept as soon as it is decoded; what is there already (of a call
        that was stopped, with equal model, decoding, seed and `record_field_for`) is not decoded
        again. The caller removes it. None: nothing is kept.
    progress: called with (done, total) responses.
    Raises: DataError if there is no request or no speed, an id comes twice, or a metric fails.
    """
    if not requests or not tokens_per_step or len(set(tokens_per_step)) != len(tokens_per_step):
        raise DataError(
            f"evaluation set {name!r}: {len(requests)} requests at the speeds "
            f"{list(tokens_per_step)}; expected at least one request and speeds that differ"
        )
    if len({r.id for r in requests}) != len(requests):
        raise DataError(
            f"evaluation set {name!r}: {len(requests)} requests have "
            f"{len({r.id for r in requests})} different ids; expected one id for each"
        )
    num_total = len(requests) * len(tokens_per_step)
    records: list[EvaluationRecord] = []
    trajectories: list[Trajectory] = []
    fields: dict[str, NDArray[np.float32]] = {}
    texts: dict[int, str] = {}
    num_done = 0
    for speed in tokens_per_step:
        is_first = speed == tokens_per_step[0]
        num_fields = min(record_field_for, len(requests)) if is_first else 0
        found: dict[str, Decoded] = {}
        # Two calls, since a field is K x N numbers. Draws are keyed, so the split does not matter.
        for part, has_field in ((requests[:num_fields], True), (requests[num_fields:], False)):
            if not part:
                continue
            kept = f"{speed}-fields" if has_field else str(speed)
            for item in decode_resuming(
                model,
                part,
                replace(decoding, tokens_per_step=speed),
                folder=None if folder is None else folder / kept,
                seed=seed,
                batch_size=batch_size,
                record_field=has_field,
            ):
                found[item.trajectory.id] = item
                num_done += 1
                if progress is not None:
                    progress(num_done, num_total)
        decoded = [found[request.id] for request in requests]
        answered = [item.trajectory for item in decoded]
        for item in decoded:
            if item.field_KN is not None:
                fields[item.trajectory.id] = np.asarray(item.field_KN, dtype=np.float32)
        if is_first:
            trajectories = answered
        # Judged together, so that a slow checker works side by side.
        verdicts = checker.judge_many(
            Response.of(t, mask_id=model.ids.mask, end_ids=model.ids.eos) for t in answered
        )
        for trajectory, verdict in zip(answered, verdicts, strict=True):
            records.append(
                _record(
                    model,
                    trajectory,
                    verdict,
                    name=name,
                    role=role,
                    speed=speed,
                    metrics=extra_metrics or {},
                    texts=texts,
                )
            )
    with_field = [t for t in trajectories if t.id in fields]
    lengths = [length_to_end(t.response_ids_N, model.ids.eos) for t in with_field]
    curve = tds([fields[t.id] for t in with_field], lengths=lengths) if with_field else None
    return EvaluationResult(records=records, trajectories=trajectories, fields=fields, tds=curve)


def slot_texts(
    model: MaskedDiffusionModel, trajectory: Trajectory, *, cache: dict[int, str] | None = None
) -> list[str]:
    """The text of each slot alone, "" for end, filler, mask and other special tokens.

    cache: token id -> text, kept between calls.
    """
    cache = {} if cache is None else cache
    for token in set(trajectory.response_ids_N.tolist()) - cache.keys():
        cache[token] = str(model.tokenizer.decode([token], skip_special_tokens=True))
    return [cache[token] for token in trajectory.response_ids_N.tolist()]


def _record(
    model: MaskedDiffusionModel,
    trajectory: Trajectory,
    verdict: Verdict,
    *,
    name: str,
    role: Role,
    speed: int,
    metrics: Mapping[str, Metric],
    texts: dict[int, str],
) -> EvaluationRecord:
    end_ids = model.ids.eos
    numbers: dict[str, float | None] = {}
    if metrics:
        slots = [t or NO_TEXT for t in slot_texts(model, trajectory, cache=texts)]
        arguments: dict[str, Any] = {
            "row": row_of(trajectory),
            "slots": slots,
            "step": trajectory.step_N.tolist(),
        }
        for label, metric in metrics.items():
            try:
                value = metric(**arguments)
                number = math.nan if value is None else float(value)
            except Exception as error:
                raise DataError(
                    f"metric {label!r} failed on {trajectory.id!r} of evaluation set {name!r}: "
                    f"{type(error).__name__}: {error}; mend the function or drop the metric"
                ) from error
            numbers[label] = None if math.isnan(number) else number
    return EvaluationRecord(
        set=name,
        role=role,
        id=trajectory.id,
        tokens_per_step=speed,
        correct=int(verdict.is_accepted),
        reason=verdict.reason,
        detail=verdict.detail,
        num_forwards=trajectory.num_forwards,
        length=length_to_end(trajectory.response_ids_N, end_ids),
        tokens_per_forward=trajectory.num_revealed / max(trajectory.num_forwards, 1),
        end_step=end_step(trajectory.step_N, trajectory.response_ids_N, end_ids=end_ids),
        response=trajectory.response,
        metrics=numbers,
    )
