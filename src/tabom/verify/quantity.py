r"""A number with its unit, read whole: every character of it is understood, or it is none."""

import ast
import re
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from tabom.verify.words import LEADS, Unit, read_unit

_LONGEST = 1000  # characters; a longer answer is none
MAX_DIGITS = 100  # beyond it a "number" is a decoder that repeats itself
_SIGNS = {"−": "-", "–": "-", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "＄": "$", "⁄": "/"}
_UPRIGHT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|textit|textrm|mbox|rm|bf)\s?\{([^{}]*)\}")
_FRACTION = re.compile(
    r"\\[dtc]?frac\s?\{\s?(-?\d+)\s?\}\s?\{\s?(\d+)\s?\}|\\[dtc]?frac\s?(\d)\s?(\d)"
)
_SPACES = re.compile(
    r"\\[!,;: ]|(?<=\S)~(?!\s?\d)|\\q?quad\b|\\(?:left|right|displaystyle|textstyle)\b"
)
_MONEY = "$€£¥₹"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s?(?P<money>[{_MONEY}]?)\s?(?P<minus>-?)"
    r"(?:(?P<mixed>\d{1,9})(?: +and +|[ -]+)(?=\d+\s?/))?"
    r"(?P<whole>\d{1,3}(?:,\d{3})+(?![\d,])|\d+(?!,\d))?(?P<decimals>\.\d+)?"
    r"(?:[eE](?P<power>[+-]?\d{1,3})(?![\w.]))?(?:\s?/\s?(?P<divisor>\d+)(?![\d.,/]))?"
)


@dataclass(frozen=True)
class Quantity:
    """value: exact. unit: what it counts. digits, places: of a decimal, the significant digits and
    the decimal places written; else 0.

    A decimal is the number that is written. Where it has six significant digits it also stands
    for what rounds to it.
    """

    value: Fraction
    unit: Unit = field(default_factory=Unit)
    digits: int = 0
    places: int = 0

    def equals(self, other: "Quantity") -> bool:
        """Whether the two values are one, to six significant digits where they were rounded."""
        return (
            self.value == other.value
            or self.is_rounded(other.value)
            or other.is_rounded(self.value)
        )

    def is_rounded(self, value: Any) -> bool:
        """Whether this is a value rounded to the places written, six significant digits or more."""
        # A decimal never stands for a whole number: 2.999999 is not 3.
        if self.digits < 6 or value == int(value):
            return False
        return bool(abs(value - self.value) * 2 * 10**self.places <= 1)


def plain_text(text: str) -> str:
    """An answer without what sets it: markdown, dollars around it, upright text, thin spaces."""
    for sign, plain in _SIGNS.items():
        text = text.replace(sign, plain)
    text = text.replace("{,}", ",").replace(r"\,", "").replace(r"\!", "")
    text = _SPACES.sub(" ", text.replace("**", "").replace("__", "").replace("`", ""))
    text = _FRACTION.sub(lambda m: f" {m[1] or m[3]}/{m[2] or m[4]}", text)
    text = _UPRIGHT.sub(r" \1 ", text)
    text = re.sub(rf"\\([{_MONEY}%])", r"\1", re.sub(r"\^\s?\{?\s?\\circ\s?\}?", "°", text))
    text = text.strip(" \t\n:*")
    for left, right in (("$$", "$$"), (r"\(", r"\)"), (r"\[", r"\]"), ("$", "$")):
        if text.startswith(left) and text.rstrip(".").endswith(right):
            inner = text.rstrip(".")[len(left) : -len(right)]
            if left not in inner or (left == "$" and inner.count("$") == 1 and inner[:1] == "$"):
                text = inner if inner.strip() else text
    return " ".join(text.split())


def without_leads(text: str) -> str:
    """An answer without the words before it that say nothing ("therefore", "equal to")."""
    while True:
        lead = next((w for w in LEADS if re.match(rf"{re.escape(w)}(?![\w])", text, re.I)), None)
        if lead is None or (lead in (":", "=") and not text[1:].strip()):
            return text
        text = text[len(lead) :].lstrip(" ,:")


def read_quantity(text: str, known: frozenset[str] = frozenset()) -> Quantity | None:
    """The number that a text is, with its unit; None if it says anything else.

    known: words that count as things, beside those of the lists.
    """
    # Patterns below look back and forth, which takes long on long texts.
    if len(text) > _LONGEST:
        return None
    text = without_leads(plain_text(text)).rstrip(". ")
    if "=" in text:
        # The last part counts, but a number before it that differs makes the answer wrong.
        *before, text = (part.strip() for part in text.split("="))
        if not all(_may_equal(part, text) for part in before):
            return None
    match = _NUMBER.match(text)
    if match is None or not (match["whole"] or match["decimals"]):
        return _computed(text)
    rest = text[match.end() :]
    glued = re.match(r"[A-Za-z]+", rest)
    if glued and len(glued[0]) == 1:  # 5k, 2x, 5m: never a unit
        return None
    value = number_value(match)
    unit = read_unit(f"{match['money']} {rest}" if match["money"] else rest, known)
    if value is None or unit is None:
        return _computed(text)
    # What goes on as a quotient or a power was not read whole, and is no number here.
    if rest.lstrip()[:1] in ("/", "^") or (match["divisor"] and match["power"]):
        return None
    if match["divisor"] or not match["decimals"]:
        return Quantity(value, unit)
    digits = (match["whole"] or "").replace(",", "") + match["decimals"][1:]
    return Quantity(value, unit, len(digits.lstrip("0")), len(match["decimals"]) - 1)


def _may_equal(before: str, last: str) -> bool:
    """Whether what stands before a last "=" may: a name, or a computation; no other number."""
    match = _NUMBER.fullmatch(before)
    if len(before) > 200 or re.search(r",(?!\d{3})|[;&<>!~≈≠≤≥]|\b(?:and|or)\b", before):
        return False
    return match is None or before.strip() == last.strip()


def number_value(match: re.Match[str]) -> Fraction | None:
    """The value of a number as `NUMBER` finds it; None if it is endless or divided by 0."""
    digits = (match["whole"] or "0").replace(",", "") + (match["decimals"] or "")
    divisor = match["divisor"] or "1"
    # Python takes quadratic time for long integers, and none is an answer.
    if max(len(digits), len(divisor)) > MAX_DIGITS or int(divisor) == 0:
        return None
    value = Fraction(digits + (f"e{match['power']}" if match["power"] else "")) / int(divisor)
    if match["mixed"]:
        value += int(match["mixed"])
    return -value if (match["sign"] == "-") != bool(match["minus"]) else value


def _computed(text: str) -> Quantity | None:
    """The value of a sum or product of plain numbers ("10 - 5"); None of anything else."""
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text.replace("×", "*").replace("÷", "/"))
    if not re.fullmatch(r"[\d.+*/() -]{3,200}", text) or re.search(r"\*\s*\*|//|\d\s+\d", text):
        return None
    try:
        return Quantity(_value(ast.parse(text.strip(), mode="eval").body))
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
        return None


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Div):
            return left / right
    raise ValueError("no computation with plain numbers")
