"""Sampling from the model in-process: one prefill per prompt, shared by its samples, and slots that never wait long.

Every random number of a completion comes from the key `fold_in(seed, step, prompt id, sample)` and the token's place,
so a completion does not depend on the slots it was drawn in. All processes of a run take the same decisions here: the
tokens that they decide by are whole on each.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from dsmath_jax.models.llama import Llama
from dsmath_jax.sampling.choosing import Kind, Settings
from dsmath_jax.sampling.completions import Completion as Completion
from dsmath_jax.sampling.endings import Endings
from dsmath_jax.sampling.engine import Engine, Plan
from dsmath_jax.sampling.schedule import Schedule, bucket, fitting, shape_of, widths_of
from dsmath_jax.settings import INT32
from dsmath_jax.sharding import Layout
from dsmath_jax.workdir import UserError

CHUNK = 16  # decode steps between two looks of the host at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How completions are drawn.

    Attributes:
      samples: completions per prompt (the group size G).
      temperature: 0 decodes greedily.
      top_k: draws from the k likeliest tokens; 0 from all.
      top_p: draws from the likeliest tokens that together have this probability.
      seed: of the random keys.
      stop_strings: a completion ends with the token that completes one of these.

    Raises:
      UserError: a number is invalid.
    """

    samples: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    stop_strings: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name, valid, wanted in (
            ("samples", self.samples >= 1, "1 or more"),
            ("temperature", self.temperature >= 0, "0 (greedy) or more"),
            ("top_k", self.top_k >= 0, "0 (no limit) or more"),
            ("top_p", 0 < self.top_p <= 1, "a share above 0, at most 1"),
            ("seed", 0 <= self.seed <= INT32, f"a number between 0 and {INT32:,}"),
        ):
            if not valid:
                raise UserError(f"Sampling with {name}={getattr(self, name)} is invalid; give {wanted}.")


class Sampler:
    """Draws completions for prompts.

    Args:
      model: the decoder.
      layout: slots are spread over its replica and fsdp axes, heads over tensor; the model is built for it.
      stop_ids: a completion ends with the first of these.
      max_new_tokens: the length limit M.
      rows: slots, that is completions in the making at a time.
      cache_dtype: of the decode cache; "" for the model's compute dtype.
      chunk: decode steps between two looks of the host at most.
    """

    def __init__(
        self,
        model: Llama,
        layout: Layout,
        stop_ids: Sequence[int],
        max_new_tokens: int,
        rows: int = 256,
        cache_dtype: str = "",
        chunk: int = CHUNK,
    ) -> None:
        if max_new_tokens < 1 or rows < 1:
            raise UserError(
                f"The sampler got max_new_tokens={max_new_tokens} and rows={rows}; both must be at least 1."
            )
        self.engine = Engine(model, layout, tuple(stop_ids), max_new_tokens, chunk, cache_dtype)
        self._stop_ids, self._max_new, self._rows = tuple(stop_ids), max_new_tokens, rows
        self._context, self._shards = model.config.max_position_embeddings, layout.batch_shards

    def generate(
        self,
        params: Any,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams = SamplingParams(),
        *,
        step: int = 0,
        prompt_ids: Sequence[int] | None = None,
        decode: Callable[[Sequence[int]], str] | None = None,
    ) -> Iterator[list[Completion]]:
        """Yields each prompt's completions, in the order of the prompts.

        Args:
          params: the model's parameters, in any layout on the mesh's devices.
          prompts: token ids, none empty, each shorter than the model's context (`max_position_embeddings`). A
            completion ends where it fills the context, with "length": the model knows no positions beyond.
          sampling: how tokens are drawn, and how often.
          step: with the seed, the prompt's id and the sample's number it makes the random key of a completion.
          prompt_ids: stable numbers of the prompts; their indices where not given.
          decode: token ids to text; stop strings need it.

        Raises:
          UserError: a prompt is empty or fills the context, or stop strings cannot be looked for.
        """
        self.check(prompts)
        if not prompts:
            return iter(())
        endings = Endings(self._stop_ids, sampling.stop_strings, decode, self._max_new)
        ids = range(len(prompts)) if prompt_ids is None else prompt_ids
        settings = Settings(np.float32(sampling.temperature), np.int32(sampling.top_k), np.float32(sampling.top_p))
        kind = Kind(sampling.temperature == 0, sampling.top_k > 0, sampling.top_p < 1)
        key = jax.random.fold_in(jax.random.key(sampling.seed), step)
        lanes, group = shape_of(self._rows, len(prompts), sampling.samples, self._shards)
        schedule = Schedule(prompts, ids, sampling.samples, lanes, group, endings, self._context)
        return self._run(params, schedule, bucket(max(map(len, prompts))), key, settings, kind)

    def check(self, prompts: Sequence[Sequence[int]]) -> None:
        """Raises the `UserError` of `generate` where a prompt cannot be completed."""
        vocabulary = self.engine.model.config.vocab_size
        for i, prompt in enumerate(prompts):
            if not len(prompt):
                raise UserError(f"Prompt {i} is empty; give it at least one token, such as BOS.")
            if len(prompt) >= self._context:
                raise UserError(
                    f"Prompt {i} has {len(prompt)} tokens, which leaves no room for a completion in the model's "
                    f"context of {self._context}; shorten it."
                )
            if wrong := next((token for token in prompt if not 0 <= token < vocabulary), None):
                raise UserError(
                    f"Prompt {i} has the token {wrong}, but the model's vocabulary ends at {vocabulary - 1}; give the "
                    "tokenizer that belongs to the model."
                )

    def _run(
        self, params: Any, schedule: Schedule, prompt_width: int, key: Array, settings: Settings, kind: Kind
    ) -> Iterator[list[Completion]]:
        engine, widths = self.engine, widths_of(self._max_new)
        width, place = widths[0], 0
        params = engine.put(params)
        state = engine.empty(schedule.lanes, schedule.group, prompt_width, width)
        while schedule.open:
            for batch in schedule.admit():
                state = engine.prefill(params, state, *batch)
            slots = schedule.slots()
            ages = slots.ages[~slots.idle]
            steps = min(engine.chunk, self._max_new - int(ages.min()))
            if (new := fitting(widths, width, min(int(ages.max()) + steps, self._max_new))) != width:
                state = state._replace(own=engine.resize(state.own, place, new))
                width, place = new, min(width, new) % new
            plan = Plan(np.int32(place), np.int32(steps), np.int32(schedule.patience))
            state, drawn = engine.decode(params, state, slots, plan, key, settings, kind=kind)
            choice, steps = jax.tree.map(np.asarray, drawn)
            place = (place + int(steps)) % width
            schedule.record(*(values[:steps] for values in choice))
            yield from schedule.complete()
