r"""The light checker for answers that are one plain number, as in GSM8K.

The answer is looked for in this order: the last `\boxed{...}`, the last `####`, the last
"the answer is", the last number of the text. The first form that occurs decides: a response that
boxes something else has given that as its answer. Commas, currency signs, percent signs and units
are dropped; 1/2 and 0.50 are equal. Algebra, sets and intervals are beyond it: an answer that is
no plain number is wrong, a reference that is none is unverifiable.
"""

import re
from fractions import Fraction

from tabom.trajectory.verdicts import Verdict
from tabom.verify.answer import find_answer
from tabom.verify.checker import Response

_CURRENCY = "$€£¥"
_NUMBER = re.compile(
    rf"(?<![\w.)])(?P<sign>[-+−]?)[{_CURRENCY}]?(?P<minus>[-−]?)"
    r"(?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?P<decimals>\.\d+)?"
    r"(?:\s?/\s?(?P<divisor>\d+))?"
)
_MAX_DIGITS = 100  # beyond it a "number" is a decoder that repeats itself
_LATEX_DROPPED = re.compile(r"\\(?:text|mathrm|textbf|mbox)\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*([^{}]+?)\s*\}\s*\{\s*([^{}]+?)\s*\}")


def judge_number(given: Response) -> Verdict:
    """The verdict on a response against the reference's final number.

    Without an end token, a number that touches the end of the text may have lost digits, and "the
    last number" is only the place where the canvas ended: neither counts, it is truncated.
    """
    response, reference, has_end = given.text, given.reference, given.ended
    wanted = reference_number(reference)
    if wanted is None:
        what = f"reference {reference[-40:]!r} is no plain number" if reference.strip() else ""
        return Verdict("unverifiable", what or "the prompt has no reference")
    if not response.strip():
        return Verdict("no_answer", "the response is empty")
    form, answer, is_cut = _find(response)
    if not has_end and (form in ("", "last number") or is_cut):
        return Verdict("truncated", "no end token before an answer was given in full")
    if not form:
        return Verdict("no_answer", "no number in the response")
    if answer is None:
        return Verdict("wrong", f"the answer ({form}) is no plain number")
    if answer == wanted:
        return Verdict("accepted", form)
    return Verdict("wrong", f"{form} {_show(answer)}, wanted {_show(wanted)}")


def reference_number(reference: str) -> Fraction | None:
    """The number of a reference: boxed, after `####`, or the whole text; None if there is none."""
    form, value, _ = _find(reference)
    return value if form in ("boxed", "####") else _plain(reference)


def _find(text: str) -> tuple[str, Fraction | None, bool]:
    """The form in which `text` gives its answer ("" none), the answer, may it have been cut."""
    found = find_answer(text)
    if found is None:
        numbers = _numbers(text)
        return ("last number", numbers[-1], True) if numbers else ("", None, False)
    if found.form == "boxed":
        return "boxed", _plain(found.text) if found.is_closed else None, not found.is_closed
    return found.form, _leading(found.text), not found.is_closed


def _plain(text: str) -> Fraction | None:
    """The value of a text that is one number with at most a sign, a name before "=" and a unit."""
    text = " ".join(_without_latex(text).rsplit("=", 1)[-1].split())
    match = _search(text)
    if match is None:
        return None
    rest = (text[: match.start()] + "\0" + text[match.end() :]).strip(f" .%*{_CURRENCY}\n")
    # What is left may be words. One letter touching the number is a variable, not a unit.
    if re.fullmatch(r"(?:[A-Za-z°]+ )*\0%?(?:[A-Za-z°]{2,}| [A-Za-z°]+)?(?: [A-Za-z°]+)*", rest):
        return _value(match)
    return None


def _leading(sentence: str) -> Fraction | None:
    """The first number of a sentence, or the first after its last "="."""
    numbers = _numbers(_without_latex(sentence).rsplit("=", 1)[-1])
    return numbers[0] if numbers else None


def _without_latex(text: str) -> str:
    text = _LATEX_DROPPED.sub(r" \1", _FRACTION.sub(r"\1/\2", text))
    text = re.sub(r"\\[!,;: ]|\{,\}(?=\d)", lambda m: "," if m[0] == "{,}" else "", text)
    return re.sub(rf"\\([{_CURRENCY}%])", r"\1", text).replace("^\\circ", " ").replace("**", "")


def _numbers(text: str) -> list[Fraction]:
    values = (_value(m) for m in _NUMBER.finditer(text) if m["whole"] or m["decimals"])
    return [value for value in values if value is not None]


def _search(text: str) -> re.Match[str] | None:
    return next((m for m in _NUMBER.finditer(text) if m["whole"] or m["decimals"]), None)


def _value(match: re.Match[str]) -> Fraction | None:
    digits = (match["whole"] or "0").replace(",", "") + (match["decimals"] or "")
    divisor = match["divisor"] or "1"
    if max(len(digits), len(divisor)) > _MAX_DIGITS or int(divisor) == 0:
        return None
    value = Fraction(digits) / int(divisor)
    negative = (match["sign"] in ("-", "−")) != bool(match["minus"])
    return -value if negative else value


def _show(value: Fraction) -> str:
    return str(value) if value.denominator != 1 else str(value.numerator)
