"""What the data card is laid out from: plain text in blocks, below headings. Nothing in it is markup or escaped."""

import dataclasses
import re
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of words; the first `left` columns hold names, the others numbers."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1


@dataclasses.dataclass(frozen=True)
class Picture:
    """An SVG element; Markdown leaves it out, so that what it shows must be in a table or in words as well."""

    title: str
    svg: str


@dataclasses.dataclass(frozen=True)
class Sample:
    """The beginning of a page's text, and what is known of the page."""

    heading: str
    about: str
    text: str


@dataclasses.dataclass(frozen=True)
class Points:
    """Sentences in a list."""

    items: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Samples:
    """Pages beside each other."""

    items: Sequence[Sample]


Block = str | Table | Picture | Points | Samples


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Block]

    @property
    def name(self) -> str:
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")
