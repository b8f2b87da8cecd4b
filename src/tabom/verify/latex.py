r"""An answer written the way math-verify reads it, and what it says beside its value.

math-verify passes over a base, a unit and a time of day ("1024_7" is 1024 to it, "5 cm" is 5),
reads "1 000" as 1 times 0, and some things not at all: `\frac\pi2`, `0.\overline{3}`, "√3".
"""

import re
import unicodedata
from fractions import Fraction

_BRACED = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"
_ARGUMENT = rf"({_BRACED}|\\[A-Za-z]+|[0-9A-Za-z])"
_TWO_ARGUMENTS = re.compile(rf"\\([dt]?(?:frac|binom))\s*{_ARGUMENT}\s*{_ARGUMENT}")
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+|[A-Za-z]))")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar)\s*\{(\d{1,20})\}")
_THOUSANDS = re.compile(r"(?<=\d)(?:\\[,;:! ]|[ ~])+(?=\d{3}(?!\d))")
_MIXED = re.compile(r"(?<![\d./^_}])(\d+) +(\d+)/(\d+)(?![\d.])")
_POWER_OF_TEN = re.compile(r"(?<=\d)[eE]([+-]?\d+)(?![\d.A-Za-z])")
_SYMBOLS = {
    "°": r"^\circ", "²": "^2", "³": "^3", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "×": r"\times ",
    "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "−": "-", "∞": r"\infty ", "∪": r"\cup ",
    "∩": r"\cap ", "∈": r"\in ", "π": r"\pi ", "±": r"\pm ", "\u00a0": " ", "\u2009": " ",
}  # fmt: skip
_BASE = re.compile(r"\$?([0-9][0-9A-Z]*)_(?:\{\\text\{|\{)?\s*([0-9]+|[a-z]+)\s*\}*\$?")
_TIME = re.compile(
    r"\$?(\d{1,2}):(\d{2})(?:\\text\{|\\mbox\{|\\mathrm\{|[\s~]|\\ )*([ap])\.?m\.?\}?\$?", re.I
)
_LONG = 200  # characters; a longer answer is none
_TEXT = re.compile(r"\\(?:text|textbf|textrm|mbox|mathrm)\s*(?=\{)")
_UNIT = re.compile(r"[\d})](?:[\s~{}]|\\[,;:! ])*([A-Za-z]+)\}?(?:\^\{?[23]\}?)?\s*")
_UNITS = {
    alias: names.split()[0]
    for names in (
        "mm millimeter millimetre", "cm centimeter centimetre", "m meter metre",
        "km kilometer kilometre", "in inch inches", "ft foot feet", "yd yard", "mi mile",
        "s sec second", "min minute", "h hr hour", "day", "week", "month", "year", "mg milligram",
        "g gram", "kg kilogram", "oz ounce", "lb pound", "ml milliliter", "l liter litre",
        "degree", "radian", "dollar", "cent", "percent",
    )
    for alias in names.split()
}  # fmt: skip


def readable(text: str) -> str | None:
    """The text in LaTeX that math-verify reads as it is meant; None where it would misread it."""
    for symbol, latex in _SYMBOLS.items():
        text = text.replace(symbol, latex)
    text = _ROOT.sub(lambda m: rf"\sqrt{{{m[1] or m[2]}}}", text)
    text = "".join(map(_fraction_sign, text))
    text = _TWO_ARGUMENTS.sub(_braced, text)
    text = _REPEATING.sub(_repeating, text)
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", _THOUSANDS.sub("", text))
    text = _POWER_OF_TEN.sub(r"\\times 10^{\1}", text)
    # A space between digits would be a product; not behind an index, as in "\log_2 3".
    return None if re.search(r"(?<![_^])\d(?:[ ~]|\\[,;:! ])+\d", text) else text


def in_base(text: str) -> tuple[str, str] | None:
    """(digits, base) of a number with its base below it, such as 1024_7; else None."""
    match = _BASE.fullmatch(text.strip())
    if match is None:
        return None
    names = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    base = match[2]
    return _digits(match[1]), str(names.index(base) + 2) if base in names else base


def same_digits(reference: str, answer: str) -> bool | None:
    """Whether two numbers in a base are one; either may leave the base out.

    None where neither has a base below it.
    """
    wanted, given = in_base(reference), in_base(answer)
    if wanted is None and given is None:
        return None
    bases = {found[1] for found in (wanted, given) if found is not None}
    digits = (found[0] if found else _digits(text)
              for found, text in ((wanted, reference), (given, answer)))  # fmt: skip
    return len(bases) == 1 and len(set(digits)) == 1


def _digits(text: str) -> str:
    return text.strip(" $.").lstrip("0") or "0"


def same_time(reference: str, answer: str) -> bool | None:
    """Whether two times of day with a.m. or p.m. are one; None where either is none."""
    found = [_TIME.fullmatch(text.strip().rstrip(".")) for text in (reference, answer)]
    one, other = ([part.lower() for part in m.groups()] if m else None for m in found)
    return None if one is None or other is None else one == other


def unit(text: str) -> str | None:
    """The unit behind (or, of money, before) a number, under one name; None if it has none of ours.

    Powers are passed over: cm and cm^2 are one.
    """
    text = text.strip().rstrip(".")
    if len(text) > _LONG:
        return None
    if re.match(r"[-−]?\s*\\?\$\s*\d[\d,.]*$", text):
        return "dollar"
    if text.count("$") == 2 and text[0] == text[-1] == "$":
        text = text[1:-1]
    match = re.search(_UNIT.pattern + r"$", _TEXT.sub("", text))
    if match is None:
        return None
    word = match[1] if match[1] in _UNITS else match[1].lower()
    return _UNITS.get(word) or _UNITS.get(word.removesuffix("s"))


def same_text(one: str, other: str) -> bool:
    """Whether two answers are written alike, but for spacing and what sets text upright."""
    first, second = (_bare(text) for text in (one, other))
    return bool(first) and first == second


def _bare(text: str) -> str:
    text = re.sub(r"[{}$]", "", _TEXT.sub("", text)).rstrip(".")
    return re.sub(r"(?<!\d)(?:[\s~]|\\[,;:! ])+|(?:[\s~]|\\[,;:! ])+(?!\d)", "", text)


def _fraction_sign(character: str) -> str:
    """½ and the like."""
    if unicodedata.category(character) != "No":
        return character
    parts = unicodedata.normalize("NFKC", character).split("⁄")
    return rf"\frac{{{parts[0]}}}{{{parts[1]}}}" if len(parts) == 2 else character


def _braced(match: re.Match[str]) -> str:
    inner = [_TWO_ARGUMENTS.sub(_braced, part.strip("{}") if part[0] != "{" else part[1:-1])
             for part in match.groups()[1:]]  # fmt: skip
    return "\\" + match[1] + "".join(f"{{{part}}}" for part in inner)


def _repeating(match: re.Match[str]) -> str:
    whole, first, again = match.groups()
    value = Fraction(int((whole + first) or "0"), 10 ** len(first))
    value += Fraction(int(again), 10 ** len(first) * (10 ** len(again) - 1))
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
