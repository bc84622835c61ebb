"""Converts numerals to digits: 一百二十, 三分之二, 百分之五十, 五又二分之一, 3万; 2 million, twenty-five, one half."""

import re
from fractions import Fraction

_DIGITS = {
    c: value for value, both in enumerate("零〇 一壹 二贰两 三叁 四肆 五伍 六陆 七柒 八捌 九玖".split()) for c in both
}
_TENS = {"十": 10, "拾": 10, "百": 100, "佰": 100, "千": 1000, "仟": 1000}
_MYRIADS = {"万": 10**4, "亿": 10**8}
_THOUSAND = "千(?![米克瓦卡帕焦赫升])"  # but part of a unit in 千米
_INTEGER = f"(?:[{''.join({*_DIGITS, *_TENS, *_MYRIADS} - {'千'})}]|{_THOUSAND})+"
_NUMERAL = rf"(?:{_INTEGER}(?:点[{''.join(_DIGITS)}]+)?)"
_PART = rf"(?:{_NUMERAL}|\d+(?:\.\d+)?)"
_PER_CENT = re.compile(rf"百分之({_PART})")
_FRACTION = re.compile(rf"(?:({_PART})又)?({_PART})分之({_PART})")
_WITH_UNIT = re.compile(rf"(\d+(?:\.\d+)?)\s*([百千]?[万亿]|百(?!分)|{_THOUSAND})")
_WHOLE = re.compile(_NUMERAL)
# Words in which the character of a numeral is not a number.
_NO_NUMBER = re.compile(
    "一次函数|一样|一定|一共|一致|一元|二元|二次|十分|万一|三角|四边|平行四|四面|六面|五边|六边|八边"
)


def value(numeral: str) -> Fraction | None:
    """Parses a Chinese numeral or a decimal number; None for other texts."""
    if re.fullmatch(r"\d+(?:\.\d+)?", numeral):
        return Fraction(numeral)
    whole, _, decimals = numeral.partition("点")
    if not whole or not re.fullmatch(_INTEGER, whole) or not all(c in _DIGITS for c in decimals):
        return None
    if len(whole) > 1 and all(c in _DIGITS for c in whole):  # 二〇二四
        total = int("".join(str(_DIGITS[c]) for c in whole))
    else:
        total = _integer(whole)
    return Fraction(total) + Fraction(int("".join(str(_DIGITS[c]) for c in decimals) or 0), 10 ** len(decimals))


def _integer(numeral: str) -> int:
    total = section = digit = 0
    for character in numeral:
        if character in _DIGITS:
            digit = _DIGITS[character]
        elif character in _TENS:
            section += (digit or 1) * _TENS[character]
            digit = 0
        else:
            scale = _MYRIADS[character]
            group = total + section + digit if scale > total else section + digit  # 一亿二千万, 三万亿
            total = (0 if scale > total else total) + (group or 1) * scale
            section = digit = 0
    return total + section + digit


def in_digits(text: str) -> str:
    """Converts the numerals of a text: "三分之二" becomes "2/3", "百分之五十" "50%", "2 million" "2000000"."""
    text = re.sub(rf"^(?:negative|minus)\s+(?=\d|(?:{_ENGLISH_WORD})\b)", "-", text, flags=re.IGNORECASE)
    text = _ENGLISH_SCALE.sub(
        lambda match: _written(Fraction(match[1].replace(",", "")) * _SCALES[match[2].lower()]), text
    )
    text = _ENGLISH_FRACTION.sub(
        lambda match: f"{_english(match[1] or '') or 1}/{_PARTS[match[2].lower()[:4]]}",
        text,  # half, a half
    )
    text = _ENGLISH.sub(lambda match: f"{_english(match[0])}", text)
    if not re.search("[\u4e00-\u9fff〇]", text) or _NO_NUMBER.search(text):
        return text
    text = re.sub(rf"^负(?={_PART})", "-", text)
    text = text.replace("一半", "1/2")
    text = re.sub(r"(?<=\d)又(?=\d+/\d)", " ", text)
    text = _PER_CENT.sub(lambda match: f"{_written(value(match[1]))}%", text)
    text = _FRACTION.sub(_fraction, text)
    text = _WITH_UNIT.sub(lambda match: _written(Fraction(match[1]) * _integer(match[2])), text)
    return _WHOLE.sub(lambda match: _written(value(match[0])) if value(match[0]) is not None else match[0], text)


_ONES = (
    "zero one two three four five six seven eight nine ten "
    "eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
_TIES = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_ENGLISH_SCALE = re.compile(rf"(\d+(?:,\d{{3}})*(?:\.\d+)?)[\s-]+({'|'.join(_SCALES)})\b", re.IGNORECASE)
_ENGLISH_WORD = "|".join(sorted([*_ONES, *_TIES, *_SCALES], key=len, reverse=True))
_START = r"(?:^|(?<=^-)|(?<=^\\text\{))"
# Only at the start, since later words may be part of a name; nothing or a word must follow.
_ENGLISH = re.compile(
    rf"{_START}(?:{_ENGLISH_WORD})(?:(?:\s+and)?[\s-]+(?:{_ENGLISH_WORD}))*(?=$|\}}$|\s+[a-z])", re.IGNORECASE
)

_PARTS = {
    "half": 2, "halv": 2, "thir": 3, "quar": 4, "four": 4, "fift": 5, "sixt": 6, "seve": 7, "eigh": 8, "nint": 9,
    "tent": 10,
}  # fmt: skip
_ENGLISH_FRACTION = re.compile(
    rf"{_START}(?:(?=half)|({'|'.join(['a', *_ONES[1:10]])})[\s-]+)"
    r"(half|halves|(?:third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|tenth)s?)(?=$|\}$|\s+[a-z])",
    re.IGNORECASE,
)


def _english(numeral: str) -> int:
    total = section = 0
    for word in re.findall("[a-z]+", numeral.lower()):
        if word in _ONES:
            section += _ONES.index(word)
        elif word in _TIES:
            section += 10 * (_TIES.index(word) + 2)
        elif word == "hundred":
            section = (section or 1) * 100
        elif word in _SCALES:
            total, section = total + (section or 1) * _SCALES[word], 0
    return total + section


def _fraction(match: re.Match[str]) -> str:
    whole, below, above = (value(part) if part else Fraction(0) for part in match.groups())
    if not below or above is None or whole is None:
        return match[0]
    return str(whole + above / below)


def _written(number: Fraction | None) -> str:
    """Writes a number as a decimal where it has few places, else as a quotient."""
    assert number is not None
    places = next((places for places in range(7) if 10**places % number.denominator == 0), None)
    if not places:
        return str(number)
    whole, rest = divmod(int(number * 10**places), 10**places)
    return f"{whole}.{rest:0{places}}"
