"""Instruction data for SFT (paper section 3): questions with solutions as chains of thought, programs, or both.

All records are conversations, in most data sets a question and its solution. An assistant's turn has parts with
loss and parts without (the output of a tool).
"""

import collections
import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from dsmath_jax.data import chat, dataset_formats, datasets, downloads, own_data, questions
from dsmath_jax.data.chat import Message
from dsmath_jax.data.downloads import File
from dsmath_jax.data.own_data import NO_COLUMNS, Columns
from dsmath_jax.workdir import LARGE_FILE, UserError

LANGUAGES = ("en", "zh")
STYLES = ("cot", "pot", "tora")  # chain of thought, program of thought, tool-integrated reasoning
# The roles of chat messages, and those that may precede each ("": it may be the first).
ROLES = {"system": ("",), "user": ("", "system", "assistant"), "assistant": ("user", "tool"), "tool": ("assistant",)}
OUTPUT = re.compile(r"(?<=```output\n)(.*?\n?```(?:\n|\Z))", re.DOTALL)  # the tool's output with its closing fence
PROGRAM = re.compile(r"^(?:```python|from [\w.]+ import |import \w|def \w+\(|print\()", re.MULTILINE)

# Fields of question and solution in data sets; the first pair that a record has counts.
FIELD_PAIRS = (
    ("question", "solution"),
    ("problem", "solution"),  # MATH, NuminaMath
    ("instruction", "output"),  # MathInstruct, BELLE
    ("prompt", "completion"),
    ("query", "response"),  # MetaMathQA
    ("question", "answer"),  # GSM8K
)
OWN_FIELDS = ("options", "prompt", "instruction")  # of a `Record`, which change its prompt

GSM8K = "https://raw.githubusercontent.com/openai/grade-school-math/master/grade_school_math/data"
# Data sets that can be downloaded to where `datasets` reads them; archives are unpacked.
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
class Conversation:
    """A question with its solution, or a longer conversation.

    Attributes:
      id: "SOURCE/RECORD", unique in all data.
      messages: of the user and the assistant in turn, optionally after a system message.
      language: "en" or "zh".
      style: one of `STYLES`.
      instruction: appended to its questions, in place of the run's instruction; "" for that.
    """

    id: str
    messages: tuple[Message, ...]
    language: str
    style: str
    instruction: str = ""

    @property
    def question(self) -> str:
        """The first message of the user."""
        return next(message.content for message in self.messages if message.role == "user")


def load(name: str, data_dir: Path, columns: Columns = NO_COLUMNS) -> Iterator[Conversation]:
    """Yields the conversations of a data set ("gsm8k/train") or of the user's own data (`own_data`).

    Raises:
      UserError: it is missing and cannot be downloaded, or a record is invalid (file, record and field are named).
    """
    if datasets.is_own(name):
        yield from own_data.load(name, data_dir, columns, _parser(columns))
        return
    _fetch_dataset(name, data_dir)
    yield from _dataset(name, data_dir)


def check(name: str, data_dir: Path, columns: Columns = NO_COLUMNS) -> None:
    """Raises a `UserError` where `load` would, as far as that is known without downloads.

    Parses every record of small files, and the first one of large files.
    """
    if datasets.is_own(name):
        for file in own_data.find_local(name, data_dir):
            small = file.path.stat().st_size <= LARGE_FILE
            records = own_data.read(file, columns, _parser(columns))
            collections.deque(itertools.islice(records, None if small else 1), maxlen=0)
    elif datasets.files(name, data_dir) or name not in FETCHED:
        collections.deque(_dataset(name, data_dir), maxlen=0)


def _parser(columns: Columns) -> Callable[[str, dict[str, Any]], Conversation]:
    """Returns `parse`; where `columns` names the messages, they are the conversation in records with questions too."""
    if "messages" not in columns:
        return parse
    questions = {name for pair in FIELD_PAIRS for name in pair}
    return lambda record_id, fields: parse(
        record_id, {name: value for name, value in fields.items() if name not in questions}
    )


def user_files(names: Iterable[str], data_dir: Path) -> list[Path]:
    """Returns the user's own files among the sources, which are part of a run's fingerprint.

    They include data sets that cannot be downloaded; checksums of downloads are verified when they are read.
    """
    return [file for name in names if name not in FETCHED for file in datasets.files(name, data_dir)]


def _fetch_dataset(name: str, data_dir: Path) -> None:
    file = FETCHED.get(name)
    if file and Path(file.path).suffix != ".tar":
        downloads.fetch(file, data_dir, data_dir)
    elif file and not datasets.SOURCES[name].files(data_dir):
        archive = downloads.fetch(file, data_dir, data_dir)
        downloads.unpack(archive, archive.with_suffix(""))


def _dataset(name: str, data_dir: Path) -> Iterator[Conversation]:
    for record in datasets.stream(name, data_dir):
        if not record.solution:
            raise UserError(f"The data set '{name}' has no worked solution ({record.id}); take it out of sft.data.")
        yield _from_record(record, {})


def _from_record(record: dataset_formats.Record, fields: dict[str, Any]) -> Conversation:
    """Returns a record's question, with its options, and its solution."""
    question, parts = questions.user_message(dataclasses.replace(record, instruction="")), split(record.solution)
    return dataclasses.replace(_instruction(record.id, question, parts, "", fields), instruction=record.instruction)


def parse(record_id: str, fields: dict[str, Any]) -> Conversation:
    """Parses a record of one of the `FIELD_PAIRS`, or of chat messages.

    GSM8K's calculator annotations are removed. Style and language are from the fields `style`, `language` and, as in
    MathInstruct, `source` ("PoT"), else guessed from the text.

    Raises:
      BadField: no pair matches, or a field is empty or not text.
    """
    if isinstance(fields.get("messages"), list) and not any(_has(fields, *pair) for pair in FIELD_PAIRS):
        return _conversation(record_id, fields)
    question_field, solution_field = next((pair for pair in FIELD_PAIRS if _has(fields, *pair)), FIELD_PAIRS[0])
    question, solution = _text(fields, question_field).strip(), _text(fields, solution_field).strip()
    if solution_field == "answer" and dataset_formats.GSM8K_END.search(solution):
        solution = dataset_formats.gsm8k(record_id, fields).solution
    if question_field == "question" and not fields.keys().isdisjoint(OWN_FIELDS):
        record = dataset_formats.user(record_id, fields | {"solution": solution})
        return _from_record(dataclasses.replace(record, id=record_id), fields)
    if fields.get("input") and question_field == "instruction":
        question = f"{question}\n{_text(fields, 'input')}"
    style = "pot" if "/pot/" in str(fields.get("source", "")).lower() else ""
    return _instruction(record_id, question, split(solution), style, fields)


def _conversation(record_id: str, fields: dict[str, Any]) -> Conversation:
    """Parses chat messages: the assistant's have loss; a tool's between two of them joins their turn, without loss."""
    if not all(isinstance(message, dict) for message in fields["messages"]):
        raise dataset_formats.BadField("messages", "has an item that is not an object")
    turns = [(_text(message, "role"), _text(message, "content")) for message in fields["messages"]]
    messages: list[Message] = []
    for i, (role, text) in enumerate(turns):
        before = turns[i - 1][0] if i else ""
        if role not in ROLES:
            raise dataset_formats.BadField("messages", f"has a role that is not one of {', '.join(ROLES)}")
        if before not in ROLES[role]:
            where = f"after that of the {before}" if before else "at its beginning"
            raise dataset_formats.BadField("messages", f"has a message of the {role} {where}")
        if role == "tool" or before == "tool":
            more = tuple(split(text)) if role == "assistant" else ((text, False),)
            messages[-1] = Message("assistant", messages[-1].parts + more)
        elif role == "assistant":
            messages.append(Message(role, tuple(split(text))))
        else:
            messages.append(Message(role, ((text.strip(), False),)))
    if not turns or turns[-1][0] != "assistant":
        raise dataset_formats.BadField("messages", "does not end with a message of the assistant")
    return _record(record_id, messages, "", fields)


def _instruction(
    record_id: str, question: str, parts: list[tuple[str, bool]], style: str = "", fields: dict[str, Any] | None = None
) -> Conversation:
    """Returns a question with its solution."""
    return _record(record_id, [chat.user(question), Message("assistant", tuple(parts))], style, fields or {})


def _record(record_id: str, messages: list[Message], style: str, fields: dict[str, Any]) -> Conversation:
    """Returns the record; style and language are those of `fields`, else `style`, else guessed from the texts."""
    answers = [message for message in messages if message.role == "assistant"]
    tools = not all(has_loss for message in answers for _, has_loss in message.parts)
    guessed = "tora" if tools else "pot" if any(PROGRAM.search(message.content) for message in answers) else "cot"
    conversation = Conversation(record_id, tuple(messages), "", _choice(fields, "style", STYLES) or style or guessed)
    language = _choice(fields, "language", LANGUAGES) or questions.language(conversation.question)
    return dataclasses.replace(conversation, language=language)


def split(solution: str) -> list[tuple[str, bool]]:
    """Splits a solution at the tool's outputs: returns (text, whether it has loss) parts.

    The opening "```output" is the model's call of the tool; the text up to the closing fence, and that fence, are the
    tool's and have no loss.
    """
    pieces = OUTPUT.split(solution)
    return [(piece, i % 2 == 0) for i, piece in enumerate(pieces) if piece]


def _has(fields: dict[str, Any], *names: str) -> bool:
    return all(name in fields for name in names)


def _text(fields: dict[str, Any], name: str) -> str:
    if name not in fields:
        raise dataset_formats.BadField(name, "is missing")
    text = fields[name]
    if not isinstance(text, str):
        raise dataset_formats.BadField(name, "is not text")
    if not text.strip():
        raise dataset_formats.BadField(name, "is empty")
    return text


def _choice(fields: dict[str, Any], name: str, known: tuple[str, ...]) -> str:
    value = fields.get(name) or ""
    if value and value not in known:
        raise dataset_formats.BadField(name, f"must be one of {', '.join(known)}")
    return value
