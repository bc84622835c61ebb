"""Rollouts: the prompts of a step, the completions that the policy generates, and their files."""

import dataclasses
import functools
import json
import logging
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from jaxtyping import Int

from dsmath_jax.data import datasets
from dsmath_jax.data.chat import Chat
from dsmath_jax.data.datasets import Record
from dsmath_jax.environments.dialogues import Dialogues, Outcome
from dsmath_jax.models.decoder import Params
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sampling.thinking import thinking_budget
from dsmath_jax.sharding import barrier
from dsmath_jax.training.metrics import StepLog
from dsmath_jax.workdir import UserError, atomic_write, remove

REPLIES = "*.replies.jsonl"  # of environments, by batch of prompts, until their rollout is written
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
      outcomes_PG: of their dialogues; () where they have one turn.
    """

    prompts_P: list[list[int]]
    completions_PG: list[Completion]
    records_PG: list[Record]
    texts_PG: list[str]
    outcomes_PG: Sequence[Outcome] = ()

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
        [dialogues.outcomes[c.prompt, c.sample] for c in completions] if dialogues else (),
    )  # fmt: skip


def minibatch_rows(
    key: Sequence[int], update: int, num_prompts: int, group_size: int, minibatches: int
) -> Int[np.ndarray, " rows"]:
    """Returns the rows of an update on a rollout, in order: whole groups, each once in a pass.

    `key` seeds the split: the run's seed and the rollout's number.
    """
    pass_number, part = divmod(update, minibatches)
    order = np.random.default_rng([*key, pass_number]).permutation(num_prompts)
    groups = np.sort(np.split(order, minibatches)[part])
    return (groups[:, None] * group_size + np.arange(group_size)).ravel()


class RolloutFiles:
    """The rollouts of a run on disk, as batches with rewards, written before they are used.

    A resumed run reads them and grades nothing again, since rewards with time limits are not deterministic. Files that
    no checkpoint needs are removed. Process 0 writes, all processes read.
    """

    def __init__(self, folder: Path, settings: RLSettings, seed: int, first_step: int):
        """`folder` is of the stage; it gets `rollouts/` and, from `first_step` on, `samples.jsonl`."""
        self._folder, self._settings, self._seed = folder / "rollouts", settings, seed
        self._samples = StepLog(folder / "samples.jsonl", first_step)
        self._number = -1
        self._batch: dict[str, np.ndarray] = {}
        self._log: dict[str, Any] = {}

    def missing(self, step: int) -> bool:
        """Whether the rollout of this step has yet to be generated.

        All processes call it before any writes the file, since all take part in generating.

        Raises:
          UserError: its file is missing, and the policy that generated it is too.
        """
        number, update = divmod(step, self._settings.steps_per_rollout)
        if number == self._number or self._path(number).is_file():
            return False
        if update:
            raise UserError(
                f"{self._path(number)} is missing, and so is the policy that generated it; remove "
                f"{self._folder.parent} to redo the stage."
            )
        return True

    def write(
        self, step: int, batch: Mapping[str, np.ndarray], metrics: Mapping[str, float], **lists: Sequence[Any]
    ) -> None:
        """Writes the rollout of this step; called by all processes. `lists` are its `samples` and `asked`."""
        number = step // self._settings.steps_per_rollout
        if jax.process_index() == 0:
            write_rollout(self._path(number), batch, {"metrics": metrics, **lists})
            for path in self._folder.glob(REPLIES):
                remove(path)
        barrier(f"rollout {number}")

    def read(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Returns the batch of this step and the metrics of its rollout; the same on every process.

        The batch is `[PG,T]`, or a minibatch: as many groups in each, those of a pass in a random order.
        """
        settings = self._settings
        number, update = divmod(step, settings.steps_per_rollout)
        if number != self._number:
            self._batch, self._log = read_rollout(self._path(number))
            self._number = number
            self._remove_old(step)
        for row in self.samples(step):
            self._samples.write({"step": step} | row)
        key = self._seed, number
        rows = minibatch_rows(key, update, settings.prompts_per_step, settings.group_size, settings.minibatches)
        return {name: values[rows] for name, values in self._batch.items()}, self._log["metrics"]

    def samples(self, step: int) -> list[dict[str, Any]]:
        """Returns the logged samples of the rollout that was read for this step; none after its first update."""
        return [] if step % self._settings.steps_per_rollout else self._log["samples"]

    def asked(self, step: int) -> list[Any]:
        """Returns the questions and pass rates of each batch of prompts (`curriculum.Asked`), as `samples`."""
        return [] if step % self._settings.steps_per_rollout else self._log["asked"]

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.npz"

    def _remove_old(self, step: int) -> None:
        """Removes the rollouts before the oldest checkpoint from which the run may resume."""
        settings = self._settings
        oldest = (step - (settings.keep_checkpoints + 1) * settings.checkpoint_every) // settings.steps_per_rollout
        if jax.process_index() == 0:
            for path in self._folder.glob("*.npz"):
                if int(path.stem) < oldest:
                    remove(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._samples.close()


def write_rollout(path: Path, batch: Mapping[str, np.ndarray], log: Mapping[str, Any]) -> None:
    """Writes a batch and its metrics and samples, atomically."""
    with atomic_write(path, "wb") as file:
        arrays: dict[str, Any] = {"facts": np.array(json.dumps(log)), **batch}
        np.savez_compressed(file, **arrays)


def read_rollout(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads the batch, and the metrics and samples, of `write_rollout`.

    Raises:
      UserError: the file is damaged.
    """
    try:
        with np.load(path) as stored:
            batch = {name: stored[name] for name in stored.files}
        return batch, json.loads(str(batch.pop("facts")))
    except (EOFError, KeyError, OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"The rollout {path} cannot be read ({error}); remove it to generate it again.") from None
