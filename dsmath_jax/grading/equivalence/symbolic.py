"""What only computer algebra decides: Math-Verify's reading and comparing, without its time limits by signal.

Importing this takes seconds (sympy, the LaTeX grammar), and a hostile formula takes forever: it belongs into workers.
"""

import logging
import re

import math_verify

for _name in ("math_verify.parser", "math_verify.grader"):
    logging.getLogger(_name).setLevel(logging.ERROR)  # it warns that the caller must limit the time, as workers do

# What would be computed for hours: powers of powers of powers, factorials of factorials or of large numbers.
MONSTER = re.compile(
    r"\^[^,;=]*\^[^,;=]*\^|\^\W*\d{5}|!\W*!\W*!|\d{5}\W*!|\^[^()]*\)\W*!|\d[eE][-+]?\d{4}|exp\W*exp|binom\W*\d+\W*\^"
)
DEEPEST = 40  # brackets within each other
_CONFIGS = (math_verify.LatexExtractionConfig(boxed_match_priority=-1), math_verify.ExprExtractionConfig())


def equal(gold: str, answer: str) -> bool:
    """Whether Math-Verify takes two normalised formulas for equal; False for what it cannot read, or is a monster."""
    if any(MONSTER.search(text) or text.count("{") + text.count("(") > DEEPEST for text in (gold, answer)):
        return False
    read = [
        math_verify.parse(f"${text}$", _CONFIGS, fallback_mode="no_fallback", parsing_timeout=None)
        for text in (gold, answer)
    ]
    if not all(read):
        return False
    return bool(math_verify.verify(*read, timeout_seconds=None, allow_set_relation_comp=True))
