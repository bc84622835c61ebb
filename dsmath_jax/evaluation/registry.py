"""The registry of tasks.

An entry has the records (a source of `data.datasets`, against which the corpus is decontaminated), the kind of answer,
and for each mode the format for a base model and its few-shot examples. The numbers of examples are the paper's
(section 2.3, Tables 2 to 4); where the paper's examples are in no data set, others are used (`exemplars`). `prompts`
builds the texts. The prompt of a chat model depends on its chat template and instruction only (`data.chat`).

Any other data set, and the user's own data, have the `DIALOGUE` format; "package.module:TASK" is a user's `Task`.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from dsmath_jax import user_code
from dsmath_jax.data import datasets, documents
from dsmath_jax.data.dataset_formats import Kind, Record
from dsmath_jax.data.own_data import NO_COLUMNS, Columns
from dsmath_jax.data.questions import Mode
from dsmath_jax.data.subsample import EVALUATION_SEED, load_subsample
from dsmath_jax.grading.code import AFTER_FUNCTION
from dsmath_jax.workdir import UserError, folder_name

Style = Literal["few_shot", "chat"]  # for a base model, and for one after instruction tuning


@dataclass(frozen=True)
class Choices:
    """The format of options: the text before them, the format of each option, and the separator between them."""

    prefix: str
    option: str
    separator: str
    unlettered: str = ""  # the format of an option without a letter


@dataclass(frozen=True)
class Format:
    """The format of a problem and its solution for a base model.

    Attributes:
      problem: the text up to the completion, around the question `{}`.
      answer: the last sentence of a solution, around the answer `{}`.
      stops: strings that end a completion, such as the start of the next problem.
      choices: the format of a record's options after the question.
      letters: the format of letters in `answer`.
      lead: the text between a problem and its solution.
      separator: the text between a solution and the next problem.
      heading: the text above the examples, with `{category}` and `{heading}` (the published one).
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
    """The few-shot examples before a question.

    Attributes:
      source: a split in `datasets.SOURCES`, never a test split.
      count: number of examples.
      ids: the last parts of their ids; () for the first `count` in an order that depends only on the texts, so that it
        is the same in every mirror (`exemplars`).
      same_category: only from the question's subject or task.
    """

    source: str
    count: int
    ids: tuple[str, ...] = ()
    same_category: bool = False


@dataclass(frozen=True)
class Task:
    """An evaluation task: its records, how answers are compared, and its formats and few-shot examples.

    Attributes:
      name: its name on the command line.
      source: its records, any name that `datasets.stream` takes.
      kind: the kind of its answers, unless a record has its own (BIG-Bench Hard's letters).
      formats: the format for a base model by mode.
      shots: its few-shot examples by mode; none where the mode is missing.
      groups: names of groups by which accuracy is also reported, and the record's field of each.
    """

    name: str
    source: str
    kind: Kind
    formats: Mapping[Mode, Format]
    shots: Mapping[Mode, Shots] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes that the task has."""
        return tuple(self.formats)

    @property
    def folder(self) -> str:
        """The task's name in folder names."""
        return folder_name(documents.stem(self.name))


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
    choices=Choices("\nOptions:\n", "({letter}) {text}", "\n", unlettered="- {text}"),
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
# The paper's chat format without control tokens, for data sets without a format.
DIALOGUE = Format(
    "User: {}\n\nAssistant:",
    "The answer is {}.",
    ("\n\nUser:",),
    choices=Choices("\n", "({letter}) {text}", "\n", unlettered="- {text}"),
    lead=" ",
)
DEFAULT: dict[Mode, Format] = {"cot": DIALOGUE, "pot": QA_PROGRAM, "tir": DIALOGUE}

# Short problems whose calculator marks make a program of one step per line.
GSM8K = ("0", "4", "70", "77", "79", "100", "104", "111")
# The first of each school grade, then two more.
CMATH = ("0", "100", "200", "300", "400", "500", "450", "550")
PROGRAMS = {count: Shots("gsm8k_marked/train", count, GSM8K[:count]) for count in (4, 8)}
SAT = Shots("agieval_sat_math/dev", 4, ("1", "2", "3", "4"))

_ALL = (
    Task("gsm8k", "gsm8k/test", "number", {"cot": QA, "pot": QA_PROGRAM, "tir": QA},
         {"cot": Shots("gsm8k/train", 8, GSM8K), "pot": PROGRAMS[8], "tir": PROGRAMS[8]}),
    Task("math", "math/test", "math", {"cot": PROBLEM, "pot": PROBLEM_PROGRAM, "tir": PROBLEM},
         {"cot": Shots("math/train", 4), "pot": PROGRAMS[4], "tir": PROGRAMS[4]},
         groups={"subject": "category", "level": "level"}),
    Task("ocw", "ocw/test", "math", {"cot": PROBLEM}, {"cot": SAT}),
    Task("sat", "sat/test", "choice", {"cot": CHOICE}, {"cot": SAT}),
    Task("mmlu_stem", "mmlu_stem/test", "choice", {"cot": CHOICE}, {"cot": SAT}, groups={"subject": "category"}),
    Task("mgsm_zh", "mgsm_zh/test", "number", {"cot": CHINESE, "tir": CHINESE},
         {"cot": Shots("cmath/dev", 8, CMATH), "tir": PROGRAMS[8]}),
    Task("cmath", "cmath/test", "number", {"cot": CHINESE, "tir": CHINESE},
         {"cot": Shots("cmath/dev", 6, CMATH[:6]), "tir": PROGRAMS[8]}, groups={"grade": "level"}),
    Task("gaokao_mathcloze", "gaokao_mathcloze/test", "math", {"cot": CHINESE},
         {"cot": Shots("gaokao_mathcloze/dev", 5, ("1", "2", "3", "4", "5"))}),
    Task("gaokao_mathqa", "gaokao_mathqa/test", "choices", {"cot": CHINESE},
         {"cot": Shots("gaokao_mathqa/dev", 5, ("1", "2", "3", "4", "5"))}),
    Task("mmlu", "mmlu/test", "choice", {"cot": MMLU}, {"cot": Shots("mmlu/dev", 5, same_category=True)},
         groups={"subject": "category"}),
    Task("bbh", "bbh/test", "text", {"cot": BBH}, {"cot": Shots("bbh/dev", 3, same_category=True)},
         groups={"task": "category"}),
    Task("humaneval", "humaneval/test", "program", {"cot": HUMANEVAL}),
    Task("mbpp", "mbpp/test", "program", {"cot": MBPP}, {"cot": Shots("mbpp/dev", 3, ("2", "3", "4"))}),
    Task("minif2f", "minif2f/test", "theory", {"cot": MINIF2F}, groups={"competition": "category"}),
)  # fmt: skip

TASKS: dict[str, Task] = {entry.name: entry for entry in _ALL}


def task(name: str) -> Task:
    """Returns the task of a name, of a data set ("toy/test"), or of the user's: own data or "package.module:TASK".

    Another split of a task's data set ("math/train") has the task's format.

    Raises:
      UserError: the name is unknown (the message has the nearest one), or what it names in a module is not a `Task`.
    """
    if name in TASKS:
        return TASKS[name]
    if datasets.is_in_module(name):
        return replace(user_code.load(name, Task), name=name)
    if not (datasets.is_own(name) or name in datasets.SOURCES):
        nearest = difflib.get_close_matches(name, [*TASKS, *datasets.SOURCES], n=1, cutoff=0)[0]
        raise UserError(
            f"Unknown task '{name}', did you mean '{nearest}'; known ones are {', '.join(TASKS)}, any data set such "
            "as toy/test, and your own as mine.jsonl, folder/, hf:OWNER/NAME/SPLIT or package.module:TASK."
        )
    entry = TASKS.get(name.partition("/")[0])
    if entry and name in datasets.SOURCES:
        return entry if name == entry.source else replace(entry, name=name, source=name)
    return Task(name, name, "math", DEFAULT)


def records(name: str, data_dir: str | Path, limit: int = 0, columns: Columns = NO_COLUMNS) -> list[Record]:
    """Returns the problems of a task in file order, at most `limit` of them by `subsample` (0: no limit).

    Raises:
      UserError: the name is unknown, or its file is missing or damaged.
    """
    return load_subsample((task(name).source,), data_dir, limit, EVALUATION_SEED, columns)
