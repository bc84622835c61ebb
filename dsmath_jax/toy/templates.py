"""The parts of a style of the toy web: hosts, HTML frames and grammars. The style itself is in templates_default.py."""

import dataclasses
from collections.abc import Mapping

from dsmath_jax.toy.formulas import Markup, dollar
from dsmath_jax.toy.grammar import Grammar


@dataclasses.dataclass(frozen=True)
class Section:
    """Pages below one path of a host.

    `topics` maps what they are about to a weight; `share` is the part of the web's pages that lie here, relative to the
    other sections; the prefix of a `seeded` section is written to `seeds.txt`.
    """

    path: str
    topics: Mapping[str, float]
    share: float
    seeded: bool = False


@dataclasses.dataclass(frozen=True)
class Host:
    """One site: `language` is "en" or "zh", `skeleton` names its HTML frame, `markups` its ways to write formulas.

    `slug` is the form of its pages' names ("{words}" from the title, "{number}"), `charset_in` says where the charset
    is declared: "header" or "meta".
    """

    name: str
    language: str
    skeleton: str
    sections: tuple[Section, ...]
    markups: tuple[Markup, ...] = (dollar,)
    slug: str = "{words}-{number}/"
    charset: str = "utf-8"
    charset_in: str = "header"


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """The HTML around the text: string.Template texts with $title, $menu, $main, ... and the elements of the text.

    `elements` has paragraph, heading, list, item, code, strong, each with {} where the content goes; `code` is
    preformatted, or not where `code_break` parts its lines by an element.
    """

    page: str
    menu_item: str
    block: str
    elements: Mapping[str, str]
    code_break: str = "\n"


@dataclasses.dataclass(frozen=True)
class Style:
    """A whole toy web: its hosts, HTML frames and grammars by language ("en", "zh") and kind ("math", "other").

    `signs[language]` are the pairs of signs for times and divided by that plain text may use.
    """

    name: str
    hosts: tuple[Host, ...]
    skeletons: Mapping[str, Skeleton]
    math: Mapping[str, Grammar]
    other: Mapping[str, Grammar]
    signs: Mapping[str, tuple[tuple[str, str], ...]]

    def sections(self) -> list[tuple[Host, Section]]:
        return [(host, section) for host in self.hosts for section in host.sections]


def everything(**weights: float) -> dict[str, float]:
    """The mathematical topics of a site that teaches all of them; a few weights may be given."""
    usual = {"algebra": 0.6, "geometry": 0.6, "probability": 0.5, "number_theory": 0.5, "calculus": 0.5}
    return {"arithmetic": 7.0} | usual | weights
