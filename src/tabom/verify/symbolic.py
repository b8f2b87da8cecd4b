r"""The checker for mathematics: symbolic equality by math-verify, in worker processes.

The answer is looked for in this order: the last `\boxed{...}`, the last `####`, the last "the
answer is"; a response that is one formula and nothing else is its answer. What is in none of
these is no answer: a number found somewhere in a text is not taken for one.
"""

import re

from tabom.trajectory.verdicts import Verdict
from tabom.verify.answer import find_answer
from tabom.verify.checker import Response
from tabom.verify.latex import unit
from tabom.verify.math_pool import MathPool

_FORMULA = re.compile(r"\$[^$]+\$\.?|\\\(.+\\\)\.?|\\\[.+\\\]|[^A-Za-z\n]*\d[^A-Za-z\n]*", re.S)
_LONGEST_FORMULA = 1000  # characters; a longer one is no answer, and the search is quadratic
_CURRENCY = re.compile(r"^([-−]?)\s*\\?[$€£¥]\s?(?=[-\d.][^$]*$)")
_AMOUNT = re.compile(r"((?:[^\W\d]\S* )*)([-−]?\d[\d,]*(?:\.\d+)?)\s?(%|°)?((?: [^\W\d]\S*)*)")
# Words beside a number that are a part of it, or of another one.
_MATHEMATICS = re.compile(
    "pi|sqrt|root|plus|minus|times|over|divided|or|and|to|between|from|dozen|millions?|billions?|"
    "thousands?|hundreds?|hal(f|ves)|thirds?|quarters?|fifths?|sixths?|tenths?|squared|cubed|"
    "choose|factorial|mod|sin|cos|tan|log|exp|not|infinity|negative|theta|alpha|beta|phi|"
    # Or that are the other half of a date.
    "january|february|march|april|may|june|july|august|september|october|november|december"
)
_SHORT = re.compile("mm|cm|km|kg|mg|lb|oz|ft|in|mi|hr|ml|of|is|at|by|he|am|pm")
_AREA = re.compile(r"(?:mm|cm|km|ft|in|mi|m|yd)\^?\{?[23]\}?")


def judge_math(given: Response, *, pool: MathPool) -> Verdict:
    """The verdict on a response against the reference's answer.

    Without an end token, an answer that reaches the end of the text may have lost a part: it is
    truncated.
    """
    response, reference, has_end = given.text, given.reference, given.ended
    gold = find_answer(reference)
    if gold is not None and not gold.is_closed and gold.form == "boxed":
        return Verdict("unverifiable", "the reference has a box that is not closed")
    wanted = plain_answer(reference if gold is None else gold.text)
    if not wanted:
        return Verdict("unverifiable", "the prompt has no reference")
    if not response.strip():
        return Verdict("no_answer", "the response is empty")
    found = find_answer(response)
    if found is None:
        if not has_end:
            return Verdict("truncated", "no end token before an answer was given")
        if len(response) > _LONGEST_FORMULA or not _FORMULA.fullmatch(response.strip()):
            return Verdict("no_answer", "nothing boxed, no ####, no 'the answer is'")
        form, text = "formula", response
    elif not has_end and not found.is_closed:
        return Verdict("truncated", "no end token before an answer was given in full")
    elif not found.is_closed and found.form == "boxed":
        return Verdict("no_answer", "the box is not closed")
    else:
        form, text = found.form, found.text
    answer = plain_answer(text)
    if not answer:
        return Verdict("no_answer", f"nothing follows ({form})")
    units = unit(gold.text if gold is not None else reference), unit(text)
    if None not in units and units[0] != units[1]:
        return Verdict("wrong", f"{form}: in {units[1]}, wanted in {units[0]}")
    reason, detail = pool.compare(wanted, answer)
    return Verdict(reason, form if reason == "accepted" else f"{form}: {detail}")


def plain_answer(text: str) -> str:
    """An answer without what surrounds it: markdown, a stop, a currency sign, a unit in words.

    A number among words is taken only if it is the only one, and none of the words says that it
    is a part of something else ("3 or 4", "2 pi", "5 million").
    """
    text = " ".join(text.replace("**", "").split()).strip(": ").rstrip(". ")
    text = _CURRENCY.sub(r"\1", text)
    amount = _AMOUNT.fullmatch(text)
    if amount is not None:
        words = (amount[1] + amount[4]).split()
        if all(_is_prose(word) for word in words):
            return amount[2] + (amount[3] or "")
    return text


def _is_prose(word: str) -> bool:
    word = word.lower().strip(",;:.")
    if _AREA.fullmatch(word):
        return True
    parts = re.split(r"[/'’-]", word)
    if not all(part.isalpha() or part == "" for part in parts):
        return False
    if any(_MATHEMATICS.fullmatch(part) for part in parts):
        return False
    return len(word) > 2 or _SHORT.fullmatch(word) is not None
