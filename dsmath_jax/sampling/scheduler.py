"""Assigns samples to slots: the host side of continuous batching, without device arrays.

A prompt slot holds one prompt and has a group of decode slots. A decode slot whose sample has ended takes the next
waiting sample of its prompt slot; a prompt slot without waiting samples takes the next prompt or, when there is none,
half of the waiting samples of another prompt slot.
"""

import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dsmath_jax.sampling.completions import Completion, FinishReason
from dsmath_jax.sampling.engine import SAMPLED, Slots
from dsmath_jax.sampling.stopping import StoppingCriteria
from dsmath_jax.sampling.thinking import Marks, ThoughtState
from dsmath_jax.sampling.turns import Reply, Turn, TurnLimits

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


@dataclasses.dataclass
class _PartialCompletion:
    """A completion that is being decoded.

    Attributes:
      prompt, sample, tokens, logprobs, sampled_logprobs: as in `Completion`.
      inserted: whether each token was not sampled.
      in_thought: whether it is in a thought after its last token, with a thinking budget.
      positions: of the ring since its first token.
      turn, turn_start: number and first token of the model's current turn.
      given: tokens of a reply that the model has yet to read.
      waits: whether its turn has ended and the reply is awaited.
    """

    prompt: int
    sample: int
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
      tokens: ids.
      id: stable, for the random keys.
      max_tokens: of a completion.
      thought: where completions begin; only read with a thinking budget.
    """

    tokens: Sequence[int]
    id: int
    max_tokens: int
    thought: ThoughtState = ThoughtState()


class Scheduler:
    """The state of one call of `Sampler.generate`.

    Args:
      prompts: the prompts.
      samples: of each prompt.
      shape: the number of prompt slots, and of decode slots for each (`slot_shape`).
      stopping: where completions and their turns end.
      marks: of thoughts, with a thinking budget.
      turn_limits: for completions in turns.
      wanted: completions of each prompt, the first to end; its other samples are dropped. 0 for all.
    """

    def __init__(
        self, prompts: Sequence[Prompt], samples: int, shape: tuple[int, int], stopping: StoppingCriteria,
        marks: Marks | None = None, turn_limits: TurnLimits | None = None,
        wanted: int = 0,
    ) -> None:  # fmt: skip
        self._prompts, self._samples, self._stopping = prompts, samples, stopping
        self._wanted = wanted or samples
        self._marks, self._turn_limits = marks, turn_limits
        self.prompt_slots, self.slots_per_prompt = prompt_slots, slots_per_prompt = shape
        self._queue = deque(range(len(prompts)))
        self._prompt_in = [0] * prompt_slots
        self._waiting: list[deque[int]] = [deque() for _ in range(prompt_slots)]
        self._decoding: list[_PartialCompletion | None] = [None] * (prompt_slots * slots_per_prompt)
        self._started = False  # until the first `assign`, `_waiting` includes samples that have a free slot
        self._ended: list[tuple[int, FinishReason]] = []  # rows whose turns have ended, and why
        self._asked: list[tuple[int, FinishReason]] = []  # those that `ended_turns` returned
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
        length = prompt_bucket(max(len(prompt.tokens) for prompt in self._prompts))
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
        prompts = [self._prompts[self._prompt_in[slot]].tokens for slot in slots]
        batch = PrefillBatch(
            np.zeros((size, prompt_bucket(max(map(len, prompts)))), np.int32),
            np.ones(size, np.int32),
            np.full(size, self.prompt_slots, np.int32),
        )
        for row, (slot, prompt) in enumerate(zip(slots, prompts, strict=True)):
            batch.tokens[row, : len(prompt)], batch.lengths[row], batch.prompt_slots[row] = prompt, len(prompt), slot
        return batch

    def assign(self, chunk: int) -> Slots:
        """Assigns waiting samples to idle decode slots; returns the state of all slots for a chunk of decode steps."""
        self._started = True
        for row in range(len(self._decoding)):
            slot = row // self.slots_per_prompt
            if self._decoding[row] is None and self._waiting[slot]:
                prompt = self._prompt_in[slot]
                begins = self._prompts[prompt].thought.is_open
                self._decoding[row] = _PartialCompletion(prompt, self._waiting[slot].popleft(), begins)
        partials = [partial or _PartialCompletion(0, 0, False) for partial in self._decoding]
        given = np.full((chunk, len(partials)), SAMPLED, np.int32)
        for row, partial in enumerate(partials):
            if partial.given:
                given[: len(partial.given), row] = partial.given[:chunk]
        return Slots(
            num_tokens=np.array([len(partial.tokens) for partial in partials], np.int32),
            limits=np.array([self._prompts[partial.prompt].max_tokens for partial in partials], np.int32),
            prompt_ids=np.array([self._prompts[partial.prompt].id for partial in partials], np.int32),
            samples=np.array([partial.sample for partial in partials], np.int32),
            idle=np.array([partial is None or partial.waits for partial in self._decoding]),
            in_thought=np.array([partial.in_thought for partial in partials]),
            thinking_left=np.array([self._prompts[partial.prompt].thought.left for partial in partials], np.int32),
            given=given,
            prompt_lengths=np.array([len(self._prompts[prompt].tokens) for prompt in self._prompt_in], np.int32),
        )

    @property
    def positions(self) -> int:
        """The positions of the ring that the oldest completion in a slot spans."""
        return max((partial.positions for partial in self._decoding if partial), default=0)

    @property
    def refill_threshold(self) -> int:
        """The number of idle slots at which a chunk stops: all of them when no sample waits and there is one turn."""
        slots = len(self._decoding)
        if not self._queue and not any(self._waiting) and self._turn_limits is None:
            return slots
        idle = sum(partial is None or partial.waits for partial in self._decoding)
        return min(slots, idle + max(1, slots // 16))

    def record(
        self, tokens: np.ndarray, logprobs: np.ndarray, sampled_logprobs: np.ndarray, inserted: np.ndarray
    ) -> None:
        """Appends a chunk's tokens `[n,R]` to the completions; those that end free their slots."""
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
            limit = self._prompts[partial.prompt].max_tokens
            if self._turn_limits:
                limit = min(limit, begin + self._turn_limits.turn_tokens)
            end = None if partial.given else self._stopping.find_end(partial.tokens, first_sampled, limit, begin)
            if end is not None:
                partial.cut(end[0])
            if self._marks is not None:
                marks = [token for token in partial.tokens[before:] if token in self._marks]
                partial.in_thought = marks[-1] == self._marks.open_id if marks else partial.in_thought
            if end is not None and self._turn_limits is None:
                self._complete(row, end[1])
            elif end is not None:
                partial.waits = True
                self._ended.append((row, end[1]))

    def ended_turns(self) -> list[Turn]:
        """Returns the turns that ended since the last call, for `Partner.ask`."""
        self._asked, self._ended = self._ended, []
        turns = []
        for row, reason in self._asked:
            partial = self._decoding[row]
            assert partial is not None
            is_last = self._is_last(partial) or len(partial.tokens) >= self._prompts[partial.prompt].max_tokens
            tokens = partial.tokens[partial.turn_start :]
            turns.append(Turn(partial.prompt, partial.sample, partial.turn, tokens, reason, is_last))
        return turns

    def reply(self, replies: Sequence[Reply | None]) -> None:
        """Continues the completions whose turns `ended_turns` returned; those without a reply end."""
        for (row, reason), reply in zip(self._asked, replies, strict=True):
            partial = self._decoding[row]
            assert partial is not None
            limit = self._prompts[partial.prompt].max_tokens
            length = len(partial.tokens) - (reply is not None and reply.drops_eos and reason == "eos")
            if reply is None:
                self._complete(row, reason)
            elif self._is_last(partial):
                self._complete(row, "rounds")
            elif length + len(reply.tokens) >= limit:
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
