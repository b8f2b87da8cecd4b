"""An evaluation set: what is asked, how it is decoded, and who judges the answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tabom.core.errors import ConfigError, DataError
from tabom.decoding.config import DecodingConfig
from tabom.evaluation.benchmark import Benchmark, Question
from tabom.evaluation.records import EvaluationRecord
from tabom.evaluation.settings import Cut, Role
from tabom.models.contract import MaskedDiffusionModel
from tabom.verify.checker import Checker

# `f(*, row, slots, step)`: the prompt row; the text of each slot, "_" for a slot without text (end,
# filler, mask); the step of each slot. None: does not apply.
Metric = Callable[..., float | bool | None]


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """Documents, prompt, budget and judge of one set, ready to be decoded by one model.

    decodings: settings at each pace. judges: by the name of their number; the first decides what is
    correct, the others' numbers are kept beside it. metrics: further numbers of a response.
    texts: the documents' own, without the instructions around them: for the held-out check.
    benchmark: where the set is a published one; its numbers and ends of responses. cut: where a
    response ends (see `response_text`). facts: what identifies documents and judge, for the
    evaluation manifest.
    """

    name: str
    role: Role
    questions: Sequence[Question]
    decodings: Sequence[DecodingConfig]
    judges: Mapping[str, Checker]
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    texts: Sequence[str] = ()
    benchmark: Benchmark = field(default_factory=Benchmark)
    cut: Cut = "all_ends"
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        different = len({question.id for question in self.questions})
        if not 0 < different == len(self.questions):
            raise DataError(
                f"evaluation set {self.name!r}: {len(self.questions)} questions have {different} "
                "different ids; expected at least one question, and one id for each"
            )
        for decoding in self.decodings:
            require_draws(self.questions, decoding, what=f"evaluation set {self.name!r}")

    def totals(self, records: Sequence[EvaluationRecord]) -> dict[str, float]:
        """The published numbers of all responses at one pace: means of every judge, and more."""
        first, *others = self.judges
        totals = {first: float(np.mean([record.correct for record in records]))}
        totals |= {n: float(np.mean([record.metrics[n] for record in records])) for n in others}
        return totals | self.benchmark.totals(records)


def require_draws(questions: Sequence[Question], decoding: DecodingConfig, *, what: str) -> None:
    """Raise ConfigError where several samples are asked for, and all would be the same."""
    if any(question.sample for question in questions) and not decoding.draws_tokens:
        raise ConfigError(
            f"{what} asks for several samples of one document, which would all be the same where "
            "no token is drawn; give a temperature above 0 without greedy_tokens, or ask for one"
        )


def response_text(
    model: MaskedDiffusionModel, response_ids: Sequence[int], *, until: Sequence[str], cut: Cut
) -> str:
    """The text of a response before the earliest of its ends.

    response_ids: all slots. until: texts that end a response; they are not part of it.
    cut: all_ends cuts at the first end token of any kind, then leaves special tokens out; release
        keeps every token as text, cuts at the tokenizer's end-of-text alone, so that an
        end-of-turn token stays in the text unless `until` names it.
    """
    if cut == "all_ends":
        text = model.decode_response(list(response_ids))
    else:
        tokenizer = model.tokenizer
        text = str(tokenizer.decode(list(response_ids), skip_special_tokens=False))
        if tokenizer.eos_token:
            text = text.split(tokenizer.eos_token)[0]
    for end in until:
        if end:
            text = text.split(end)[0]
    return text
