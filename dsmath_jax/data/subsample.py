"""Samples questions evenly over data sets and their parts, by a seed.

The first questions of a file would not do: files are often sorted by subject, task or level.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dsmath_jax.data import datasets
from dsmath_jax.data.datasets import Record
from dsmath_jax.data.own_data import NO_COLUMNS, Columns

EVALUATION_SEED = 0  # so that runs with different seeds are evaluated on the same questions


def load_subsample(
    names: Sequence[str], data_dir: str | Path, count: int, seed: int, columns: Columns = NO_COLUMNS
) -> list[Record]:
    """Loads `count` records of the named data sets by `subsample`; 0 for all. `columns` are those of own data.

    Raises:
      UserError: a data set is unknown, missing or damaged.
    """
    return subsample([datasets.load(name, data_dir, columns) for name in names], count, seed)


def subsample(sets: Sequence[Sequence[Record]], count: int, seed: int) -> list[Record]:
    """Samples `count` records from data sets; 0, or a count of at least their number, takes all.

    Each set gives the same number; a smaller set gives all, and the others share the rest. Within a set, every category
    and every level of it gives at least one, as far as the number allows; beyond that, numbers are proportional to
    sizes. Samples depend on the seed and the texts of records, not on their order in the file, and a larger count
    includes the samples of a smaller one.

    Returns:
      the records, in the order of the sets.
    """
    records = [record for each in sets for record in each]
    if not 0 < count < len(records):
        return records
    turns, start = [], 0
    for number, each in enumerate(sets):
        turns += [(turn, number, start + index) for turn, index in enumerate(_order(each, seed))]
        start += len(each)
    return [records[index] for index in sorted(index for _, _, index in sorted(turns)[:count])]


def _order(records: Sequence[Record], seed: int) -> list[int]:
    """Returns the indices of a set's records in an order whose first n are an even sample, for every n."""
    shuffled = sorted(range(len(records)), key=lambda index: _digest(records[index], seed))
    sizes = Counter((record.category, record.level) for record in records)
    categories: set[str] = set()
    drawn: Counter[tuple[str, str]] = Counter()
    keys = []
    for turn, index in enumerate(shuffled):
        record = records[index]
        part = record.category, record.level
        if record.category not in categories:
            keys.append((0, 0.0, turn, index))
        elif not drawn[part]:
            keys.append((1, 0.0, turn, index))
        else:
            keys.append((2, (drawn[part] + 0.5) / sizes[part], turn, index))
        categories.add(record.category)
        drawn[part] += 1
    return [index for *_, index in sorted(keys)]


def _digest(record: Record, seed: int) -> bytes:
    text = "\0".join((str(seed), record.question, *record.options, record.answer))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
