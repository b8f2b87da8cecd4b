r"""Where a response says its answer: the last `\boxed{...}`, `####`, or "the answer is".

The first of these forms that occurs decides: a response that boxes something else has given that
as its answer. Every search is linear in the text.
"""

import re
from dataclasses import dataclass

from tabom.verify.words import HEDGES, NEAR, SCALES, hedges_in

_BOX = re.compile(r"\\(?:boxed|fbox)\s{0,9}\{")
_HASHES = re.compile(r"####(?!\s{0,9}[*]{0,2}(?:[Ff]inal\s)?[Aa]nswer)")
_PHRASE = re.compile(
    r"\banswer(?:\sto\s[^.\n]{1,80}?)?\s(?:is|equals|=)(?![\w'’])(?:\s(?:as\sfollows|found\sto\sbe))?"
    r"|\banswer(?:\*\*|__)?\s?:|^(?:\#{1,6}\s|\*\*|__)[*]{0,2}(?:final\s)?answer\b[*:_]{0,3}[ ]*$",
    re.IGNORECASE | re.MULTILINE,
)
# What ends a sentence: a stop before a space, a line's end that no small letter follows. "5!" is a
# factorial, and "5?" is asked.
_STOP = re.compile(r"(?:(?<!\\)\.|(?<![\\\d)}\]])[!?])(?=[\s\"”')*]|$)|\n(?!\s{0,9}[a-z])")
# What ends the answer inside its sentence: words that begin a reason or a remark.
_OPENERS = (
    "which|since|because|so|as|where|done|therefore|hence|thus|given|after|when|and we are done"
)
_END = re.compile(rf"\s?[,;:–—-]\s(?:{_OPENERS})\b|;(?=\s|$)|\s(?:because|since)\b", re.IGNORECASE)
_EQUAL = re.compile(r"\b(?:equal to|equals|be|exactly|just|really|quite|the|a|an)\s*$")
_FILLER = re.compile(r"(?:\$+|\\\(|\\\[|\\left|[({\[*\s]|\\\\[,;! ])$")


_NEVER_BEFORE = (HEDGES | NEAR | {"negative", "minus", "twice", "half"}) - {
    "to", "rather", "maximum", "minimum", "all", "any", "that", "if", "other",
}  # fmt: skip
_NEVER_BEHIND = ((HEDGES | SCALES) - {"degrees", "squared", "and", "one", "two", "st", "am", "pm",
    "percent", "radians", "remaining", "remainder", "square", "sin", "cos", "base", "by", "times",
    "about", "may", "least", "most", "even", "odd", "digit", "digits"})  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """form: boxed, #### or the answer is. text: what it says, without the form.

    is_closed: False where more may have followed: a box without its brace, or a sentence that
    reaches the end of the text. hedges: words around it that take the answer back.
    """

    form: str
    text: str
    is_closed: bool
    hedges: tuple[str, ...] = ()


def find_answer(text: str) -> Answer | None:
    """The answer of a response, in the first form that occurs; None if it is in none of them."""
    box = _last_box(text)
    if box is not None:
        start, end, is_closed = box
        hedges = _beside(text[:start], text[end + 1 :]) if is_closed else ()
        return Answer("boxed", text[_BOX.match(text, start).end() : end], is_closed, hedges)  # type: ignore[union-attr]
    hashes = _last(_HASHES, text)
    if hashes is not None:
        line, _, rest = text[hashes.end() :].lstrip(" :*").partition("\n")
        line = _END.split(line, maxsplit=1)[0].strip()
        return Answer("####", line.rstrip("."), bool(rest.strip()) or line.endswith("."))
    phrase = _last(_PHRASE, text)
    if phrase is None:
        return None
    after = text[phrase.end() :].lstrip(" :*_\n\t")
    stop = _STOP.search(after)
    sentence = after if stop is None else after[: stop.start()]
    is_closed = stop is not None and bool(after[stop.end() :].strip())
    answer = _END.split(sentence, maxsplit=1)[0]
    before = text[max(0, phrase.start() - 300) : phrase.start()]
    # "To find it" and "which of 3 or 4" are said before an answer, and take nothing of it back.
    lead = re.split(r"[.!?;:]\s|\n", before)[-1]
    hedges = hedges_in(re.sub(r"(?i)\bto\b", " ", lead) + " " + _without_formulas(sentence))
    return Answer("the answer is", answer, is_closed or len(answer) < len(sentence), hedges)


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for found in pattern.finditer(text):  # noqa: B007
        pass
    return found


def _without_formulas(sentence: str) -> str:
    r"""The words of a sentence: `<` and \to inside a formula are mathematics."""
    sentence = re.sub(r"(?i)\bequal to\b|\$[^$]*\$|\\\(.*?\\\)|\\\[.*?\\\]", " ", sentence)
    return re.sub(r"\\[A-Za-z]+|[<>≤≥±≠]|\S~", " ", sentence)


def _last_box(text: str) -> tuple[int, int, bool] | None:
    """Where the last box begins and its content ends (braces may nest); is it closed."""
    box = _last(_BOX, text)
    if box is None:
        return None
    depth = 1
    for i in range(box.end(), len(text)):
        if text[i] in "{}" and text[i - 1] != "\\":
            depth += 1 if text[i] == "{" else -1
        if depth == 0:
            return box.start(), i, True
    return box.start(), len(text), False


def _beside(before: str, after: str) -> tuple[str, ...]:
    """The word directly before or behind a box that makes it no answer, or another number."""
    before = before[-120:]
    while match := (_FILLER.search(before) or _EQUAL.search(before)):
        before = before[: match.start()]
    word = re.search(r"([A-Za-z]+(?:['’]t)?)$", before)
    if word is not None:
        name = word[1].lower().replace("’", "'")
        is_range = name == "to" and re.search(r"[\d}$)]\s*to$", before, re.IGNORECASE)
        if name in _NEVER_BEFORE or is_range or name.endswith("n't"):
            return (name,)
    follows = re.match(r"[\s}]*(\\times|\\cdot|[+/^!×·])", after[:20])
    if follows is None:
        follows = re.match(r"(?:\$+|\\[)\]]|[\s}\])*.]|\\[,;! ])*([A-Za-z]+)", after[:40])
        if follows is None or "." in follows[0] or follows[1].lower() not in _NEVER_BEHIND:
            return ()
    return (follows[1],)
