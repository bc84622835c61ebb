"""Variants of recipes: `get_config(variant)` names an entry of each of a recipe's tables."""

import itertools
from collections.abc import Iterable

from dsmath_jax.workdir import UserError


def choose(recipe: str, variant: str, *tables: Iterable[str]) -> tuple[str, ...]:
    """Returns a name from each table: those in `variant`, joined by commas, and the first of every other table.

    `choose("pretrain_1b3.py", "openwebmath,h100-8", MIXTURES, ACCELERATORS)` returns ("openwebmath", "h100-8").

    Raises:
      UserError: a name is in none of the tables, or two are in the same one.
    """
    names = [list(table) for table in tables]
    chosen: dict[int, str] = {}
    for name in variant.split(",") if variant else ():
        index = next((i for i, table in enumerate(names) if name in table), None)
        if index is None:
            known = ", ".join(itertools.chain.from_iterable(names))
            raise UserError(f"{recipe} has no variant '{name}'; it has {known}.")
        if index in chosen:
            raise UserError(f"{recipe}: '{variant}' has both {chosen[index]} and {name}; give one of them.")
        chosen[index] = name
    return tuple(chosen.get(i, table[0]) for i, table in enumerate(names))
