"""In-process sampling with continuous batching: one prefill per prompt, shared by its samples; slots are refilled.

The random numbers of a completion come from the key `fold_in(seed, step, prompt id, sample)` and the position of the
token, so a completion does not depend on its slot or batch. Every process has all tokens and runs the same schedule.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from dsmath_jax.models.decoder import Decoder
from dsmath_jax.sampling.abstract import StateLengths, inputs_ahead
from dsmath_jax.sampling.completions import Completion as Completion
from dsmath_jax.sampling.dtypes import COMPUTE_DTYPE, DecodeDtypes
from dsmath_jax.sampling.engine import ChunkPlan, Engine
from dsmath_jax.sampling.scheduler import (
    Prompt,
    Scheduler,
    cache_lengths,
    next_cache_length,
    num_shared_tokens,
    prefix_length,
    prompt_bucket,
    slot_shape,
)
from dsmath_jax.sampling.stopping import StoppingCriteria
from dsmath_jax.sampling.thinking import ThinkingBudget, ThoughtState, check_max_thinking_tokens
from dsmath_jax.sampling.token_sampling import SamplingArrays, SamplingMode
from dsmath_jax.sampling.turns import Partner, ring_positions
from dsmath_jax.settings import INT32
from dsmath_jax.sharding import Layout
from dsmath_jax.workdir import UserError

_engine = functools.lru_cache(maxsize=8)(Engine)  # samplers of equal settings share what they have compiled
CHUNK = 16  # maximum number of decode steps before control returns to the host


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """Parameters of sampling.

    Attributes:
      samples: completions per prompt (the group size G).
      temperature: divides the logits; 0 is greedy.
      top_k: sample from the k most likely tokens; 0 for all.
      top_p: sample from the most likely tokens that together have this probability.
      seed: seed of the random keys.
      stop_strings: a completion ends with the token that completes one of these.
      thinking: the limit of thoughts; None where only max_new_tokens limits them.
      partner: replies to the turns of completions in turns. Its limits replace max_new_tokens, and its stop strings are
        added. None for completions of one turn.
      oversample: further samples of each prompt that are started. Those of a prompt that have not ended when `samples`
        of them have are dropped, which favors short completions.

    Raises:
      UserError: a number is invalid.
    """

    samples: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    stop_strings: Sequence[str] = ()
    thinking: ThinkingBudget | None = None
    partner: Partner | None = None
    oversample: int = 0

    def __post_init__(self) -> None:
        for name, valid, wanted in (
            ("samples", self.samples >= 1, "1 or more"),
            ("temperature", self.temperature >= 0, "0 (greedy) or more"),
            ("top_k", self.top_k >= 0, "0 (no limit) or more"),
            ("top_p", 0 < self.top_p <= 1, "a number above 0, at most 1"),
            ("seed", 0 <= self.seed <= INT32, f"a number between 0 and {INT32:,}"),
            ("oversample", self.oversample >= 0, "0 (none) or more"),
            ("oversample", not (self.oversample and self.partner), "0 where completions have a partner"),
        ):
            if not valid:
                raise UserError(f"Sampling with {name}={getattr(self, name)} is invalid; give {wanted}.")


class Sampler:
    """Generates completions of prompts.

    Args:
      model: the decoder.
      layout: slots are split over its replica and fsdp axes, heads over tensor; the model is built for it.
      stop_ids: a completion ends with the first of these.
      max_new_tokens: the length limit.
      decode_slots: number of completions decoded at a time.
      dtypes: of KV cache and weights.
      chunk: the maximum number of decode steps before control returns to the host.
    """

    def __init__(
        self,
        model: Decoder,
        layout: Layout,
        stop_ids: Sequence[int],
        max_new_tokens: int,
        decode_slots: int = 256,
        dtypes: DecodeDtypes = COMPUTE_DTYPE,
        chunk: int = CHUNK,
    ) -> None:
        if max_new_tokens < 1 or decode_slots < 1:
            raise UserError(f"max_new_tokens={max_new_tokens} and decode_slots={decode_slots} must both be at least 1.")
        self.engine = _engine(model, layout, tuple(stop_ids), chunk, dtypes)
        self._stop_ids, self._max_new, self._decode_slots = tuple(stop_ids), max_new_tokens, decode_slots
        self._context, self._shards = model.config.max_position_embeddings, layout.batch_shards
        # Not on CPUs, which also decode, nor where several processes tune the programs of their GPUs together.
        platform = layout.mesh.devices.flat[0].platform
        self.compiles_ahead = platform == "tpu" or (platform != "cpu" and jax.process_count() == 1)

    def generate(
        self,
        params: Any,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams = SamplingParams(),
        *,
        step: int = 0,
        prompt_ids: Sequence[int] | None = None,
        begun: Sequence[int] | None = None,
        decode: Callable[[Sequence[int]], str] | None = None,
    ) -> Iterator[list[Completion]]:
        """Yields each prompt's completions, in the order of the prompts.

        Args:
          params: the model's parameters, in any layout on the mesh's devices.
          prompts: token ids, none empty, each shorter than the model's context (`max_position_embeddings`). A
            completion ends where it fills the context, with "length": the model has no later positions.
          sampling: the sampling parameters.
          step: folded into the random keys, with the seed, the prompt's id and the sample's number.
          prompt_ids: stable ids of the prompts; by default their indices.
          begun: how many tokens at the end of each prompt are the beginning of its completion, for the thinking budget;
            none by default.
          decode: token ids to text; needed for stop strings.

        Raises:
          UserError: a prompt is invalid (see `check`), stop strings lack `decode`, or a thought may take all tokens.
        """
        self.check(prompts)
        thinking, partner = sampling.thinking, sampling.partner
        turn_limits = None if partner is None else partner.limits
        max_tokens = self._max_new if turn_limits is None else turn_limits.tokens
        thoughts = [ThoughtState()] * len(prompts)
        if thinking is not None:
            check_max_thinking_tokens(thinking.max_tokens, max_tokens)
            counts = [0] * len(prompts) if begun is None else begun
            thoughts = [thinking.after(prompt[len(prompt) - n :]) for prompt, n in zip(prompts, counts, strict=True)]
        if not prompts:
            return iter(())
        stop_strings = (*sampling.stop_strings, *(partner.stop_strings if partner else ()))
        stopping = StoppingCriteria(self._stop_ids, stop_strings, decode)
        filters = np.float32(sampling.temperature), np.int32(sampling.top_k), np.float32(sampling.top_p)
        marks = None if thinking is None else thinking.marks
        arrays = SamplingArrays(*filters, jax.tree.map(np.int32, marks))
        mode = SamplingMode(sampling.temperature == 0, sampling.top_k > 0, sampling.top_p < 1)
        key = jax.random.fold_in(jax.random.key(sampling.seed), step)
        ids = range(len(prompts)) if prompt_ids is None else prompt_ids
        num_shared = num_shared_tokens(prompts)
        requests = [
            Prompt(prompt[num_shared:], id_, min(max_tokens, self._context - len(prompt)), thought, num_shared)
            for prompt, id_, thought in zip(prompts, ids, thoughts, strict=True)
        ]
        started = sampling.samples + sampling.oversample
        shape = slot_shape(self._decode_slots, len(prompts), started, self._shards)
        scheduler = Scheduler(requests, started, shape, stopping, marks, turn_limits, wanted=sampling.samples)
        positions = max_tokens if turn_limits is None else ring_positions(turn_limits, self.engine.chunk)
        begin = prompts[0][:num_shared], cache_lengths(positions)
        return self._run(params, scheduler, begin, key, arrays, mode, partner)

    def check(self, prompts: Sequence[Sequence[int]]) -> None:
        """Raises a `UserError` where a prompt is empty, fills the context, or has a token outside the vocabulary."""
        vocabulary = self.engine.model.config.vocab_size
        for i, prompt in enumerate(prompts):
            if not len(prompt):
                raise UserError(f"Prompt {i} is empty; give it at least one token, such as BOS.")
            if len(prompt) >= self._context:
                raise UserError(
                    f"Prompt {i} has {len(prompt)} tokens, which leaves no room for a completion in the model's "
                    f"context of {self._context}; shorten it."
                )
            if unknown := next((token for token in prompt if not 0 <= token < vocabulary), None):
                raise UserError(
                    f"Prompt {i} has the token {unknown}, but the model's vocabulary ends at {vocabulary - 1}; give "
                    "the tokenizer that belongs to the model."
                )

    def _run(
        self, params: Any, scheduler: Scheduler, begin: tuple[Sequence[int], list[int]], key: Array,
        sampling: SamplingArrays, mode: SamplingMode, partner: Partner | None,
    ) -> Iterator[list[Completion]]:  # fmt: skip
        """Runs the schedule; `begin` has the tokens of the shared prefix, and the lengths of rings."""
        engine, (shared, lengths) = self.engine, begin
        cache_length, position, prompt_length = lengths[0], 0, prefix_length(scheduler.longest_prompt)
        num_padded = prompt_bucket(len(shared)) if shared else 0
        longest = StateLengths(prompt_length, lengths[-1], num_padded)
        ahead = inputs_ahead(engine, scheduler.shape, lengths, longest, params, sampling) if self.compiles_ahead else ()
        params = engine.prepare_params(params)
        state = engine.empty_state(*scheduler.shape[:2], prompt_length, cache_length)
        if shared:
            padded = np.zeros((1, num_padded), np.int32)
            padded[0, -len(shared) :] = shared
            state = state._replace(shared=engine.prefill_shared(params, padded, np.int32(len(shared))))
        with engine.decode_programs.compile_ahead(ahead, mode):
            asked = False
            while scheduler.unfinished:
                # --- refill: prompts into free prompt slots, or the remaining completions into fewer slots ---
                batches = scheduler.admit()
                if (compaction := scheduler.compact(prompt_length, lengths[-1])) is not None:
                    state = engine.compact(state, compaction)
                new_length = prefix_length(scheduler.longest_prompt)
                if new_length > prompt_length or (new_length < prompt_length and scheduler.samples_wait):
                    state, prompt_length = engine.resize_prompts(state, new_length), new_length
                for batch in batches:
                    state = engine.prefill(params, state, *batch)

                # --- decode: a chunk of steps ---
                slots = scheduler.assign(engine.chunk)
                if not slots.idle.all():
                    steps = min(engine.chunk, int((slots.limits - slots.num_tokens)[~slots.idle].max()))
                    needed = min(scheduler.positions + steps, lengths[-1])
                    if (new_length := next_cache_length(lengths, cache_length, needed)) != cache_length:
                        state = engine.resize(state, position, new_length)
                        cache_length, position = new_length, min(cache_length, new_length) % new_length
                    plan = ChunkPlan(np.int32(position), np.int32(steps), np.int32(scheduler.refill_threshold))
                    inputs = params, state, slots, plan, key, sampling
                    state, output = engine.decode_programs.find(inputs, mode)(*inputs)
                    sampled, steps = jax.tree.map(np.asarray, output)
                    position = (position + int(steps)) % cache_length
                    scheduler.record(*(values[:steps] for values in sampled))

                # --- turns: replies to those that ended a chunk ago ---
                if partner is not None:
                    if asked:
                        scheduler.reply(partner.replies())
                    turns = scheduler.ended_turns()
                    if asked := bool(turns):
                        partner.ask(turns)
                yield from scheduler.pop_completed()
