"""The fastText classifier that tells mathematical pages from random ones (paper section 2.1).

Training runs in a process of its own, with an allocator that zeroes what it hands out: with few threads fastText leaves
most of its embedding table as it found the memory. With one thread the same input then gives the same model, bit for
bit; with several their updates race. (A low MALLOC_MMAP_THRESHOLD_ alone does not do for small tables: they fit into
memory that Python has freed.)
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import fasttext

from dsmath_jax.corpus.settings import FastTextSettings

NUMBER = re.compile(r"(?<![^ ])\d[\d.]*(?![^ ])")
MATH, OTHER = "__label__math", "__label__other"
TRAINER = """
import json, sys, fasttext
text, path, quantize, settings = sys.argv[1], sys.argv[2], sys.argv[3] == "True", json.loads(sys.argv[4])
model = fasttext.train_supervised(input=text, verbose=0, **settings)
if quantize:
    model.quantize()
model.save_model(path)
with open(path, "ab", buffering=0) as file:
    file.write(bytes(1 << 16))  # fastText cuts its model off on a full disk without a word; this fails there
"""
# fastText's own names of these fields of the settings.
ARGUMENTS = {
    "dim": "dim",
    "lr": "lr",
    "word_ngrams": "wordNgrams",
    "min_count": "minCount",
    "epochs": "epoch",
    "bucket": "bucket",
    "threads": "thread",
}


def line(normal: str) -> str:
    """What fastText sees of a normal form: one line in which all numbers are the same word."""
    return NUMBER.sub("0", normal) + "\n"


def train(examples: Iterable[tuple[bool, str]], settings: FastTextSettings, seed: int, folder: Path) -> Path:
    """Trains on examples (is it mathematics, normal form of the text), in the order given; returns the model's file.

    Args:
      settings: of this one classifier; `models` is ignored.
      seed: of the training; fastText takes it in 31 bits.
      folder: where the training text and the model are put.

    Raises:
      RuntimeError: fastText failed, with what it wrote.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text, model = folder / "train.txt", folder / "model"
    with open(text, "w", encoding="utf-8") as file:
        file.writelines(f"{MATH if is_math else OTHER} {line(normal)}" for is_math, normal in examples)
    arguments = {argument: getattr(settings, field) for field, argument in ARGUMENTS.items()} | {"seed": seed % 2**31}
    done = subprocess.run(
        [sys.executable, "-c", TRAINER, str(text), str(model), str(settings.quantize), json.dumps(arguments)],
        env=os.environ | {"MALLOC_PERTURB_": "255"},  # memory is filled with the complement of this byte
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"fastText training failed with code {done.returncode}: {done.stderr.strip()[-500:]}")
    return model


def load(model: Path) -> "fasttext.FastText":
    return fasttext.load_model(str(model))


def scores(model: "fasttext.FastText", normals: Iterable[str]) -> Iterator[float]:
    """The model's probability, 0 to 1, that each text is mathematics."""
    for normal in normals:
        # The wrapper's own predict() breaks with numpy 2.
        predictions = model.f.predict(line(normal), 2, 0.0, "strict")
        yield min(next((probability for probability, label in predictions if label == MATH), 0.0), 1.0)
