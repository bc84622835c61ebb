"""Finds n-grams that a text shares with held-out problems, as the paper's decontamination does (section 2.1.1)."""

import re
from collections.abc import Iterable, Iterator, Sequence

NGRAM = 10
MIN_WORDS = 3
_SIGNS = {r"\times": " * ", r"\div": " / ", "×": " * ", "÷": " / "}
_SIGN = re.compile("|".join(map(re.escape, _SIGNS)))
_WORD = re.compile(r"[a-z0-9]+|[\u3400-\u9fff]")
_WORD_OR_SIGN = re.compile(_WORD.pattern + r"|[-+*/=]")


def words(text: str) -> list[str]:
    """Returns the lower-case words of a text without punctuation; each Chinese character is a word."""
    return _WORD.findall(text.lower())


class HeldOutNgrams:
    """The n-grams of `NGRAM` words of held-out texts, and whole texts of `MIN_WORDS` to `NGRAM` - 1 words.

    Texts are compared twice, with and without arithmetic signs as words, so that decontamination with other word
    boundaries finds no more than this.
    """

    def __init__(self, held_out: Iterable[str]):
        self._by_start: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
        for text in held_out:
            for tokens in _tokenizations(text):
                for ngram in _ngrams(tokens):
                    self._by_start.setdefault(ngram[:MIN_WORDS], set()).add(ngram)

    def occur_in(self, text: str) -> bool:
        """Returns whether a text has one of the n-grams."""
        return any(
            tuple(tokens[start : start + len(ngram)]) == ngram
            for tokens in _tokenizations(text)
            for start in range(len(tokens) - MIN_WORDS + 1)
            for ngram in self._by_start.get(tuple(tokens[start : start + MIN_WORDS]), ())
        )


def _tokenizations(text: str) -> Iterator[list[str]]:
    text = _SIGN.sub(lambda sign: _SIGNS[sign[0]], text.lower())
    yield _WORD.findall(text)
    yield _WORD_OR_SIGN.findall(text)


def _ngrams(tokens: Sequence[str]) -> Iterator[tuple[str, ...]]:
    if MIN_WORDS <= len(tokens) < NGRAM:
        yield tuple(tokens)
    for start in range(len(tokens) - NGRAM + 1):
        yield tuple(tokens[start : start + NGRAM])
