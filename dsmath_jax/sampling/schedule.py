"""Which sample each slot draws: the host's side of sampling, without any arrays on devices.

A lane holds one prompt and has a group of slots; a slot whose sample has ended takes the next waiting sample of its
lane, and a lane that has none the next prompt, or half of the waiting samples of another lane's.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dsmath_jax.sampling.completions import Completion, Finish
from dsmath_jax.sampling.endings import Endings
from dsmath_jax.sampling.engine import Slots

GROUP = 4  # slots of a lane at least, where there are as many samples: they share what is read of their prompt
REFILLS = 8  # a lane waits for a prompt until an eighth of the lanes do: a prefill is cheaper for several
PREFILL_TOKENS = 32_768  # of all lanes at once, at most
SHORTEST = 32  # tokens: shorter prompts are padded to it
NARROWEST = 64  # places of the smallest ring


def bucket(length: int) -> int:
    """The least of 32, 48, 64, 96, 128, 192, ... that is not below the length: few shapes are compiled."""
    power = max(SHORTEST, 1 << (length - 1).bit_length())
    middle = 3 * power // 4
    return middle if SHORTEST < length <= middle else power


def widths_of(limit: int) -> list[int]:
    """Places of the rings for completions of at most `limit` tokens, ascending: the limit and its halves."""
    widths = [limit]
    while widths[0] >= 2 * NARROWEST:
        widths.insert(0, -(-widths[0] // 2))
    return widths


def fitting(widths: Sequence[int], width: int, need: int) -> int:
    """The width that a ring of `width` places should get: narrower only where that will hold for a while."""
    least = next(each for each in widths if each >= need)
    return least if least > width or 4 * need <= 3 * least else width


def shape_of(rows: int, prompts: int, samples: int, shards: int) -> tuple[int, int]:
    """Lanes and slots of each: as many lanes as there are prompts, rounded up to a power of two, if the slots suffice.

    So all numbers of prompts share a few shapes, each of which is compiled once. Lanes divide by the mesh's shards of
    rows where that takes no more slots than `rows`.
    """
    wanted = 1 << (prompts - 1).bit_length()
    group = samples if prompts * samples <= rows else min(samples, max(GROUP, rows // wanted), rows)
    lanes = min(wanted, max(1, rows // group))
    even = -(-lanes // shards) * shards
    return (even if even * group <= max(rows, lanes * group) else lanes), group


class Batch(NamedTuple):
    """Prompts to put into lanes with one prefill."""

    tokens: np.ndarray  # [p,T] int32
    lengths: np.ndarray  # [p] int32
    lanes: np.ndarray  # [p] int32; the number of lanes where a row has no prompt


class _Draft(NamedTuple):
    """A sample in the making."""

    prompt: int
    sample: int
    tokens: list[int]
    logprobs: list[float]
    sampled_logprobs: list[float]


class Schedule:
    """The state of one call of `Sampler.generate`.

    Args:
      prompts: token ids.
      prompt_ids: their stable numbers.
      samples: of each prompt.
      lanes, group: as `shape_of` says.
      endings: where completions end.
      context: tokens of a prompt and its completion at most; the completion ends there. Every prompt has fewer.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        prompt_ids: Sequence[int],
        samples: int,
        lanes: int,
        group: int,
        endings: Endings,
        context: int,
    ) -> None:
        self._prompts, self._ids, self._samples = prompts, prompt_ids, samples
        self._endings, self._context = endings, context
        self.lanes, self.group = lanes, group
        self._queue = deque(range(len(prompts)))
        self._prompt = [0] * lanes
        self._waiting: list[deque[int]] = [deque() for _ in range(lanes)]
        self._drafts: list[_Draft | None] = [None] * (lanes * group)
        self._begun = False  # until then every lane's samples wait, those that have a slot of their own as well
        self._ended: dict[int, list[Completion]] = {}
        self._given = 0  # prompts whose completions have been handed out

    @property
    def open(self) -> bool:
        """Whether a prompt's completions have yet to be handed out."""
        return self._given < len(self._prompts)

    def admit(self) -> list[Batch]:
        """Gives prompts to lanes that have nothing to do, if enough of them have not; the prefills that this takes."""
        free = [lane for lane in range(self.lanes) if not self._waiting[lane] and not self._busy(lane)]
        few = max(1, self.lanes // REFILLS)
        if len(free) < min(few, len(self._queue)):
            return []
        taken = []
        for lane in free:
            job = self._job()
            if job is None:
                break
            self._prompt[lane], self._waiting[lane] = job
            taken.append(lane)
        width = bucket(max(map(len, self._prompts)))
        size = self.lanes if 2 * len(taken) > self.lanes and self.lanes * width <= PREFILL_TOKENS else few
        return [self._batch(taken[i : i + size], size) for i in range(0, len(taken), size)]

    def _busy(self, lane: int) -> bool:
        return any(draft is not None for draft in self._drafts[lane * self.group : (lane + 1) * self.group])

    def _job(self) -> tuple[int, deque[int]] | None:
        """A prompt and the samples to draw of it: the next one, or half of the most that wait elsewhere."""
        if self._queue:
            return self._queue.popleft(), deque(range(self._samples))
        if not self._begun:
            return None
        richest = max(range(self.lanes), key=lambda lane: len(self._waiting[lane]))
        waiting = self._waiting[richest]
        if len(waiting) < 2:
            return None
        return self._prompt[richest], deque(sorted(waiting.pop() for _ in range(len(waiting) // 2)))

    def _batch(self, lanes: Sequence[int], size: int) -> Batch:
        prompts = [self._prompts[self._prompt[lane]] for lane in lanes]
        batch = Batch(
            np.zeros((size, bucket(max(map(len, prompts)))), np.int32),
            np.ones(size, np.int32),
            np.full(size, self.lanes, np.int32),
        )
        for row, (lane, prompt) in enumerate(zip(lanes, prompts, strict=True)):
            batch.tokens[row, : len(prompt)], batch.lengths[row], batch.lanes[row] = prompt, len(prompt), lane
        return batch

    def slots(self) -> Slots:
        """Gives waiting samples to idle slots, and says what each slot is at."""
        self._begun = True
        for row in range(len(self._drafts)):
            lane = row // self.group
            if self._drafts[row] is None and self._waiting[lane]:
                self._drafts[row] = _Draft(self._prompt[lane], self._waiting[lane].popleft(), [], [], [])
        drafts = [draft or _Draft(0, 0, [], [], []) for draft in self._drafts]
        return Slots(
            np.array([len(draft.tokens) for draft in drafts], np.int32),
            np.array([self._ids[draft.prompt] for draft in drafts], np.int32),
            np.array([draft.sample for draft in drafts], np.int32),
            np.array([draft is None for draft in self._drafts]),
            np.array([len(self._prompts[prompt]) for prompt in self._prompt], np.int32),
        )

    @property
    def patience(self) -> int:
        """How many slots may be idle before the host has to look: all of them when nothing waits for one."""
        rows = len(self._drafts)
        if not self._queue and not any(self._waiting):
            return rows
        return min(rows, self._drafts.count(None) + max(1, rows // 16))

    def record(self, tokens: np.ndarray, logprobs: np.ndarray, sampled_logprobs: np.ndarray) -> None:
        """Takes a chunk's tokens `[n,R]`; samples that end with them free their slots."""
        for row, draft in enumerate(self._drafts):
            if draft is None:
                continue
            start, room = len(draft.tokens), self._context - len(self._prompts[draft.prompt])
            draft.tokens.extend(tokens[:, row].tolist())
            del draft.tokens[room:]
            draft.logprobs.extend(logprobs[:, row].tolist())
            draft.sampled_logprobs.extend(sampled_logprobs[:, row].tolist())
            full: tuple[int, Finish] | None = (room, "length") if len(draft.tokens) == room else None
            if (end := self._endings.find(draft.tokens, start) or full) is not None:
                count, finish = end
                prompt, sample, drawn, whole, cut = draft
                completion = Completion(prompt, sample, drawn[:count], whole[:count], cut[:count], finish)
                self._ended.setdefault(prompt, []).append(completion)
                self._drafts[row] = None

    def complete(self) -> Iterator[list[Completion]]:
        """Hands out the completions of prompts that have them all, in the order of the prompts."""
        while self.open and len(self._ended.get(self._given, ())) == self._samples:
            yield sorted(self._ended.pop(self._given), key=lambda completion: completion.sample)
            self._given += 1
