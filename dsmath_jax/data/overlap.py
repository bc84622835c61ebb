"""Questions that a run both trains on and is measured on: which they are, and what happens about them.

Two questions are the same where their texts, with the options of multiple choice as they are asked, differ in nothing
but case, white space and the forms of characters that Unicode calls compatible. A conversation has each of its turns.
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
from dsmath_jax.data.instructions import Instruction
from dsmath_jax.data.questions import options
from dsmath_jax.sharding import from_first
from dsmath_jax.workdir import MANIFEST, UserError, data_folder, read_json

# The fields of a recipe that name what is trained on.
TRAINING_FIELDS = ("sft.data", "reward_model.data", "process_model.data", "rl.data", "rl.retrain.data")

Questions = Iterable[Record | Instruction]


def training_questions(config: Mapping[str, Any], data_dir: Path) -> dict[str, Questions]:
    """The questions of each data set that is trained on, read when they are iterated over.

    Args:
      config: fields of a recipe by their full names, as `settings.fingerprint` and a stage's manifest have them.
      data_dir: where the data sets are.

    Returns:
      by field and data set: "sft.data 'gsm8k/train'".
    """
    return {
        f"{field} '{name}'": _questions(field, name, data_dir)
        for field in TRAINING_FIELDS
        for name in config.get(field, ())
    }


def questions_of_stages(stages: Iterable[str], workdir: Path) -> dict[str, Questions]:
    """`training_questions` of finished stages and of all that they were made from, as their manifests tell."""
    found: dict[str, Questions] = {}
    for stage in stages:
        path = workdir / stage / MANIFEST
        if path.is_file():
            manifest = read_json(path)
            data_dir = data_folder(manifest["config"].get("data_dir", ""), workdir)
            found |= training_questions(manifest["config"], data_dir)
            found |= questions_of_stages(manifest["inputs"], workdir)
    return found


def _questions(field: str, name: str, data_dir: Path) -> Iterator[Record | Instruction]:
    if field == "sft.data" and name not in datasets.SOURCES:
        yield from instructions.load(name, data_dir)
    else:
        yield from datasets.load(name, data_dir)


class Found(NamedTuple):
    """What of the held-out questions a data set that is trained on has too."""

    places: list[int]  # among the held-out questions
    error: str = ""  # why the data set cannot be read


def find(held_out: Sequence[Record], training: Mapping[str, Questions]) -> dict[str, Found]:
    """What of the held-out questions each of the others has too.

    What is trained on is streamed: in memory are only the held-out questions. Process 0 reads it.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for place, record in enumerate(held_out):
        for text in _normalized(record):
            places[text].append(place)

    def look_in(questions: Questions) -> Found:
        texts = (text for one in questions for text in _normalized(one))
        try:
            return Found(sorted({place for text in texts for place in places.get(text, ())}))
        except UserError as error:
            return Found([], str(error))

    first = jax.process_index() == 0
    found = from_first([look_in(each) for each in training.values()] if first else None)
    return {name: Found(*each) for name, each in zip(training, found, strict=True)}


def _normalized(question: Record | Instruction) -> list[str]:
    """The texts that are asked, in the form in which they are compared."""
    if isinstance(question, Record):
        texts = {question.question, question.prompt or question.question}
        asked = [" ".join([text, *options(question)]) for text in texts]
    else:
        asked = [message.content for message in question.messages if message.role == "user"]
    return ["".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in asked]


def count(found: Iterable[Found]) -> int | None:
    """The number of held-out questions that any of the data sets has; None where one of these cannot be read."""
    seen = list(found)
    return None if any(one.error for one in seen) else len({place for one in seen for place in one.places})


def check(field: str, held_out: Sequence[Record], found: Mapping[str, Found], allow: bool) -> None:
    """Refuses questions that are both trained on and measured on, or warns of them where they are allowed.

    Args:
      field: which names the data sets of `held_out`: "rl.eval_data".
      held_out, found: of `find`.
      allow: the field `allow_overlap` of the same part.

    Raises:
      UserError: there are some, or a data set cannot be read, and that is not allowed.
    """
    messages = [
        f"{field}: whether {name} has some of its questions is unknown ({one.error})"
        for name, one in found.items()
        if one.error
    ]
    if places := sorted({place for one in found.values() for place in one.places}):
        example = next(name for name, one in found.items() if places[0] in one.places)
        messages.append(
            f"{field}: {len(places)} of {len(held_out)} questions are also in the training data "
            f"({held_out[places[0]].id} is in {example})"
        )
    for message in messages:
        if not allow:
            part = field.split(".")[0]
            raise UserError(f"{message}; name other data, or set {part}.allow_overlap=True, which counts them.")
        logging.warning("%s.", message)
