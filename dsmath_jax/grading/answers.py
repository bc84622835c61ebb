"""Is this answer right: the final answer of a completion, and equality of answers as numbers."""

import re
from fractions import Fraction

# What ends a worked solution; the last one in a text counts.
FINAL_ANSWER = re.compile(r"[Tt]he answer is:?\s*\$?\s*([^\n]*)")
UNSIGNED = r"(?:\d+(?:,\d{3})*(?:\.\d+)?|(?<!\w)\.\d+)"
NUMBER = re.compile(rf"([-+]?{UNSIGNED})(?:/({UNSIGNED}))?")


def extract(completion: str) -> str | None:
    """The final answer as written after the last "The answer is", without the full stop; None where there is none."""
    found = FINAL_ANSWER.findall(completion)
    if not found:
        return None
    answer = found[-1].strip().rstrip(".。").strip()
    return answer or None


def number(answer: str) -> Fraction | None:
    """An answer as an exact number ("1,234.50", "3/4", "-$12", "5 apples"), or None where it holds not exactly one."""
    numbers = NUMBER.findall(answer.replace("$", ""))
    if len(numbers) != 1:
        return None
    above, below = (part.replace(",", "") for part in numbers[0])
    try:
        return Fraction(above) / Fraction(below or 1)
    except (ValueError, ZeroDivisionError):  # more digits than Python turns into a number, or a division by zero
        return None


def equal(one: str, other: str) -> bool:
    """Whether two answers are the same number, or the same text where either is none."""
    left, right = number(one), number(other)
    if left is None or right is None:
        return one.strip() == other.strip()
    return left == right


def correct(completion: str, gold: str) -> bool:
    """Whether a completion's final answer is the gold one."""
    answer = extract(completion)
    return answer is not None and equal(answer, gold)
