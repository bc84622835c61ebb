"""Which language a text is in: for statistics, and to tell Chinese (by character) from the rest."""

import re

from resiliparse.parse.lang import detect_fast

FORMULA_TEXT = re.compile(
    r"\$\$.*?\$\$|\$[^$\n]*\$|\\\(.*?\\\)|\\\[.*?\\\]|\\begin\{(\w+\*?)\}.*?\\end\{\1\}", re.DOTALL
)
HAN, KANA, LETTER = re.compile(r"[\u3400-\u9fff]"), re.compile(r"[\u3040-\u30ff]"), re.compile(r"[^\W\d_]")
SAMPLE = 10_000
LARGEST_RANK = 1200


def language(text: str) -> str:
    """The ISO 639-1 code of a text's language, formulas apart; "unknown" where that cannot be told."""
    sample = FORMULA_TEXT.sub(" ", text[: 4 * SAMPLE])[:SAMPLE]
    letters, han, kana = (len(kind.findall(sample)) for kind in (LETTER, HAN, KANA))
    if han + kana > 0.3 * letters:
        return "zh" if han > 10 * kana else "ja"
    code, _ = detect_fast(sample, cutoff=LARGEST_RANK)
    return code if letters else "unknown"
