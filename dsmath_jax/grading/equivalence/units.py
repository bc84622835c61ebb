"""Units of measurement and currencies, and the factors between them.

A missing unit makes no difference between answers, another unit does: 5 cm equals 5 and 50 mm, but not 5 m. Other nouns
("5 apples") name what is counted.
"""

import re
from fractions import Fraction
from typing import NamedTuple


class Unit(NamedTuple):
    """A unit as a multiple of its dimension's base unit. Each counted noun is its own dimension, with factor 1."""

    dimension: str
    factor: Fraction = Fraction(1)


_NAMES: dict[str, dict[str, str]] = {
    # dimension: {factor: names}
    "length": {
        "1": "m meter meters metre metres 米", "1/1000": "mm millimeter millimeters millimetre millimetres 毫米",
        "1/100": "cm centimeter centimeters centimetre centimetres 厘米", "1/10": "dm decimeter decimeters 分米",
        "1000": "km kilometer kilometers kilometre kilometres 千米 公里", "127/5000": "inch inches",
        "381/1250": "ft foot feet", "1143/1250": "yd yard yards", "201168/125": "mi mile miles",
        "1/1000000": "micron microns um", "1/1000000000": "nm nanometer nanometers",
    },
    "mass": {
        "1": "g gram grams gm 克", "1/1000": "mg milligram milligrams 毫克",
        "1000": "kg kilogram kilograms kilo kilos 千克 公斤",
        "500": "斤", "1000000": "ton tons tonne tonnes 吨", "45359237/100000": "lb lbs pound pounds",
        "45359237/1600000": "oz ounce ounces",
    },
    "time": {
        "1": "s sec secs second seconds 秒", "60": "min mins minute minutes 分钟",
        "3600": "h hr hrs hour hours 小时 时",
        "86400": "day days 天 日", "604800": "week weeks 周 星期", "1/1000": "ms millisecond milliseconds",
    },
    "months": {"1": "month months 月 个月", "12": "year years yr yrs 年"},
    "money": {
        "1": "$ dollar dollars usd buck bucks 美元", "1/100": "¢ cent cents 美分",
    },
    "yuan": {"1": "¥ yuan rmb cny 元", "1/10": "jiao 角"},
    "euro": {"1": "€ euro euros eur"}, "sterling": {"1": "£ gbp"}, "rupee": {"1": "₹ rupee rupees rs"},
    "volume": {
        "1": "l liter liters litre litres 升", "1/1000": "ml milliliter milliliters millilitre cc 毫升",
        "473176473/125000000": "gal gallon gallons", "473176473/500000000": "quart quarts",
        "473176473/1000000000": "pint pints",
    },
    "angle": {
        "1": "^\\circ degree degrees deg 度", "1/60": "arcmin arcminute arcminutes",
        "1/3600": "arcsec arcsecond arcseconds",
    },
    "radian": {"1": "rad radian radians"},
    "part": {"1": "% percent percents pct percentage"},
    "area": {"10000": "hectare hectares ha 公顷", "316160658/78125": "acre acres", "666": "亩"},
    "energy": {"1": "j joule joules", "1000": "kj", "1602176634/10000000000000000000000000000": "ev"},
    "power": {"1": "w watt watts", "1000": "kw"},
    "force": {"1": "n newton newtons"},
    "voltage": {"1": "v volt volts"}, "frequency": {"1": "hz hertz"}, "pressure": {"1": "pa pascal"},
    "current": {"1": "a amp amps ampere amperes"}, "temperature": {"1": "k kelvin"},
    "celsius": {"1": "^\\circc ℃ celsius 摄氏度"}, "fahrenheit": {"1": "^\\circf fahrenheit"},
    "amount": {"1": "mol mole moles"},
    "unit": {"1": "unit units 单位"},
}  # fmt: skip
_COUNTED = "count of "
_UNITS = {
    name: Unit(dimension, Fraction(factor))
    for dimension, factors in _NAMES.items()
    for factor, names in factors.items()
    for name in names.split()
}
_SPEEDS = {"mph": "miles/hour", "kmh": "km/hour", "kmph": "km/hour", "kph": "km/hour", "fps": "feet/second"}
_SQUARED = re.compile(r"^(?:square|sq\.?|平方)\s*(.+)$")
_CUBED = re.compile(r"^(?:cubic|cu\.?|立方)\s*(.+)$")
_POWER = re.compile(r"^(.+?)\s*(?:\^\s*\{?\s*(-?\d)\s*\}?|\s(squared|cubed))$")
# In a quotient of units: "meters per second", "元/千克".
_PER = re.compile(r"\s*(?:/|\bper\b|\ban?\b|每)\s*")
_CASED = {"M", "G", "S", "T", "X", "Y", "Z", "N", "K", "V", "A", "W", "J", "L", "H", "C", "D", "E"}


def unit(name: str) -> Unit:
    """Returns the unit of a name; a name of no unit is a counted noun.

    Args:
      name: "cm", "square feet", "m^{2}", "km/h", "dollars per hour", "apples"; not empty.
    """
    name = re.sub(r"\s+", " ", name.replace("\\cdot", "*").replace("{", "").replace("}", "")).strip(" .*")
    name = name.replace("^\\circ ", "^\\circ").removeprefix("degrees ")
    over = [part for part in _PER.split(name) if part]
    if len(over) == 2 and known(over[0]) and known(over[1]):
        above, below = unit(over[0]), unit(over[1])
        return Unit(f"{above.dimension}/{below.dimension}", above.factor / below.factor)
    for pattern, power in ((_SQUARED, 2), (_CUBED, 3)):
        if (match := pattern.match(name)) and known(match[1]):
            return _raised(unit(match[1]), power)
    if (match := _POWER.match(name)) and known(match[1]):
        return _raised(unit(match[1]), int(match[2]) if match[2] else 2 if match[3] == "squared" else 3)
    lower = name.lower()
    if lower in _SPEEDS:
        return unit(_SPEEDS[lower])
    if lower in _UNITS and (name not in _CASED or name in {"L"}):
        return _UNITS[lower]
    return Unit(_COUNTED + _noun(lower))


def known(name: str) -> bool:
    """Returns whether a name is that of a unit, not a counted noun."""
    return not unit(name).dimension.startswith(_COUNTED)


def _raised(base: Unit, power: int) -> Unit:
    if base.dimension == "length" and power == 2:
        return Unit("area", base.factor**2)
    if base.dimension == "length" and power == 3:
        return Unit("volume", base.factor**3 * 1000)
    return Unit(f"{base.dimension}^{power}", base.factor**power)


def _noun(name: str) -> str:
    """Returns the last word of a name in the singular: "duck eggs" is "egg"."""
    last = re.sub(r"[^\w\u4e00-\u9fff]+", " ", name).split()[-1:] or [name]
    word = last[0]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word


def ratio(one: Unit, other: Unit) -> Fraction | None:
    """Returns how many of the other unit make one of the first; None where their dimensions differ."""
    return one.factor / other.factor if one.dimension == other.dimension else None


def symbol(name: str) -> str:
    r"""Returns the sign of a unit that changes how its number is read (% or ^\circ), else the unit's name."""
    dimension = unit(name).dimension if name else ""
    return {"part": "%", "angle": "^\\circ"}.get(dimension, name)


def factor_between(one: str, other: str) -> Fraction | None:
    """Returns the factor by which a number grows from the first unit to the second; None where the units differ.

    A missing unit ("") makes no difference, nor does a noun that contains the other.
    """
    if not one or not other:
        return Fraction(1)
    first, second = unit(one), unit(other)
    if first.dimension == second.dimension:
        return ratio(first, second)
    if "unit" in (first.dimension, second.dimension):
        return Fraction(1)
    if _COUNTED in first.dimension and _COUNTED in second.dimension:
        nouns = [each.dimension.removeprefix(_COUNTED) for each in (first, second)]
        measure_word = any(len(noun) == 1 and not noun.isascii() for noun in nouns)
        if measure_word or nouns[0] in nouns[1] or nouns[1] in nouns[0]:
            return Fraction(1)  # 5个 and 5个苹果
    return None
