r"""An answer in LaTeX, written the way math-verify reads it, and checked to be read whole.

math-verify passes over words, bases and times of day ("1024_7" is 1024 to it, `5\text{ million}`
is 5), reads "1 000" as 1 times 0, and some things not at all: `\frac\pi2`, `0.\overline{3}`, "√3".
"""

import re
import unicodedata
from fractions import Fraction

from tabom.verify.words import COMMANDS

_BRACED = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"
_ARGUMENT = rf"({_BRACED}|\\[A-Za-z]+|[0-9A-Za-z])"
_TWO_ARGUMENTS = re.compile(rf"\\([dtc]?(?:frac|binom))\s?{_ARGUMENT}\s?{_ARGUMENT}")
_ROOT = re.compile(
    r"√\s?(?:\(([^()]*)\)|(\d+|[A-Za-z]))|(?<![\\A-Za-z])sqrt\s?(?:\(([^()]*)\)|\{([^{}]*)\})"
)
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar)\s?\{(\d{1,20})\}")
_THOUSANDS = re.compile(r"(?<=\d)(?:\\[,;:! ]|[ ~])+(?=\d{3}(?!\d))")
_COMMAS = re.compile(r"(?<![\d,])(\d{1,3}(?:,\d{3})+)(?![\d,])")
_MIXED = re.compile(r"(?<![\d./^_}])(\d+) +(\d+)/(\d+)(?![\d.])")
_POWER_OF_TEN = re.compile(r"(?<=\d)[eE]([+-]?\d+)(?![\d.A-Za-z])")
_SYMBOLS = {
    "°": r"^\circ ", "²": "^2", "³": "^3", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "−": "-", "–": "-", "∞": r"\infty ",
    "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "π": r"\pi ", "±": r"\pm ", "∅": r"\emptyset ",
    "θ": r"\theta ", "\u00a0": " ", "\u2009": " ", r"\varnothing": r"\emptyset ",
    r"\dbinom": r"\binom", r"\tbinom": r"\binom", r"\infin": r"\infty", r"\lbrace": r"\{",
    r"\rbrace": r"\}", r"\leqslant": r"\le ", r"\geqslant": r"\ge ", r"\lparen": "(",
    r"\rparen": ")", r"\left": " ", r"\right": " ", "\\\n": " ",
}  # fmt: skip
_PLAIN = re.compile(
    r"\\(?:displaystyle|textstyle|scriptstyle|limits|q?quad|[bB]igg?[lr]?)(?![A-Za-z])"
)
_UPRIGHT = re.compile(
    r"\\(?:text|textbf|textrm|textit|mbox|mathrm|mathbf|mathit|boldsymbol|bold|rm|operatorname|emph)"
    r"\s?(?=\{)"
)
_BASE = re.compile(
    r"\(?([0-9][0-9A-Z]*)\)?(?:_\{?\(?\{?|\s\(?(?:in )?base )([0-9]{1,2}|[a-z]+)\}?\)?\}?\)?"
)
_TIME = re.compile(r"(\d{1,2})(?::(\d{2}))?\s?([ap])\.?\s?m\.?", re.I)
_NAMES = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
# Words that mean mathematics where they stand without a backslash.
_NAMED = (
    "pi sin cos tan cot sec csc log ln exp arcsin arccos arctan theta alpha beta gamma phi infty "
    "sqrt pm cdot times min max gcd"
)
_FUNCTIONS: dict[str, str] = {name: f"\\{name} " for name in re.findall(r"\w+", _NAMED)}
_FUNCTIONS |= {"infinity": r"\infty ", "inf": r"\infty ", "cis": r"\mathrm{cis}"}
_ENVIRONMENTS = ("pmatrix", "bmatrix", "matrix", "vmatrix", "array")


def tidy(text: str) -> str:
    """The text without what only sets it, in the symbols of LaTeX, on one line."""
    text = text.replace("**", "").replace("`", "")
    for symbol, latex in _SYMBOLS.items():
        letters = r"(?![A-Za-z])" if symbol[-1].isalpha() and symbol[0] == "\\" else ""
        text = re.sub(re.escape(symbol) + letters, latex.replace("\\", r"\\"), text)
    text = "".join(map(_fraction_sign, _PLAIN.sub(" ", text)))
    text = re.sub(r",\\!\s*|\{,\}\s*", ",", text).replace(r"\!", "")
    text = re.sub(r"\\[()\[\]]", " ", text)
    if len(re.findall(r"(?<!\\)\$", text)) % 2 == 0:
        text = re.sub(r"(?<!\\)\$", " ", text)
    text = re.sub(r"(?<=\S)~(?!\s?\d)", " ", text)
    return " ".join(text.split()).rstrip(". ")


def words_in(text: str) -> frozenset[str]:
    r"""The words and commands of an answer: what another may hold without being unknown."""
    return frozenset(re.findall(r"\\?[A-Za-z]+", _UPRIGHT.sub("", text)))


def is_known(text: str, reference_words: frozenset[str]) -> bool:
    """Whether each command and word is mathematics that we know, or one of the reference's."""
    for name in re.findall(r"\\begin\s?\{(\w+)\}", text):
        if name not in _ENVIRONMENTS:
            return False
    bare = re.sub(r"\\(?:begin|end)\s?\{\w+\}(?:\{[clr| ]*\})?", " ", text)
    for token in re.findall(r"\\?[A-Za-z]+", _UPRIGHT.sub("", bare)):
        if token in reference_words:
            continue
        if token[0] == "\\":
            if token[1:] not in COMMANDS:
                return False
        elif len(token) > 2 and token not in _FUNCTIONS:
            return False
    return not re.search(
        r"[#&@?~\"]|\\\\(?!\s)", re.sub(r"\\\\|&", "", bare) if "\\begin" in text else bare
    )


def readable(text: str) -> str | None:
    """The text in LaTeX that math-verify reads as it is meant; None where it would misread it."""
    text = _ROOT.sub(lambda m: rf"\sqrt{{{m[1] or m[2] or m[3] or m[4] or ''}}}", text)
    text = _TWO_ARGUMENTS.sub(_braced, text)
    text = _REPEATING.sub(_repeating, text)
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", _THOUSANDS.sub("", text))
    text = _COMMAS.sub(lambda m: m[1].replace(",", ""), text)
    text = _POWER_OF_TEN.sub(r"\\times 10^{\1}", text)
    text = re.sub(r"(?<![\\A-Za-z{])([a-z]{2,8})(?![A-Za-z])",
                  lambda m: _FUNCTIONS.get(m[1], m[1]), text)  # fmt: skip
    # A space between digits would be a product; not behind an index, as in "\log_2 3".
    return None if re.search(r"(?<![_^])\d(?:[ ~]|\\[,;:! ])+\d", text) else text


def in_base(text: str) -> tuple[str, str] | None:
    """(digits, base) of a number with its base below or behind it, such as 1024_7; else None."""
    match = _BASE.fullmatch(_UPRIGHT.sub("", text).replace("{ ", "{").strip(" $."))
    if match is None or not (match[2].isdigit() or match[2] in _NAMES):
        return None
    base = match[2]
    return _digits(match[1]), str(_NAMES.index(base) + 2) if base in _NAMES else base


def same_digits(reference: str, answer: str) -> bool | None:
    """Whether two numbers in a base are one; the answer alone may leave the base out.

    None where neither has a base.
    """
    wanted, given = in_base(reference), in_base(answer)
    if wanted is None and given is None:
        return None
    if wanted is None:
        assert given is not None
        return given[1] == "10" and given[0] == _digits(reference)
    return given == wanted if given is not None else wanted[0] == _digits(answer)


def _digits(text: str) -> str:
    return re.sub(r"[{}]", "", text).strip(" $.()").lstrip("0") or "0"


def is_notation(text: str) -> bool:
    """Whether a text is a number in a base, a ratio or a time: compared as it is written."""
    return any(same(text, "") is not None for same in (same_digits, same_ratio, same_time))


def same_time(reference: str, answer: str) -> bool | None:
    """Whether two times of day with a.m. or p.m. are one; None where neither is one."""
    found = []
    for text in (reference, answer):
        plain = re.sub(r"[{}~\\]", " ", _UPRIGHT.sub("", text))
        match = _TIME.fullmatch(" ".join(plain.split()).strip(" $"))
        found.append((int(match[1]), match[2] or "00", match[3].lower()) if match else None)
    return None if found == [None, None] else found[0] == found[1]


def same_ratio(reference: str, answer: str) -> bool | None:
    """Whether two ratios (or times on a clock) are written alike; None where neither is one."""
    if not any(re.search(r"\d\s?:\s?\d", text) for text in (reference, answer)):
        return None
    return re.sub(r"\s", "", reference) == re.sub(r"\s", "", answer)


def same_text(one: str, other: str) -> bool:
    """Whether two answers are written alike, but for spacing and what sets text upright."""
    first, second = (_bare(text) for text in (one, other))
    return bool(first) and first == second


def is_text(text: str) -> bool:
    """Whether an answer is words: nothing that mathematics could be made of."""
    bare = _UPRIGHT.sub("", text)
    return not re.search(r"[\d=<>^_+*/|\\]", bare) and bool(re.search(r"[A-Za-z]{3}", bare))


def _bare(text: str) -> str:
    text = re.sub(r"[{}$]", "", _UPRIGHT.sub("", text)).rstrip(".")
    text = re.sub(r"(?<=\d),\s+(?=\d{3}(?!\d))", ";", text)  # "1, 234" is two numbers
    return re.sub(r"(?<!\d)(?:\s|\\[,;:! ])+|(?:\s|\\[,;:! ])+(?!\d)", "", text)


def without_upright(text: str) -> str:
    r"""The text with the words of `\text{...}` as plain words."""
    return re.sub(_UPRIGHT.pattern + r"\{([^{}]*)\}", r" \1 ", text)


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
