"""Sample texts of the data card."""

import re
from collections.abc import Mapping
from typing import Any

from dsmath_jax.corpus.card.blocks import Block, Sample, Samples
from dsmath_jax.corpus.card.facts import Facts
from dsmath_jax.corpus.card.words import number, score

EXCERPT, LINE_OF_PROSE = 420, 60  # characters: of a sample; of the first line that is taken for prose


def samples(facts: Facts) -> list[Block]:
    """Sample documents of each quarter by score, and the uncollected pages of the highest scores."""
    blocks: list[Block] = [
        "The beginning of some documents of each quarter by score, evenly spaced by rank, and of the pages just below "
        "the threshold. No one picked them."
    ]
    names = ("Lowest quarter", "Second quarter", "Third quarter", "Highest quarter")
    for name, rows in zip(names, facts.quarters, strict=False):
        blocks.append(Samples([_sample(f"{name}, {rank} of {len(rows)}", row) for rank, row in enumerate(rows, 1)]))
    if facts.missed:
        blocks.append(Samples([_sample(f"Just missed, {rank}", row) for rank, row in enumerate(facts.missed, 1)]))
    return blocks


def _sample(heading: str, row: Mapping[str, Any]) -> Sample:
    about = f"{row['url']} · score {score(row['score'])} · {number(row['tokens'])} tokens"
    return Sample(heading, about, excerpt(row["text"]) if row["text"] is not None else "The text is with the input.")


def excerpt(text: str) -> str:
    """Returns the beginning of the prose, without the titles and menus before it, in one line."""
    lines = text.splitlines()
    first = next((index for index, line in enumerate(lines) if len(line) >= LINE_OF_PROSE), 0)
    words = re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", "\n".join(lines[first:])).strip()
    return words if len(words) <= EXCERPT else words[:EXCERPT].rstrip() + " …"
