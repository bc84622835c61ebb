"""Detects the language of a text."""

import re

from resiliparse.parse.lang import detect_fast, supported_langs

from dsmath_jax.corpus.text.delimiters import find_formulas

HAN, KANA, LETTER = re.compile(r"[\u3400-\u9fff]"), re.compile(r"[\u3040-\u30ff]"), re.compile(r"[^\W\d_]")
WORD = re.compile(r"[^\W\d_]+")
SAMPLE = 10_000
# A low share: one Chinese character is worth several letters, and program code is all letters.
SMALLEST_HAN_SHARE = 0.1
# Frequent words that only English has: a fifth of all words in prose, far fewer with code.
ENGLISH = frozenset(
    "the of and that with this from are by which you not or as if it be we can will have has its their these when "
    "using".split()
)
SMALLEST_ENGLISH_SHARE = 0.06
LARGEST_RANK = 1200
# Languages that the detector may return: others would be false detections in code and lists of names.
LANGUAGES = (
    "ar bg bn ca cs da de el en es et fa fi fr he hi hr hu id it ja ko lt lv ms nl no pl pt ro ru sk sl sr sv ta th tr "
    "uk ur vi zh"
).split()
DETECTABLE = [code for code in LANGUAGES if code in supported_langs()]


def language(text: str) -> str:
    """Returns the ISO 639-1 code of a text's language, without its formulas; "unknown" for a text without letters."""
    sample = _without_formulas(text[: 4 * SAMPLE])[:SAMPLE]
    words = WORD.findall(sample.lower())
    letters = sum(map(len, words))
    han, kana = (0, 0) if sample.isascii() else (len(kind.findall(sample)) for kind in (HAN, KANA))
    if not letters:
        return "unknown"
    if han + kana > SMALLEST_HAN_SHARE * letters:
        return "zh" if han > 10 * kana else "ja"
    if sum(map(ENGLISH.__contains__, words)) >= SMALLEST_ENGLISH_SHARE * len(words):
        return "en"
    code, _ = detect_fast(sample, cutoff=LARGEST_RANK, langs=DETECTABLE)
    return code


def _without_formulas(text: str) -> str:
    pieces, end = [], 0
    for span in find_formulas(text):
        pieces.append(text[end : span.start])
        end = span.end
    return " ".join([*pieces, text[end:]])
