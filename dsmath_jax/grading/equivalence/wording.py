"""Recognizes answers in words, and words of the same meaning."""

import re

from dsmath_jax.grading.equivalence.normalization import words


def is_words(text: str) -> bool:
    """Returns whether a normalized text is words rather than mathematics."""
    if re.fullmatch(r"\\(?:text|mbox|textbf|mathrm|textit)\s*\{[^{}]*\}", text) and not re.search(r"\d", text):
        return True
    bare = re.sub(r"\\(?:begin|end)\{[^{}]*\}(?:\{[^{}]*\})?|\\[A-Za-z]+|_\{[^{}]*\}", " ", words(text))
    bare = re.sub(
        r"\b(?:arc)?(?:sin|cos|tan|cot|sec|csc|sinh|cosh|tanh)\b|\b(?:sqrt|log|exp|abs|inf|infinity|and)\b", " ", bare
    )
    if re.search(r"[A-Za-z]{3}|[\u4e00-\u9fff]", bare) or re.fullmatch(r"[IVX]{2,}", bare.strip()):
        return True
    return bool(re.fullmatch(r"[A-Z]{2}|[A-Za-z]", bare.strip())) and "\\text" in text


SAME_WORDS = {
    "yes": "yes", "true": "yes", "correct": "yes", "是": "yes", "对": "yes", "正确": "yes", "是的": "yes",
    "no": "no", "false": "no", "incorrect": "no", "否": "no", "错": "no", "错误": "no", "不是": "no", "不对": "no",
    **dict.fromkeys(
        ["no solution", "no solutions", "no real solution", "no real solutions", "none", "empty set", "无解", "空集",
         "no such values", "无实数解", "there is no solution", "there are no solutions", "no answer", "\\emptyset"],
        "no solution",
    ),
    "dne": "does not exist", "不存在": "does not exist", "undefined": "undefined",
    "all real numbers": "all reals", "all real": "all reals", "all reals": "all reals", "全体实数": "all reals",
    "infinity": "infinity", "\\infty": "infinity", "infinitely many": "infinitely many", "neither": "neither",
}  # fmt: skip


def folded(text: str) -> str:
    """Removes what makes no difference in words: case, articles, punctuation, the brackets of a letter."""
    text = words(text).replace("\\emptyset", " \\emptyset ")
    text = re.sub(r"^\(\s*([A-Za-z])\s*\)$", r"\1", text.strip())
    text = re.sub(r"[\"'.!?*]", "", text.lower())
    text = re.sub(r"^(?:it is|it's|the answer is)\s+", "", text.strip())
    text = re.sub(r"\b(?:the|a|an)\s+(?=\w)", "", text)
    text = re.sub(r"\s+", " ", text).strip(" ,;:。")
    return SAME_WORDS.get(text, text)


def same_letter(gold: str, answer: str) -> bool:
    """Returns whether two answers are the same letter, such as C and (C); case matters."""
    one, other = (words(text).strip("() ") for text in (gold, answer))
    return len(one) == 1 and one == other
