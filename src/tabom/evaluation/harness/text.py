"""From the slots of a response to the text that a task judges."""

from collections.abc import Sequence
from typing import Any

from tabom.evaluation.harness.options import Cut
from tabom.models.contract import MaskedDiffusionModel


def response_text(
    model: MaskedDiffusionModel, response_ids: Sequence[int], *, until: Sequence[str], cut: Cut
) -> str:
    """The text of a response, ended as the harness expects.

    response_ids: all slots. until: texts that end a response; they are not part of it.
    cut: all_ends cuts at the first end token of any kind, then leaves special tokens out; release
        keeps every token as text, cuts at the tokenizer's end-of-text alone, so that an
        end-of-turn token stays in the text unless `until` names it.
    Returns: the text before the earliest of the ends.
    """
    if cut == "all_ends":
        text = model.decode_response(list(response_ids))
    else:
        tokenizer = model.tokenizer
        text = str(tokenizer.decode(list(response_ids), skip_special_tokens=False))
        if tokenizer.eos_token:
            text = text.split(tokenizer.eos_token)[0]
    return cut_at(text, until)


def cut_at(text: str, until: Sequence[str]) -> str:
    """The text before the first occurrence of any of `until`; empty ones are passed over."""
    for end in until:
        if end:
            text = text.split(end)[0]
    return text


def as_list(until: Any) -> list[str]:
    """A task's `until`: one text, several, or none."""
    if until is None:
        return []
    return [until] if isinstance(until, str) else [str(end) for end in until]
