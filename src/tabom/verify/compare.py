"""Whether two answers are one: part by part in their shape, each part read whole.

math-verify has the last word where two expressions are no plain numbers. It is asked only about
what it reads as it is meant.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tabom.verify import latex
from tabom.verify.quantity import Quantity, read_quantity, without_leads
from tabom.verify.shape import Shape, read_shape
from tabom.verify.words import Unit, read_unit

_MAX_LENGTH = 1000  # a longer answer is a decoder that repeats itself
_CHOICE = re.compile(r"\(?\s?([A-Z])\s?\)?\.?")
_OPTION = re.compile(
    r"\\(?:text|textbf|mathbf|mathrm|mbox)\s?\{\s?\(([A-Z])\)\s?\}(?:\\\s|~|\s)*(?=\S)|\(([A-Z])\)\s+(?=\S)"
)
_NAMED = re.compile(r"(\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([A-Za-z]\))?)\s?=(?!=)\s?")
_TAIL = re.compile(
    r"((?:\\[,;:! ]|~|\s)*"
    r"(?:\\(?:text|mathrm|mbox|textrm|textbf)\s?\{[^{}]*\}(?:\^\{?[23]\}?)?\s?)+"
    r"|(?<=[\d)}\]])(?:\s[A-Za-z²³]{2,}|\s[a-z]{1,3}/[a-z]{1,3})+(?:\^\{?[23]\}?)?|\^\{?\\circ\}?)$"
)


class UnreadableError(Exception):
    """An expression that is no mathematics of ours."""


@dataclass(frozen=True)
class Reference:
    """The gold answer, read once: its shape, and the words that an answer may use.

    words: those of the reference. known: those of the question, which may stand behind a number.
    """

    text: str
    shape: Shape
    words: frozenset[str]
    known: frozenset[str]

    @classmethod
    def read(cls, text: str, known: frozenset[str]) -> "Reference":
        """The reference as it stands in the data."""
        text = latex.tidy(text)
        return cls(text, _shape(text), latex.words_in(text), known)

    @property
    def is_readable(self) -> bool:
        """Whether each expression in it is mathematics, so that an answer can be compared."""
        try:
            for part in _scalars(self.shape):
                if read_quantity(part.text) is None and not latex.is_notation(part.text):
                    self.expression(_split_unit(part.text, self.words)[0])
        except UnreadableError:
            return False
        return True

    @property
    def is_text(self) -> bool:
        return latex.is_text(self.text) and not latex.is_known(self.text, frozenset())

    def expression(self, text: str) -> Any:
        """The text as math-verify reads it. Raises UnreadableError."""
        return parse(text, self.words)

    def same(self, wanted: Shape, given: Shape) -> bool:
        """Whether two shapes are one, part by part."""
        if wanted.kind == given.kind == "scalar":
            return self._same_scalar(wanted.text, given.text)
        if wanted.is_unordered and given.is_unordered:
            kinds = {wanted.kind, given.kind}
            return ("union" not in kinds or kinds == {"union"}) and self._same_parts(wanted, given)
        if wanted.kind == given.kind or {wanted.kind, given.kind} == {"tuple", "matrix"}:
            one, other = ((s.brackets, s.width) for s in (wanted, given))
            if wanted.kind != given.kind:  # a point for a column of a matrix
                point, column = (wanted, given) if wanted.kind == "tuple" else (given, wanted)
                one, other = (point.brackets, 1), ("()", column.width)
            return (
                one == other
                and len(wanted.parts) == len(given.parts)
                and all(self.same(w, g) for w, g in zip(wanted.parts, given.parts, strict=True))
            )
        if "scalar" in (wanted.kind, given.kind):
            return self._same_relation(wanted, given)
        return False

    def _same_parts(self, wanted: Shape, given: Shape) -> bool:
        """Whether the parts are the same, in any order."""
        left = list(given.parts)
        if len(left) != len(wanted.parts):
            return False
        for part in wanted.parts:
            match = next((i for i, other in enumerate(left) if self.same(part, other)), None)
            if match is None:
                return False
            del left[match]
        return True

    def _same_relation(self, wanted: Shape, given: Shape) -> bool:
        """An interval for the inequality that it says, and the other way round."""
        scalar = wanted.text if wanted.kind == "scalar" else given.text
        if not re.search(r"[<>]|\\[lg]e?q?\b|\\in\b", scalar):
            return False
        return _verified(self.expression(wanted.text), self.expression(given.text))

    def _same_scalar(self, wanted: str, given: str) -> bool:
        wanted = _without_option(wanted)
        given = _without_option(given)
        if latex.same_text(wanted, given):
            return True
        for same in (latex.same_digits, latex.same_time, latex.same_ratio):
            if (alike := same(wanted, given)) is not None:
                return alike
        names = [_NAMED.match(text) for text in (wanted, given)]
        left = [
            text[name.end() :] if name else text
            for name, text in zip(names, (wanted, given), strict=True)
        ]
        if names[0] and names[1] and names[0][1] != names[1][1]:
            if any(read_quantity(text) for text in left):  # x = 2 for y = 2
                return False
        elif not any("=" in text for text in left):
            wanted, given = left
        numbers = read_quantity(wanted), read_quantity(given, self.known)
        if numbers[0] is not None and numbers[1] is not None:
            return _same_quantity(numbers[0], numbers[1])
        (wanted, unit), (given, other) = (
            _split_unit(wanted, self.words),
            _split_unit(given, self.known),
        )
        if not unit.agrees(other) or _other_case(wanted, given):
            return False
        if re.fullmatch(r"[A-Z]{2,}", re.sub(r"\W", "", wanted)):  # names of points, in their order
            return False
        if "=" not in wanted and "=" in given:
            parts = given.split("=")  # each step of a chain has its value
            return all(self._same_scalar(wanted, part) for part in parts)
        first, second = self.expression(wanted), self.expression(given)
        alike = _same_number(first[0], second[0], read_quantity(wanted), read_quantity(given))
        return _verified(first, second) if alike is None else alike


def compare(
    gold: str, answer: str, known: frozenset[str], tell_gold: Callable[[], None]
) -> tuple[str, str]:
    """(reason, detail) of an answer against a reference, both without the form around them.

    known: the words of the question, which may stand behind a number.
    tell_gold: called once the reference has been read.
    """
    reference = Reference.read(gold, known)
    if len(answer) > _MAX_LENGTH:
        return "wrong", f"the answer has {len(answer)} characters"
    given = latex.tidy(without_leads(latex.tidy(answer)))
    detail = f"{given[:60]}, wanted {reference.text[:60]}"
    if latex.same_text(reference.text, given) or _same_choice(reference.text, given):
        return "accepted", ""
    if reference.is_text:
        if latex.same_text(reference.text.lower(), given.lower()):
            return "accepted", ""
        is_word = len(reference.text.split()) == 1
        return ("wrong" if is_word else "unverifiable"), f"the reference is text: {detail}"
    if not reference.is_readable:
        return "unverifiable", f"the reference {reference.text[:60]!r} is not read as mathematics"
    tell_gold()
    try:
        is_same = reference.same(reference.shape, _shape(given))
    except UnreadableError:
        return "wrong", f"the answer {given[:60]!r} is not read whole as mathematics"
    return ("accepted", "") if is_same else ("wrong", detail)


def parse(text: str, words: frozenset[str]) -> Any:
    """One expression by math-verify's parser. Raises UnreadableError unless all of it is known."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig
    from math_verify import parse as find

    text = re.sub(r"(?<!\\)%", r"\\%", re.sub(r"\\?\$", "", text)).strip()
    plain = latex.readable(text)
    if not plain or not latex.is_known(plain, words):
        raise UnreadableError(text)
    # Its own way with units would take 2m for 2.
    normal = NormalizationConfig(units=False, malformed_operators=True, nits=True, boxed="none")
    config = LatexExtractionConfig(normalization_config=normal)
    found = find(f"${plain}$", extraction_config=[config], parsing_timeout=4)
    if not found or isinstance(found[0], str):
        raise UnreadableError(text)
    return found


def _scalars(shape: Shape) -> list[Shape]:
    return [s for part in shape.parts for s in _scalars(part)] if shape.parts else [shape]


def _shape(text: str) -> Shape:
    r"""The shape of an answer. `\text{ and }` separates; `\text{ million}` must not be lost."""
    return read_shape(re.sub(r"\\(?:text|mbox|mathrm)\s?\{\s?(and|or)\s?\}", r" \1 ", text))


def _same_choice(reference: str, answer: str) -> bool:
    r"""Whether both name one choice: (C), C, or `\textbf{(C)}\ 5` beside one of these."""
    bare = [
        _CHOICE.fullmatch(re.sub(r"[{}]", "", latex.without_upright(text)).strip(" $"))
        for text in (reference, answer)
    ]
    options = [_OPTION.match(text) for text in (reference, answer)]
    letters = [b[1] if b else o and (o[1] or o[2]) for b, o in zip(bare, options, strict=True)]
    return any(bare) and letters[0] is not None and letters[0] == letters[1]


def _without_option(text: str) -> str:
    r"""`\textbf{(C)}\ 5` names a choice and says what it is."""
    option = _OPTION.match(text)
    return text if option is None else text[option.end() :]


def _same_quantity(wanted: Quantity, given: Quantity) -> bool:
    if not wanted.unit.agrees(given.unit):
        return False
    if wanted.equals(given):
        return True
    percent = [("percent", 1) in q.unit.factors for q in (wanted, given)]
    if percent[0] == percent[1]:
        return False
    part = given if percent[1] else wanted
    whole = wanted if percent[1] else given
    # 50% is also 0.5; what is no part of one is not meant so.
    return whole.value == part.value / 100


def _split_unit(text: str, known: frozenset[str]) -> tuple[str, Unit]:
    """An expression and the unit behind it. Raises UnreadableError if other words end it."""
    text = re.sub(r"^-?\s?\\?[$€£¥](?=.)", lambda m: m[0].rstrip("$€£¥").rstrip("\\"), text)
    tail = _TAIL.search(text)
    if tail is None or not text[: tail.start()].strip():
        return text, Unit()
    words = re.sub(r"[{}~]", " ", latex.without_upright(tail[0]).replace(r"\circ", "°"))
    unit = read_unit(
        re.sub(r"\\[,;:! ]|\^\s*°", lambda m: "°" if "°" in m[0] else " ", words), known
    )
    if unit is None:
        raise UnreadableError(text)
    return text[: tail.start()].strip(), unit


def _other_case(wanted: str, given: str) -> bool:
    """Whether the answer writes a letter of the reference in the other case."""
    one, other = (
        set(re.findall(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])", t)) for t in (wanted, given)
    )
    return any(letter.swapcase() in one - other for letter in other - one)


def _same_number(
    wanted: Any, given: Any, gold: Quantity | None, answer: Quantity | None
) -> bool | None:
    """Whether two numbers are one, exactly or to six digits; None if either is no number."""
    from sympy import Basic, Float, Rational, nan, zoo

    if not all(isinstance(v, Basic) and getattr(v, "is_number", False) for v in (wanted, given)):
        return None
    if any(v.has(nan, zoo) for v in (wanted, given)):
        return bool(wanted == given)
    if wanted.is_Rational and given.is_Rational:
        return bool(wanted == given)
    one, other = wanted.evalf(50), given.evalf(50)
    for exact, written in ((other, gold), (one, answer)):
        is_plain = written is not None and exact.is_real and exact.is_finite
        if written and is_plain and written.is_rounded(Fraction(str(exact))):
            return True
    if wanted.is_infinite or given.is_infinite:
        return bool(wanted == given)
    size = max(abs(one), abs(other))
    # Both in closed form: 30 digits are not equal by chance. A decimal has fifteen.
    places = 14 if wanted.has(Float) or given.has(Float) else 30
    return bool(abs(one - other) <= size * Rational(1, 10**places))


def _verified(wanted: Any, given: Any) -> bool:
    from math_verify import verify

    # Also an inequality for a wanted interval.
    return bool(verify(wanted, given, float_rounding=12, allow_set_relation_comp=True))
