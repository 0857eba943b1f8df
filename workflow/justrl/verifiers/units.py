r"""Units, multiples, and words that are neither: the text that may follow a value.

A unit is a single word or a compound of known units. Number words, operators, negations and conjunctions are not units.
Known units have a dimension and a size, so that `2\text{ hours}` equals `120\text{ minutes}`.
"""

import re
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Unit:
    """A dimension (sorted names with powers) and the size of one unit in the dimension's basic unit."""

    dimension: tuple[tuple[str, int], ...]
    size: Fraction = Fraction(1)

    def times(self, other: "Unit", power: int = 1) -> "Unit":
        """This unit times a power of another."""
        powers = dict(self.dimension)
        for name, exponent in other.dimension:
            powers[name] = powers.get(name, 0) + exponent * power
        return Unit(tuple(sorted((n, p) for n, p in powers.items() if p)), self.size * other.size**power)


# dimension: "size name name ..."; the plural with -s is added.
_TABLE = {
    "length": "1 m meter metre; 1/100 cm centimeter centimetre; 1/1000 mm millimeter millimetre; 1/10 dm decimeter "
    "decimetre; 1000 km kilometer kilometre; 127/5000 in inch inches; 381/1250 ft foot feet; 1143/1250 yd yard; "
    "201168/125 mi mile; 1/1000000 micron micrometer; 1/1000000000 nm nanometer; 1/10000000000 angstrom; "
    "9460730472580800 lightyear ly; 149597870700 au AU",
    "time": "1 s sec second; 60 min minute; 3600 h hr hour; 86400 day; 604800 wk week; 1/1000 ms millisecond; "
    "1/1000000 microsecond; 1/1000000000 ns nanosecond",
    "months": "1 month; 12 yr year; 120 decade; 1200 century centuries",
    "mass": "1 kg kilogram; 1/1000 g gram; 1/1000000 mg milligram; 1000 tonne; 45359237/100000000 lb lbs pound; "
    "45359237/1600000000 oz ounce",
    "volume": "1 L l liter litre; 1/1000 mL ml milliliter millilitre; 473176473/125000000 gal gallon; "
    "473176473/500000000 qt quart; 473176473/1000000000 pt pint; 473176473/2000000000 cup",
    "money": "100 USD dollar; 1 cent; 10 dime; 5 nickel",
    "euros": "1 euro", "temperature": "1 K kelvin Kelvin",
    "celsius": "1 Celsius celsius", "fahrenheit": "1 Fahrenheit fahrenheit",
    "force": "1 N newton Newton", "energy": "1 J joule Joule; 1000 kJ; 1602176634/10000000000000000000000000000 eV",
    "power": "1 W watt Watt; 1000 kW kilowatt", "charge": "1 C coulomb Coulomb", "current": "1 A amp ampere Ampere",
    "voltage": "1 V volt Volt", "frequency": "1 Hz hertz Hertz; 1000 kHz; 1000000 MHz; 1000000000 GHz",
    "pressure": "1 Pa pascal Pascal; 1000 kPa; 101325 atm", "amount": "1 mol mole", "erg": "1 erg",
    "resistance": "1 ohm Ohm", "data": "1 bit; 8 byte",
    "angle": "1 degree deg; 0 rad radian", "percent": "1 percent", "unit": "1 unit",
}  # fmt: skip
KNOWN: dict[str, Unit] = {}
for _dimension, _entries in _TABLE.items():
    for _entry in _entries.split(";"):
        _size, *_names = _entry.split()
        for _name in _names:
            _unit = Unit(((_dimension if _size != "0" else "radian", 1),), Fraction(_size) or Fraction(1))
            KNOWN[_name] = _unit
            if len(_name) > 2:
                KNOWN.setdefault(_name + "s", _unit)
KNOWN["mph"] = KNOWN["mile"].times(KNOWN["hour"], -1)
DEGREE, PERCENT, DOLLAR = KNOWN["degree"], KNOWN["percent"], KNOWN["dollar"]

MULTIPLES = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12, "score": 20,
    "pair": 2, "gross": 144,
}  # fmt: skip
_SHAPES = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}

# Not units: numbers and parts, operators, relations, negations, conjunctions, judgements and conditions.
_NO_UNIT_WORDS = """
    zero one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty seventy
    eighty ninety half halves third thirds quarter fourth fourths fifth fifths sixth seventh eighth ninth tenth
    first once twice thrice double triple quadruple single couple dozens hundreds thousands millions billions
    trillions plus minus times time over divided by multiplied add added less more fewer greater smaller least most
    than mod modulo remainder choose factorial power powers root square cube squared cubed negated inverse
    reciprocal exponent base per to from in of on at up down into off out above below under between within through
    until and or nor xor but not no non none never neither either nothing isn isnt except without unless if when
    where whenever while then else otherwise since because for with as is are was were be equals equal exceeds
    implies iff so thus hence only just also about around approximately roughly nearly almost exactly precisely
    approx circa maybe perhaps possibly probably wrong right false true incorrect correct invalid valid bad
    impossible undefined unknown unclear unsure infinite infinity even odd prime composite positive negative
    nonnegative rational irrational real imaginary complex integer maximum minimum max min inclusive exclusive
    onwards ago any all every each some both other another again yes too x y z i pi e sin cos tan log ln exp mean
    average sum total product difference quotient ratio digits recurring repeating doubled halved tripled upward
    downward etc different instead respectively
"""
_NO_UNITS = frozenset(_NO_UNIT_WORDS.split())
NEGATIONS = frozenset(
    {"not", "no", "non", "never", "neither", "nor", "none", "without", "except", "but", "or", "and", "if"}
)
_NO_UNIT_ENDING = re.compile(r".*(?:ed|ly|teen|ths|fold|ish|n't)$")


def unit_of(words: list[tuple[str, int]]) -> Unit | None:
    """Combine words with powers, such as `[("m", 1), ("s", -1)]`, into a unit. None if they don't form one."""
    if len(words) == 1 and words[0][0] not in KNOWN:
        word, power = words[0]
        return Unit(((_singular(word), 1),)) if power == 1 and may_be_unit(word) else None
    unit = Unit(())
    for place, (word, power) in enumerate(words):
        one = KNOWN.get(word) or KNOWN.get(word.lower() if len(word) > 2 else word)
        # A rate of things: `dollars per apple`, `apples per day`.
        if one is None and power in (1, -1) and any(p == -1 for _, p in words[: place + 2]) and may_be_unit(word):
            one = Unit(((_singular(word), 1),))
        if one is None:
            return None
        unit = unit.times(one, power)
    return unit


def words_with_powers(text: str, sign: int = 1) -> list[tuple[str, int]] | None:
    """Split `square miles per hour` into words and powers. None if there are no words or a final `square` has none."""
    words: list[tuple[str, int]] = []
    shape = 1
    pending = sign
    for word in text.split():
        if word == "per":
            pending = -1
        elif word.lower() in _SHAPES:
            shape = _SHAPES[word.lower()]
        elif word.lower() in ("squared", "cubed") and words and words[-1][0] in KNOWN:
            words[-1] = (words[-1][0], words[-1][1] * (2 if word.lower() == "squared" else 3))
        else:
            words.append((word, pending * shape))
            shape = 1
    if len(words) == 2 and words[0][0].startswith("degree") and words[1][0] in ("Celsius", "Fahrenheit", "C", "F"):
        return [({"C": "Celsius", "F": "Fahrenheit"}.get(words[1][0], words[1][0]), 1)]
    return words if words and shape == 1 else None


def may_be_unit(word: str) -> bool:
    """Whether an unknown word is probably a noun: not a number, operator, negation or conjunction."""
    lower = word.lower()
    return (
        len(word) > 2 and word.isalpha() and lower not in _NO_UNITS and lower not in MULTIPLES
        and _NO_UNIT_ENDING.fullmatch(lower) is None
    )  # fmt: skip


def _singular(word: str) -> str:
    lower = word.lower()
    return lower[:-3] + "y" if lower.endswith("ies") else lower.removesuffix("es" if lower.endswith("xes") else "s")
