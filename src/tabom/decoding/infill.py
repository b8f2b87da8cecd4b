"""An answer with gaps: what is written is given, what stands between is decoded."""

import re
from typing import TYPE_CHECKING

from tabom.core.errors import DataError

if TYPE_CHECKING:
    from tabom.models.contract import MaskedDiffusionModel

GAP = re.compile(r"<mask(?::([0-9]+))?>")


def fixed_slots(
    model: "MaskedDiffusionModel", answer: str, *, max_new_tokens: int
) -> tuple[dict[int, int], int]:
    """The given tokens of an answer by slot, for `DecodeRequest.fixed`, and the slots it needs.

    answer: text in which `<mask:8>` stands for eight tokens to be decoded; `<mask>`, at the end
        alone, for as many as there are. Pieces of text are tokenized one by one. Without an open
        end the answer is closed by the end token, and the slots behind it hold filler.
    Raises: DataError for an answer without a gap, with an open gap that is not the last, or that
        does not fit into max_new_tokens.
    """
    fixed: dict[int, int] = {}
    place = start = 0
    is_open = False
    for gap in GAP.finditer(answer):
        if is_open:
            raise DataError(
                "<mask> without a number stands at the end alone; give it one: <mask:8>"
            )
        for token in model.encode_text(answer[start : gap.start()]):
            fixed[place] = token
            place += 1
        start = gap.end()
        is_open = gap[1] is None
        if not is_open and int(gap[1]) == 0:
            raise DataError("<mask:0> is no gap; leave it out, or give it tokens")
        place += 0 if is_open else int(gap[1])
    if not start:
        raise DataError(f"{answer[:60]!r} has no gap; write <mask:8> where 8 tokens are missing")
    rest = model.encode_text(answer[start:])
    if is_open and rest:
        raise DataError("<mask> without a number stands at the end alone; give it one: <mask:8>")
    for token in rest:
        fixed[place] = token
        place += 1
    needed = place + 1  # the end token, or one slot at least that is open
    if needed > max_new_tokens:
        raise DataError(
            f"the answer needs {needed} slots, and max_new_tokens is {max_new_tokens}; raise it"
        )
    if is_open:
        return fixed, max_new_tokens
    fixed[place] = model.ids.end
    fixed |= dict.fromkeys(range(place + 1, max_new_tokens), model.ids.filler)
    return fixed, needed
