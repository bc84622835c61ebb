"""The fastText classifier that separates mathematical pages from random ones (paper section 2.1).

Training runs in its own process, with an allocator that zeroes memory: with few threads fastText leaves most of its
embedding table uninitialized. With one thread the same input then gives the same model, bit for bit; with several
threads their updates race. (A low MALLOC_MMAP_THRESHOLD_ alone is not enough for small tables: they fit into memory
that Python has freed.)
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
    file.write(bytes(1 << 16))  # on a full disk fastText truncates its model silently; this write fails
"""
# Field of the settings -> argument of fastText.
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
    """Returns the input line of fastText for a normalized text; all numbers become the same word."""
    return NUMBER.sub("0", normal) + "\n"


def train(examples: Iterable[tuple[bool, str]], settings: FastTextSettings, seed: int, folder: Path) -> Path:
    """Trains on (is it mathematics, normalized text) in the order given; returns the path of the model.

    Args:
      settings: the settings of this one classifier; `models` is ignored.
      seed: the seed of the training; fastText uses its low 31 bits.
      folder: receives the training text and the model.

    Raises:
      RuntimeError: fastText failed; the message has its output.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text, model = folder / "train.txt", folder / "model"
    with open(text, "w", encoding="utf-8") as file:
        file.writelines(f"{MATH if is_math else OTHER} {line(normal)}" for is_math, normal in examples)
    arguments = {argument: getattr(settings, field) for field, argument in ARGUMENTS.items()} | {"seed": seed % 2**31}
    process = subprocess.run(
        [sys.executable, "-c", TRAINER, str(text), str(model), str(settings.quantize), json.dumps(arguments)],
        env=os.environ | {"MALLOC_PERTURB_": "255"},  # fills memory with the complement of this byte
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise RuntimeError(f"fastText training failed with code {process.returncode}: {process.stderr.strip()[-500:]}")
    return model


def load(model: Path) -> "fasttext.FastText":
    """Loads a trained classifier."""
    return fasttext.load_model(str(model))


def scores(model: "fasttext.FastText", normals: Iterable[str]) -> Iterator[float]:
    """Yields the probability, 0 to 1, that each text is mathematics."""
    for normal in normals:
        # The wrapper's own predict() breaks with numpy 2.
        predictions = model.f.predict(line(normal), 2, 0.0, "strict")
        yield min(next((probability for probability, label in predictions if label == MATH), 0.0), 1.0)
