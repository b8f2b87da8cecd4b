"""Evaluate sets: decode what is not on disk yet, judge every response, make the records.

Legend: K steps (model calls), N response slots.
"""

import math
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabom.core.chunks import Chunks, cut
from tabom.core.errors import DataError
from tabom.core.place import local_folder
from tabom.core.preempt import Preemption
from tabom.decoding.decoder import Decoder
from tabom.diagnostics.curves import end_step
from tabom.diagnostics.tds import TdsCurve, tds
from tabom.evaluation.manifest import evaluation_manifest
from tabom.evaluation.records import EvaluationRecord, Pace
from tabom.evaluation.responses import Responses
from tabom.evaluation.sets import EvaluationSet, response_text
from tabom.models.contract import MaskedDiffusionModel
from tabom.trajectory.order import length_to_end
from tabom.trajectory.record import Trajectory
from tabom.trajectory.verdicts import Verdict, VerdictLog
from tabom.verify.checker import Response, row_of

NO_TEXT = "_"

Progress = Callable[..., object]  # (done, total), and a note where there is one


@dataclass(frozen=True, kw_only=True)
class SetResult:
    """What one set gave.

    records: one per question and pace, in that order of paces and questions.
    trajectories: at the first pace, in the order of the questions.
    fields: request id -> float32 `[K, N]`, predictive entropy (nats) before each step, NaN where a
        slot was no candidate; of the first questions, at the first pace.
    totals: published numbers and mean costs, by pace. manifests: how it was evaluated, by pace.
    """

    name: str
    records: list[EvaluationRecord] = field(default_factory=list)
    trajectories: list[Trajectory] = field(default_factory=list)
    fields: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    totals: dict[str, dict[str, Any]] = field(default_factory=dict)
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)

    def tds(self, end_ids: Sequence[int]) -> TdsCurve | None:
        """The timing curve over the fields; None if there are none."""
        own = [t for t in self.trajectories if t.id in self.fields]
        lengths = [length_to_end(t.response_ids_N, end_ids) for t in own]
        return tds([self.fields[t.id] for t in own], lengths=lengths) if own else None


def answer_chunks(
    model: MaskedDiffusionModel,
    sets: Sequence[EvaluationSet],
    chunks: Chunks,
    *,
    seed: int,
    batch_size: int,
    num_fields: int = 64,
) -> None:
    """Answer questions as one of several workers, chunk by chunk, until none is left to take.

    The answers are then in `chunks.folder`, where `evaluate` with equal options finds them.
    chunks: begun, see `cut_questions`.
    """
    with Preemption(signal.SIGTERM) as stop:
        for attempt in chunks.attempts(stop):
            with attempt:
                name, start, end, group = attempt.chunk
                number, _, pace = group.partition("/")
                one = sets[int(number)]
                decoding = next(d for d in one.decodings if str(Pace.of(d)) == pace)
                wanted = num_fields if decoding is one.decodings[0] and start < num_fields else 0
                decoder = Decoder(model, decoding, seed=seed, batch_size=batch_size)
                kept = Responses(chunks.folder / group / name)
                questions = one.questions[start:end]
                for part, has_field in kept.missing(questions, decoder, num_fields=wanted):
                    for item in decoder.decode(part, record_field=has_field):
                        kept.add(item)
                        attempt.rows = len(kept.found)
                        if stop.is_asked and not item.num_following:
                            stop.stop()
                chunks.put(attempt, b"{}")


def cut_questions(
    sets: Sequence[EvaluationSet], *, size: int, batch_size: int, num_fields: int
) -> dict[str, list[tuple[int, int]]]:
    """The chunks of an evaluation: ranges of questions by set and pace, in whole batches.

    Those whose fields are kept are apart, so that a published function sees the same batches as
    in one process.
    """
    ranges = {}
    for number, one in enumerate(sets):
        for decoding in one.decodings:
            first = min(num_fields, len(one.questions)) if decoding is one.decodings[0] else 0
            rest = cut(len(one.questions) - first, size, batch=batch_size)
            ranges[f"{number}/{Pace.of(decoding)}"] = [
                *cut(first, size, batch=batch_size),
                *((first + start, first + end) for start, end in rest),
            ]
    return ranges


def evaluate(
    model: MaskedDiffusionModel,
    sets: Sequence[EvaluationSet],
    *,
    seed: int,
    batch_size: int,
    folder: Path,
    num_fields: int = 64,
    progress: Progress = lambda *_: None,
) -> list[SetResult]:
    """Answer every question of every set at every pace, and judge the answers.

    seed: key of all draws. num_fields: questions of a set (the first ones) whose entropies at every
        step are kept, at the first pace.
    folder: where each response is kept as soon as it is decoded, and each verdict as it comes; what
        is there already (of a call that was stopped, with equal model, sets and options) is not
        done again. The caller removes it.
    progress: called with (done, total) responses, and a note while they are judged.
    Raises: DataError if a metric fails; what decoding and judging raise.
    """
    total = sum(len(one.questions) * len(one.decodings) for one in sets)
    num_before, results = 0, []
    for number, one in enumerate(sets):
        results.append(result := SetResult(name=one.name))
        for decoding in one.decodings:
            pace, is_first = Pace.of(decoding), decoding is one.decodings[0]
            # By number, since a set's name may hold what no folder's may.
            here = folder / str(number) / str(pace)
            decoder = Decoder(model, decoding, seed=seed, batch_size=batch_size)
            kept = Responses(here)
            for group, has_field in kept.missing(
                one.questions, decoder, num_fields=num_fields if is_first else 0
            ):
                for item in decoder.decode(group, record_field=has_field):
                    kept.add(item)
                    progress(num_before + len(kept.found), total)
            num_before += len(one.questions)
            # They came as they finished; from here on all is in the order of the questions.
            trajectories = [kept.found[question.id].trajectory for question in one.questions]
            note = partial(progress, num_before, total)
            records = judged(model, one, trajectories, pace=pace, folder=here, note=note)
            result.records.extend(records)
            costs = mean_costs([vars(record) for record in records])
            result.totals[str(pace)] = {**one.totals(records), **costs}
            result.manifests[str(pace)] = evaluation_manifest(
                model, decoding, batch_size=batch_size, seed=seed, facts=one.facts
            )
            if is_first:
                result.trajectories.extend(trajectories)
                for question in one.questions[:num_fields]:
                    field_KN = kept.found[question.id].field_KN
                    result.fields[question.id] = np.asarray(field_KN, dtype=np.float32)
    return results


def judged(
    model: MaskedDiffusionModel,
    one: EvaluationSet,
    trajectories: Sequence[Trajectory],
    *,
    pace: Pace,
    folder: Path,
    note: Callable[[str], object],
) -> list[EvaluationRecord]:
    """The records of a set's responses at one pace, in the order of its questions.

    folder: where verdicts are kept as they come; those that are there are not asked for again.
    note: told how far judging is.
    """
    mask_id, end_ids = model.ids.mask, model.ids.eos
    texts = [
        response_text(model, t.response_ids_N.tolist(), until=one.benchmark.until, cut=one.cut)
        for t in trajectories
    ]
    responses = {
        t.id: replace(Response.of(t, mask_id=mask_id, end_ids=end_ids), text=text)
        for t, text in zip(trajectories, texts, strict=True)
    }
    # The first judge decides what is correct; the others' numbers stand beside it.
    first, *others = _verdicts(one, responses, folder, note)
    return [
        EvaluationRecord(
            set=one.name,
            role=one.role,
            id=question.document,
            sample=question.sample,
            tokens_per_step=pace.tokens_per_step,
            schedule=pace.schedule,
            correct=int(first[t.id].is_accepted),
            reason=first[t.id].reason,
            detail=first[t.id].detail,
            response=text,
            trajectory=t.id,
            metrics={
                **{
                    name: float(verdicts[t.id].is_accepted)
                    for name, verdicts in zip(list(one.judges)[1:], others, strict=True)
                },
                **one.benchmark.numbers(t.row, text),
                **_measured(model, one, t),
            },
            **costs_of(t, end_ids),
        )
        for question, t, text in zip(one.questions, trajectories, texts, strict=True)
    ]


def _verdicts(
    one: EvaluationSet,
    responses: Mapping[str, Response],
    folder: Path,
    note: Callable[[str], object],
) -> list[dict[str, Verdict]]:
    """What each judge of a set says of each response, by its id. folder, note: see `judged`."""
    verdicts = []
    for number, checker in enumerate(one.judges.values()):
        with closing(VerdictLog(local_folder(folder) / f"verdicts-{number}.jsonl")) as log:
            # Judging programs may take hours in all, so none is judged twice.
            asked = [id for id in responses if id not in log.verdicts]
            found = checker.judge_many(responses[id] for id in asked)
            for done, (id, verdict) in enumerate(zip(asked, found, strict=True), start=1):
                log.append(id, verdict)
                note(f"judging {one.name}: {done} of {len(asked)}")
            verdicts.append(log.verdicts)
    return verdicts


def costs_of(trajectory: Trajectory, end_ids: Sequence[int]) -> dict[str, Any]:
    """What a response cost and how long it is, as a record has it."""
    ids = trajectory.response_ids_N
    return {
        "num_forwards": trajectory.num_forwards,
        "length": length_to_end(ids, end_ids),
        "tokens_per_forward": trajectory.num_revealed / max(trajectory.num_forwards, 1),
        "end_step": end_step(trajectory.step_N, ids, end_ids=end_ids),
    }


def mean_costs(costs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over the costs of some responses; `end_step` is of those that ended."""
    names = ("num_forwards", "tokens_per_forward", "length")
    ended = [each["end_step"] for each in costs if each["end_step"] >= 0]
    return {
        "num_responses": len(costs),
        "num_ended": len(ended),
        **{name: float(np.mean([each[name] for each in costs])) for name in names},
        "end_step": float(np.mean(ended)) if ended else -1.0,
    }


def slot_texts(model: MaskedDiffusionModel, trajectory: Trajectory) -> list[str]:
    """The text of each slot alone, "" for end, filler, mask and other special tokens."""
    ids = trajectory.response_ids_N.tolist()
    # Many slots hold the same filler, and asking a tokenizer is slow.
    text_of = {i: str(model.tokenizer.decode([i], skip_special_tokens=True)) for i in set(ids)}
    return [text_of[i] for i in ids]


def _measured(
    model: MaskedDiffusionModel, one: EvaluationSet, trajectory: Trajectory
) -> dict[str, float | None]:
    """The set's further metrics of one response."""
    if not one.metrics:
        return {}
    arguments: dict[str, Any] = {
        "row": row_of(trajectory),
        "slots": [text or NO_TEXT for text in slot_texts(model, trajectory)],
        "step": trajectory.step_N.tolist(),
    }
    numbers: dict[str, float | None] = {}
    for label, metric in one.metrics.items():
        try:
            # It is the user's own function, which may raise anything.
            value = metric(**arguments)
            number = math.nan if value is None else float(value)
        except Exception as error:
            raise DataError(
                f"metric {label!r} failed on {trajectory.id!r} of evaluation set {one.name!r}: "
                f"{type(error).__name__}: {error}; mend the function or drop the metric"
            ) from error
        numbers[label] = None if math.isnan(number) else number
    return numbers
