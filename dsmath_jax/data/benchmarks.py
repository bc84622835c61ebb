"""Benchmark records: questions with worked solutions and answers, read from a mirror folder.

Plain Python: the corpus's decontamination and the evaluation both read benchmarks here, so that no benchmark can be
measured on that was not decontaminated against. How to ask and score them is the evaluation's business.
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

from dsmath_jax.workdir import UserError, read_jsonl

CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")


@dataclasses.dataclass(frozen=True)
class Record:
    """One problem. `solution` is the worked solution ending in its answer sentence, or "" where the set has none."""

    id: str
    question: str
    solution: str
    answer: str


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a benchmark's split lies below the data folder, and how one of its rows becomes a `Record`."""

    path: str
    parse: Callable[[str, dict], Record]


def _plain(identity: str, row: dict) -> Record:
    return Record(row["id"], row["question"], row["solution"], row["answer"])


def _gsm8k(identity: str, row: dict) -> Record:
    """GSM8K: `answer` holds the solution with `<<48/2=24>>` calculator marks and ends in `#### N`."""
    steps, _, answer = row["answer"].rpartition("####")
    answer = answer.strip().replace(",", "")
    steps = CALCULATOR_MARK.sub("", steps).strip()
    return Record(identity, row["question"].strip(), f"{steps}\nThe answer is {answer}.", answer)


def _cmath(identity: str, row: dict) -> Record:
    return Record(identity, row["question"], "", row["golden"])


def _mgsm(identity: str, row: dict) -> Record:
    return Record(identity, row["messages"][0]["content"], "", row["answer"])


SOURCES: dict[str, Source] = {
    "toy/train": Source("problems/train.jsonl", _plain),
    "toy/rl": Source("problems/rl.jsonl", _plain),
    "toy/test": Source("problems/test.jsonl", _plain),
    "gsm8k/train": Source("gsm8k/train.jsonl", _gsm8k),
    "gsm8k/test": Source("gsm8k/test.jsonl", _gsm8k),
    "cmath/test": Source("cmath/test.jsonl", _cmath),
    "mgsm_zh/test": Source("mgsm_zh/test.jsonl", _mgsm),
}


def load(name: str, data_dir: str | Path) -> list[Record]:
    """Reads a benchmark split such as "gsm8k/test" from below `data_dir`, in file order.

    Raises:
      UserError: the name is unknown, the file is missing or empty, or a row lacks a field.
    """
    if name not in SOURCES:
        raise UserError(f"Unknown benchmark '{name}'; known ones are {', '.join(sorted(SOURCES))}.")
    source = SOURCES[name]
    path = Path(data_dir) / source.path
    if not path.is_file():
        raise UserError(f"Benchmark '{name}' wants the file {path}, which is not there; set --config.data_dir.")
    records = []
    for number, row in enumerate(read_jsonl(path), 1):
        try:
            records.append(source.parse(f"{name}/{number - 1}", row))
        except KeyError as error:
            raise UserError(f"{path}, record {number}: the field {error} is missing; mend or remove it.") from None
    if not records:
        raise UserError(f"Benchmark '{name}': the file {path} holds no records.")
    return records
