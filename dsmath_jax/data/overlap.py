"""Train-test overlap: finds questions that a run both trains on and is evaluated on, and refuses them.

Two questions are equal if their texts, with the options of multiple choice, differ only in case, white space and
Unicode-compatible characters. A conversation has a question in each turn of the user.
"""

import logging
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dsmath_jax.data import datasets, instructions
from dsmath_jax.data.datasets import Record
from dsmath_jax.data.instructions import Conversation
from dsmath_jax.data.own_data import NO_COLUMNS, Columns
from dsmath_jax.data.questions import options
from dsmath_jax.sharding import broadcast_json
from dsmath_jax.workdir import MANIFEST, UserError, data_folder, read_json

# The fields of a recipe with training data.
TRAINING_FIELDS = ("sft.data", "reward_model.data", "process_model.data", "rl.data", "rl.retrain.data")

Questions = Iterable[Record | Conversation]


def training_questions(config: Mapping[str, Any], data_dir: Path) -> dict[str, Questions]:
    """Returns the questions of each training data set, read when they are iterated over.

    Args:
      config: fields of a recipe by their full names, as in `settings.fingerprint` and a stage's manifest.
      data_dir: the folder of the data sets.

    Returns:
      questions by field and data set: "sft.data 'gsm8k/train'".
    """
    return {
        f"{field} '{name}'": _questions(field, name, data_dir, config.get(columns_of(field), NO_COLUMNS))
        for field in TRAINING_FIELDS
        for name in config.get(field, ())
    }


def columns_of(field: str) -> str:
    """Returns the field of the columns of a field's data: "sft.columns" of "sft.data"."""
    return f"{field.rpartition('.')[0]}.columns"


def questions_of_stages(stages: Iterable[str], workdir: Path) -> dict[str, Questions]:
    """Returns the `training_questions` of finished stages and of all their inputs, by their manifests."""
    questions: dict[str, Questions] = {}
    for stage in stages:
        path = workdir / stage / MANIFEST
        if path.is_file():
            manifest = read_json(path)
            data_dir = data_folder(manifest["config"].get("data_dir", ""), workdir)
            questions |= training_questions(manifest["config"], data_dir)
            questions |= questions_of_stages(manifest["inputs"], workdir)
    return questions


def _questions(field: str, name: str, data_dir: Path, columns: Columns) -> Iterator[Record | Conversation]:
    if field == "sft.data" and datasets.is_own(name):
        yield from instructions.load(name, data_dir, columns)
    else:
        yield from datasets.stream(name, data_dir, columns)


class Overlap(NamedTuple):
    """The held-out questions that are also in a training data set."""

    indices: list[int]  # of the held-out questions
    error: str = ""  # why the data set cannot be read


def find(held_out: Sequence[Record], training: Mapping[str, Questions]) -> dict[str, Overlap]:
    """Returns the overlap of the held-out questions with each training data set.

    Training data are streamed, on process 0; only the held-out questions are in memory.
    """
    indices: dict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(held_out):
        for text in _normalized(record):
            indices[text].append(index)

    def overlap_with(questions: Questions) -> Overlap:
        texts = (text for question in questions for text in _normalized(question))
        try:
            return Overlap(sorted({index for text in texts for index in indices.get(text, ())}))
        except UserError as error:
            return Overlap([], str(error))

    first = jax.process_index() == 0
    overlaps = broadcast_json([overlap_with(each) for each in training.values()] if first else None)
    return {name: Overlap(*each) for name, each in zip(training, overlaps, strict=True)}


def _normalized(question: Record | Conversation) -> list[str]:
    """Returns the texts of a question, normalized for comparison."""
    if isinstance(question, Record):
        texts = {question.question, question.prompt or question.question}
        prompts = [" ".join([text, *options(question)]) for text in texts]
    else:
        prompts = [message.content for message in question.messages if message.role == "user"]
    return ["".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in prompts]


def count(overlaps: Iterable[Overlap]) -> int | None:
    """Returns the number of held-out questions in any training data set; None if one of these cannot be read."""
    overlaps = list(overlaps)
    failed = any(overlap.error for overlap in overlaps)
    return None if failed else len({index for overlap in overlaps for index in overlap.indices})


def check(field: str, held_out: Sequence[Record], overlaps: Mapping[str, Overlap], allow: bool) -> None:
    """Refuses an overlap of training and evaluation data, or warns of it where it is allowed.

    Args:
      field: the field of the data sets of `held_out`: "rl.eval_data".
      held_out, overlaps: argument and result of `find`.
      allow: the field `allow_overlap` of the same section.

    Raises:
      UserError: there is an overlap, or a data set cannot be read, and `allow` is False.
    """
    messages = [
        f"{field}: whether {name} has some of its questions is unknown ({overlap.error})"
        for name, overlap in overlaps.items()
        if overlap.error
    ]
    if indices := sorted({index for overlap in overlaps.values() for index in overlap.indices}):
        example = next(name for name, overlap in overlaps.items() if indices[0] in overlap.indices)
        messages.append(
            f"{field}: {len(indices)} of {len(held_out)} questions are also in the training data "
            f"({held_out[indices[0]].id} is in {example})"
        )
    for message in messages:
        if not allow:
            part = field.split(".")[0]
            raise UserError(f"{message}; name other data, or set {part}.allow_overlap=True, which counts them.")
        logging.warning("%s.", message)
