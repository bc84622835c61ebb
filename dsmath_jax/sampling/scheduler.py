"""Assigns samples to slots: the host side of continuous batching, without device arrays.

A prompt slot holds one prompt and has a group of decode slots. A decode slot whose sample has ended takes the next
waiting sample of its prompt slot; a prompt slot without waiting samples takes the next prompt or, when there is none,
half of the waiting samples of another prompt slot.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dsmath_jax.sampling.completions import Completion, FinishReason
from dsmath_jax.sampling.engine import Slots
from dsmath_jax.sampling.stopping import StoppingCriteria
from dsmath_jax.sampling.thinking import ThoughtState

MIN_SLOTS_PER_PROMPT = 4  # if a prompt has as many samples: they share the reads of its KV cache
REFILL_DIVISOR = 8  # an eighth of the prompt slots must be free before a prefill: several prompts at once are cheaper
MAX_PREFILL_TOKENS = 32_768  # of all prompt slots at once
MIN_BUCKET = 32  # tokens: shorter prompts are padded to it
MIN_CACHE_LENGTH = 64  # positions


def prompt_bucket(length: int) -> int:
    """Rounds a prompt's length up to 32, 48, 64, 96, 128, 192, ..., so that few shapes are compiled."""
    power = max(MIN_BUCKET, 1 << (length - 1).bit_length())
    middle = 3 * power // 4
    return middle if MIN_BUCKET < length <= middle else power


def cache_lengths(max_new_tokens: int) -> list[int]:
    """Returns the cache lengths for completions of up to `max_new_tokens`, ascending, by halving the limit."""
    lengths = [max_new_tokens]
    while lengths[0] >= 2 * MIN_CACHE_LENGTH:
        lengths.insert(0, -(-lengths[0] // 2))
    return lengths


def next_cache_length(lengths: Sequence[int], current: int, needed: int) -> int:
    """Returns the length to resize the cache to; it shrinks only if the shorter one suffices for a while."""
    smallest = next(length for length in lengths if length >= needed)
    return smallest if smallest > current or 4 * needed <= 3 * smallest else current


def slot_shape(decode_slots: int, prompts: int, samples: int, shards: int) -> tuple[int, int]:
    """Returns the number of prompt slots, and of decode slots for each.

    There are as many prompt slots as prompts, rounded up to a power of two, if the decode slots suffice: few shapes are
    compiled, whatever the number of prompts. Prompt slots are rounded up to a multiple of the mesh's batch
    shards if `decode_slots` suffices.
    """
    wanted = 1 << (prompts - 1).bit_length()
    fewer = min(samples, max(MIN_SLOTS_PER_PROMPT, decode_slots // wanted), decode_slots)
    each = samples if prompts * samples <= decode_slots else fewer
    prompt_slots = min(wanted, max(1, decode_slots // each))
    rounded = -(-prompt_slots // shards) * shards
    return (rounded if rounded * each <= max(decode_slots, prompt_slots * each) else prompt_slots), each


class PrefillBatch(NamedTuple):
    """Prompts to write into prompt slots with one prefill."""

    tokens: np.ndarray  # [p,T] int32
    lengths: np.ndarray  # [p] int32
    prompt_slots: np.ndarray  # [p] int32; out of range where a row has no prompt


class _PartialCompletion(NamedTuple):
    """A completion that is being decoded."""

    prompt: int
    sample: int
    tokens: list[int]
    logprobs: list[float]
    sampled_logprobs: list[float]
    inserted: list[bool]


class Scheduler:
    """The state of one call of `Sampler.generate`.

    Args:
      prompts: token ids.
      prompt_ids: their stable ids.
      samples: of each prompt.
      shape: the number of prompt slots, and of decode slots for each (`slot_shape`).
      stopping: where completions end.
      context: the maximum number of tokens of a prompt with its completion, which ends there. Every prompt has fewer.
      thoughts: the state of each prompt's completions at their start; only read with a thinking budget.
    """

    def __init__(
        self, prompts: Sequence[Sequence[int]], prompt_ids: Sequence[int], samples: int, shape: tuple[int, int],
        stopping: StoppingCriteria, context: int, thoughts: Sequence[ThoughtState],
    ) -> None:  # fmt: skip
        self._prompts, self._ids, self._samples = prompts, prompt_ids, samples
        self._stopping, self._context, self._thoughts = stopping, context, thoughts
        self.prompt_slots, self.slots_per_prompt = prompt_slots, slots_per_prompt = shape
        self._queue = deque(range(len(prompts)))
        self._prompt_in = [0] * prompt_slots
        self._waiting: list[deque[int]] = [deque() for _ in range(prompt_slots)]
        self._decoding: list[_PartialCompletion | None] = [None] * (prompt_slots * slots_per_prompt)
        self._started = False  # until the first `assign`, `_waiting` includes samples that have a free slot
        self._completed: dict[int, list[Completion]] = {}
        self._num_returned = 0  # prompts

    @property
    def unfinished(self) -> bool:
        """Whether completions of a prompt have yet to be returned."""
        return self._num_returned < len(self._prompts)

    def admit(self) -> list[PrefillBatch]:
        """Assigns prompts to free prompt slots, if enough are free; returns the batches to prefill."""
        free = [slot for slot in range(self.prompt_slots) if not self._waiting[slot] and not self._is_decoding(slot)]
        refill_size = max(1, self.prompt_slots // REFILL_DIVISOR)
        if len(free) < min(refill_size, len(self._queue)):
            return []
        admitted = []
        for slot in free:
            assigned = self._next_prompt()
            if assigned is None:
                break
            self._prompt_in[slot], self._waiting[slot] = assigned
            admitted.append(slot)
        length = prompt_bucket(max(map(len, self._prompts)))
        all_at_once = 2 * len(admitted) > self.prompt_slots and self.prompt_slots * length <= MAX_PREFILL_TOKENS
        size = self.prompt_slots if all_at_once else refill_size
        return [self._prefill_batch(admitted[i : i + size], size) for i in range(0, len(admitted), size)]

    def _is_decoding(self, slot: int) -> bool:
        n = self.slots_per_prompt
        return any(partial is not None for partial in self._decoding[slot * n : (slot + 1) * n])

    def _next_prompt(self) -> tuple[int, deque[int]] | None:
        """Returns the next prompt and its samples, or the fullest slot's prompt and half of its waiting samples."""
        if self._queue:
            return self._queue.popleft(), deque(range(self._samples))
        if not self._started:
            return None
        fullest = max(range(self.prompt_slots), key=lambda slot: len(self._waiting[slot]))
        waiting = self._waiting[fullest]
        if len(waiting) < 2:
            return None
        return self._prompt_in[fullest], deque(sorted(waiting.pop() for _ in range(len(waiting) // 2)))

    def _prefill_batch(self, slots: Sequence[int], size: int) -> PrefillBatch:
        prompts = [self._prompts[self._prompt_in[slot]] for slot in slots]
        batch = PrefillBatch(
            np.zeros((size, prompt_bucket(max(map(len, prompts)))), np.int32),
            np.ones(size, np.int32),
            np.full(size, self.prompt_slots, np.int32),
        )
        for row, (slot, prompt) in enumerate(zip(slots, prompts, strict=True)):
            batch.tokens[row, : len(prompt)], batch.lengths[row], batch.prompt_slots[row] = prompt, len(prompt), slot
        return batch

    def assign(self) -> Slots:
        """Assigns waiting samples to idle decode slots; returns the state of all slots."""
        self._started = True
        for row in range(len(self._decoding)):
            slot = row // self.slots_per_prompt
            if self._decoding[row] is None and self._waiting[slot]:
                self._decoding[row] = _PartialCompletion(
                    self._prompt_in[slot], self._waiting[slot].popleft(), [], [], [], []
                )
        partials = [partial or _PartialCompletion(0, 0, [], [], [], []) for partial in self._decoding]
        return Slots(
            np.array([len(partial.tokens) for partial in partials], np.int32),
            np.array([self._ids[partial.prompt] for partial in partials], np.int32),
            np.array([partial.sample for partial in partials], np.int32),
            np.array([partial is None for partial in self._decoding]),
            np.array([len(self._prompts[prompt]) for prompt in self._prompt_in], np.int32),
            np.array([self._thoughts[prompt].is_open for prompt in self._prompt_in]),
            np.array([self._thoughts[prompt].left for prompt in self._prompt_in], np.int32),
        )

    @property
    def refill_threshold(self) -> int:
        """The number of idle slots at which a chunk stops for a refill: all of them when nothing waits."""
        slots = len(self._decoding)
        if not self._queue and not any(self._waiting):
            return slots
        return min(slots, self._decoding.count(None) + max(1, slots // 16))

    def record(
        self, tokens: np.ndarray, logprobs: np.ndarray, sampled_logprobs: np.ndarray, inserted: np.ndarray
    ) -> None:
        """Appends a chunk's tokens `[n,R]` to the completions; those that end free their slots."""
        for row, partial in enumerate(self._decoding):
            if partial is None:
                continue
            start, room = len(partial.tokens), self._context - len(self._prompts[partial.prompt])
            partial.tokens.extend(tokens[:, row].tolist())
            del partial.tokens[room:]
            partial.logprobs.extend(logprobs[:, row].tolist())
            partial.sampled_logprobs.extend(sampled_logprobs[:, row].tolist())
            partial.inserted.extend(inserted[:, row].tolist())
            full: tuple[int, FinishReason] | None = (room, "length") if len(partial.tokens) == room else None
            if (end := self._stopping.find_end(partial.tokens, start) or full) is not None:
                count, reason = end
                prompt, sample, generated, before_filters, after_filters, marks = partial
                values = generated[:count], before_filters[:count], after_filters[:count]
                indices = tuple(index for index, is_mark in enumerate(marks[:count]) if is_mark)
                self._completed.setdefault(prompt, []).append(Completion(prompt, sample, *values, reason, indices))
                self._decoding[row] = None

    def pop_completed(self) -> Iterator[list[Completion]]:
        """Yields the completions of prompts that have all of them, in the order of the prompts."""
        while self.unfinished and len(self._completed.get(self._num_returned, ())) == self._samples:
            yield sorted(self._completed.pop(self._num_returned), key=lambda completion: completion.sample)
            self._num_returned += 1
