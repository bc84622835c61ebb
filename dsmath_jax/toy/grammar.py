"""A small generative grammar: expands sentence patterns and word lists to text that hardly ever repeats.

A table is plain text. A line `name = one, two, three` is a list of words; a line with only a name starts a list of
patterns, one indented line each; a line indented by four spaces or more continues the line above. In a pattern

- `@name` is replaced by a random entry of that name, itself expanded;
- `@Name`, with a capital, is drawn once and stays the same for the whole text (a person, a kind of thing);
- `@2to40` is a random number of that range;
- names that the caller binds (mostly numbers) are replaced by their value.
"""

import dataclasses
import random
import re
from collections.abc import Mapping, Sequence

_SLOT = re.compile(r"@(?:(\d+)to(\d+)|([A-Za-z_]+\d*))", re.ASCII)
_VOWEL = re.compile(r"\b([Aa]) (?=[aeio]|u(?!ni|se|su))")
_START = re.compile(r"(?:^|(?<=\w[.?!] ))[a-z](?=[a-z]+ )")


@dataclasses.dataclass(frozen=True)
class Grammar:
    """A table of patterns: `rules[name]` are those that may replace `@name`."""

    rules: Mapping[str, Sequence[str]]

    def expand(self, rng: random.Random, pattern: str, **bound: object) -> str:
        """Replaces every name in a pattern. Raises KeyError for a name that is neither bound nor in the table."""
        fixed = {name: str(value) for name, value in bound.items()}

        def fill(slot: re.Match[str]) -> str:
            low, high, name = slot.groups()
            if low:
                return str(rng.randint(int(low), int(high)))
            if name in fixed:
                return fixed[name]
            text = _SLOT.sub(fill, rng.choice(self.rules[name[0].lower() + name[1:]]))
            if name[0].isupper():
                fixed[name] = text
            return text

        return _SLOT.sub(fill, pattern)


def polish(line: str) -> str:
    """Fixes the grammar of an expanded line: "an" before a vowel, and a capital at the start of a sentence."""
    return _START.sub(lambda letter: letter[0].upper(), _VOWEL.sub(r"\1n ", line))


def parse(*tables: str) -> Grammar:
    """Parses grammar tables. Raises ValueError for a name defined twice or an indented line after no name."""
    rules: dict[str, list[str]] = {}
    name = ""
    for line in re.sub(r"\n {4,}", " ", "\n".join(tables)).splitlines():
        if not line.strip():
            continue
        if line[0].isspace():
            if not name:
                raise ValueError(f"grammar: the pattern {line.strip()!r} follows no name")
            rules[name].append(line.strip())
            continue
        key, equals, words = line.partition(" = ")
        if key.strip() in rules:
            raise ValueError(f"grammar: {key.strip()!r} is defined twice")
        rules[key.strip()] = [word.strip() for word in words.split(",")] if equals else []
        name = "" if equals else key.strip()
    return Grammar(rules)
