"""Instruction data for SFT (paper section 3): questions with solutions as chains of thought, programs, or both.

One record type for all: a conversation, in most data sets a question and its solution. An assistant's turn is a row of
parts, some of which the model is to learn and some of which (what a tool printed) it only reads.
"""

import collections
import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dsmath_jax.data import chat, dataset_formats, datasets, documents, downloads, questions
from dsmath_jax.data.chat import Message
from dsmath_jax.data.downloads import File, Repository
from dsmath_jax.settings import nearest
from dsmath_jax.workdir import LARGE, UserError

LANGUAGES = ("en", "zh")
STYLES = ("cot", "pot", "tora")  # chain of thought, program of thought, tool-integrated reasoning
# The roles of chat messages, and after which other each may come ("": as the first).
ROLES = {"system": ("",), "user": ("", "system", "assistant"), "assistant": ("user", "tool"), "tool": ("assistant",)}
OUTPUT = re.compile(r"(?<=```output\n)(.*?\n?```(?:\n|\Z))", re.DOTALL)  # what follows is the tool's, its fence too
PROGRAM = re.compile(r"^(?:```python|from [\w.]+ import |import \w|def \w+\(|print\()", re.MULTILINE)

# Where question and solution are, by the pairs of fields that data sets have; the first pair that is there counts.
SHAPES = (
    ("question", "solution"),
    ("problem", "solution"),  # MATH, NuminaMath
    ("instruction", "output"),  # MathInstruct, BELLE
    ("prompt", "completion"),
    ("query", "response"),  # MetaMathQA
    ("question", "answer"),  # GSM8K
)
OWN_FIELDS = ("options", "prompt", "instruction")  # of a `Record`, that say more of how its question is asked

PUBLIC: dict[str, Repository] = {
    "mathinstruct": Repository("TIGER-Lab/MathInstruct", "MathInstruct.json", "MIT; its parts have their own"),
    "numina_tir": Repository("AI-MO/NuminaMath-TIR", "data/train-*.parquet", "Apache-2.0"),
    "belle_math_zh": Repository("BelleGroup/school_math_0.25M", "school_math_0.25M.json", "GPL-3.0, for research"),
}

GSM8K = "https://raw.githubusercontent.com/openai/grade-school-math/master/grade_school_math/data"
# Data sets that can be fetched, in the places where `datasets` reads them; an archive is unpacked.
FETCHED: dict[str, File] = {
    "gsm8k/train": File(
        "gsm8k/train.jsonl",
        f"{GSM8K}/train.jsonl",
        "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
    ),
    "math/train": File(
        "MATH.tar",
        "https://people.eecs.berkeley.edu/~hendrycks/MATH.tar",
        "0fbe4fad0df66942db6c221cdcc95b298cc7f4595a2f0f518360cce84e90d9ac",
    ),
}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A question with its solution, or a longer conversation.

    Attributes:
      id: "SOURCE/RECORD", unique in all data.
      messages: of the user and the assistant in turn, perhaps after one of the system.
      language: "en" or "zh".
      style: one of `STYLES`.
      instruction: what stands below its questions in place of the run's instruction; "" for that.
    """

    id: str
    messages: tuple[Message, ...]
    language: str
    style: str
    instruction: str = ""

    @property
    def question(self) -> str:
        """What the user asks first."""
        return next(message.content for message in self.messages if message.role == "user")


def load(name: str, data_dir: Path) -> Iterator[Instruction]:
    """The records of a source: a data set ("gsm8k/train"), a name in `PUBLIC`, or a path below `data_dir`.

    Raises:
      UserError: nothing is there and it cannot be fetched, or a record does not fit (file, record and field are named).
    """
    if name in datasets.SOURCES:
        _fetch_dataset(name, data_dir)
        yield from _dataset(name, data_dir)
        return
    if name in PUBLIC:
        folder = data_dir / name
        files = [downloads.fetch(file, folder, data_dir) for file in PUBLIC[name].find(folder)]
    else:
        files = _own_files(name, data_dir)
    for file in files:
        yield from _records(name, file)


def check(name: str, data_dir: Path) -> None:
    """Raises a `UserError` where `load` would, as far as that is known without fetching anything.

    Every record of small files is parsed, and the first one of large ones.
    """
    if name in datasets.SOURCES:
        if datasets.SOURCES[name].files(data_dir) or name not in FETCHED:
            collections.deque(_dataset(name, data_dir), maxlen=0)
        return
    folder = data_dir / name
    found = [folder / file.path for file in PUBLIC[name].at_hand(folder)] if name in PUBLIC else None
    for file in _own_files(name, data_dir) if found is None else found:
        small = file.stat().st_size <= LARGE
        collections.deque(itertools.islice(_records(name, file), None if small else 1), maxlen=0)


def _own_files(name: str, data_dir: Path) -> list[Path]:
    if not (data_dir / name).exists():
        known = (*datasets.SOURCES, *PUBLIC)
        raise UserError(
            f"There are no instructions at {data_dir / name}{nearest(name, known)}; sft.data names data sets "
            f"({', '.join(PUBLIC)}, or such as gsm8k/train) or paths to records."
        )
    return documents.files_below(data_dir / name)


def _records(name: str, file: Path) -> Iterator[Instruction]:
    for place, fields in documents.records(file):
        try:
            yield parse(f"{name}/{file.name}:{place.removeprefix('record ')}", fields)
        except dataset_formats.BadField as error:
            raise UserError(f"{file}, {place}: {error}; fix or remove it.") from None


def user_files(names: Iterable[str], data_dir: Path) -> list[Path]:
    """The user's own files among the sources: a change of them is a change of the run.

    Those of data sets that nothing fetches are too; what is fetched has its checksum compared when it is read.
    """
    files: list[Path] = []
    for name in names:
        if name in datasets.SOURCES and name not in FETCHED:
            files += datasets.SOURCES[name].files(data_dir)
        elif name not in PUBLIC and (data_dir / name).exists():
            files += documents.files_below(data_dir / name)
    return files


def _fetch_dataset(name: str, data_dir: Path) -> None:
    file = FETCHED.get(name)
    if file and Path(file.path).suffix != ".tar":
        downloads.fetch(file, data_dir, data_dir)
    elif file and not datasets.SOURCES[name].files(data_dir):
        archive = downloads.fetch(file, data_dir, data_dir)
        downloads.unpack(archive, archive.with_suffix(""))


def _dataset(name: str, data_dir: Path) -> Iterator[Instruction]:
    for record in datasets.load(name, data_dir):
        if not record.solution:
            raise UserError(f"The data set '{name}' has no worked solution ({record.id}); take it out of sft.data.")
        yield _of_record(record, {})


def _of_record(record: dataset_formats.Record, fields: dict[str, Any]) -> Instruction:
    """A record's question, with its options, and its solution."""
    asked, parts = questions.ask(dataclasses.replace(record, instruction="")), split(record.solution)
    return dataclasses.replace(_instruction(record.id, asked, parts, "", fields), instruction=record.instruction)


def parse(identity: str, fields: dict[str, Any]) -> Instruction:
    """A record in any of the shapes that are known: `SHAPES`, or chat messages.

    Calculator marks of GSM8K are dropped. `style`, `language` and, as in MathInstruct, a `source` that says "PoT" count
    where they are there; else the text tells.

    Raises:
      BadField: no shape fits, or a field is no text or empty.
    """
    if isinstance(fields.get("messages"), list) and not any(_has(fields, *shape) for shape in SHAPES):
        return _conversation(identity, fields)
    question_field, solution_field = next((shape for shape in SHAPES if _has(fields, *shape)), SHAPES[0])
    question, solution = _text(fields, question_field).strip(), _text(fields, solution_field).strip()
    if (question_field, solution_field) == SHAPES[0] and not fields.keys().isdisjoint(OWN_FIELDS):
        record = dataclasses.replace(dataset_formats.given(identity, fields), id=identity)
        return _of_record(record, fields)
    if (extra := fields.get("input")) and question_field == "instruction":
        question = f"{question}\n{extra}"
    if solution_field == "answer" and "####" in solution:
        solution = dataset_formats.gsm8k(identity, fields).solution
    style = "pot" if "/pot/" in str(fields.get("source", "")).lower() else ""
    return _instruction(identity, question, split(solution), style, fields)


def _conversation(identity: str, fields: dict[str, Any]) -> Instruction:
    """Chat messages: an assistant's are learned, what a tool says between two of them is part of one turn, and read."""
    said = [(_text(m, "role"), _text(m, "content")) for m in fields["messages"] if isinstance(m, dict)]
    messages: list[Message] = []
    for place, (role, text) in enumerate(said):
        before = said[place - 1][0] if place else ""
        if role not in ROLES:
            raise dataset_formats.BadField(f"a role in the field 'messages' must be one of {', '.join(ROLES)}")
        if before not in ROLES[role]:
            where = f"after that of the {before}" if before else "at its beginning"
            raise dataset_formats.BadField(f"the field 'messages' has a message of the {role} {where}")
        if role == "tool" or before == "tool":
            more = tuple(split(text)) if role == "assistant" else ((text, False),)
            messages[-1] = Message("assistant", messages[-1].parts + more)
        elif role == "assistant":
            messages.append(Message(role, tuple(split(text))))
        else:
            messages.append(Message(role, ((text.strip(), False),)))
    if not said or said[-1][0] != "assistant":
        raise dataset_formats.BadField("the field 'messages' does not end with a message of the assistant")
    return _of(identity, messages, "", fields)


def _instruction(
    identity: str, question: str, parts: list[tuple[str, bool]], style: str = "", fields: dict[str, Any] | None = None
) -> Instruction:
    """A question with its solution."""
    return _of(identity, [chat.user(question), Message("assistant", tuple(parts))], style, fields or {})


def _of(identity: str, messages: list[Message], style: str, fields: dict[str, Any]) -> Instruction:
    """The record; what `fields` state of its style and language goes first, then `style`, then what the texts say."""
    answers = [message for message in messages if message.role == "assistant"]
    tools = not all(learn for message in answers for _, learn in message.parts)
    guessed = "tora" if tools else "pot" if any(PROGRAM.search(message.content) for message in answers) else "cot"
    found = Instruction(identity, tuple(messages), "", _choice(fields, "style", STYLES) or style or guessed)
    stated = _choice(fields, "language", LANGUAGES)
    return dataclasses.replace(found, language=stated or questions.language(found.question))


def split(solution: str) -> list[tuple[str, bool]]:
    """A solution split at the tool's outputs.

    The model writes the opening "```output" itself, as its call of the tool; what stands between it and the closing
    fence, and that fence, is the tool's and not learned.
    """
    pieces = OUTPUT.split(solution)
    return [(piece, number % 2 == 0) for number, piece in enumerate(pieces) if piece]


def _has(fields: dict[str, Any], *names: str) -> bool:
    return all(name in fields for name in names)


def _text(fields: dict[str, Any], name: str) -> str:
    if name not in fields:
        raise dataset_formats.BadField(f"the field '{name}' is missing")
    text = fields[name]
    if not isinstance(text, str):
        raise dataset_formats.BadField(f"the field '{name}' is not text")
    if not text.strip():
        raise dataset_formats.BadField(f"the field '{name}' is empty")
    return text


def _choice(fields: dict[str, Any], name: str, known: tuple[str, ...]) -> str:
    value = fields.get(name) or ""
    if value and value not in known:
        raise dataset_formats.BadField(f"the field '{name}' must be one of {', '.join(known)}")
    return value
