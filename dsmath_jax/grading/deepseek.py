r"""Grades as DeepSeekMath's evaluation code does, for comparison with its published figures.

It is more lenient than `equivalence.equal`:

- commas in numbers are removed ("1,2" is 12), and a number equals a hundred times and a hundredth of itself (0.5, 50
  and 5000), so that a percentage may be written in any way;
- numbers and values of expressions that differ by less than 0.001 are equal (1.4142 and sqrt 2, 0 and 0.0009);
- units, `\text{...}` at the end, `\mbox{...}`, degrees, dollars, `\cdot`, "x \in" are removed (5 m is 5 km);
- intervals, points and lists are equal if their entries are, whatever the brackets ((1, 2] is [1, 2));
- the two sides of an equation may be swapped in sign, and "ab = 5" is 5 for names of one or two characters;
- of several boxes the last count, as many as the gold answer has, in any order;
- without a statement the last output of a tool counts, else the last number of the text.

It is stricter in others: a letter counts only after "answer is"; an answer of several letters is never correct; words
and Chinese numerals are compared as texts.

Two parts are omitted: its rule for lists "separated by commas" in the question, since a grader sees no question, and
its second parser, which evaluates text as Python.
"""

import math
import re
from collections.abc import Callable, Sequence

from dsmath_jax.data.thoughts import after_thoughts
from dsmath_jax.grading import spans
from dsmath_jax.grading.grades import Kind

CLOSE = 1e-3
NEXT_QUESTION = re.compile(r"Q: |Problem:|问题：|问题 ")
OUTPUT = re.compile(r"```output(?!.*```output)(.*?)(?:```|\Z)", re.DOTALL)
LAST_NUMBER = re.compile(r"-?\d*\.?\d+")
HOPE = re.compile(r"final answer is \$(.*?)\$\. I hope", re.DOTALL)
CHOICE = re.compile(r"answer is \(?([a-z])\)?")
TINY = re.compile(r"[-+]?[\d.]+e[-+]?\d+")  # the notation of numbers in OCW Courses only
REWRITTEN = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"\n|\\!", ""),
        (r"\.+$", ""),
        (r"^\\text\{(.*)\}$", r"\1"),
        (r"[tdc]frac", "frac"),
        (r"\\left|\\right", ""),
        (r"(?<=.)\\text\{[^{}]*\}$", ""),
        (r"\^\{\\circ\}|\^\\circ", ""),
        (r"\{[cm]?m\}(?:\^[23])?|p\.m\.$|(?<=\d)\s*t$", ""),
        (r"\\?\$|x\\in", ""),
        (r"\\%", "%"),
        (r"(^|[ {])\.", r"\g<1>0."),
        (r"\\cdot|\\math(?:bf|rm)|\\mbox\{[^{}]*\}", ""),
        (r"(?<!\\)inf(?:inity|ty)?\b", r"\\infty"),
        (r"(\d)\.0+(?!\d)", r"\1"),
        (r"(\\sqrt|\\tan)\s*(-?[0-9.a-zA-Z]+)", r"\1{\2}"),
        (r"\s", ""),
        (r"\\frac(\d)(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac(\d)\{", r"\\frac{\1}{"),
        (r"^(-?\d+)/(\d+)$", r"\\frac{\1}{\2}"),
        (r"[\\,.]+$", ""),
    )
)


def correct(completion: str, gold: str, kind: Kind, options: Sequence[str] = ()) -> bool:
    """Returns whether the paper's evaluation counts a completion as correct, without its thoughts.

    Run it in a worker: it may not end.
    """
    del options
    own = NEXT_QUESTION.split(after_thoughts(completion), maxsplit=1)[0]
    if kind == "choice":
        letter = CHOICE.search(own.lower())
        return letter is not None and letter[1] == gold.lower()
    if kind == "choices":
        stated = own.partition("答案是")[2].strip().split("\n")[0]
        return max((letter for letter in "ABCD" if letter in stated), key=stated.index, default="") == gold
    answers = _answers(own)
    if kind == "number":
        return bool(answers) and same(answers[-1], cleaned(gold))
    if kind == "text":
        return bool(answers) and answers[-1] == cleaned(gold)
    return _same_lists(answers, gold)


def cleaned(answer: str) -> str:
    """Removes from an answer what that evaluation removes."""
    answer = answer.strip()
    for pattern, new in REWRITTEN:
        answer = pattern.sub(new, answer).strip()
    return answer.replace("j", "i") if "i" not in answer else answer


def same(answer: str, gold: str) -> bool:
    """Returns whether two cleaned answers count as equal."""
    if answer == gold:
        return True
    number, expected = _number(answer), _number(gold)
    if number is not None and expected is not None:
        if TINY.fullmatch(gold):
            return math.isclose(number, expected, rel_tol=0.01)
        return any(math.isclose(number, value, abs_tol=CLOSE) for value in (expected / 100, expected, expected * 100))
    if not answer:
        return False
    if r"\cup" in answer and r"\cup" in gold:
        return _as_sets(answer.split(r"\cup"), gold.split(r"\cup"), same)
    for entries in (_bracketed, _cells):
        one, other = entries(answer), entries(gold)
        if one and other and len(one) == len(other) and all(map(same, one, other)):
            return True
    sides, gold_sides = answer.split("="), gold.split("=")
    if len(sides) == len(gold_sides) == 2:
        difference, gold_difference = (f"{left}-({right})" for left, right in (sides, gold_sides))
        return _same_value(difference, gold_difference) or _same_value(f"-({difference})", gold_difference)
    if len(sides) + len(gold_sides) == 3 and len((sides if len(sides) == 2 else gold_sides)[0]) <= 2:
        return same(sides[-1], gold_sides[-1])
    return _same_value(answer, gold)


def _answers(text: str) -> list[str]:
    """Returns the cleaned answers that a text states, by the rules of that evaluation."""
    if hope := HOPE.search(text):
        answers = [hope[1]]
    elif "boxed" in text:
        answers = [box.text for box in spans.boxes(text)]
    elif "he answer is" in text or "答案是" in text:
        answers = [re.split("he answer is|答案是", text)[-1]]
    elif output := OUTPUT.search(text):
        answers = [output[1]]
    else:
        answers = LAST_NUMBER.findall(text.replace(",", ""))[-1:]
    return [cleaned(answer.strip().split("\n")[0].lstrip(":：").rstrip("./。")) for answer in answers]


def _same_lists(answers: Sequence[str], gold: str) -> bool:
    """Compares blanks, which semicolons separate, in order, and other answers of several parts as sets."""
    if ";" in gold:
        golds = [cleaned(part) for part in gold.split(";")]
        parts = [part for answer in answers for part in _parts(answer)][-len(golds) :]
        return len(parts) == len(golds) and all(map(same, parts, golds))
    golds = [cleaned(part) for part in re.split(r"\\text\{\s*and\s*\}", gold)]
    return _as_sets(list(dict.fromkeys(answers))[-len(golds) :], golds, same)


def _as_sets(ones: Sequence[str], others: Sequence[str], equal: Callable[[str, str], bool]) -> bool:
    pairs = [(i, j) for i, one in enumerate(ones) for j, other in enumerate(others) if equal(one, other)]
    return bool(ones) and all(len({pair[side] for pair in pairs}) == len(s) for side, s in enumerate((ones, others)))


def _number(text: str) -> float | None:
    digits, percent = re.subn(r"\\?%$", "", text.replace(",", ""))
    try:
        return float(digits) / (100 if percent else 1)
    except ValueError:
        return None


def _parts(text: str) -> list[str]:
    """Splits a text at the commas and semicolons outside brackets."""
    depth, parts = 0, [""]
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character in ",;" and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part for part in parts if part]


def _bracketed(text: str) -> list[str]:
    return text[1:-1].split(",") if len(text) > 2 and text[0] in "([" and text[-1] in ")]" else []


def _cells(text: str) -> list[str]:
    match = re.fullmatch(r"\\begin\{([pb]matrix)\}(.*)\\end\{\1\}", text)
    return re.split(r"&|\\\\", match[2]) if match else []


def _same_value(one: str, other: str) -> bool:
    """Returns whether SymPy finds two expressions equal, or their values within 0.001."""
    from latex2sympy2_extended import latex2sympy  # takes seconds to import
    from sympy import N, simplify

    try:
        left, right = latex2sympy(one), latex2sympy(other)
        return bool(simplify(left - right) == 0) or math.isclose(N(left), N(right), abs_tol=CLOSE)
    except Exception:  # that evaluation counts any failure as a difference
        return False
