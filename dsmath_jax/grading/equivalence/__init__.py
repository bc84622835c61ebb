"""Compares two answers by the kind of answer that a question asks for.

A hostile answer may take forever: use `grading.workers`. Computer algebra is imported only where it is needed, which
for most answers it is not.

The relation is not transitive: a missing unit or base makes no difference (5 cm and 5 m both equal 5), 50 % equals 50
and 1/2, and a decimal of six places or more equals every value that it is rounded from.
"""

import re
from collections.abc import Callable, Sequence

from dsmath_jax.grading.equivalence import forms, letters, quantities
from dsmath_jax.grading.equivalence.normalization import normalize, words
from dsmath_jax.grading.equivalence.numerals import in_digits
from dsmath_jax.grading.equivalence.quantities import Number, close, number
from dsmath_jax.grading.grades import Kind, Verdict

MAX_CHARS = 1000  # characters; longer answers are compared as text only
_PLAIN = re.compile(r"[-+]?(?:[1-9]\d{0,2}(?:,\d{3})+|\d{1,99})(?:\.\d{1,99})?")  # most answers, decided at once
_NUMBER_IN_WORDS = re.compile(
    r"(?<![A-Za-z0-9_.,/^])[-+]?[$€£¥]?\s*(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:/\d+)?"
    r"(?![\d/^_]|,\d|[A-Za-z](?![A-Za-z]))"
)


def equal(gold: str, answer: str, kind: Kind = "math", options: Sequence[str] = ()) -> Verdict:
    """Returns whether an answer equals the gold answer, and the rule that decided.

    Args:
      gold: the answer of the data set, without its solution.
      answer: the final answer of a completion, without its text.
      kind: what the question asks for.
      options: the texts of a multiple-choice question's options, in order.
    """
    if gold.strip() == answer.strip():
        return Verdict(bool(gold.strip()), "same text")
    if kind in ("number", "math") and _PLAIN.fullmatch(gold) and _PLAIN.fullmatch(answer):
        return _numbers(number(gold), number(answer))
    if max(len(gold), len(answer)) > MAX_CHARS:
        return Verdict(False, "too long to compare")
    try:
        return _KINDS[kind](gold, answer, options)
    except RecursionError:
        return Verdict(False, "too deeply nested to compare")


def classes(answers: Sequence[str | None], kind: Kind = "math", options: Sequence[str] = ()) -> list[int | None]:
    """Returns for each answer the index of the first one that it equals: its class, for votes. None for None."""
    firsts: list[tuple[int, str]] = []
    indices: list[int | None] = []
    for index, answer in enumerate(answers):
        if answer is None:
            indices.append(None)
            continue
        first = next((i for i, other in firsts if equal(other, answer, kind, options).equal), index)
        if first == index:
            firsts.append((index, answer))
        indices.append(first)
    return indices


def _math(gold: str, answer: str, options: Sequence[str]) -> Verdict:
    return forms.same(in_digits(normalize(gold)), in_digits(normalize(answer)))


def _number(gold: str, answer: str, options: Sequence[str]) -> Verdict:
    one, other = (in_digits(normalize(text)) for text in (gold, answer))
    verdict = quantities.compare(one, other)
    if verdict is not None:
        return verdict
    wanted, given = number_in_words(one), number_in_words(other)
    return forms.same(one, other) if wanted is None or given is None else _numbers(wanted, given)


def _numbers(wanted: Number | None, given: Number | None) -> Verdict:
    same = wanted is not None and given is not None and close(wanted, given)
    return Verdict(same, "same number" if same else "not the same number")


def number_in_words(text: str) -> Number | None:
    """Returns the only number of a sentence without mathematics; None where it has none or several."""
    text = words(text)
    if re.search(r"[=<>^_\\]", text):
        return None
    numbers = [match[0].strip() for match in _NUMBER_IN_WORDS.finditer(text) if re.search(r"\d", match[0])]
    return number(re.sub(r"[$€£¥\s]", "", numbers[0])) if len(numbers) == 1 else None


def _choice(gold: str, answer: str, options: Sequence[str]) -> Verdict:
    wanted, given = letters.letter(gold, options), letters.letter(answer, options)
    if given is None and options and wanted is not None and ord(wanted) - ord("A") < len(options):
        verdict = _math(letters.without_label(options[ord(wanted) - ord("A")]), answer, ())
        return Verdict(verdict.equal, "the option's text" if verdict.equal else "another option's text, or none's")
    if wanted is None or given is None:
        return _math(gold, answer, options)
    return Verdict(wanted == given, "same letter" if wanted == given else "another letter")


def _choices(gold: str, answer: str, options: Sequence[str]) -> Verdict:
    wanted, given = letters.letters(gold, options), letters.letters(answer, options)
    if wanted is None or given is None:
        return _choice(gold, answer, options)
    return Verdict(wanted == given, "same letters" if wanted == given else "other letters")


def _text(gold: str, answer: str, options: Sequence[str]) -> Verdict:
    one, other = (_plain(text) for text in (gold, answer))
    if one == other:
        return Verdict(True, "same words")
    verdict = _numbers(number(one), number(other))
    return verdict if verdict.equal else Verdict(False, "other words")


def _plain(text: str) -> str:
    """Returns words in lower case without punctuation around them, and rows of brackets without spaces."""
    text = text.strip()
    if re.fullmatch(r"[()\[\]{}<>\s]+", text):
        return re.sub(r"\s", "", text)
    text = re.sub(r"\*\*|[\"'`]", "", text).strip().rstrip(".。,")
    text = re.sub(r"^\(\s*(\w)\s*\)$", r"\1", text.lower())
    return re.sub(r"[\s,]+", " ", text).strip()


def _verbatim(gold: str, answer: str, options: Sequence[str]) -> Verdict:
    return Verdict(False, "other text")


_KINDS: dict[Kind, Callable[[str, str, Sequence[str]], Verdict]] = {
    "number": _number, "math": _math, "choice": _choice, "choices": _choices, "text": _text,
    "program": _verbatim, "theory": _verbatim,
}  # fmt: skip
