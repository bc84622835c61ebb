"""The parts of a toy web's style: hosts, HTML skeletons and grammars. The style itself is in templates_default.py."""

import dataclasses
from collections.abc import Mapping

from dsmath_jax.toy.formulas import Markup, dollar
from dsmath_jax.toy.grammar import Grammar


@dataclasses.dataclass(frozen=True)
class Section:
    """The pages below one path of a host.

    Attributes:
      topics: topic -> weight.
      share: number of pages relative to other sections.
      seeded: whether the prefix is in `seeds.txt`.
    """

    path: str
    topics: Mapping[str, float]
    share: float
    seeded: bool = False


@dataclasses.dataclass(frozen=True)
class Host:
    """One web site.

    Attributes:
      language: "en" or "zh".
      skeleton: the name of its HTML skeleton.
      markups: the formula markups of its pages.
      slug: the format of page names, with "{words}" of the title and "{number}".
      charset_in: where the charset is declared, "header" or "meta".
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
    """The HTML around the text: `string.Template` strings with $title, $menu, $main, ... and the elements of the text.

    Attributes:
      elements: paragraph, heading, list, item, code and strong, each with {} for its content.
      code_break: the separator of code lines.
    """

    page: str
    menu_item: str
    block: str
    elements: Mapping[str, str]
    code_break: str = "\n"


@dataclasses.dataclass(frozen=True)
class Style:
    """The style of a toy web.

    Attributes:
      name: part of the random seed.
      skeletons: HTML skeletons by name.
      math: grammars of mathematical pages by language.
      other: grammars of other pages by language.
      signs: pairs of multiplication and division signs in plain text, by language.
    """

    name: str
    hosts: tuple[Host, ...]
    skeletons: Mapping[str, Skeleton]
    math: Mapping[str, Grammar]
    other: Mapping[str, Grammar]
    signs: Mapping[str, tuple[tuple[str, str], ...]]

    def sections(self) -> list[tuple[Host, Section]]:
        """Returns all sections with their hosts."""
        return [(host, section) for host in self.hosts for section in host.sections]


def math_topics(**weights: float) -> dict[str, float]:
    """Returns the weights of all mathematical topics: the defaults, updated by `weights`."""
    usual = {"algebra": 0.6, "geometry": 0.6, "probability": 0.5, "number_theory": 0.5, "calculus": 0.5}
    return {"arithmetic": 7.0} | usual | weights
