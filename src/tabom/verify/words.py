"""The closed lists: words that may stand beside a number, and words that make an answer none.

An answer is read whole. What may be left out of it stands in words.yaml; every other word makes it
wrong.
"""

import re
from dataclasses import dataclass
from importlib.resources import files

import yaml

_LISTS = yaml.safe_load((files("tabom.verify") / "words.yaml").read_text(encoding="utf-8"))
HEDGES, NEAR, SCALES, NOUNS, COMMANDS = (
    frozenset(map(str, _LISTS[name].split()))
    for name in ("hedges", "near", "scales", "nouns", "commands")
)
LEADS: tuple[str, ...] = tuple(_LISTS["leads"])
_TAILS = re.compile(rf"(?i)(?<!\w)(?:{'|'.join(_LISTS['tails'])})(?!\w)")
_UNITS = {alias: name for name, more in _LISTS["units"].items() for alias in (name, *more.split())}
_COMPOUND = {"mph": {"mi": 1, "h": -1}, "kph": {"km": 1, "h": -1}, "gbp": {"lb": 1}}
CURRENCIES = {"$": "dollar", "€": "euro", "£": "lb", "¥": "yen", "₹": "rupee", "¢": "cent"}
_TOKEN = re.compile(r"[^\W\d_]+(?:['’][a-z]+)?|\^\s*\{?\s*-?[123]\s*\}?|°\s?[CF]\b|[²³/%°¢€£¥₹$]")
_SYMBOLS = {"%": "percent", "°": "degree", "°C": "celsius", "°F": "fahrenheit"}
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "²": 2, "³": 3, "squared": 2, "cubed": 3}


@dataclass(frozen=True)
class Unit:
    """What a number counts. factors: units with their powers. nouns: things, in the singular."""

    factors: frozenset[tuple[str, int]] = frozenset()
    nouns: frozenset[str] = frozenset()

    def agrees(self, other: "Unit") -> bool:
        """Whether the two can be of one quantity: what either leaves out is no difference."""
        for sign in (1, -1):
            mine, theirs = ({f for f in unit.factors if f[1] * sign > 0} for unit in (self, other))
            if mine and theirs and mine != theirs:
                return False
        things = (self.factors or self.nouns) and (other.factors or other.nouns)
        if things and bool(self.factors) != bool(other.factors):
            return bool(self.nouns & other.nouns)
        return not (self.nouns and other.nouns) or bool(self.nouns & other.nouns)


def unit_of(word: str) -> str | None:
    """The unit that a word names, under its one name; None if it names none of ours."""
    name = word if word in _UNITS or len(word) == 1 else word.lower()  # M is no metre
    return _UNITS.get(name) or _UNITS.get(name.removesuffix("s") if len(name) > 3 else "")


def read_unit(text: str, known: frozenset[str] = frozenset()) -> Unit | None:
    """What stands behind (or, of money, before) a number; None if a word in it is not known.

    known: further words that count as things: those of the question.
    """
    text = " ".join(text.split())
    text = _TAILS.sub(" ", text)
    if _TOKEN.sub("", text).strip(" .,"):
        return None
    powers: dict[str, int] = {}
    nouns: set[str] = set()
    sign, power, last = 1, 1, ""
    for token in _TOKEN.findall(text):
        word = token.lower()
        symbol = _SYMBOLS.get(token.replace(" ", "")) or CURRENCIES.get(token)
        if word in ("/", "per", "a", "an", "each"):
            if not (powers or nouns):
                return None
            sign = -1
        elif token[0] == "^" or (word in ("²", "³", "squared", "cubed")):
            if not last:
                return None
            powers[last] *= _POWERS.get(word) or int(re.sub(r"[^\d-]", "", token))
        elif word in _POWERS:
            power = _POWERS[word]
        elif name := (symbol or unit_of(token)):
            for part, exponent in _COMPOUND.get(name, {name: 1}).items():
                powers[part] = exponent * sign * power
            sign, power, last = 1, 1, name if name in powers else ""
        elif is_noun(word) or (word in known and word not in SCALES | HEDGES | NEAR):
            # Behind "per" it is what the quantity is counted by, and says nothing of it.
            nouns |= {_singular(word)} if sign > 0 else set()
            sign, power, last = 1, 1, ""
        else:
            return None
    return Unit(frozenset(powers.items()), frozenset(nouns))


def is_noun(word: str) -> bool:
    """Whether a word, in lower case, is a thing of our list that is counted or measured."""
    if word in SCALES | NEAR | HEDGES:
        return False
    plural = f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"
    return word in NOUNS or plural in NOUNS


def hedges_in(sentence: str) -> tuple[str, ...]:
    """The words in a sentence that keep it from stating an answer."""
    found = []
    for word in re.findall(r"[a-z]+(?:['’][a-z]+)?|[~≈≠<>≤≥±]", sentence.lower()):
        word = word.replace("’", "'")
        if word in HEDGES or word in "~≈≠<>≤≥±" or word.endswith("n't"):
            found.append(word)
    return tuple(found)


def words_of(text: str) -> frozenset[str]:
    """The words of a question, in lower case: its things may stand beside the answer."""
    return frozenset(w for w in re.findall(r"[a-z]+", text[:20_000].lower()) if len(w) > 2)


def _singular(word: str) -> str:
    return word[:-3] + "y" if word.endswith("ies") else word.removesuffix("s")
