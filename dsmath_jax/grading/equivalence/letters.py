"""Reads answers to multiple-choice questions: one letter, several, or the text of an option."""

import re
from collections.abc import Sequence

from dsmath_jax.grading.equivalence.normalization import normalize, words

_LABEL = re.compile(r"^\(?\s*([A-Z])\s*(?:\)|\.|:|,|、|．)\s*")
_MARK = r"[(\[]?\s*([A-Z])\s*[)\]]?"
_BEFORE = r"(?:the )?(?:answers?|option|choice)(?: is| are)?|选(?:项|择)?|答案(?:是|为|选)?|故选"
_ALONE = re.compile(rf"^(?:(?:{_BEFORE}):?\s*)?{_MARK}\s*(?:[.,:)]|$|项)", re.IGNORECASE)
_LEADING = re.compile(rf"^(?:{_BEFORE})\s*:?\s*", re.IGNORECASE)
_SEVERAL = re.compile(r"^[(\[]?\s*([A-Z](?:\s*(?:,|、|;|and|和|与|&)?\s*[A-Z])*)\s*[)\]]?$")


def _clean(text: str) -> str:
    return words(normalize(text)).strip(" .*")


def without_label(option: str) -> str:
    """Removes the letter of an option: "(B) 5" and "B. 5" become "5"."""
    return _LABEL.sub("", option.strip(), count=1)


def letter(text: str, options: Sequence[str] = ()) -> str | None:
    """Returns the letter that an answer names, by itself or by the text of one option; None where it names none."""
    text = _clean(text)
    if re.fullmatch(r"[a-z]", text):
        return text.upper()
    if (match := _ALONE.match(text)) is not None and _is_label(match, text):
        return match[1].upper()
    matching = [i for i, option in enumerate(options) if _clean(without_label(option)).lower() == text.lower()]
    return chr(ord("A") + matching[0]) if len(matching) == 1 else None


def _is_label(match: re.Match[str], text: str) -> bool:
    """Returns whether a letter is a label, as alone or in "A. 5" and "(A) 5", not the start of "A dog"."""
    return match[1].isupper() or match.end() == len(text)


def letters(text: str, options: Sequence[str] = ()) -> frozenset[str] | None:
    """Returns the letters that an answer names, such as "ACD" or "A, C and D"; None where it names none."""
    text = _LEADING.sub("", _clean(text))
    if (match := _SEVERAL.match(text)) is not None:
        return frozenset(re.findall("[A-Z]", re.sub("and", "", match[1])))
    if re.fullmatch(r"(?:\(?[A-Z]\)?\s*(?:(?:,|、|and)\s*)?)+", text):
        return frozenset(re.findall("[A-Z]", text))
    one = letter(text, options)
    return None if one is None else frozenset(one)
