"""How the rows of each data set become records: which fields hold the question, the solution and the answer.

A parser takes a record's id and the fields of a row, and raises `BadField` where they do not fit. Texts lose the white
space around them, except where it is code.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")
BOXED = re.compile(r"\\(?:boxed|fbox)\s*")
BETWEEN_BOXES = re.compile(r"(?:[\s$,;]|\\[()\[\]]|\band\b|\bor\b|\\text(?:rm)?\s*\{\s*(?:,|and|or)\s*\})*")
OPTION_LABEL = re.compile(r"\(?([A-Z])[.)]\s*")
LETTER = re.compile(r"\([A-Z]\)")
OPTION_STARTS = re.compile(r"\s+(?=[A-Z][.)]\s)")
TRAILING_BREAKS = re.compile(r"[\\\s]+$")


# How an answer is read and compared: a number, any mathematics, one letter, a set of letters, a text, or something that
# is run: a program with its tests, an Isabelle theory.
Kind = Literal["number", "math", "choice", "choices", "text", "program", "theory"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclasses.dataclass(frozen=True)
class Record:
    """One problem.

    Attributes:
      id: unique in all data sets, "gsm8k/test/17".
      question: the problem, without options.
      solution: the worked solution, ending in its answer sentence where the set has one; "" where it has none.
      answer: what decides: the final answer; where there are options, the letters of the right ones ("B", "ACD") or,
        for options without letters, the right one itself; for code, a program to run after a solution, which raises
        where that is wrong; for miniF2F, the theory up to the proof.
      options: the choices, without their letters.
      category: subject, task or source.
      level: difficulty or school grade.
      kind: how answers to it are read and compared.
      prompt: the question as a model is asked it, where that is more than the question and its options: with the
        tests of a program, with a formal statement; "" for the question.
      instruction: what the answer is to look like, below the question, where the set asks for a form of its own; ""
        for the run's instruction.
      heading: what the published prompt of its category says above the worked examples that this is one of.
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


class BadField(Exception):
    """What is wrong with a field of a row, in words that follow the row's place."""


Fields = dict[str, Any]
Parse = Callable[[str, Fields], Record]


def _field(fields: Fields, *names: str | int) -> Any:
    value: Any = fields
    for name in names:
        try:
            value = value[name]
        except (KeyError, IndexError, TypeError):
            raise BadField(f"the field '{'.'.join(map(str, names))}' is missing") from None
    return value


def _verbatim(fields: Fields, *names: str | int) -> str:
    """A text, or a number as a text, as it stands."""
    value = _field(fields, *names)
    if type(value) not in (str, int, float):
        raise BadField(f"the field '{'.'.join(map(str, names))}' is not text")
    return str(value)


def _text(fields: Fields, *names: str | int) -> str:
    return _verbatim(fields, *names).strip()


def _question(fields: Fields, *names: str | int) -> str:
    text = _text(fields, *names)
    if not text:
        raise BadField(f"the field '{'.'.join(map(str, names))}' is empty")
    return text


def _optional(fields: Fields, name: str) -> str:
    return "" if fields.get(name) is None else _text(fields, name)


def _texts(fields: Fields, name: str) -> list[str]:
    value = _field(fields, name)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise BadField(f"the field '{name}' is not a list of texts")
    return value


def columns(
    question: str = "question", solution: str = "", answer: str = "answer", level: str = "", kind: Kind = "number"
) -> Parse:
    """Rows whose fields are a record's under these names ("" has none)."""

    def parse(identity: str, fields: Fields) -> Record:
        worked = _text(fields, solution) if solution else ""
        graded = _text(fields, level) if level else ""
        return Record(identity, _question(fields, question), worked, _text(fields, answer), level=graded, kind=kind)

    return parse


def plain(identity: str, fields: Fields) -> Record:
    """The toy problems: rows are records."""
    return dataclasses.replace(columns(solution="solution")(identity, fields), id=_text(fields, "id"))


def given(identity: str, fields: Fields) -> Record:
    """A user's rows: "question" and perhaps other fields of a `Record`.

    Where there are options and no "kind", the answer says which: one of the options itself, or the letters of some.
    """
    question, answer = _question(fields, "question"), _optional(fields, "answer")
    options = _options(_texts(fields, "options")) if fields.get("options") else ()
    kind: Kind = fields.get("kind") or "math"
    if kind not in KINDS:
        raise BadField(f"the field 'kind' must be one of {', '.join(KINDS)}")
    if options and answer and not fields.get("kind"):
        kind = "text" if answer in options else "choice"
    if kind in ("choice", "choices") and answer:
        answer = _choice(answer, options, "answer")
        kind = "choices" if len(answer) > 1 else kind
    return Record(
        _optional(fields, "id") or identity, question, _optional(fields, "solution"), answer, options,
        _optional(fields, "category"), _optional(fields, "level"), kind, _optional(fields, "prompt"),
        _optional(fields, "instruction"),
    )  # fmt: skip


def _options(texts: list[str]) -> tuple[str, ...]:
    """A user's options, without their letters where all of them have one."""
    labels = [OPTION_LABEL.match(text.strip()) for text in texts]
    lettered = all(label and label[1] == chr(ord("A") + place) for place, label in enumerate(labels))
    return _unlabelled(texts) if lettered else tuple(texts)


def gsm8k(identity: str, fields: Fields) -> Record:
    """GSM8K: `answer` holds the solution with `<<48/2=24>>` calculator marks and ends in `#### N`."""
    steps, mark, answer = _text(fields, "answer").rpartition("####")
    if not mark:
        raise BadField("the field 'answer' has no '####' before the final answer")
    answer = answer.strip().replace(",", "")
    steps = CALCULATOR_MARK.sub("", steps).strip()
    return Record(identity, _question(fields, "question"), f"{steps}\nThe answer is {answer}.", answer, kind="number")


def gsm8k_marked(identity: str, fields: Fields) -> Record:
    """GSM8K with its calculator marks, which tell what each step computes."""
    return dataclasses.replace(gsm8k(identity, fields), solution=_text(fields, "answer").rpartition("####")[0].strip())


def math(identity: str, fields: Fields) -> Record:
    """MATH: the answer is what the solution boxes last; mirrors call `type` also `subject`."""
    solution = _text(fields, "solution")
    answer = boxed(solution) or _optional(fields, "answer")
    if not answer:
        raise BadField("the field 'solution' boxes no answer")
    subject = _text(fields, "subject" if "subject" in fields else "type")
    level = _text(fields, "level").removeprefix("Level ")
    return Record(identity, _question(fields, "problem"), solution, answer, category=subject, level=level)


def boxed(solution: str) -> str:
    r"""What the last `\boxed{...}` (or `\fbox{...}`, or `\boxed 2`) of a text holds; "" where there is none.

    Boxes that only commas and the like part are one list: "1, 2" of `$\boxed{1}$ and $\boxed{2}$`.
    """
    listed: list[str] = []
    end = 0
    for found in BOXED.finditer(solution):
        if listed and not BETWEEN_BOXES.fullmatch(solution, end, found.start()):
            listed = []
        text, end = _box(solution, found.end())
        listed.append(text)
    return ", ".join(listed)


def _box(solution: str, start: int) -> tuple[str, int]:
    """What a box holds that opens at `start`, and where it ends; "" where it is never closed."""
    if not solution.startswith("{", start):
        text = re.split(r"[\s$]", solution[start:], maxsplit=1)[0]
        return text.rstrip("."), start + len(text)
    depth = 0
    for place in range(start, len(solution)):
        depth += {"{": 1, "}": -1}.get(solution[place], 0)
        if depth == 0:
            return solution[start + 1 : place].strip(), place + 1
    return "", len(solution)


def mgsm(identity: str, fields: Fields) -> Record:
    """MGSM as chat messages, of which the first asks."""
    return Record(identity, _question(fields, "messages", 0, "content"), "", _text(fields, "answer"), kind="number")


def _unlabelled(options: Iterable[str]) -> tuple[str, ...]:
    """Options without their letters: "(A)2" and "A) 2" and "A. 2" are "2"."""
    texts = []
    for place, option in enumerate(options):
        label = OPTION_LABEL.match(option.strip())
        if not label or label[1] != chr(ord("A") + place):
            raise BadField("the field 'options' is not lettered A, B, C and so on")
        texts.append(option.strip()[label.end() :])
    return tuple(texts)


def _choice(letters: str, options: tuple[str, ...], name: str) -> str:
    """The letters of the right options, without what stands between them."""
    known = "".join(chr(ord("A") + place) for place in range(len(options)))
    letters = "".join(re.findall(r"\w", letters))
    if not letters or set(letters) - set(known):
        raise BadField(f"the field '{name}' names none of the options {known}")
    return letters


def mmlu(identity: str, fields: Fields) -> Record:
    """MMLU and its STEM subset: the options are a list without letters.

    The published STEM subset has NaN for the option "None", which a table reader took for a missing value.
    """
    listed = fields.get("options")
    if isinstance(listed, list):
        fields = {**fields, "options": ["None" if option != option else option for option in listed]}
    options = tuple(option.strip() for option in _texts(fields, "options"))
    answer = _choice(_text(fields, "answer"), options, "answer")
    return Record(identity, _question(fields, "question"), "", answer, options, _text(fields, "topic"), kind="choice")


def sat(identity: str, fields: Fields) -> Record:
    """SAT: `options` is one text "A) ... B) ..." or "A. ... B. ..."."""
    options = _unlabelled(OPTION_STARTS.split(_text(fields, "options")))
    answer = _choice(_text(fields, "Answer"), options, "Answer")
    return Record(identity, _question(fields, "question"), "", answer, options, kind="choice")


def agieval(identity: str, fields: Fields) -> Record:
    """AGIEval: with a `label` among `options` or with an `answer`; a `passage` is part of the question.

    `other` holds the solution (SAT) or the exam (Gaokao); samples of the prompts have an `explanation`.
    """
    passage = _optional(fields, "passage")
    question = TRAILING_BREAKS.sub("", f"{passage}\n{_question(fields, 'question')}".strip())
    other = fields.get("other") or {}
    if not isinstance(other, dict):
        raise BadField("the field 'other' is not an object")
    solution = _optional(fields, "explanation") or _optional(other, "solution")
    category = _optional(other, "source")
    if fields.get("options") is None:
        return Record(identity, question, solution, _text(fields, "answer"), category=category)
    options = _unlabelled(_texts(fields, "options"))
    letters = _choice(_text(fields, "label"), options, "label")
    return Record(identity, question, solution, letters, options, category, kind="choices")


def bbh(identity: str, fields: Fields) -> Record:
    """BIG-Bench Hard: options, lettered or after dashes, are the lines below "Options:" at the end of `input`.

    Three published problems, whose options were split at their commas, have no letter as their target: it stays.
    """
    question, _, listed = _question(fields, "input").partition("\nOptions:\n")
    lines = listed.split("\n") if listed else []
    answer = _text(fields, "target")
    kind: Kind = "text"
    if lines and lines[0].startswith("("):
        options = _unlabelled(lines)
        if LETTER.fullmatch(answer):
            answer, kind = _choice(answer, options, "target"), "choice"
    else:
        options = tuple(line.removeprefix("-").strip() for line in lines)
    return Record(
        identity, question, _optional(fields, "solution"), answer, options, _text(fields, "task"), kind=kind,
        instruction='Think step by step, and end with "So the answer is" and the answer.',
        heading=_optional(fields, "heading"),
    )  # fmt: skip


def humaneval(identity: str, fields: Fields) -> Record:
    """HumanEval: the solution goes on where the prompt ends, so the white space of both counts."""
    prompt, solution = _verbatim(fields, "prompt"), _verbatim(fields, "canonical_solution")
    test = f"{_text(fields, 'test')}\n\ncheck({_text(fields, 'entry_point')})"
    instruction = "Complete this function, and put the whole program in a ```python block."
    return Record(identity, prompt, solution, test, kind="program", instruction=instruction)


def mbpp(identity: str, fields: Fields) -> Record:
    """MBPP: the answer is the setup code (of a few problems) and the asserts."""
    tests = [_text(fields, "test_setup_code"), *_texts(fields, "test_list")]
    solution, answer = (text.replace("\r\n", "\n") for text in (_text(fields, "code"), "\n".join(tests).strip()))
    question = _question(fields, "text")
    return Record(
        identity, question, solution, answer, kind="program",
        prompt=f"{question} Your code should pass these tests:\n\n{answer}",
        instruction="Put the program in a ```python block.",
    )  # fmt: skip


def minif2f(identity: str, fields: Fields) -> Record:
    """miniF2F: the category is the competition that the problem's name begins with."""
    answer = _text(fields, "header") + "\n\n" + _text(fields, "formal_statement")
    question, solution = _question(fields, "informal_statement"), _text(fields, "informal_proof")
    return Record(
        identity, question, solution, answer, category=_text(fields, "problem_name").split("_")[0], kind="theory",
        prompt=f"(*### Problem\n\n{question}\n\n### Solution\n\n{solution} *)\n\nFormal:\n{answer}",
        instruction="Go on with the proof in Isabelle/HOL, from where the statement ends.",
    )  # fmt: skip


def minif2f_formal(identity: str, fields: Fields) -> Record:
    """miniF2F's formal statements, as text of their own: what a proof would begin with."""
    return dataclasses.replace(minif2f(identity, fields), question=_question(fields, "formal_statement"), solution="")
