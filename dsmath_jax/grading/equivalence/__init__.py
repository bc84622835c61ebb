"""Whether two answers are the same, by the kind of answer that a question wants.

This runs in workers (`grading.workers`): a hostile answer may take forever. Computer algebra is imported only where it
is needed, which for most answers it is not.

Where it is no equivalence: a unit or a base that is left out makes no difference (5 cm and 5 m are both 5), 50 % is 50
and 1/2, and a decimal of six places or more is every value that it is rounded from.
"""

import re
from collections.abc import Callable, Sequence

from dsmath_jax.grading.equivalence import forms, letters
from dsmath_jax.grading.equivalence.normal import normal, words
from dsmath_jax.grading.equivalence.numerals import in_digits
from dsmath_jax.grading.equivalence.quantities import Number, close, number
from dsmath_jax.grading.grades import Kind, Verdict

LONGEST = 1000  # characters of an answer that is read; longer ones are only compared as text
_PLAIN = re.compile(r"[-+]?(?:[1-9]\d{0,2}(?:,\d{3})+|\d{1,99})(?:\.\d{1,99})?")  # most answers, decided at once
_NUMBER_IN_WORDS = re.compile(
    r"(?<![A-Za-z0-9_.,/^])[-+]?[$€£¥]?\s*(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:/\d+)?"
    r"(?![\d/^_]|,\d|[A-Za-z](?![A-Za-z]))"
)


def equal(gold: str, answer: str, kind: Kind = "math", options: Sequence[str] = ()) -> Verdict:
    """Whether an answer is the gold one, and the rule that says so.

    Args:
      gold: the answer of the data set, without the solution around it.
      answer: the final answer of a completion, without the completion around it.
      kind: what the question asks for.
      options: texts of the options of a multiple-choice question, in their order.
    """
    if gold.strip() == answer.strip():
        return Verdict(bool(gold.strip()), "same text")
    if kind in ("number", "math") and _PLAIN.fullmatch(gold) and _PLAIN.fullmatch(answer):
        return _numbers(number(gold), number(answer))
    if max(len(gold), len(answer)) > LONGEST:
        return Verdict(False, "too long to compare")
    try:
        return _KINDS[kind](gold, answer, options)
    except RecursionError:
        return Verdict(False, "too deeply nested to compare")


def classes(answers: Sequence[str | None], kind: Kind = "math", options: Sequence[str] = ()) -> list[int | None]:
    """For each answer the index of the first one that it equals: its class, for votes. None for None."""
    firsts: list[tuple[int, str]] = []
    found: list[int | None] = []
    for index, answer in enumerate(answers):
        if answer is None:
            found.append(None)
            continue
        first = next((place for place, other in firsts if equal(other, answer, kind, options).equal), index)
        if first == index:
            firsts.append((index, answer))
        found.append(first)
    return found


def _math(gold: str, answer: str, options: Sequence[str]) -> Verdict:
    return forms.same(in_digits(normal(gold)), in_digits(normal(answer)))


def _number(gold: str, answer: str, options: Sequence[str]) -> Verdict:
    one, other = (in_digits(normal(text)) for text in (gold, answer))
    verdict = forms.numbers(one, other)
    if verdict is not None:
        return verdict
    wanted, given = number_in_words(one), number_in_words(other)
    return forms.same(one, other) if wanted is None or given is None else _numbers(wanted, given)


def _numbers(wanted: Number | None, given: Number | None) -> Verdict:
    same = wanted is not None and given is not None and close(wanted, given)
    return Verdict(same, "same number" if same else "not the same number")


def number_in_words(text: str) -> Number | None:
    """The one number of a sentence without mathematics in it; None where it holds none, or several."""
    text = words(text)
    if re.search(r"[=<>^_\\]", text):
        return None
    found = [match[0].strip() for match in _NUMBER_IN_WORDS.finditer(text) if re.search(r"\d", match[0])]
    return number(re.sub(r"[$€£¥\s]", "", found[0])) if len(found) == 1 else None


def _choice(gold: str, answer: str, options: Sequence[str]) -> Verdict:
    wanted, given = letters.letter(gold, options), letters.letter(answer, options)
    if given is None and options and wanted is not None and ord(wanted) - ord("A") < len(options):
        verdict = _math(letters.unlabelled(options[ord(wanted) - ord("A")]), answer, ())
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
    """Words in lower case without punctuation around them; rows of brackets without their spaces."""
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
