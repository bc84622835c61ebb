"""Extracts the answer of a completion that states none: its last number, or its last mathematics."""

import re
from collections.abc import Sequence

from dsmath_jax.grading import spans

SHORT = 60  # characters before a number, or before the end, that are read
VERB = re.compile(r"\b(?:is|are|equals|be)\b(?:\s*:)?")
WORD = re.compile(r"(?<![A-Za-z\\{])[A-Za-z]{2,}")
PROSE = re.compile(r"(?<![A-Za-z\\{])[A-Za-z]{3,}\s|\s[A-Za-z]{3,}(?![A-Za-z])|[\u4e00-\u9fff]{2,}")
# Where a calculation is cut off: after a sign, within a calculator mark, or before the result of a product or sum.
CUT_OFF = re.compile(r"(?:[=×÷]|\d\s+[-+*/]|<<[^>]*|\d\)?\s*(?:[*×÷]|\s[-+x/]\s)\s*[$(]*\d[\d.,]*\)?)$")
NUMERAL = re.compile(
    r"(?=[a-z])(?!and\b)(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
    r"|(?:thir|four|fif|six|seven|eigh|nine)teen"
    r"|(?:twen|thir|for|fif|six|seven|eigh|nine)ty|hundred|thousand|million|and|[\s-])+[.!]?",
    re.IGNORECASE,
)
BOLD = re.compile(r"\*\*([^*\n]+)\*\*([:：]?)")
LABEL = re.compile(r"\d+[.)](?:\s|$)|.*[:：]\s*$")  # of a step or a line
ASIDE = re.compile(r"[(（]([^()（）]*)[)）][\s.。]*$")
# Before a number that is not a result: "18 dollars from 9 eggs at 2 dollars".
GOVERNED = re.compile(
    r"\b(?:from|than|at|among|out of|(?:of|in|for|to)(?: all| each of)? (?:the|his|her|its|their|these|those))"
    r"(?:\s+[a-z]+ing)?(?:\s+the)?\s*$"
)
CONDITION = re.compile(r"(?<=\S)[,，]?\s(?:when|since|because|where|as|if|for which)\b")
LETTER = re.compile(r"\\?[A-Za-z]+")
APPROXIMATELY = re.compile(r"≈|\\approx")
COMMAND = re.compile(r"\\[A-Za-z]+")
VARIABLE = re.compile(r"(?<![A-Za-z])[a-z](?![A-Za-z])")
NAME = re.compile(r"\\?[A-Za-z]+(?:_\{?\w+\}?|\^\{?\\?\w+\}?|')*(?:\s*\([A-Za-z\\, ]+\))?")
EQUATIONS = re.compile(r"=[^=]*(?:[,;，；]|\b(?:and|or)\b|和|或)[^=]*=")


def number(text: str) -> str | None:
    """Returns the final number of a text without a statement; None where it is cut off within a calculation.

    That is the number in bold in the last line, else the first after the line's last equals sign, else the last number
    of the last sentence with numbers; numbers that only explain ("... from 9 eggs", "... (of the 20 there were)") come
    last.
    """
    text = text.strip()
    if CUT_OFF.search(text[-SHORT:]):
        return None
    if NUMERAL.fullmatch(text):
        return text
    line = text.rpartition("\n")[2][-spans.MAX_SENTENCE_CHARS :]
    bold = [spans.numbers(text) for text, colon in BOLD.findall(line) if not (colon or LABEL.match(text))]
    right = spans.sides(spans.plain(line))[1:]
    for candidates in (bold[-1][-1:] if bold else [], spans.numbers(right[-1])[:1] if right else []):
        if candidates:
            return candidates[0].text
    text = spans.plain(text[-spans.MAX_SENTENCE_CHARS :])
    aside = ASIDE.search(text)
    if aside and (aside[1][:1].isalpha() or len(spans.numbers(aside[1])) > 1):
        text = text[: aside.start()] if spans.numbers(text[: aside.start()]) else text
    numbers = spans.numbers(text)
    for value in reversed(numbers):
        if spans.SENTENCE_END.search(text, value.end, numbers[-1].start):
            break
        if not GOVERNED.search(text[max(0, value.start - SHORT) : value.start]):
            return value.text
    return numbers[-1].text if numbers else None


def formula(part: str) -> str | None:
    """Returns the final mathematics of a text without a statement."""
    line = part.strip()
    if _is_formula(line):
        return _side(spans.bare(part)) or None
    last = VERB.split(spans.last_sentence(part))[-1]
    condition = CONDITION.search(last)
    if condition and re.search(r"[\d$\\]", last[: condition.start()]):
        last = last[: condition.start()]
    if parts := spans.formulas(last):
        run = _run(last, parts)
        values = spans.numbers(last[parts[-1].end :])  # "for the largest $n$ we find 34"
        return values[-1].text if values and LETTER.fullmatch(run) else _side(run) or None
    if len(spans.sides(last)) > 1:
        return _side(spans.bare(last)) or None
    if parts := spans.numbers(last):
        return _side(parts[-1].text + spans.unit(last[parts[-1].end :])) or None
    parts = spans.formulas(part[-spans.MAX_ANSWER_CHARS :])[-1:]
    parts = parts or spans.numbers(part[-spans.MAX_SENTENCE_CHARS :])[-1:]
    return _side(parts[0].text) or None if parts else None


def _is_formula(text: str) -> bool:
    """Returns whether a text is one short line of mathematics without a sentence."""
    if len(text) > spans.MAX_SENTENCE_CHARS or "\n" in text or PROSE.search(text) or VERB.search(text):
        return False
    around = spans.MATH.sub(" ", text)
    return around == text or not WORD.search(around)


def _run(text: str, formulas: Sequence[spans.Span]) -> str:
    """Returns the last formula that is more than a letter, and those joined to it: "$x=1$ and $x=-2$"."""
    last = next((i for i in reversed(range(len(formulas))) if not LETTER.fullmatch(formulas[i].text)), -1)
    first = last = last % len(formulas)
    while first and spans.joins(text[formulas[first - 1].end : formulas[first].start]):
        begins = not text[: formulas[first - 1].start].strip()  # "the solution is $x=1$ and $y=2$"
        if _named(formulas[first - 1].text) != _named(formulas[last].text) and not begins:
            break
        first -= 1
    return spans.joined(text, formulas[first : last + 1])


def _named(formula: str) -> str:
    """Returns the left side of an equation or inequality; "" for other formulas."""
    return spans.RELATION.split(formula, maxsplit=1)[0].strip() if spans.RELATION.search(formula) else ""


def _side(text: str) -> str:
    """Returns the last exact side of a chain of equations; y = 2x and x^2 + y^2 = 1 stay whole.

    The grader still finds the 7 of "a + b = 7" if the gold answer is 7.
    """
    exact = APPROXIMATELY.split(text)[0]
    text = exact if len(spans.sides(exact)) > 1 or not _has_names(exact) else text
    if EQUATIONS.search(text):
        return spans.bare(text)  # several equations
    *left, right = spans.sides(text)
    if len(left) != 1:
        return spans.bare(right)
    named = NAME.fullmatch(left[0].strip())
    relation = _has_names(right) if named else len({*VARIABLE.findall(COMMAND.sub("", left[0]))}) > 1
    return spans.bare(text if relation or right.strip() == "0" else right)


def _has_names(formula: str) -> bool:
    return re.search("[A-Za-z]", COMMAND.sub("", formula)) is not None
