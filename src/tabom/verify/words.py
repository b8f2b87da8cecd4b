"""The closed lists: words that may stand beside a number, and words that make an answer none.

An answer is read whole. What may be left out of it stands here; every other word makes it wrong.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

# A sentence that holds one of these commits itself to nothing.
HEDGES = frozenset(
    "not never no none nor neither or to least most than except excluding about approximately "
    "approx around roughly nearly almost circa maybe perhaps possibly probably presumably likely "
    "unlikely unsure unclear uncertain doubt doubtful guess might may could cannot hardly barely "
    "scarcely either anything unless wrong false incorrect untrue undefined unknown impossible "
    "whether rather nobody ish estimate estimated undetermined invalid".split()
)
# These do so beside a number.
NEAR = frozenset(
    "over under above below beyond exceeds exceeding beneath between within up via upto unequal "
    "differs different other another any all fewer less more greater smaller larger bigger lower "
    "higher minimum maximum outside apart through until till from close near off short shy past "
    "if but nothing everything everyone besides without versus vs".split()
)
# What makes another number of the one beside it.
SCALES = frozenset(
    "million millions billion billions trillion trillions quadrillion quintillion zillion googol "
    "thousand thousands hundred hundreds ten tens dozen dozens score scores gross grand k m b bn mn "
    "mil mln mio tn lakh lakhs crore crores myriad couple couples pair pairs triple triples trio "
    "double doubles twice thrice half halves third thirds quarter quarters fourth fourths fifth "
    "fifths sixth sixths seventh eighth eighths ninth tenth tenths hundredth hundredths thousandth "
    "thousandths millionth millionths percent pct permille times fold twofold tenfold squared cubed "
    "plus minus negative positive divided multiplied over by choose factorial mod modulo base root "
    "sqrt cube square power exponent log ln exp pi tau sin cos tan infinity imaginary inverse "
    "reciprocal opposite radians radian degrees st nd rd th ordinal digit digits remainder "
    "remaining and one two three four five six seven eight nine eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty "
    "ninety zero squares cubes odd even hex hexadecimal binary octal decimal am pm".split()
)
# What may stand before an answer, and says nothing.
LEADS = (
    "equal to", "equals", "given by", "found to be", "the point", "the number", "the value",
    "the vector", "the interval", "the set", "the total", "the matrix", "the function", "option",
    "choice", "a total of", "therefore", "thus", "hence", "then", "indeed", "simply", "just",
    "exactly", "precisely", "clearly", "now", "obviously", "so", "also", "is", "are", "be", "=", ":",
)  # fmt: skip
# What may stand behind a quantity, and says nothing of how much it is.
_TAILS = (
    "in total", "in all", "in length", "in width", "in height", "in area", "left over", "per person",
    "total", "altogether", "overall", "left", "remaining", "old", "long", "wide", "tall", "high",
    "deep", "away", "of the", "of", "only", "units", "unit",
)  # fmt: skip
_UNITS = {
    alias: names.split()[0]
    for names in (
        "mm millimeter millimetre", "cm centimeter centimetre", "dm decimeter decimetre",
        "m meter metre", "km kilometer kilometre", "in inch inches", "ft foot feet", "yd yard",
        "mi mile", "s sec second", "ms millisecond", "min minute", "h hr hour", "day", "week wk",
        "month", "year yr", "decade", "century centuries", "mg milligram", "g gram",
        "kg kilogram kilo", "oz ounce", "lb pound", "ton", "tonne", "ml milliliter millilitre",
        "cl centiliter", "l liter litre", "cup", "pint pt", "quart qt", "gallon gal",
        "teaspoon tsp", "tablespoon tbsp", "degree deg", "radian rad", "dollar usd", "cent",
        "euro eur", "yen jpy", "rupee inr", "peso", "yuan", "franc", "percent pct", "acre",
        "hectare ha", "newton", "joule", "watt", "kilowatt kw", "volt", "ampere amp", "ohm",
        "hertz hz", "pascal", "calorie", "kcal", "byte", "bit", "kb kilobyte", "mb megabyte",
        "gb gigabyte", "celsius", "fahrenheit", "kelvin", "mph", "kph kmh", "knot", "mol mole",
        "gbp", "rpm", "bushel", "stone", "nm nanometer", "µm micrometer micron", "arcminute",
    )
    for alias in names.split()
}  # fmt: skip
_COMPOUND = {"mph": {"mi": 1, "h": -1}, "kph": {"km": 1, "h": -1}, "gbp": {"lb": 1}}
CURRENCIES = {"$": "dollar", "€": "euro", "£": "lb", "¥": "yen", "₹": "rupee", "¢": "cent"}
_TOKEN = re.compile(r"[^\W\d_]+(?:['’][a-z]+)?|\^\s*\{?\s*-?[123]\s*\}?|[²³/%°¢€£¥₹$]")
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
    name = word if word in _UNITS else word.lower()
    return _UNITS.get(name) or _UNITS.get(name.removesuffix("s") if len(name) > 3 else "")


def read_unit(text: str, known: frozenset[str] = frozenset()) -> Unit | None:
    """What stands behind (or, of money, before) a number; None if a word in it is not known.

    known: further words that count as things: those of the question.
    """
    text = " ".join(text.split())
    for phrase in _TAILS:
        text = re.sub(rf"(?i)(?<![\w]){phrase}(?![\w])", " ", text)
    if _TOKEN.sub("", text).strip(" .,"):
        return None
    powers: dict[str, int] = {}
    nouns: set[str] = set()
    sign, power, last = 1, 1, ""
    for token in _TOKEN.findall(text):
        word = token.lower()
        symbol = {"%": "percent", "°": "degree"}.get(token) or CURRENCIES.get(token)
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
    return word in _nouns() or plural in _nouns()


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


@lru_cache(maxsize=1)
def _nouns() -> frozenset[str]:
    return frozenset((files("tabom.verify") / "nouns.txt").read_text(encoding="utf-8").split())
