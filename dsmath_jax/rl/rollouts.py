"""Rollouts: the prompts of a step, and the completions that the policy generates."""

import dataclasses
import functools
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from dsmath_jax.data import datasets
from dsmath_jax.data.chat import Chat
from dsmath_jax.data.datasets import Record
from dsmath_jax.environments.dialogues import NO_DIALOGUE, DialogueResult, Dialogues
from dsmath_jax.models.decoder import Params
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sampling.thinking import thinking_budget
from dsmath_jax.workdir import UserError

PromptIds = Callable[[Record], list[int]]


class Prompts(NamedTuple):
    """The prompts of a run.

    Attributes:
      sets: the records of each data set whose prompts are short enough.
      records: all of these.
      ids: the token ids of their prompts.
      max_length: the maximum number of tokens of a prompt with its completion.
    """

    sets: list[list[Record]]
    records: list[Record]
    ids: list[list[int]]
    max_length: int


def load_prompts(settings: RLSettings, data_dir: Path, encode: PromptIds, max_position_embeddings: int) -> Prompts:
    """Loads the records of `rl.data` whose prompts are short enough; logs the number of the others.

    `encode` returns the token ids of a record's prompt.

    Raises:
      UserError: all are too long, or a prompt with its completion may exceed the context.
    """
    sets = [datasets.load(name, data_dir, settings.columns) for name in settings.data]
    prompts = filter_prompts(settings, sets, encode, max_position_embeddings)
    count = sum(map(len, sets))
    if left_out := count - len(prompts.ids):
        limit = settings.max_prompt_tokens
        logging.warning("rl: %d of %d prompts exceed %d tokens and are left out.", left_out, count, limit)
    if jax.process_index() == 0:
        print(f"rl: {describe_lengths(prompts, max_position_embeddings)}", flush=True)
    return prompts


def describe_lengths(prompts: Prompts, max_position_embeddings: int) -> str:
    """Returns one line about the number of tokens of prompts, and what remains of the model's context."""
    lengths = [len(ids) for ids in prompts.ids]
    low, median, high = np.quantile(lengths, (0.0, 0.5, 0.95), method="lower")
    return (
        f"{len(lengths):,} prompts of {low} to {max(lengths)} tokens (median {median}, 95 % at most {high}); with a "
        f"completion at most {prompts.max_length:,} of the {max_position_embeddings:,} of the model's context"
    )


def filter_prompts(
    settings: RLSettings, sets: Sequence[Sequence[Record]], encode: PromptIds, max_position_embeddings: int
) -> Prompts:
    """Returns the records of the data sets whose prompts are short enough; raises as `load_prompts`."""
    pairs = [[(record, encode(record)) for record in records] for records in sets]
    short = [[pair for pair in each if len(pair[1]) <= settings.max_prompt_tokens] for each in pairs]
    short_pairs = [pair for each in short for pair in each]
    if not short_pairs:
        raise UserError(
            f"rl: no prompt of rl.data has at most {settings.max_prompt_tokens} tokens; raise rl.max_prompt_tokens."
        )
    max_length = max(len(prompt) for _, prompt in short_pairs) + settings.max_new_tokens
    check_context(max_length, max_position_embeddings)
    by_set = [[record for record, _ in each] for each in short]
    return Prompts(by_set, [record for record, _ in short_pairs], [prompt for _, prompt in short_pairs], max_length)


def eval_prompts(records: Sequence[Record], encode: PromptIds, max_position_embeddings: int) -> list[list[int]]:
    """Returns the prompts of `rl.eval_data` as token ids.

    Raises:
      UserError: one fills the model's context.
    """
    prompts = [encode(record) for record in records]
    for record, prompt in zip(records, prompts, strict=True):
        if len(prompt) >= max_position_embeddings:
            raise UserError(
                f"rl: the prompt of the record {record.id} of rl.eval_data has {len(prompt)} tokens, which fills the "
                f"model's context of {max_position_embeddings}; remove the record."
            )
    return prompts


def check_context(max_length: int, max_position_embeddings: int) -> None:
    """Raises a `UserError` where a prompt with its completion may exceed the model's context."""
    if max_length > max_position_embeddings:
        raise UserError(
            f"rl: a prompt and its completion may have {max_length} tokens, more than the model's context of "
            f"{max_position_embeddings}; lower rl.max_prompt_tokens or rl.max_new_tokens."
        )


def step_indices(seed: int, step: int, per_step: int, count: int) -> list[int]:
    """Returns the `per_step` indices below `count` of a step; every epoch is a new permutation of all."""
    positions = range(step * per_step, (step + 1) * per_step)
    return [int(_epoch_order(seed, position // count, count)[position % count]) for position in positions]


@functools.lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, count: int) -> Int[np.ndarray, " count"]:
    return np.random.default_rng([seed, epoch]).permutation(count)


def prompt_key_ids(chosen: Sequence[int], count: int) -> list[int]:
    """Returns the id of each chosen prompt for its random keys: its index, or a new id where a rollout repeats it.

    A rollout repeats prompts where it has more than the `count` prompts, or where an epoch ends in it.
    """
    seen: Counter[int] = Counter()
    keys = []
    for index in chosen:
        keys.append(index + count * seen[index])
        seen[index] += 1
    return keys


class Rollout(NamedTuple):
    """P prompts with G completions each, prompt-major; the other fields are of the completions.

    Attributes:
      dialogues_PG: of their dialogues; NO_DIALOGUE where there is no environment.
    """

    prompts_P: list[list[int]]
    completions_PG: list[Completion]
    records_PG: list[Record]
    texts_PG: list[str]
    dialogues_PG: list[DialogueResult]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each completion, including EOS and the replies of an environment."""
        return [len(completion.tokens) for completion in self.completions_PG]


def sampling_of(settings: RLSettings, chat: Chat, seed: int, samples: int) -> SamplingParams:
    """Returns how the policy samples: `samples` completions of each prompt, or continuations of each prefix."""
    return SamplingParams(
        samples=samples, temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p, seed=seed,
        thinking=thinking_budget(chat, settings.max_thinking_tokens),
    )  # fmt: skip


def generate_rollout(
    policy: tuple[Sampler, Params], prompts: Prompts, chosen: Sequence[int], chat: Chat, sampling: SamplingParams,
    number: int, dialogues: Dialogues | None = None,
) -> Rollout:  # fmt: skip
    """Generates completions of each of the prompts with these indices, in turns if `dialogues` replies to them.

    The random key of a completion depends on the seed, the number, the prompt's id (`prompt_key_ids`) and the sample.
    `number` counts batches of prompts: rollouts and their refills.
    """
    sampler, params = policy
    prompts_P = [prompts.ids[i] for i in chosen]
    groups = sampler.generate(
        params, prompts_P, dataclasses.replace(sampling, partner=dialogues), step=number,
        prompt_ids=prompt_key_ids(chosen, len(prompts.ids)), decode=chat.tokenizer.decode,
    )  # fmt: skip
    completions = [completion for group in groups for completion in group]
    return Rollout(
        prompts_P, completions, [prompts.records[chosen[c.prompt]] for c in completions],
        [chat.completion(c.tokens) for c in completions],
        [dialogues.results[c.prompt, c.sample] if dialogues else NO_DIALOGUE for c in completions],
    )  # fmt: skip
