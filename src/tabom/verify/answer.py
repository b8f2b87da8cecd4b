r"""Where a response says its answer: the last `\boxed{...}`, `####`, or "the answer is".

The first of these forms that occurs decides: a response that boxes something else has given that
as its answer.
"""

import re
from dataclasses import dataclass

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_HASHES = re.compile(r"####")
_PHRASE = re.compile(r"\banswer is\b", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """form: boxed, #### or the answer is. text: what it says, without the form.

    is_closed: False where more may have followed: a box without its brace, or a sentence that
    reaches the end of the text.
    """

    form: str
    text: str
    is_closed: bool


def find_answer(text: str) -> Answer | None:
    """The answer of a response, in the first form that occurs; None if it is in none of them."""
    box = _last_box(text)
    if box is not None:
        return Answer("boxed", *box)
    for form, marker in (("####", _HASHES), ("the answer is", _PHRASE)):
        matches = list(marker.finditer(text))
        if matches:
            rest = text[matches[-1].end() :]
            sentence = re.split(r"\.\s|\n|,? (?:because|since)\b", rest.lstrip(" :*\n"))[0]
            return Answer(form, sentence, not rest.rstrip().endswith(sentence.rstrip()))
    return None


def _last_box(text: str) -> tuple[str, bool] | None:
    """The content of the last box (braces may nest), and whether it is closed."""
    start = None
    for match in _BOX.finditer(text):
        start = match.end()
    if start is None:
        return None
    depth = 1
    for i in range(start, len(text)):
        if text[i] in "{}" and text[i - 1] != "\\":
            depth += 1 if text[i] == "{" else -1
        if depth == 0:
            return text[start:i], True
    return text[start:], False
