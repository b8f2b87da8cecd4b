r"""The light checker for answers that are one plain number, as in GSM8K.

The answer is looked for in this order: the last `\boxed{...}`, the last `####`, the last
"the answer is", the last number of the text. The first form that occurs decides: a response that
boxes something else has given that as its answer. It is read whole: a number, and what our lists
know beside one. Algebra, sets and intervals are beyond it: an answer that is no plain number is
wrong, a reference that is none is unverifiable.
"""

import re

from tabom.trajectory.verdicts import Verdict
from tabom.verify.answer import find_answer
from tabom.verify.checker import Response
from tabom.verify.quantity import Quantity, plain_text, read_quantity
from tabom.verify.words import NEAR, SCALES, hedges_in, words_of

_IN_PASSING = re.compile(r"(?<![\w.,:/^<>!])[-+]?[$€£¥₹]?-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
_WORD = r"°?\s?[^\W\d_]+(?:\^\{?[23]\}?|[²³])?"
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n")
_COMPUTATION = "0123456789-.,+*/()×÷ "
_LONGEST = 1000  # characters of a sentence or an answer that are read
# Of the words for other numbers those that, in prose, may stand anywhere behind a number.
_NO_SCALE = {
    "percent", "pct", "degrees", "radians", "and", "one", "two", "remaining", "remainder", "by",
    "base", "square", "digits", "third",
}  # fmt: skip
_COMPARISONS = ("to", "than", "least", "most", "or", "about", "around", "may")
_CALCULATION = re.compile(r"<<[^<>]{0,200}>>")  # GSM8K writes them into its solutions
_PART_OF = re.compile(
    r"(?:%|\b(?:percent|half|third|quarter|out|times|by|per)) ?(?:of ?)?[$€£¥₹]?$", re.I
)


def judge_number(given: Response) -> Verdict:
    """The verdict on a response against the reference's final number.

    Without an end token, a number that touches the end of the text may have lost digits, and "the
    last number" is only the place where the canvas ended: neither counts, it is truncated.
    """
    wanted = reference_quantity(given.reference)
    if wanted is None:
        if not given.reference.strip():
            return Verdict("unverifiable", "the prompt has no reference")
        return Verdict("unverifiable", f"reference {given.reference[-40:]!r} is no plain number")
    if not given.text.strip():
        return Verdict("no_answer", "the response is empty")
    known = words_of(str(given.row.get("prompt") or given.row.get("question") or ""))
    found = find_answer(given.text)
    if found is None:
        return _judge_last(given, wanted)
    if not given.ended and not found.is_closed:
        return Verdict("truncated", "no end token before an answer was given in full")
    if found.form == "boxed" and not found.is_closed:
        return Verdict("wrong", "the answer (boxed) is not closed")
    if found.hedges:
        return Verdict("wrong", f"{found.form}: {found.hedges[0]!r} takes it back")
    return _compare(found.form, read_quantity(found.text, known), wanted)


def reference_quantity(reference: str) -> Quantity | None:
    """What a reference says, boxed, after `####` or as the whole text; None if it is no number."""
    found = find_answer(reference)
    if found is not None and found.form in ("boxed", "####"):
        return read_quantity(found.text) if found.is_closed or found.form == "####" else None
    return read_quantity(reference)


def _compare(form: str, answer: Quantity | None, wanted: Quantity) -> Verdict:
    if answer is None:
        return Verdict("wrong", f"the answer ({form}) is no plain number")
    if not answer.equals(wanted):
        return Verdict("wrong", f"{form} {answer.value}, wanted {wanted.value}")
    if not answer.unit.agrees(wanted.unit):
        return Verdict("wrong", f"{form} {answer.value}, of another unit")
    return Verdict("accepted", form)


def _judge_last(given: Response, wanted: Quantity) -> Verdict:
    """By the last number of the text, whatever is said around it that leaves it as it is."""
    text = _CALCULATION.sub("", given.text)
    sentences = [s for s in _SENTENCE.split(text) if re.search(r"\d", s)]
    if not sentences:
        return Verdict("no_answer" if given.ended else "truncated", "no number in the response")
    if not given.ended:
        return Verdict("truncated", "no end token before an answer was given in full")
    sentence = plain_text(sentences[-1][-_LONGEST:])
    whole = read_quantity(sentence)
    if whole is not None:
        return _compare("last number", whole, wanted)
    if re.search(r"\d{101}", sentence):
        return Verdict("no_answer", "no number in the response")
    matches = list(_IN_PASSING.finditer(sentence))
    if not matches:
        return Verdict("no_answer", "no number in the response")
    start, end = matches[-1].span()
    after = sentence[end:]
    # "She pays 3 * 5": the last number is a part of what is said.
    before = sentence[:end].rstrip(_COMPUTATION).rstrip("$€£¥₹")
    start = len(before)
    hedge = _hedge(before, after)
    if hedge:
        return Verdict("wrong", f"last number: {hedge!r} stands beside it")
    # The words behind it may begin with its unit.
    unit = re.match(rf"\s?{_WORD}(?:/{_WORD})?", after)
    number = sentence[start:end].strip(" ,")
    with_unit = read_quantity(number + unit[0]) if unit else None
    return _compare("last number", with_unit or read_quantity(number), wanted)


def _hedge(before: str, after: str) -> str:
    """What stands around a number in passing and makes it another, or no answer."""
    for hedge in hedges_in(f"{before} ; {after}"):
        if hedge not in _COMPARISONS:
            return hedge
    # "3 less than Bob, so 7" compares something else.
    clause = re.split(r"[,;:]\s|\bso\b|\bthen\b|=", before)[-1]
    for hedge in hedges_in(f"{clause} ; {after}"):
        if hedge != "to" or re.search(r"\d\s?to\s?$", before):
            return hedge
    if part := _PART_OF.search(before):
        return str(part[0]).strip()
    nearest = re.findall(r"[a-z]+", before.lower())[-1:]
    behind = re.findall(r"[a-z]+", after.lower())
    word: str
    for word in [*nearest, *behind]:
        if word in SCALES - _NO_SCALE or (word in NEAR - {"more"} and word in nearest + behind[:1]):
            return word
    odd = re.match(r"(?:[A-Za-z](?![A-Za-z])|\s?[-:^!_/\\(+*=<>~²³?]|\.\S|\s?[({\[])", after)
    return str(odd[0]) if odd else ""
