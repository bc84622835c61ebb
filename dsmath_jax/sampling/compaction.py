"""Fewer slots for the remaining completions: which rows move where, on the host.

Decode slots are split over the mesh's batch shards in contiguous blocks, and a row never leaves its block, so that no
keys and values move between devices. Where a prompt slot has more completions left than the smaller number of slots per
prompt, a copy of the prompt takes another prompt slot of its block.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

MIN_SLOTS_PER_PROMPT = 4  # if a prompt has as many samples: they share the reads of its KV cache
MIN_ROWS = 8  # decode slots; with fewer, a step takes nearly the time of one
EMPTY = -1


class SlotShape(NamedTuple):
    """The number of prompt slots, of decode slots for each, and of the mesh's batch shards.

    Decode slots are split over the shards if their number is divisible.
    """

    prompt_slots: int
    slots_per_prompt: int
    shards: int


class Compaction(NamedTuple):
    """How the slots of a smaller state are taken from those of a larger one; in b blocks.

    Attributes:
      shape: the smaller one.
      rows: the decode slot within its block that each new one continues, or EMPTY.
      prompt_slots: the prompt slot within its block that each new one copies; None where all stay as they are.
    """

    shape: SlotShape
    rows: Int[np.ndarray, "b R/b"]
    prompt_slots: Int[np.ndarray, "b P/b"] | None


def smaller_shapes(shape: SlotShape, prompt_length: int, ring_length: int) -> Iterator[SlotShape]:
    """Yields shapes with about half of the decode slots of the one before, down to MIN_ROWS.

    First each prompt slot has fewer decode slots, then there are fewer prompt slots. Large groups of decode slots are
    split at once, or few completions of each of many prompts would fill all groups: there are more prompt slots, which
    hold copies, if the state gets smaller nevertheless. Yields nothing if a shard of the decode slots has parts of
    several prompts.

    Args:
      shape: the present one.
      prompt_length, ring_length: positions of a prompt slot, and of the ring of a decode slot when it is longest.
    """
    blocks = _num_blocks(shape)
    if max(shape.prompt_slots, blocks) % min(shape.prompt_slots, blocks):
        return

    def positions(shape: SlotShape) -> int:
        return shape.prompt_slots * (prompt_length + shape.slots_per_prompt * ring_length)

    while True:
        prompts, samples, shards = shape
        split = SlotShape(_half(-(-prompts * samples // MIN_SLOTS_PER_PROMPT), blocks), MIN_SLOTS_PER_PROMPT, shards)
        if prompts >= blocks and samples >= 2 * MIN_SLOTS_PER_PROMPT and positions(split) < positions(shape):
            shape = split
        elif samples * prompts > max(prompts, blocks):
            shape = SlotShape(prompts, _half(samples, max(1, blocks // prompts)), shards)
        elif prompts > blocks:
            shape = SlotShape(_half(prompts, blocks), samples, shards)
        else:
            return
        if shape.prompt_slots * shape.slots_per_prompt < MIN_ROWS:
            return
        yield shape


def plan_compaction(shape: SlotShape, smaller: Sequence[SlotShape], live: Sequence[bool]) -> Compaction | None:
    """Returns how the live decode slots move to the smallest shape that holds them; None where there is none.

    Args:
      shape: the present one.
      smaller: those to choose from (`smaller_shapes`), in descending order.
      live: whether each decode slot has a completion.
    """
    if not smaller:
        return None
    blocks = _num_blocks(shape)
    groups = max(1, shape.prompt_slots // blocks)
    live_by_block = np.reshape(live, (blocks, groups, -1))
    found = None
    for to in smaller:
        new_groups = max(1, to.prompt_slots // blocks)
        size = to.prompt_slots * to.slots_per_prompt // (blocks * new_groups)
        placed = [_place(block, new_groups, size) for block in live_by_block]
        if None in placed:
            break
        rows, sources = zip(*filter(None, placed), strict=True)
        stays = all(source == list(range(groups)) for source in sources)
        found = Compaction(to, np.array(rows), None if stays else np.array(sources))
    return found


def _num_blocks(shape: SlotShape) -> int:
    return 1 if shape.prompt_slots * shape.slots_per_prompt % shape.shards else shape.shards


def _half(count: int, multiple: int) -> int:
    """Returns half of a multiple, rounded up to a multiple."""
    return multiple * -(-count // (2 * multiple))


def _place(live: np.ndarray, groups: int, size: int) -> tuple[list[int], list[int]] | None:
    """Returns the rows and the group of each of `groups` new groups of `size` rows; None where they do not suffice."""
    pieces = []
    for group, row in enumerate(live):
        rows = group * len(row) + np.flatnonzero(row)
        pieces += [(group, rows[i : i + size].tolist()) for i in range(0, len(rows), size)]
    if len(pieces) > groups:
        return None
    pieces += [(0, [])] * (groups - len(pieces))
    return [row for _, rows in pieces for row in rows + [EMPTY] * (size - len(rows))], [group for group, _ in pieces]
