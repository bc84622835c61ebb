"""The fastText classifier that tells mathematical pages from random ones (paper section 2.1).

Training runs in a process of its own, with one thread and with an allocator that zeroes what it hands out: with few
threads fastText leaves most of its embedding table as it found the memory, and with several its updates race. So the
same input gives the same model, bit for bit. (A low MALLOC_MMAP_THRESHOLD_ alone does not do for small tables: they fit
into memory that Python has freed.)
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import fasttext

MATH, OTHER = "__label__math", "__label__other"
TRAINER = """
import json, sys, fasttext
settings = json.loads(sys.argv[3])
fasttext.train_supervised(input=sys.argv[1], thread=1, verbose=0, **settings).save_model(sys.argv[2])
with open(sys.argv[2], "ab", buffering=0) as file:
    file.write(bytes(1 << 16))  # fastText cuts its model off on a full disk without a word; this fails there
"""
# fastText's own names of our settings.
ARGUMENTS = {
    "dim": "dim",
    "lr": "lr",
    "word_ngrams": "wordNgrams",
    "min_count": "minCount",
    "epochs": "epoch",
    "bucket": "bucket",
}


def train(examples: Iterable[tuple[bool, str]], settings: Mapping, seed: int, folder: Path) -> "fasttext.FastText":
    """Trains on examples (is it mathematics, normal form of the text), in the order given, and returns the model.

    Args:
      settings: dim, lr, word_ngrams, min_count, epochs, bucket.
      folder: where the training text and the model are put; the caller removes it.

    Raises:
      RuntimeError: fastText failed, with what it wrote.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text, model = folder / "train.txt", folder / "model.bin"
    with open(text, "w", encoding="utf-8") as file:
        file.writelines(f"{MATH if is_math else OTHER} {normal}\n" for is_math, normal in examples)
    arguments = {ARGUMENTS[name]: value for name, value in settings.items()} | {"seed": seed}
    done = subprocess.run(
        [sys.executable, "-c", TRAINER, str(text), str(model), json.dumps(arguments)],
        env=os.environ | {"MALLOC_PERTURB_": "255"},  # memory is filled with the complement of this byte
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"fastText training failed with code {done.returncode}: {done.stderr.strip()[-500:]}")
    return fasttext.load_model(str(model))


def scores(model: "fasttext.FastText", normals: Iterable[str]) -> Iterator[float]:
    """The model's probability, 0 to 1, that each text is mathematics."""
    for normal in normals:
        # The wrapper's own predict() breaks with numpy 2.
        predictions = model.f.predict(normal + "\n", 2, 0.0, "strict")
        yield min(next((probability for probability, label in predictions if label == MATH), 0.0), 1.0)
