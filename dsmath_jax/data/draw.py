"""Which questions are taken where not all are: evenly over the data sets and their parts, drawn by a seed.

Files go by data set, subject, task or level, so that the first questions of them would be all of one.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dsmath_jax.data import datasets
from dsmath_jax.data.datasets import Record

EVALUATION_SEED = 0  # of what models are measured on: runs with other seeds answer the same questions


def load_evenly(names: Sequence[str], data_dir: str | Path, count: int, seed: int) -> list[Record]:
    """`count` records of the named data sets by `sample_evenly`; 0 for all.

    Raises:
      UserError: a data set is unknown, missing or damaged.
    """
    return sample_evenly([datasets.load(name, data_dir) for name in names], count, seed)


def sample_evenly(sets: Sequence[Sequence[Record]], count: int, seed: int) -> list[Record]:
    """Draws `count` records from data sets; 0, or a count that no fewer have, takes all.

    Each set gives the same number; one that has fewer gives all, and the others share the rest. Within a set, every
    category gives at least one and so does every level of it, as far as the set's number goes; beyond that their
    numbers are proportional to their sizes, so that a set keeps its composition. A record is drawn by the seed and its
    text, wherever it is in its file, and a larger count draws all that a smaller one does.

    Returns:
      the records, in the order of the sets.
    """
    records = [record for one in sets for record in one]
    if not 0 < count < len(records):
        return records
    turns, start = [], 0
    for number, one in enumerate(sets):
        turns += [(turn, number, start + place) for turn, place in enumerate(_order(one, seed))]
        start += len(one)
    return [records[place] for place in sorted(place for _, _, place in sorted(turns)[:count])]


def _order(records: Sequence[Record], seed: int) -> list[int]:
    """The places of a set's records in an order whose first n are a fair draw of the set, for every n."""
    shuffled = sorted(range(len(records)), key=lambda place: _digest(records[place], seed))
    sizes = Counter((record.category, record.level) for record in records)
    categories: set[str] = set()
    drawn: Counter[tuple[str, str]] = Counter()
    keys = []
    for turn, place in enumerate(shuffled):
        record = records[place]
        part = record.category, record.level
        if record.category not in categories:
            keys.append((0, 0.0, turn, place))
        elif not drawn[part]:
            keys.append((1, 0.0, turn, place))
        else:
            keys.append((2, (drawn[part] + 0.5) / sizes[part], turn, place))
        categories.add(record.category)
        drawn[part] += 1
    return [place for *_, place in sorted(keys)]


def _digest(record: Record, seed: int) -> bytes:
    text = "\0".join((str(seed), record.question, *record.options, record.answer))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
