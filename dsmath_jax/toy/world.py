"""Generates a data folder: word problems and a web crawl."""

from pathlib import Path

from dsmath_jax.toy.problems import write_problems
from dsmath_jax.toy.settings import ToySettings
from dsmath_jax.toy.templates import Style
from dsmath_jax.toy.templates_default import STYLE
from dsmath_jax.toy.web import write_web
from dsmath_jax.workdir import read_jsonl


def write(folder: Path, seed: int, settings: ToySettings, style: Style = STYLE) -> None:
    """Writes `problems/` and `crawl/` below `folder`; some pages contain problems of the splits rl and test."""
    write_problems(folder, seed, settings.problems, settings.steps, settings.largest, settings.calculator)
    held_out = [row for split in ("rl", "test") for row in read_jsonl(folder / "problems" / f"{split}.jsonl")]
    texts = [text for row in held_out for text in (row["question"], row["solution"])]
    write_web(folder, seed, texts, settings.pages, style)
