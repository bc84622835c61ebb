"""Where the steps of a completion end, by token (paper §4.1.3; Math-Shepherd, arXiv 2312.08935, parts at newlines)."""

import bisect
import functools
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from dsmath_jax.data.tokenizer import Tokenizer


def cuts(text: str, delimiter: str) -> list[int]:
    """The characters before which a text's steps end, but for the last step, which ends with the text.

    Every step is one part of the text between delimiters that is more than white space, and goes through the delimiter
    after it; blank parts belong to the step after them, at the end of the text to the last one.
    """
    parts = text.split(delimiter)
    after = itertools.accumulate(len(part) + len(delimiter) for part in parts)
    return [place for part, place in zip(parts, after, strict=True) if part.strip()][:-1]


def step_ends(tokens: Sequence[int], tokenizer: Tokenizer, delimiter: str = "\n") -> Int[np.ndarray, " S"]:
    """The last token of every step, ascending.

    A step ends at the first token with which the decoded text has its delimiter: a delimiter may be inside a token
    (whose rest then belongs to the step too) or be made of several. Steps that end in the same token are one. The last
    step ends at the last token, EOS or the one at the length limit, so that no token comes after it.

    Args:
      tokens: a completion.
      tokenizer: whose ids they are.
      delimiter: what separates steps; not empty.

    Returns:
      indices into `tokens`; the last is `len(tokens) - 1`, and there is none without tokens.
    """
    if not tokens:
        return np.zeros(0, np.int64)
    ids, last = list(tokens), len(tokens) - 1
    text = tokenizer.decode(ids)
    # To be quick: the tokens at which delimiters most often end.
    likely = {token for token in set(ids) if delimiter[-1] in tokenizer.decode([token])}
    places = (place for place, token in enumerate(ids) if token in likely)
    ends = [0]
    for cut in cuts(text, delimiter):
        # Prefixes are decoded, not single tokens: characters and delimiters may span tokens.
        holds = functools.partial(_begins_with, ids, tokenizer, text[:cut])
        guess = next((place for place in places if holds(place)), last)
        ends.append(bisect.bisect_left(range(guess), True, lo=ends[-1], key=holds) if holds(guess - 1) else guess)
    return np.unique(np.array([*ends[1:], last], np.int64))


def _begins_with(ids: list[int], tokenizer: Tokenizer, text: str, token: int) -> bool:
    """Whether the text up to a token begins with this one."""
    return tokenizer.decode(ids[: token + 1]).startswith(text)
