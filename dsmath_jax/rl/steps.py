"""Step boundaries of a completion, by token (paper §4.1.3; Math-Shepherd, arXiv 2312.08935, splits at newlines)."""

import bisect
import functools
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from dsmath_jax.data.chat import Chat
from dsmath_jax.data.tokenizer import Tokenizer


def step_offsets(text: str, delimiter: str) -> list[int]:
    """Returns the character offsets at which the steps of a text end, except for the last step.

    A step is a part of the text between delimiters that is not only white space, with the delimiter after it. Blank
    parts belong to the next step, at the end of the text to the last one.
    """
    parts = text.split(delimiter)
    ends = itertools.accumulate(len(part) + len(delimiter) for part in parts)
    return [end for part, end in zip(parts, ends, strict=True) if part.strip()][:-1]


def step_ends(tokens: Sequence[int], tokenizer: Tokenizer, delimiter: str = "\n") -> Int[np.ndarray, " S"]:
    """Returns the index of the last token of every step, ascending.

    A step ends at the token that completes its delimiter in the decoded text: a delimiter may be inside a token (whose
    rest then belongs to the step too) or span several. Steps that end in the same token are one. The last step ends at
    the last token, EOS or the one at the length limit.

    Args:
      tokens: a completion.
      tokenizer: decodes the tokens; the text of an EOS that is an ordinary piece is no step.
      delimiter: separates steps; not empty.

    Returns:
      indices into `tokens`, the last of which is `len(tokens) - 1`; none without tokens.
    """
    if not tokens:
        return np.zeros(0, np.int64)
    ids, last = list(tokens), len(tokens) - 1
    text = tokenizer.decode(ids[:-1] if ids[-1] in tokenizer.stop_ids else ids)
    # For speed, tokens that contain the end of a delimiter are tried first.
    likely = {token for token in set(ids) if delimiter[-1] in tokenizer.decode([token])}
    candidates = (i for i, token in enumerate(ids) if token in likely)
    ends = [0]
    for offset in step_offsets(text, delimiter):
        # Prefixes are decoded, not single tokens: characters and delimiters may span tokens.
        complete = functools.partial(_starts_with, ids, tokenizer, text[:offset])
        guess = next((i for i in candidates if complete(i)), last)
        ends.append(bisect.bisect_left(range(guess), True, lo=ends[-1], key=complete) if complete(guess - 1) else guess)
    return np.unique(np.array([*ends[1:], last], np.int64))


def step_texts(tokens: Sequence[int], ends: Sequence[int] | np.ndarray, chat: Chat) -> list[str]:
    """Returns the texts of the steps that end at these tokens; together they are the completion's text."""
    whole = chat.completion(tokens)
    before = len(chat.opens_thought)
    cuts = [0, *(before + len(chat.tokenizer.decode(list(tokens[: end + 1]))) for end in ends[:-1]), len(whole)]
    return [whole[start:stop] for start, stop in itertools.pairwise(cuts)]


def _starts_with(ids: list[int], tokenizer: Tokenizer, text: str, token: int) -> bool:
    """Whether the tokens up to this one decode to a text that starts with `text`."""
    return tokenizer.decode(ids[: token + 1]).startswith(text)
