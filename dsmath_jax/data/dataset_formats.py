"""Parsers from the rows of each data set to records: question, solution, answer and their like.

A parser takes a record's id and the fields of a row, and raises `BadField` for invalid fields. Texts are stripped,
except code.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Any, Literal, get_args

CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")
GSM8K_END = re.compile(r"####[ ]*[^\s\d]?[.,]?\d[^\n]*\s*\Z")  # "#### 72" at the end, not a heading
BOXED = re.compile(r"\\(?:boxed|fbox)\s*")
BETWEEN_BOXES = re.compile(r"(?:[\s$,;]|\\[()\[\]]|\band\b|\bor\b|\\text(?:rm)?\s*\{\s*(?:,|and|or)\s*\})*")
OPTION_LABEL = re.compile(r"\(?([A-Z])[.)]\s*")
LETTER = re.compile(r"\([A-Z]\)")
OPTION_STARTS = re.compile(r"\s+(?=[A-Z][.)]\s)")
TRAILING_BREAKS = re.compile(r"[\\\s]+$")


# How an answer is extracted and compared: a number, any mathematics, one letter, a set of letters, a text, or by
# running it: a program with its tests, an Isabelle theory.
Kind = Literal["number", "math", "choice", "choices", "text", "program", "theory"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclasses.dataclass(frozen=True)
class Record:
    """One problem.

    Attributes:
      id: unique over all data sets, "gsm8k/test/17".
      question: the problem, without options.
      solution: the worked solution, ending in its answer sentence if the set has one; "" without one.
      answer: the reference answer: the final answer; with options, the letters of the correct ones ("B", "ACD") or, for
        options without letters, the correct one itself; for code, a program to run after a solution, which raises if
        that is incorrect; for miniF2F, the theory up to the proof.
      options: the choices, without their letters.
      category: subject, task or source.
      level: difficulty or school grade.
      kind: how answers are extracted and compared.
      prompt: the question in the prompt, where that is more than the question and its options: with the tests of a
        program, with a formal statement; "" for the question.
      instruction: the answer format below the question, where the set has its own; "" for the run's instruction.
      heading: for a few-shot example, the text above the examples in the published prompt of its category.
      extra: the other fields of a row of the user's, by name, for the user's reward functions.
    """

    id: str
    question: str
    solution: str = ""
    answer: str = ""
    options: tuple[str, ...] = ()
    category: str = ""
    level: str = ""
    kind: Kind = "math"
    prompt: str = ""
    instruction: str = ""
    heading: str = ""
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)


RECORD_FIELDS = frozenset(field.name for field in dataclasses.fields(Record))
# What a column of a user's file can be (`own_data`): a record's fields, and those that only some readers have.
FIELDS = (
    "id", "question", "solution", "answer", "options", "category", "level", "kind", "prompt", "instruction",
    "messages", "style", "language", "program",
)  # fmt: skip
LISTS = ("options", "messages")  # the fields that are lists; a CSV file has them as JSON


class BadField(Exception):
    """A field of a row is invalid.

    Attributes:
      field: its name.
      problem: what is wrong with it: "is missing".
    """

    def __init__(self, field: str, problem: str):
        super().__init__(f"the field '{field}' {problem}")
        self.field, self.problem = field, problem


Fields = dict[str, Any]
Parse = Callable[[str, Fields], Record]


def _field(fields: Fields, *names: str | int) -> Any:
    value: Any = fields
    for name in names:
        try:
            value = value[name]
        except (KeyError, IndexError, TypeError):
            raise BadField(".".join(map(str, names)), "is missing") from None
    return value


def _verbatim(fields: Fields, *names: str | int) -> str:
    """Returns a text, or a number as a text, unstripped."""
    value = _field(fields, *names)
    if type(value) not in (str, int, float):
        raise BadField(".".join(map(str, names)), "is not text")
    if isinstance(value, float) and not isfinite(value):
        raise BadField(".".join(map(str, names)), f"is {value}, which is not a finite number")
    return str(value)


def _text(fields: Fields, *names: str | int) -> str:
    return _verbatim(fields, *names).strip()


def _question(fields: Fields, *names: str | int) -> str:
    text = _text(fields, *names)
    if not text:
        raise BadField(".".join(map(str, names)), "is empty")
    return text


def _optional(fields: Fields, name: str) -> str:
    """Returns a text; "" for a missing field, null, and NaN, which stands for null in columns of numbers."""
    value = fields.get(name)
    return "" if value is None or value != value else _text(fields, name)


def _texts(fields: Fields, name: str) -> list[str]:
    value = _field(fields, name)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise BadField(name, "is not a list of texts")
    return value


def columns(
    question: str = "question", solution: str = "", answer: str = "answer", level: str = "", kind: Kind = "number"
) -> Parse:
    """Returns a parser of rows that have a record's fields under these names ("" for none)."""

    def parse(record_id: str, fields: Fields) -> Record:
        worked = _text(fields, solution) if solution else ""
        graded = _text(fields, level) if level else ""
        return Record(record_id, _question(fields, question), worked, _text(fields, answer), level=graded, kind=kind)

    return parse


def toy(record_id: str, fields: Fields) -> Record:
    """Parses the toy problems: rows are records."""
    return dataclasses.replace(columns(solution="solution")(record_id, fields), id=_text(fields, "id"))


def user(record_id: str, fields: Fields) -> Record:
    """Parses a user's rows: "question" and, optionally, other fields of a `Record`; the rest is its `extra`.

    With options and no "kind", the answer decides it: one of the options itself, or letters. A worked answer that ends
    in `#### N`, as in GSM8K, is a solution and the number N.
    """
    question = _question(fields, "question")
    answer, solution = _optional(fields, "answer"), _optional(fields, "solution")
    if GSM8K_END.search(answer):
        worked = gsm8k(record_id, fields)
        fields = {"kind": worked.kind} | fields
        answer, solution = worked.answer, solution or worked.solution
    options = _options(_texts(fields, "options")) if fields.get("options") else ()
    kind: Kind = fields.get("kind") or "math"
    if kind not in KINDS:
        raise BadField("kind", f"must be one of {', '.join(KINDS)}")
    if options and answer and not fields.get("kind"):
        kind = "text" if answer in options else "choice"
    if kind in ("choice", "choices") and answer:
        answer = _choice(answer, options, "answer")
        kind = "choices" if len(answer) > 1 else kind
    return Record(
        _optional(fields, "id") or record_id, question, solution, answer, options,
        _optional(fields, "category"), _optional(fields, "level"), kind, _optional(fields, "prompt"),
        _optional(fields, "instruction"), extra=_extra(fields),
    )  # fmt: skip


def _extra(fields: Fields) -> Fields:
    """Returns the fields that a `Record` does not have, and those of an object `extra`; without nulls."""
    nested = fields.get("extra") or {}
    if not isinstance(nested, Mapping):
        raise BadField("extra", "is not an object")
    others = {name: value for name, value in fields.items() if name not in RECORD_FIELDS}
    return {name: value for name, value in {**others, **nested}.items() if value is not None}


def _options(texts: list[str]) -> tuple[str, ...]:
    """Returns a user's options, without their letters if all have one."""
    labels = [OPTION_LABEL.match(text.strip()) for text in texts]
    has_letters = all(label and label[1] == chr(ord("A") + i) for i, label in enumerate(labels))
    return _strip_letters(texts) if has_letters else tuple(texts)


def gsm8k(record_id: str, fields: Fields) -> Record:
    """Parses GSM8K: `answer` has the solution with `<<48/2=24>>` calculator annotations and ends in `#### N`."""
    steps, mark, answer = _text(fields, "answer").rpartition("####")
    if not mark:
        raise BadField("answer", "has no '####' before the final answer")
    answer = answer.strip().replace(",", "")
    steps = CALCULATOR_MARK.sub("", steps).strip()
    return Record(record_id, _question(fields, "question"), f"{steps}\nThe answer is {answer}.", answer, kind="number")


def gsm8k_marked(record_id: str, fields: Fields) -> Record:
    """Parses GSM8K with its calculator annotations."""
    return dataclasses.replace(gsm8k(record_id, fields), solution=_text(fields, "answer").rpartition("####")[0].strip())


def math(record_id: str, fields: Fields) -> Record:
    """Parses MATH: the answer is the last box of the solution; some mirrors name `type` `subject`."""
    solution = _text(fields, "solution")
    answer = boxed(solution) or _optional(fields, "answer")
    if not answer:
        raise BadField("solution", "boxes no answer")
    subject = _text(fields, "subject" if "subject" in fields else "type")
    level = _text(fields, "level").removeprefix("Level ")
    return Record(record_id, _question(fields, "problem"), solution, answer, category=subject, level=level)


def boxed(solution: str) -> str:
    r"""Returns the content of the last `\boxed{...}` (or `\fbox{...}`, or `\boxed 2`) of a text; "" without one.

    Boxes with only commas and the like between them are one list: "1, 2" for `$\boxed{1}$ and $\boxed{2}$`.
    """
    listed: list[str] = []
    end = 0
    for match in BOXED.finditer(solution):
        if listed and not BETWEEN_BOXES.fullmatch(solution, end, match.start()):
            listed = []
        text, end = _box(solution, match.end())
        listed.append(text)
    return ", ".join(listed)


def _box(solution: str, start: int) -> tuple[str, int]:
    """Returns the content of the box that opens at `start`, and its end; "" if it is never closed."""
    if not solution.startswith("{", start):
        text = re.split(r"[\s$]", solution[start:], maxsplit=1)[0]
        return text.rstrip("."), start + len(text)
    depth = 0
    for i in range(start, len(solution)):
        depth += {"{": 1, "}": -1}.get(solution[i], 0)
        if depth == 0:
            return solution[start + 1 : i].strip(), i + 1
    return "", len(solution)


def mgsm(record_id: str, fields: Fields) -> Record:
    """Parses MGSM: chat messages, the first of which is the question."""
    return Record(record_id, _question(fields, "messages", 0, "content"), "", _text(fields, "answer"), kind="number")


def _strip_letters(options: Iterable[str]) -> tuple[str, ...]:
    """Strips the letters of options: "(A)2", "A) 2" and "A. 2" become "2"."""
    texts = []
    for i, option in enumerate(options):
        label = OPTION_LABEL.match(option.strip())
        if not label or label[1] != chr(ord("A") + i):
            raise BadField("options", "is not lettered A, B, C and so on")
        texts.append(option.strip()[label.end() :])
    return tuple(texts)


def _choice(letters: str, options: tuple[str, ...], name: str) -> str:
    """Returns the letters of the correct options, without separators."""
    known = "".join(chr(ord("A") + i) for i in range(len(options)))
    letters = "".join(re.findall(r"\w", letters))
    if not letters or set(letters) - set(known):
        raise BadField(name, f"names none of the options {known}")
    return letters


def mmlu(record_id: str, fields: Fields) -> Record:
    """Parses MMLU and its STEM subset: the options are a list without letters.

    The published STEM subset has NaN for the option "None", which a table reader parsed as a missing value.
    """
    listed = fields.get("options")
    if isinstance(listed, list):
        fields = {**fields, "options": ["None" if option != option else option for option in listed]}
    options = tuple(option.strip() for option in _texts(fields, "options"))
    answer = _choice(_text(fields, "answer"), options, "answer")
    return Record(record_id, _question(fields, "question"), "", answer, options, _text(fields, "topic"), kind="choice")


def sat(record_id: str, fields: Fields) -> Record:
    """Parses SAT: `options` is one text "A) ... B) ..." or "A. ... B. ..."."""
    options = _strip_letters(OPTION_STARTS.split(_text(fields, "options")))
    answer = _choice(_text(fields, "Answer"), options, "Answer")
    return Record(record_id, _question(fields, "question"), "", answer, options, kind="choice")


def agieval(record_id: str, fields: Fields) -> Record:
    """Parses AGIEval: with a `label` among `options` or an `answer`; a `passage` is part of the question.

    `other` has the solution (SAT) or the exam (Gaokao); samples of the prompts have an `explanation`.
    """
    passage = _optional(fields, "passage")
    question = TRAILING_BREAKS.sub("", f"{passage}\n{_question(fields, 'question')}".strip())
    other = fields.get("other") or {}
    if not isinstance(other, dict):
        raise BadField("other", "is not an object")
    solution = _optional(fields, "explanation") or _optional(other, "solution")
    category = _optional(other, "source")
    if fields.get("options") is None:
        return Record(record_id, question, solution, _text(fields, "answer"), category=category)
    options = _strip_letters(_texts(fields, "options"))
    letters = _choice(_text(fields, "label"), options, "label")
    return Record(record_id, question, solution, letters, options, category, kind="choices")


def bbh(record_id: str, fields: Fields) -> Record:
    """Parses BIG-Bench Hard: options, lettered or after dashes, are the lines below "Options:" at the end of `input`.

    Three published problems, whose options were split at their commas, have a target that is no letter: it is kept.
    """
    question, _, listed = _question(fields, "input").partition("\nOptions:\n")
    lines = listed.split("\n") if listed else []
    answer = _text(fields, "target")
    kind: Kind = "text"
    if lines and lines[0].startswith("("):
        options = _strip_letters(lines)
        if LETTER.fullmatch(answer):
            answer, kind = _choice(answer, options, "target"), "choice"
    else:
        options = tuple(line.removeprefix("-").strip() for line in lines)
    return Record(
        record_id, question, _optional(fields, "solution"), answer, options, _text(fields, "task"), kind=kind,
        instruction='Think step by step, and end with "So the answer is" and the answer.',
        heading=_optional(fields, "heading"),
    )  # fmt: skip


def humaneval(record_id: str, fields: Fields) -> Record:
    """Parses HumanEval: the solution continues the prompt, so both are unstripped."""
    prompt, solution = _verbatim(fields, "prompt"), _verbatim(fields, "canonical_solution")
    test = f"{_text(fields, 'test')}\n\ncheck({_text(fields, 'entry_point')})"
    instruction = "Complete this function, and put the whole program in a ```python block."
    return Record(record_id, prompt, solution, test, kind="program", instruction=instruction)


def mbpp(record_id: str, fields: Fields) -> Record:
    """Parses MBPP: the answer is the setup code (of a few problems) and the asserts."""
    tests = [_text(fields, "test_setup_code"), *_texts(fields, "test_list")]
    solution, answer = (text.replace("\r\n", "\n") for text in (_text(fields, "code"), "\n".join(tests).strip()))
    question = _question(fields, "text")
    return Record(
        record_id, question, solution, answer, kind="program",
        prompt=f"{question} Your code should pass these tests:\n\n{answer}",
        instruction="Put the program in a ```python block.",
    )  # fmt: skip


def minif2f(record_id: str, fields: Fields) -> Record:
    """Parses miniF2F: the category is the competition, the first part of the problem's name."""
    answer = _text(fields, "header") + "\n\n" + _text(fields, "formal_statement")
    question, solution = _question(fields, "informal_statement"), _text(fields, "informal_proof")
    return Record(
        record_id, question, solution, answer, category=_text(fields, "problem_name").split("_")[0], kind="theory",
        prompt=f"(*### Problem\n\n{question}\n\n### Solution\n\n{solution} *)\n\nFormal:\n{answer}",
        instruction="Go on with the proof in Isabelle/HOL, from where the statement ends.",
    )  # fmt: skip


def minif2f_formal(record_id: str, fields: Fields) -> Record:
    """Parses miniF2F's formal statements as questions: the beginning of a proof."""
    return dataclasses.replace(minif2f(record_id, fields), question=_question(fields, "formal_statement"), solution="")
