r"""Extracts the final answer of a completion, and the gold answer from a field of a data set.

The rules:

1. The thoughts of a reasoning model do not count: text up to `</think>`, or from a `<think>` on that is never closed.
   Nor does text after a new question that a base model asks itself ("Q:", "Problem:", "问题：", "User:" at the start
   of a line), if there is an answer before it.
2. The last *statement* counts. Statements are `\boxed{...}` (boxes with commas or "and" between them are a list),
   "#### 72", "# Answer" or "Final Answer" as a heading, "A: 72" as a line, "the answer is ...", "Answer: ...",
   "the correct option is ...", "答案是…", "答：…", "故选…" and the like, up to the end of the sentence. One that
   begins with an answer ("the answer is 5") has priority over one that does not ("the answer is found by ...") at any
   position, so that chatter after an answer does not hide it.
3. Without a statement, the kind of answer decides. "number": the last number, or the first one after the equals sign of
   the last line, but none if the text is cut off within a calculation. "math": a completion that is one short formula,
   else the last mathematics or number of the last sentence, else the last mathematics; of a chain of equations its last
   side (`implied`). "choice" and "choices": a letter at the start, else the last single letter. "text": a
   completion of one short line.
4. Programs and their outputs (```python, ```output) are not statements; the last line of the last output counts if the
   text around them has no answer.
5. A completion whose only statement is a box that is never closed was cut off and has no answer; rules 3 and 4 do not
   apply.
"""

import re
from collections.abc import Iterator, Sequence

from dsmath_jax.data.dataset_formats import CALCULATOR_MARK
from dsmath_jax.data.thoughts import after_thoughts
from dsmath_jax.grading import implied, spans
from dsmath_jax.grading.grades import Kind

MAX_CHARS = 200_000  # characters at the end of a completion that are read
NEXT_QUESTION = re.compile(
    r"\n[ \t>#*]*(?:(?:Q|Question|Problem|User|Human|Instruction|Informal)(?:\s+\d+)?[ *]*:|"
    r"(?:问题|题目|用户)\s*\d*\s*[:：.．])|<\|(?:im_start|user|User)"
)
PROGRAM = re.compile(r"```(?:python3?|py|output)\b.*?(?:```|\Z)", re.DOTALL)
OUTPUT = re.compile(r"```output\b(.*?)(?:```|\Z)", re.DOTALL)
LONG_BLANK = re.compile(r"\s{9,}")
END_OF_TEXT = re.compile(r"</s>|<\|(?:endoftext|im_end|eot_id)\|>|<[|｜]end▁of▁sentence[|｜]>")

IS = (
    r"[\s*_\"”']*(?:(?:is|are|was|would be|will be|must be|should be|equals|to be)\b(?:\s*[:：])?|[:：=]|comes? out to)"
)
NOUN = r"(?:\banswers?|\bans|\bfinal result|\b(?:correct|right|best|final) (?:option|choice|answer choice))\b"
CUE = re.compile(
    rf"(?P<english>{NOUN}(?:[ ]+(?:to|for|of|in)\b[^.:：=\n]{{0,80}}?)?{IS}"
    r"(?:[ ](?:therefore|thus|then|simply|just)\b)?)"
    r"|(?P<chinese>(?:答案|选项(?=[是为：:])|正确选项|正确的选项|正确的是)[】*\s]*(?:应该|应当|应|就)?(?:是|为|选|等于|[:：=])[:：]?|【答案】"
    r"|(?:故|应|因此|所以|答案)选择?[:：]?)"
    r"|(?P<reply>(?:^|(?<=[\s。，,]))答[:：])"
    r"|(?P<heading>^[ #*_>]{0,9}(?:the[ ]+)?(?:final[ ]+)?(?:answer|答案|最终答案)[*_ ]*$)"
    r"|(?P<hashes>####(?!#))"
    r"|(?P<line>(?-i:^A:)(?=[ ]*[-−$\\]*\.?\d[^\n]{0,40}$))",
    re.IGNORECASE | re.MULTILINE,
)
CORRECT = re.compile(
    r"\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s+\$?\s*([(（]?\s*[A-Z]\s*[)）]?)\s*\$?\s+is\s+(?:the\s+)?(?:correct|right|best)\b"
)
STEP = re.compile(r"\s*\d+[.)]\s+[A-Za-z]|step\b", re.IGNORECASE)
AROUND_CUE = ' \t\r\n*_:：`"“'
FILLER = re.compile(
    r"(?:(?:(?:approximately|about|around|roughly|exactly|simply|just|only|option|choice)\b|选项|大约|约)\s*[:：]?\s*)+",
    re.IGNORECASE,
)
BEGINS = re.compile(
    r"[-+−–±]?\s*(?:[$￥¥€£＄]|\\|\.?\d|[(\[{（√π]|[A-Za-z]\w?(?:\([a-z]\))?\s*=|[〇零一二两三四五六七八九十百千万负]+)"
)
OPERATORS = re.compile(r"\\[A-Za-z]+|[\^*√!{}]")
LISTED = re.compile(rf"\s*[-+/×÷:]\s*|\s*[A-Za-z]+,? and\s|(?=\s*\S){spans.JOINTS.pattern}")
LIST_BEFORE = re.compile(r"(?:[-+−]?[\d.]+\s*[,，、;；]\s*)+")  # numbers before mathematics
AFTER_BOX = re.compile(r"^\$?\s*[A-Za-z]+(?=\s+and\b)")  # a unit: "\boxed{1} cat and \boxed{2} dogs"
BEFORE_BOX = re.compile(r"第.个?空[填为是]*[\s$]*$|\s*\\?[A-Za-z]+(?:_\{?\w+\}?)?\s*=\s*$")
HOPE = re.compile(r"I hope (?:it|this|that)\b[^.\n]*\.?")
SHORT = 60  # characters of an answer in words
LONE_LETTER = re.compile(
    r"[(（\[]\s*([A-Za-z])\s*[)）\]]|(?<![A-Za-z0-9'’$\\{])(A(?!\s+[a-z])|[B-HJ-Z])(?![A-Za-z0-9'’+=^_])"
)
FIRST_LETTER = re.compile(
    r"(?:option|choice|选项|选)?\s*[({（\[\s$]*([A-Z])(?:[)）\].:：,，、}。\s$*]|$)", re.IGNORECASE
)
EITHER = re.compile(r"[(\s]*[A-Z][)\s]+(?:or|and)[(\s]+[A-Z](?![A-Za-z])")
LETTERS = re.compile(
    r"[({（\[\s]*[A-Z](?:[)）\]\s]*(?:[,，、;/&和与及]|\band\b)?[(（\[\s]*[A-Z](?![A-Za-z]))*(?![A-Za-z0-9])"
)


def extract(completion: str, kind: Kind, options: Sequence[str] = ()) -> str | None:
    """Returns the final answer of a completion without markup; None where there is none.

    Args:
      completion: the text of a model.
      kind: the kind of answer; it decides which part of a sentence is the answer, and what is an implied answer.
      options: the choices without letters; letters beyond them are not answers.

    Raises:
      ValueError: the kind is "program" or "theory".
    """
    _check_kind(kind)
    for part in _parts(completion):
        answer = _last_statement(part, kind, options)
        if answer is None and spans.has_unclosed_box(part):
            return None
        answer = answer or _implied(part, kind, options)
        if answer:
            return answer
    printed = OUTPUT.findall(after_thoughts(completion)[-MAX_CHARS:])
    return _answer_in(printed[-1].strip().split("\n")[-1], kind, options, begins=True) if printed else None


def extract_stated(completion: str, kind: Kind, options: Sequence[str] = ()) -> str | None:
    """Returns the answer that a completion states; None where it only implies one (rule 3)."""
    _check_kind(kind)
    parts = _parts(completion)
    return _last_statement(parts[0], kind, options) if parts else None


def _check_kind(kind: Kind) -> None:
    if kind in ("program", "theory"):
        raise ValueError(f"an answer of the kind '{kind}' is run, not read")


def gold_of(field: str, kind: Kind) -> str:
    r"""Returns the gold answer in an answer or solution field of a data set.

    That is the statement of a solution ("... #### 72", `\boxed{...}`, "The answer is 72.", "A: 72"), else all of it.
    """
    if kind in ("program", "theory"):
        return field
    field = CALCULATOR_MARK.sub("", field).strip()
    if kind == "choices" and not re.sub(r"[A-Z\s,，、;]", "", field):
        return re.sub(r"[^A-Z]", "", field)
    return _last_statement(field, kind, ()) or field if "\n" in field or _has_statement(field) else field


def _has_statement(field: str) -> bool:
    return "####" in field or next(spans.boxes(field), None) is not None or CUE.search(field) is not None


def _parts(completion: str) -> list[str]:
    """Splits a completion at the questions that it asks itself; the first part is the model's answer."""
    text = after_thoughts(completion)[-MAX_CHARS:]
    text = LONG_BLANK.sub(lambda match: "\n\n" if "\n" in match[0] else " ", text)
    text = END_OF_TEXT.split(PROGRAM.sub("\n", text), maxsplit=1)[0]
    text = HOPE.sub("", CALCULATOR_MARK.sub("", text))
    return [part for part in NEXT_QUESTION.split(text) if part.strip()]


def _last_statement(part: str, kind: Kind, options: Sequence[str]) -> str | None:
    """Returns the answer of the last statement of a part (rule 2)."""
    leading: list[tuple[int, str]] = []  # statements that begin with an answer, by position
    others: list[tuple[int, str]] = []
    for start, statement in _boxed_lists(part):
        if answer := _answer_in(statement, kind, options, begins=True):
            leading.append((start, answer))
    if kind in ("choice", "choices"):
        for match in spans.last_matches(CORRECT.finditer(spans.plain(part))):
            if letters := _first_letters(match[1], kind, options):
                leading.append((match.start(), letters))
    for match in spans.last_matches(CUE.finditer(part)):
        statement = _sentence_after(part, match.end(), heading=match["heading"] is not None)
        statement = statement if kind == "text" else _trimmed(statement)
        named = match["heading"] or match[0].endswith((":", "：")) or "final" in match[0].lower()
        begins = _begins(statement, kind, options) or (named and len(statement) <= SHORT / 2)
        if match["hashes"] and (not begins or STEP.match(part, match.end())):
            continue  # a level-4 heading
        if answer := _answer_in(statement, kind, options, begins and not match["reply"]):
            (leading if begins else others).append((match.start(), answer))
    return max(leading or others)[1] if leading or others else None


def _boxed_lists(part: str) -> Iterator[tuple[int, str]]:
    """Yields the contents of boxes; boxes separated only by commas and the like are one list."""
    group: list[spans.Span] = []
    for box in spans.boxes(part):
        between = part[group[-1].end : box.start] if group else ""
        if group and not spans.joins(BEFORE_BOX.sub("", AFTER_BOX.sub("", between))):
            yield group[0].start, _joined(group)
            group = []
        group.append(box)
    if group:
        yield group[0].start, _joined(group)


def _joined(group: Sequence[spans.Span]) -> str:
    return ", ".join(dict.fromkeys(box.text for box in group))


def _sentence_after(part: str, start: int, heading: bool) -> str:
    """Returns the sentence after a cue, from the next line with text where the rest of the cue's line is empty."""
    rest = part[start : start + spans.MAX_SENTENCE_CHARS].replace('\\"', '"')
    if not heading and not rest.split("\n", 1)[0].strip(AROUND_CUE):
        heading = True
    rest = rest.lstrip(AROUND_CUE) if heading else rest.lstrip(AROUND_CUE.replace("\n", ""))
    statement = spans.sentence(rest)
    # A box or another cue is its own statement.
    return "" if next(spans.boxes(statement), None) or CUE.search(statement) else statement


def _trimmed(statement: str) -> str:
    """Removes "approximately" from the start of a sentence, and all clauses after the first."""
    filler = FILLER.match(statement)
    return spans.CLAUSE.split(statement[filler.end() :] if filler else statement)[0]


def _begins(statement: str, kind: Kind, options: Sequence[str]) -> bool:
    """Returns whether a statement begins with an answer."""
    if kind in ("choice", "choices"):
        return bool(_first_letters(statement, kind, options)) or spans.bare(statement) in options
    return kind == "text" or BEGINS.match(statement) is not None


def _answer_in(statement: str, kind: Kind, options: Sequence[str], begins: bool) -> str | None:
    """Returns the answer in a statement, None if it has none of this kind; `begins`: it begins with the answer."""
    if kind == "number":
        return _number(statement, begins)
    if kind == "math":
        return _math(statement, begins)
    if kind == "text":
        return spans.bare(statement) or None
    if kind == "choice" and EITHER.match(spans.plain(statement)):
        return spans.bare(statement)
    letters = _first_letters(statement, kind, options) or _last_letter(statement, options)
    return letters or (spans.bare(spans.plain(statement)) or None if begins or len(statement) <= SHORT else None)


def _number(statement: str, begins: bool) -> str | None:
    """Returns the number of a sentence: the first if it begins with one, else the last; 18 of "5 + 13 = 18"."""
    text = spans.bare(spans.plain(statement))
    if text.endswith("}") and "{" not in text:
        text = text[:-1]  # of JSON around it
    right = spans.bare(spans.sides(text)[-1])
    text = right if spans.numbers(right) else text
    numbers = spans.numbers(text)
    if not numbers:
        return text if 0 < len(text) <= SHORT / 2 and len(text.split()) <= 3 else None
    around = "".join(_between(text, numbers))
    listed = any(map(LISTED.fullmatch, _between(text, numbers)[1:-1][:1]))
    if OPERATORS.search(around) or (begins and listed):
        return text  # more than a number; the grader compares the whole text
    return numbers[0 if begins else -1].text


def _between(text: str, numbers: Sequence[spans.Span]) -> list[str]:
    ends = [0, *(span.end for span in numbers)]
    starts = [*(span.start for span in numbers), len(text)]
    return [text[end:start] for end, start in zip(ends, starts, strict=True)]


def _math(statement: str, begins: bool) -> str | None:
    """Returns the mathematics of a sentence as a list ("$2$ and $3$") with its unit; without mathematics the words."""
    verbs = list(implied.VERB.finditer(statement))
    if verbs and not BEGINS.match(statement):
        statement = statement[verbs[-1].end() :].strip()  # "the largest $n$ is 34"
    formulas = spans.formulas(statement)
    before = statement[: formulas[0].start] if formulas else statement
    joined = LIST_BEFORE.fullmatch(before)
    if not formulas or (BEGINS.match(before) and not joined):
        return _words(spans.bare(before), begins)
    last = 0
    while last + 1 < len(formulas) and spans.joins(statement[formulas[last].end : formulas[last + 1].start]):
        last += 1
    pieces = spans.joined(statement, formulas[: last + 1]) + spans.unit(statement[formulas[last].end :])
    return spans.bare((before if joined else "") + pieces) or None


def _words(text: str, begins: bool) -> str | None:
    """Returns an answer without mathematics; of a longer sentence with a single number that number."""
    values = spans.numbers(text)
    if len(values) == 1 and len(implied.WORD.findall(text)) > 2 and not BEGINS.match(text):
        return values[0].text
    return text or None if begins or len(text) <= SHORT else None


def _letters_allowed(options: Sequence[str]) -> str:
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(options) or 26]


def _first_letters(statement: str, kind: Kind, options: Sequence[str]) -> str:
    """Returns the letter that a text begins with, for "choices" the letters; "" where there is none."""
    text = spans.halfwidth(spans.bare(spans.plain(statement)))
    allowed = _letters_allowed(options)
    if kind == "choices":
        match = LETTERS.match(re.sub(r"^(?:option|choice|选项|选)s?\s*", "", text))
        letters = "".join(re.findall("[A-Z]", match[0])) if match else ""
        if len(letters) > 1 and set(letters) <= set(allowed):
            return "".join(sorted(set(letters)))
    first = FIRST_LETTER.match(text)
    if not first or (first[1] not in allowed and not first[0].lstrip().startswith("(")):
        return ""
    if re.match(r"[AI]\s+[a-z]", text):  # an article, a pronoun
        return ""
    letter = first[1].upper()
    return letter if letter in allowed else ""


def _last_letter(text: str, options: Sequence[str]) -> str:
    letters = [(one or other).upper() for one, other in LONE_LETTER.findall(spans.halfwidth(text))]
    return next((letter for letter in reversed(letters) if letter in _letters_allowed(options)), "")


def _implied(part: str, kind: Kind, options: Sequence[str]) -> str | None:
    """Returns the answer that a part implies without a statement (rule 3)."""
    if kind == "text":
        line = part.strip()
        return spans.bare(line) or None if "\n" not in line and len(line) <= SHORT else None
    if kind in ("choice", "choices"):
        return _first_letters(part.strip().split("\n")[0][:SHORT], kind, options) or _last_letter(part, options) or None
    return implied.number(part) if kind == "number" else implied.formula(part)
