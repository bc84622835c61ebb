"""Finds words that a text shares with held-out problems, by the rule of the paper's decontamination (section 2.1.1)."""

import re
from collections.abc import Iterable, Iterator, Sequence

NGRAM = 10
SHORTEST = 3
_SIGNS = {r"\times": " * ", r"\div": " / ", "×": " * ", "÷": " / "}
_SIGN = re.compile("|".join(map(re.escape, _SIGNS)))
_WORD = re.compile(r"[a-z0-9]+|[\u3400-\u9fff]")
_WORD_OR_SIGN = re.compile(_WORD.pattern + r"|[-+*/=]")


def words(text: str) -> list[str]:
    """Returns the lower-case words of a text without punctuation; each Chinese character is a word."""
    return _WORD.findall(text.lower())


class Overlap:
    """The n-grams of `NGRAM` words of held-out texts, and whole texts of `SHORTEST` to `NGRAM` - 1 words.

    Texts are compared twice, with and without arithmetic signs as words, so that decontamination with other word
    boundaries finds no more than this.
    """

    def __init__(self, held_out: Iterable[str]):
        self._runs: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
        for text in held_out:
            for tokens in _readings(text):
                for run in _runs(tokens):
                    self._runs.setdefault(run[:SHORTEST], set()).add(run)

    def found_in(self, text: str) -> bool:
        """Returns whether a text has one of the n-grams."""
        return any(
            tuple(tokens[start : start + len(run)]) == run
            for tokens in _readings(text)
            for start in range(len(tokens) - SHORTEST + 1)
            for run in self._runs.get(tuple(tokens[start : start + SHORTEST]), ())
        )


def _readings(text: str) -> Iterator[list[str]]:
    text = _SIGN.sub(lambda sign: _SIGNS[sign[0]], text.lower())
    yield _WORD.findall(text)
    yield _WORD_OR_SIGN.findall(text)


def _runs(tokens: Sequence[str]) -> Iterator[tuple[str, ...]]:
    if SHORTEST <= len(tokens) < NGRAM:
        yield tuple(tokens)
    for start in range(len(tokens) - NGRAM + 1):
        yield tuple(tokens[start : start + NGRAM])
