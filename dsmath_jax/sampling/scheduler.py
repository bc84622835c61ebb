"""Assigns samples to slots: the host side of continuous batching, without device arrays.

A prompt slot holds one prompt and has a group of decode slots. A decode slot whose sample has ended takes the next
waiting sample of its prompt slot; a prompt slot without waiting samples takes the next prompt or, when there is none,
half of the waiting samples of another prompt slot. When no sample waits, the number of slots falls with that of the
remaining completions.
"""

import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dsmath_jax.sampling.compaction import (
    EMPTY,
    MIN_SLOTS_PER_PROMPT,
    Compaction,
    SlotShape,
    plan_compaction,
    smaller_shapes,
)
from dsmath_jax.sampling.completions import Completion, FinishReason
from dsmath_jax.sampling.engine import SAMPLED, Slots
from dsmath_jax.sampling.stopping import StoppingCriteria
from dsmath_jax.sampling.thinking import Marks, ThoughtState
from dsmath_jax.sampling.turns import Reply, Turn, TurnLimits

REFILL_DIVISOR = 8  # an eighth of the prompt slots must be free before a prefill: several prompts at once are cheaper
MAX_PADDING = 1.25  # times the padded tokens of several prefills: one for all prompts is preferred up to that
MAX_PREFILL_TOKENS = 32_768  # of all prompt slots at once
MIN_BUCKET = 32  # tokens: shorter prompts are padded to it
PREFIX_LENGTHS = (32, 128, 512)  # of prompt slots; above, powers of two
MIN_CACHE_LENGTH = 64  # positions
MIN_SHARED = 64  # tokens; a shorter shared prefix is prefilled with each prompt


def prompt_bucket(length: int) -> int:
    """Rounds the length of prompts up to 32, 64, 128, ..., so that few prefills are compiled."""
    return max(MIN_BUCKET, 1 << (length - 1).bit_length())


def prefix_length(length: int) -> int:
    """Rounds the length of prompt slots up to 32, 128, 512, 1024, 2048, ..., so that few decode programs are compiled.

    Below 512, padding costs little: the slots of a prompt share the reads.
    """
    return next((n for n in PREFIX_LENGTHS if length <= n), prompt_bucket(length))


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


def slot_shape(decode_slots: int, prompts: int, samples: int, shards: int) -> SlotShape:
    """Returns the slots for samples of prompts.

    There are as many prompt slots as prompts, rounded up to a power of two, if the decode slots suffice: few shapes are
    compiled, whatever the number of prompts. Prompt slots are rounded up to a multiple of the mesh's batch
    shards if `decode_slots` suffices.
    """
    wanted = 1 << (prompts - 1).bit_length()
    fewer = min(samples, max(MIN_SLOTS_PER_PROMPT, decode_slots // wanted), decode_slots)
    each = samples if prompts * samples <= decode_slots else fewer
    prompt_slots = min(wanted, max(1, decode_slots // each))
    rounded = -(-prompt_slots // shards) * shards
    fits = rounded * each <= max(decode_slots, prompt_slots * each)
    return SlotShape(rounded if fits else prompt_slots, each, shards)


def num_shared_tokens(prompts: Sequence[Sequence[int]]) -> int:
    """Returns the length of the shared prefix, or 0 if it is short; each prompt has at least one more token."""
    first, last = min(map(list, prompts)), max(map(list, prompts))
    limit = min(map(len, prompts)) - 1
    count = next((i for i in range(limit) if first[i] != last[i]), limit)
    return count if count >= MIN_SHARED and len(prompts) > 1 else 0


class PrefillBatch(NamedTuple):
    """Prompts to write into prompt slots with one prefill."""

    tokens: np.ndarray  # [p,T] int32
    lengths: np.ndarray  # [p] int32
    prompt_slots: np.ndarray  # [p] int32; out of range where a row has no prompt
    num_shared: np.integer  # int32: tokens of the shared prefix


@dataclasses.dataclass(eq=False)
class _PartialCompletion:
    """A completion that is being decoded.

    Attributes:
      prompt, sample, tokens, logprobs, sampled_logprobs: as in `Completion`.
      inserted: whether each token was not sampled.
      limit: its tokens at most.
      in_thought: whether it is in a thought after its last token, with a thinking budget.
      positions: of the ring since its first token.
      turn, turn_start: number and first token of the model's current turn.
      given: tokens of a reply that the model has yet to read.
      waits: whether its turn has ended and the reply is awaited.
    """

    prompt: int
    sample: int
    limit: int
    in_thought: bool
    tokens: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    sampled_logprobs: list[float] = dataclasses.field(default_factory=list)
    inserted: list[bool] = dataclasses.field(default_factory=list)
    positions: int = 0
    turn: int = 0
    turn_start: int = 0
    given: list[int] = dataclasses.field(default_factory=list)
    waits: bool = False

    def cut(self, length: int) -> None:
        """Drops the tokens after the first `length`."""
        for values in (self.tokens, self.logprobs, self.sampled_logprobs, self.inserted):
            del values[length:]

    def completion(self, reason: FinishReason) -> Completion:
        """Returns the completion, which has ended."""
        indices = tuple(index for index, is_inserted in enumerate(self.inserted) if is_inserted)
        return Completion(self.prompt, self.sample, self.tokens, self.logprobs, self.sampled_logprobs, reason, indices)


class Prompt(NamedTuple):
    """A prompt, and what its completions have in common.

    Attributes:
      tokens: ids, after the shared prefix.
      id: stable, for the random keys.
      max_tokens: of a completion.
      thought: where completions begin; only read with a thinking budget.
      num_shared: tokens of the shared prefix.
    """

    tokens: Sequence[int]
    id: int
    max_tokens: int
    thought: ThoughtState = ThoughtState()
    num_shared: int = 0


def _longest_first(prompts: Sequence[Prompt], count: int) -> Iterator[int]:
    """Yields the indices of prompts: each `count` of them in descending order of their lengths."""
    for start in range(0, len(prompts), count):
        indices = range(start, min(start + count, len(prompts)))
        yield from sorted(indices, key=lambda i: -len(prompts[i].tokens))


class Scheduler:
    """The state of one call of `Sampler.generate`.

    Args:
      prompts: the prompts.
      samples: of each prompt.
      shape: the slots.
      stopping: where completions and their turns end.
      marks: of thoughts, with a thinking budget.
      turn_limits: for completions in turns.
      wanted: completions of each prompt, the first to end; its other samples are dropped. 0 for all.
    """

    def __init__(
        self, prompts: Sequence[Prompt], samples: int, shape: SlotShape, stopping: StoppingCriteria,
        marks: Marks | None = None, turn_limits: TurnLimits | None = None, wanted: int = 0,
    ) -> None:  # fmt: skip
        self._prompts, self._samples, self._stopping = prompts, samples, stopping
        self._wanted = wanted or samples
        self._marks, self._turn_limits = marks, turn_limits
        self.shape, (prompt_slots, slots_per_prompt, _) = shape, shape
        self._queue = deque(_longest_first(prompts, prompt_slots))
        self._prompt_in = [0] * prompt_slots
        self._waiting: list[deque[int]] = [deque() for _ in range(prompt_slots)]
        self._decoding: list[_PartialCompletion | None] = [None] * (prompt_slots * slots_per_prompt)
        self._started = False  # until the first `assign`, `_waiting` includes samples that have a free slot
        self._ended: list[tuple[_PartialCompletion, FinishReason]] = []  # whose turns have ended, and why
        self._asked: list[tuple[_PartialCompletion, FinishReason]] = []  # those that `ended_turns` returned
        self._completed: dict[int, list[Completion]] = {}
        self._num_returned = 0  # prompts

    @property
    def unfinished(self) -> bool:
        """Whether completions of a prompt have yet to be returned."""
        return self._num_returned < len(self._prompts)

    def admit(self) -> list[PrefillBatch]:
        """Assigns prompts to free prompt slots, if enough are free; returns the batches to prefill."""
        prompt_slots = self.shape.prompt_slots
        free = [slot for slot in range(prompt_slots) if not self._waiting[slot] and not self._is_decoding(slot)]
        refill_size = max(1, prompt_slots // REFILL_DIVISOR)
        if len(free) < min(refill_size, len(self._queue)):
            return []
        admitted = []
        for slot in free:
            assigned = self._next_prompt()
            if assigned is None:
                break
            self._prompt_in[slot], self._waiting[slot] = assigned
            admitted.append(slot)
        grouped = [self._prefill_batch(admitted[i : i + refill_size]) for i in range(0, len(admitted), refill_size)]
        if 2 * len(admitted) > prompt_slots:
            whole = self._prefill_batch(admitted)
            padded, grouped_size = (
                sum(np.sum(batch.prompt_slots < prompt_slots) * batch.tokens.shape[1] for batch in batches)
                for batches in ([whole], grouped)
            )
            before = whole.num_shared * len(whole.tokens)
            if padded <= MAX_PADDING * grouped_size and whole.tokens.size + before <= MAX_PREFILL_TOKENS:
                return [whole]
        return grouped

    def _is_decoding(self, slot: int) -> bool:
        n = self.shape.slots_per_prompt
        return any(partial is not None for partial in self._decoding[slot * n : (slot + 1) * n])

    def _next_prompt(self) -> tuple[int, deque[int]] | None:
        """Returns the next prompt and its samples, or the fullest slot's prompt and half of its waiting samples."""
        if self._queue:
            return self._queue.popleft(), deque(range(self._samples))
        if not self._started:
            return None
        fullest = max(range(self.shape.prompt_slots), key=lambda slot: len(self._waiting[slot]))
        waiting = self._waiting[fullest]
        if len(waiting) < 2:
            return None
        return self._prompt_in[fullest], deque(sorted(waiting.pop() for _ in range(len(waiting) // 2)))

    def _prefill_batch(self, slots: Sequence[int]) -> PrefillBatch:
        prompt_slots, prompts = self.shape.prompt_slots, [self._prompts[self._prompt_in[slot]] for slot in slots]
        refill_size = max(1, prompt_slots // REFILL_DIVISOR)
        size = refill_size if len(slots) <= refill_size else prompt_slots
        batch = PrefillBatch(
            np.zeros((size, prompt_bucket(max(len(prompt.tokens) for prompt in prompts))), np.int32),
            np.ones(size, np.int32),
            np.full(size, prompt_slots, np.int32),
            np.int32(prompts[0].num_shared),
        )
        for row, (slot, prompt) in enumerate(zip(slots, prompts, strict=True)):
            batch.tokens[row, : len(prompt.tokens)] = prompt.tokens
            batch.lengths[row], batch.prompt_slots[row] = len(prompt.tokens), slot
        return batch

    def assign(self, chunk: int) -> Slots:
        """Assigns waiting samples to idle decode slots; returns the state of all slots for a chunk of decode steps."""
        self._started = True
        for row in range(len(self._decoding)):
            slot = row // self.shape.slots_per_prompt
            if self._decoding[row] is None and self._waiting[slot]:
                prompt, sample = self._prompts[self._prompt_in[slot]], self._waiting[slot].popleft()
                self._decoding[row] = _PartialCompletion(
                    self._prompt_in[slot], sample, prompt.max_tokens, prompt.thought.is_open
                )
        partials = [partial or _PartialCompletion(0, 0, 0, False) for partial in self._decoding]
        given = np.full((chunk, len(partials)), SAMPLED, np.int32)
        for row, partial in enumerate(partials):
            if partial.given:
                given[: len(partial.given), row] = partial.given[:chunk]
        return Slots(
            num_tokens=np.array([len(partial.tokens) for partial in partials], np.int32),
            limits=np.array([partial.limit for partial in partials], np.int32),
            prompt_ids=np.array([self._prompts[partial.prompt].id for partial in partials], np.int32),
            samples=np.array([partial.sample for partial in partials], np.int32),
            idle=np.array([partial is None or partial.waits for partial in self._decoding]),
            in_thought=np.array([partial.in_thought for partial in partials]),
            thinking_left=np.array([self._prompts[partial.prompt].thought.left for partial in partials], np.int32),
            given=given,
            prompt_lengths=np.array([len(self._prompts[prompt].tokens) for prompt in self._prompt_in], np.int32),
            num_shared=np.int32(self._prompts[0].num_shared),
        )

    @property
    def samples_wait(self) -> bool:
        """Whether samples wait for a slot."""
        return bool(self._queue) or any(self._waiting)

    def compact(self, prompt_length: int, ring_length: int) -> Compaction | None:
        """Moves the remaining completions to fewer slots if no sample waits; returns how, None if nothing moves.

        The lengths are those of `smaller_shapes`.
        """
        if self.samples_wait:
            return None
        shapes = list(smaller_shapes(self.shape, prompt_length, ring_length))
        found = plan_compaction(self.shape, shapes, [partial is not None for partial in self._decoding])
        if found is None:
            return None
        self.shape, rows, prompt_slots = found
        size = len(self._decoding) // len(rows)
        self._decoding = [
            None if row == EMPTY else self._decoding[block * size + row]
            for block, taken in enumerate(rows.tolist())
            for row in taken
        ]
        if prompt_slots is not None:
            size = len(self._prompt_in) // len(prompt_slots)
            self._prompt_in = [self._prompt_in[i * size + s] for i, taken in enumerate(prompt_slots) for s in taken]
            self._waiting = [deque() for _ in self._prompt_in]
        return found

    @property
    def longest_prompt(self) -> int:
        """The tokens of the longest prompt with a completion in a slot, or with one that waits for a slot."""
        slots = [slot for slot in range(self.shape.prompt_slots) if self._waiting[slot] or self._is_decoding(slot)]
        prompts = [self._prompt_in[slot] for slot in slots]
        if not prompts and self._queue:  # which begins with the longest of the first
            prompts = [self._queue[0]]
        return max((len(self._prompts[prompt].tokens) for prompt in prompts), default=1)

    @property
    def positions(self) -> int:
        """The positions of the ring that the oldest completion in a slot spans."""
        return max((partial.positions for partial in self._decoding if partial), default=0)

    @property
    def refill_threshold(self) -> int:
        """The number of idle slots at which a chunk stops: all of them when no sample waits and there is one turn."""
        slots = len(self._decoding)
        if not self.samples_wait and self._turn_limits is None:
            return slots
        idle = sum(partial is None or partial.waits for partial in self._decoding)
        return min(slots, idle + max(1, slots // 16))

    def record(
        self, tokens: np.ndarray, logprobs: np.ndarray, sampled_logprobs: np.ndarray, inserted: np.ndarray
    ) -> None:
        """Appends a chunk's tokens `[n,R]` to the completions; those that end free their slots."""
        ended: list[tuple[int, int, FinishReason]] = []  # the step, the row, and why
        for row, partial in enumerate(self._decoding):
            if partial is None:
                continue
            partial.positions += len(tokens)
            if partial.waits:
                continue
            before, begin = len(partial.tokens), partial.turn_start
            first_sampled = before + len(partial.given)
            partial.tokens.extend(tokens[:, row].tolist())
            partial.logprobs.extend(logprobs[:, row].tolist())
            partial.sampled_logprobs.extend(sampled_logprobs[:, row].tolist())
            partial.inserted.extend(inserted[:, row].tolist())
            del partial.given[: len(tokens)]
            limit = partial.limit
            if self._turn_limits:
                limit = min(limit, begin + self._turn_limits.turn_tokens)
            end = None if partial.given else self._stopping.find_end(partial.tokens, first_sampled, limit, begin)
            if end is not None:
                partial.cut(end[0])
            if self._marks is not None:
                marks = [token for token in partial.tokens[before:] if token in self._marks]
                partial.in_thought = marks[-1] == self._marks.open_id if marks else partial.in_thought
            if end is not None and self._turn_limits is None:
                ended.append((end[0] - before, row, end[1]))
            elif end is not None:
                partial.waits = True
                self._ended.append((partial, end[1]))
        for _, row, reason in sorted(ended):
            if self._decoding[row] is not None:  # it is dropped where as many as are wanted have ended before it
                self._complete(row, reason)

    def ended_turns(self) -> list[Turn]:
        """Returns the turns that ended since the last call, for `Partner.ask`."""
        self._asked, self._ended = self._ended, []
        turns = []
        for partial, reason in self._asked:
            is_last = self._is_last(partial) or len(partial.tokens) >= partial.limit
            tokens = partial.tokens[partial.turn_start :]
            turns.append(Turn(partial.prompt, partial.sample, partial.turn, tokens, reason, is_last))
        return turns

    def reply(self, replies: Sequence[Reply | None]) -> None:
        """Continues the completions whose turns `ended_turns` returned; those without a reply end."""
        for (partial, reason), reply in zip(self._asked, replies, strict=True):
            row = self._decoding.index(partial)
            length = len(partial.tokens) - (reply is not None and reply.drops_eos and reason == "eos")
            if reply is None:
                self._complete(row, reason)
            elif self._is_last(partial):
                self._complete(row, "rounds")
            elif length + len(reply.tokens) >= partial.limit:
                self._complete(row, "length")
            else:
                partial.cut(length)
                partial.given, partial.waits = list(reply.tokens), False
                partial.turn, partial.turn_start = partial.turn + 1, length + len(reply.tokens)
        self._asked = []

    def _is_last(self, partial: _PartialCompletion) -> bool:
        """Returns whether a completion may have no turn after this one."""
        return self._turn_limits is not None and partial.turn + 1 >= self._turn_limits.turns

    def _complete(self, row: int, reason: FinishReason) -> None:
        partial = self._decoding[row]
        assert partial is not None
        completed = self._completed.setdefault(partial.prompt, [])
        completed.append(partial.completion(reason))
        self._decoding[row] = None
        if len(completed) == self._wanted:
            self._drop(partial.prompt)

    def _drop(self, prompt: int) -> None:
        """Drops the samples of a prompt that have not ended, which frees their slots."""
        for slot, waiting in enumerate(self._waiting):
            if self._prompt_in[slot] == prompt:
                waiting.clear()
        for row, partial in enumerate(self._decoding):
            if partial is not None and partial.prompt == prompt:
                self._decoding[row] = None

    def pop_completed(self) -> Iterator[list[Completion]]:
        """Yields the completions of prompts that have all of them, in the order of the prompts."""
        while self.unfinished and len(self._completed.get(self._num_returned, ())) == self._wanted:
            yield sorted(self._completed.pop(self._num_returned), key=lambda completion: completion.sample)
            self._num_returned += 1
