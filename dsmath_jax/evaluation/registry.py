"""The tasks that a model is measured on: one entry each, data and no code.

An entry names its records (a source of `data.datasets`, which the corpus is decontaminated against), how its answers
are compared, and for each mode how a base model is asked and which worked examples stand before a question. The numbers
of examples are the paper's (section 2.3, Tables 2 to 4); the examples are others where the paper's are in no data set
(`exemplars`). `prompts` makes texts of all this. How a chat model is asked is no business of a task: its own chat
template and instruction decide (`data.chat`).

Any other data set, and any file of a user's own, is asked in the `DIALOGUE` format.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from dsmath_jax.data import datasets
from dsmath_jax.data.dataset_formats import Kind, Record
from dsmath_jax.data.draw import EVALUATION_SEED, load_evenly
from dsmath_jax.data.questions import Mode
from dsmath_jax.grading.code import AFTER_FUNCTION
from dsmath_jax.workdir import UserError

Style = Literal["few_shot", "chat"]  # how a base model is asked, and one after instruction tuning


@dataclass(frozen=True)
class Choices:
    """How options stand below a question: `before` them, `each` with its letter, and what is `between`."""

    before: str
    each: str
    between: str
    dashed: str = ""  # each of those that have no letters


@dataclass(frozen=True)
class Format:
    """How a problem and its solution are written for a base model.

    Attributes:
      problem: all up to where the model goes on, around the question `{}`.
      answer: the sentence that a solution ends in, around the answer `{}`.
      stops: texts that end a completion: what would begin the next problem.
      choices: how a record's options follow the question.
      letters: how the letters of right options are written in `answer`.
      lead: what stands between the problem and its solution.
      separator: what stands between a solution and the next problem.
      heading: what stands above the worked examples, of `{category}` and `{heading}` (the published one).
    """

    problem: str
    answer: str
    stops: tuple[str, ...]
    choices: Choices = Choices("\n", "({letter}) {text}", " ")
    letters: str = "{}"
    lead: str = ""
    separator: str = "\n\n"
    heading: str = ""


@dataclass(frozen=True)
class Shots:
    """Which records stand before a question as worked examples.

    Attributes:
      source: in `datasets.SOURCES`, never a test split.
      count: how many.
      ids: which, as the last parts of their ids; () for the first `count` of an order that depends on nothing but
        the texts, so that it is the same in every mirror (`exemplars`).
      same_category: of the question's own subject or task alone.
    """

    source: str
    count: int
    ids: tuple[str, ...] = ()
    same_category: bool = False


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
      name: as the user says it.
      source: its records, a split in `datasets.SOURCES` or a user's file.
      kind: how its answers are read and compared, unless a record says otherwise (BIG-Bench Hard's letters).
      formats: how a base model is asked, by mode.
      shots: its worked examples, by mode; none where the mode is missing.
      groups: what its accuracy is told by besides: a name for each, and the record's field that has it.
    """

    name: str
    source: str
    kind: Kind
    formats: Mapping[Mode, Format]
    shots: Mapping[Mode, Shots] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes that it can be asked in."""
        return tuple(self.formats)

    @property
    def folder(self) -> str:
        """Its name as part of a file's."""
        return re.sub(r"[^\w.-]+", "_", self.name.removesuffix(".jsonl")).strip("._")


QA = Format("Q: {}\nA:", "The answer is {}.", ("\nQ:",), lead=" ", separator="\n\n\n")
PROBLEM = Format(
    "Problem:\n{}\n\nSolution:\n", "Final Answer: The final answer is ${}$. I hope it is correct.", ("\nProblem:",)
)
CHOICE = replace(
    PROBLEM,
    problem="Problem:\n{}\nSolution:\n",
    answer="Final Answer: The final answer is {}. I hope it is correct.",
    choices=Choices("\nWhich of the following is right? Explain your answer.\n", "({letter}) {text}", ", "),
    letters="({})",
)
CHINESE = Format(
    "问题：{}\n答案：",
    "所以答案是：{}。",
    ("\n问题：",),
    choices=Choices("\n从以下选项中选择：", "({letter}){text}", " "),
    separator="\n\n\n",
)
QA_PROGRAM = replace(QA, problem="Q: {}\n\n# solution in Python:\n\n\n", lead="")
PROBLEM_PROGRAM = replace(PROBLEM, problem="Problem:\n{}\n\n# solution in Python:\n\n\n", separator="\n\n\n")
MMLU = Format(
    "{}\nAnswer:",
    "{}",
    ("\n",),
    choices=Choices("\n", "{letter}. {text}", "\n"),
    lead=" ",
    heading="The following are multiple choice questions (with answers) about {category}.",
)
BBH = Format(
    "Q: {}\nA:",
    "So the answer is {}.",
    ("\nQ:",),
    choices=Choices("\nOptions:\n", "({letter}) {text}", "\n", dashed="- {text}"),
    letters="({})",
    lead=" ",
    heading="{heading}",
)
HUMANEVAL = Format("{}", "", AFTER_FUNCTION)
MBPP = Format(
    "You are an expert Python programmer, and here is your task: {}\n[BEGIN]\n",
    "",
    ("[DONE]",),
    separator="\n[DONE]\n\n",
)
MINIF2F = Format("Informal:\n{}\n", "", ("\nInformal:",), separator="\n\n\n\n")
# As the paper's chat models are asked, without control tokens: for data sets that have no format of their own.
DIALOGUE = Format(
    "User: {}\n\nAssistant:",
    "The answer is {}.",
    ("\n\nUser:",),
    choices=Choices("\n", "({letter}) {text}", "\n", dashed="- {text}"),
    lead=" ",
)
DEFAULT: dict[Mode, Format] = {"cot": DIALOGUE, "pot": QA_PROGRAM, "tir": DIALOGUE}

# Short problems whose calculator marks make a program, one step a line.
GSM8K = ("0", "4", "70", "77", "79", "100", "104", "111")
# The first of each school grade, and two more for eight.
CMATH = ("0", "100", "200", "300", "400", "500", "450", "550")
PROGRAMS = {count: Shots("gsm8k_marked/train", count, GSM8K[:count]) for count in (4, 8)}
SAT = Shots("agieval_sat_math/dev", 4, ("1", "2", "3", "4"))

_ALL = (
    Task(
        "gsm8k",
        "gsm8k/test",
        "number",
        {"cot": QA, "pot": QA_PROGRAM, "tir": QA},
        {"cot": Shots("gsm8k/train", 8, GSM8K), "pot": PROGRAMS[8], "tir": PROGRAMS[8]},
    ),
    Task(
        "math",
        "math/test",
        "math",
        {"cot": PROBLEM, "pot": PROBLEM_PROGRAM, "tir": PROBLEM},
        {"cot": Shots("math/train", 4), "pot": PROGRAMS[4], "tir": PROGRAMS[4]},
        groups={"subject": "category", "level": "level"},
    ),
    Task("ocw", "ocw/test", "math", {"cot": PROBLEM}, {"cot": SAT}),
    Task("sat", "sat/test", "choice", {"cot": CHOICE}, {"cot": SAT}),
    Task("mmlu_stem", "mmlu_stem/test", "choice", {"cot": CHOICE}, {"cot": SAT}, groups={"subject": "category"}),
    Task(
        "mgsm_zh",
        "mgsm_zh/test",
        "number",
        {"cot": CHINESE, "tir": CHINESE},
        {"cot": Shots("cmath/dev", 8, CMATH), "tir": PROGRAMS[8]},
    ),
    Task(
        "cmath",
        "cmath/test",
        "number",
        {"cot": CHINESE, "tir": CHINESE},
        {"cot": Shots("cmath/dev", 6, CMATH[:6]), "tir": PROGRAMS[8]},
        groups={"grade": "level"},
    ),
    Task(
        "gaokao_mathcloze",
        "gaokao_mathcloze/test",
        "math",
        {"cot": CHINESE},
        {"cot": Shots("gaokao_mathcloze/dev", 5, ("1", "2", "3", "4", "5"))},
    ),
    Task(
        "gaokao_mathqa",
        "gaokao_mathqa/test",
        "choices",
        {"cot": CHINESE},
        {"cot": Shots("gaokao_mathqa/dev", 5, ("1", "2", "3", "4", "5"))},
    ),
    Task(
        "mmlu",
        "mmlu/test",
        "choice",
        {"cot": MMLU},
        {"cot": Shots("mmlu/dev", 5, same_category=True)},
        groups={"subject": "category"},
    ),
    Task(
        "bbh",
        "bbh/test",
        "text",
        {"cot": BBH},
        {"cot": Shots("bbh/dev", 3, same_category=True)},
        groups={"task": "category"},
    ),
    Task(
        "humaneval",
        "humaneval/test",
        "program",
        {"cot": HUMANEVAL},
    ),
    Task(
        "mbpp",
        "mbpp/test",
        "program",
        {"cot": MBPP},
        {"cot": Shots("mbpp/dev", 3, ("2", "3", "4"))},
    ),
    Task(
        "minif2f",
        "minif2f/test",
        "theory",
        {"cot": MINIF2F},
        groups={"competition": "category"},
    ),
)

TASKS: dict[str, Task] = {entry.name: entry for entry in _ALL}


def task(name: str) -> Task:
    """The entry of a name, or one for a data set ("toy/test") or for a user's file in the data folder ("mine.jsonl").

    Another split of a task's data set ("math/train") is asked as the task is.

    Raises:
      UserError: the name is unknown; the nearest one is offered.
    """
    if name in TASKS:
        return TASKS[name]
    if not (name.endswith(".jsonl") or name in datasets.SOURCES):
        nearest = difflib.get_close_matches(name, [*TASKS, *datasets.SOURCES], n=1, cutoff=0)[0]
        raise UserError(
            f"Unknown task '{name}', did you mean '{nearest}'; known ones are {', '.join(TASKS)}, and any "
            "data set such as toy/test or file of records such as mine.jsonl."
        )
    same = TASKS.get(name.partition("/")[0])
    if same and name in datasets.SOURCES:
        return same if name == same.source else replace(same, name=name, source=name)
    return Task(name, name, "math", DEFAULT)


def records(name: str, data_dir: str | Path, limit: int = 0) -> list[Record]:
    """The problems of a task in file order; of more than `limit`, as many by `sample_evenly` (0: no limit).

    Raises:
      UserError: the name is unknown, or its file is missing or damaged.
    """
    return load_evenly((task(name).source,), data_dir, limit, EVALUATION_SEED)
