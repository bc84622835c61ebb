"""Writes the data card of a corpus in Markdown and HTML: its origin, its contents and its limits.

`python -m dsmath_jax.corpus.card --workdir=DIR` writes the card of a finished corpus stage again. It depends on the
stage's files and settings alone: the same input gives the same bytes.

`sections` makes blocks of plain text (paragraphs, tables, pictures, samples). The two templates lay the blocks out and
escape all of them, since URLs and texts come from untrusted pages.
"""

import argparse
import importlib.resources
import re
from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from dsmath_jax.corpus.card import facts
from dsmath_jax.corpus.card.blocks import Picture, Points, Table
from dsmath_jax.corpus.card.sections import TITLE, Settings, sections
from dsmath_jax.workdir import MANIFEST, UserError, atomic_write, read_json

MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~$&@]|(?<=www)\.|:(?=//))")  # characters that could be markup or start a link


def write(out: Path, settings: Settings) -> None:
    """Writes `card.md` and `card.html` into the folder of a finished corpus stage.

    Args:
      out: the folder with summary.json, decisions.parquet, documents/*.parquet, and pages/*.parquet unless they were
        input.
      settings: the `fingerprint` of the `CorpusSettings`, and optionally `seed`.

    Raises:
      UserError: one of the files is missing.
    """
    contents = sections(facts.read(out), settings)
    for name, escaped in (("card.md", False), ("card.html", True)):  # a filter escapes Markdown
        page = _template(name, escaped).render(title=TITLE, sections=contents)
        with atomic_write(out / name) as file:
            file.write(page)


def markdown(text: object) -> str:
    """Escapes text for Markdown and joins its lines."""
    return MARKDOWN.sub(r"\\\1", " ".join(str(text).split()))


def fence(text: str) -> str:
    """Returns backticks for a code fence around a text, more of them than the text has in a row."""
    return "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))


def _template(name: str, escaped: bool) -> jinja2.Template:
    source = importlib.resources.files(__package__).joinpath(f"{name}.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=escaped,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"markdown": markdown, "fence": fence, "svg": Markup}  # a picture escapes its own text
    environment.tests |= {
        "points": lambda block: isinstance(block, Points),
        "picture": lambda block: isinstance(block, Picture),
        "table": lambda block: isinstance(block, Table),
    }
    return environment.from_string(source)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line: writes the card of `DIR/corpus` again."""
    parser = argparse.ArgumentParser(
        prog="python -m dsmath_jax.corpus.card", description="Writes the data card of a finished corpus stage again."
    )
    parser.add_argument("--workdir", type=Path, required=True, help="workdir of a run whose corpus stage has finished")
    out = parser.parse_args(argv).workdir / "corpus"
    write(out, stage_settings(out))
    print(f"data card: {out / 'card.html'} and {out / 'card.md'}")


def stage_settings(out: Path) -> Settings:
    """Returns the settings of a finished corpus stage from its manifest.

    Raises:
      UserError: there is no manifest.
    """
    if not (out / MANIFEST).is_file():
        raise UserError(f"{out / MANIFEST} is missing: the corpus stage has not finished there; run it first.")
    config = read_json(out / MANIFEST)["config"].items()
    return {
        name.removeprefix("corpus."): value for name, value in config if name.startswith("corpus.") or name == "seed"
    }
