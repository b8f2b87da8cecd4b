"""Evaluate sets: decode what is not on disk yet, judge every response, make the records.

Legend: K steps (model calls), N response slots.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabom.core.errors import DataError
from tabom.decoding.decoder import Decoder
from tabom.diagnostics.curves import end_step
from tabom.diagnostics.tds import TdsCurve, tds
from tabom.evaluation.manifest import evaluation_manifest
from tabom.evaluation.records import EvaluationRecord, Pace
from tabom.evaluation.responses import Responses
from tabom.evaluation.sets import EvaluationSet
from tabom.models.contract import MaskedDiffusionModel
from tabom.trajectory.order import length_to_end
from tabom.trajectory.record import Trajectory
from tabom.trajectory.verdicts import Verdict, VerdictLog
from tabom.verify.checker import Response, row_of

NO_TEXT = "_"

Progress = Callable[..., None]  # (done, total), and a note where there is one


@dataclass(frozen=True, kw_only=True)
class SetResult:
    """What one set gave.

    records: one per question and pace, in that order of paces and questions.
    trajectories: at the first pace, in the order of the questions.
    fields: request id -> float32 `[K, N]`, predictive entropy (nats) before each step, NaN where a
        slot was no candidate; of the first questions, at the first pace.
    totals: published numbers and mean costs, by pace. manifests: how it was evaluated, by pace.
    questions: the documents' own texts, for the held-out check; empty where a recipe sees to it.
    """

    name: str
    questions: tuple[str, ...] = ()
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


def evaluate(
    model: MaskedDiffusionModel,
    sets: Sequence[EvaluationSet],
    *,
    seed: int,
    batch_size: int,
    num_fields: int = 64,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> list[SetResult]:
    """Answer every question of every set at every pace, and judge the answers.

    seed: key of all draws. num_fields: questions of a set (the first ones) whose entropies at every
        step are kept, at the first pace.
    folder: where each response is kept as soon as it is decoded, and each verdict as it comes; what
        is there already (of a call that was stopped, with equal model, sets and options) is not
        done again. The caller removes it. None: nothing is kept.
    progress: called with (done, total) responses, and a note while they are judged.
    Raises: DataError if a metric fails; what decoding and judging raise.
    """
    total = sum(len(one.questions) * len(one.decodings) for one in sets)
    num_done, results = 0, []
    for number, one in enumerate(sets):
        results.append(result := SetResult(name=one.name, questions=one.texts()))
        for decoding in one.decodings:
            pace, is_first = Pace.of(decoding), decoding is one.decodings[0]
            here = None if folder is None else folder / str(number) / str(pace)
            cut = min(num_fields, len(one.questions)) if is_first else 0
            decoder = Decoder(model, decoding, seed=seed, batch_size=batch_size)
            with Responses(here) as kept:
                num_done += len(kept.found)
                # In two parts, since a field is K x N numbers. Draws are keyed: no answer changes.
                for part, has_field in ((one.questions[:cut], True), (one.questions[cut:], False)):
                    for group in kept.missing(part, decoder):
                        for item in decoder.decode(group, record_field=has_field):
                            num_done += item.trajectory.id not in kept.found
                            kept.add(item)
                            if progress is not None:
                                progress(num_done, total)
            note = None if progress is None else partial(progress, num_done, total)
            trajectories = [kept.found[question.id].trajectory for question in one.questions]
            records = judged(model, one, trajectories, pace=pace, folder=here, note=note)
            result.records.extend(records)
            own_costs = [costs_of(trajectory, model.ids.eos) for trajectory in trajectories]
            result.totals[str(pace)] = {**one.totals(records), **mean_costs(own_costs)}
            result.manifests[str(pace)] = evaluation_manifest(
                model, decoding, batch_size=batch_size, seed=seed, facts=one.facts
            )
            if is_first:
                result.trajectories.extend(trajectories)
                for question in one.questions[:cut]:
                    field_KN = kept.found[question.id].field_KN
                    result.fields[question.id] = np.asarray(field_KN, dtype=np.float32)
    return results


def judged(
    model: MaskedDiffusionModel,
    one: EvaluationSet,
    trajectories: Sequence[Trajectory],
    *,
    pace: Pace,
    folder: Path | None = None,
    note: Callable[[str], None] | None = None,
) -> list[EvaluationRecord]:
    """The records of a set's responses at one pace, in the order of its questions.

    folder: where verdicts are kept as they come; those that are there are not asked for again.
    note: told how far judging is.
    """
    mask_id, end_ids = model.ids.mask, model.ids.eos
    texts = [one.text_of(model, trajectory) for trajectory in trajectories]
    responses = {
        t.id: replace(Response.of(t, mask_id=mask_id, end_ids=end_ids), text=text)
        for t, text in zip(trajectories, texts, strict=True)
    }
    verdicts = verdicts_of(one, responses, folder=folder, note=note)
    first, *others = verdicts.values()
    names = list(verdicts)[1:]
    cache: dict[int, str] = {}
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
                **{n: float(v[t.id].is_accepted) for n, v in zip(names, others, strict=True)},
                **one.numbers_of(t, text),
                **_measured(model, one, t, cache=cache),
            },
            **costs_of(t, end_ids),
        )
        for question, t, text in zip(one.questions, trajectories, texts, strict=True)
    ]


def verdicts_of(
    one: EvaluationSet,
    responses: Mapping[str, Response],
    *,
    folder: Path | None = None,
    note: Callable[[str], None] | None = None,
) -> dict[str, dict[str, Verdict]]:
    """What each judge of a set says of each response, by the name of its number, then by id.

    folder, note: see `judged`.
    """
    verdicts: dict[str, dict[str, Verdict]] = {}
    for number, (name, checker) in enumerate(one.judges.items()):
        with ExitStack() as stack:
            log = None
            if folder is not None:
                log = VerdictLog(folder / f"verdicts-{number}.jsonl")
                stack.callback(log.close)
            known = verdicts[name] = {} if log is None else log.verdicts
            asked = [id for id in responses if id not in known]
            found = checker.judge_many(responses[id] for id in asked)
            for done, (id, verdict) in enumerate(zip(asked, found, strict=True), start=1):
                if log is not None:
                    log.append(id, verdict)
                known[id] = verdict
                if note is not None:
                    note(f"judging {one.name}: {done} of {len(asked)}")
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


def _measured(
    model: MaskedDiffusionModel,
    one: EvaluationSet,
    trajectory: Trajectory,
    *,
    cache: dict[int, str],
) -> dict[str, float | None]:
    """The set's further metrics of one response."""
    if not one.metrics:
        return {}
    arguments: dict[str, Any] = {
        "row": row_of(trajectory),
        "slots": [text or NO_TEXT for text in slot_texts(model, trajectory, cache=cache)],
        "step": trajectory.step_N.tolist(),
    }
    numbers: dict[str, float | None] = {}
    for label, metric in one.metrics.items():
        try:
            value = metric(**arguments)
            number = math.nan if value is None else float(value)
        except Exception as error:
            raise DataError(
                f"metric {label!r} failed on {trajectory.id!r} of evaluation set {one.name!r}: "
                f"{type(error).__name__}: {error}; mend the function or drop the metric"
            ) from error
        numbers[label] = None if math.isnan(number) else number
    return numbers
