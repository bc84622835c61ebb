"""The blocks of the data card: plain text, tables and pictures below headings. Templates escape and lay them out."""

import dataclasses
import re
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of text; the first `left` columns are aligned left, the others right."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1


@dataclasses.dataclass(frozen=True)
class Picture:
    """An SVG element. The Markdown card omits it, so a table or the text repeats what it shows."""

    title: str
    svg: str


@dataclasses.dataclass(frozen=True)
class Sample:
    """The beginning of a page's text, with the page's URL, score and tokens in `about`."""

    heading: str
    about: str
    text: str


@dataclasses.dataclass(frozen=True)
class Points:
    """A bulleted list of sentences."""

    items: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Samples:
    """Sample pages, laid out in a grid."""

    items: Sequence[Sample]


Block = str | Table | Picture | Points | Samples


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and the blocks below it."""

    title: str
    blocks: Sequence[Block]

    @property
    def name(self) -> str:
        """The anchor of the section in the HTML card."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")
