"""Compares answers by computer algebra: Math-Verify, without its signal-based time limits.

Importing this module takes seconds (SymPy, the LaTeX grammar), and a hostile formula takes forever: use it in workers.
"""

import logging
import re

import math_verify

for _name in ("math_verify.parser", "math_verify.grader"):
    logging.getLogger(_name).setLevel(logging.ERROR)  # it warns about the missing time limit, which workers have

# What takes hours to compute: powers of powers of powers, factorials of factorials or of large numbers.
TOO_EXPENSIVE = re.compile(
    r"\^[^,;=]*\^[^,;=]*\^|\^\W*\d{5}|!\W*!\W*!|\d{5}\W*!|\^[^()]*\)\W*!|\d[eE][-+]?\d{4}|exp\W*exp|binom\W*\d+\W*\^"
)
MAX_DEPTH = 40  # nested brackets
_CONFIGS = (math_verify.LatexExtractionConfig(boxed_match_priority=-1), math_verify.ExprExtractionConfig())


def equal(gold: str, answer: str) -> bool:
    """Returns whether Math-Verify finds two normalized formulas equal; False if it cannot parse or afford them."""
    if any(TOO_EXPENSIVE.search(text) or text.count("{") + text.count("(") > MAX_DEPTH for text in (gold, answer)):
        return False
    parsed = [
        math_verify.parse(f"${text}$", _CONFIGS, fallback_mode="no_fallback", parsing_timeout=None)
        for text in (gold, answer)
    ]
    if not all(parsed):
        return False
    return bool(math_verify.verify(*parsed, timeout_seconds=None, allow_set_relation_comp=True))
