"""One rollout: which prompts a step asks, the completions that the policy draws, and the files that keep them."""

import json
import logging
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from dsmath_jax.data import datasets
from dsmath_jax.data.chat import Chat
from dsmath_jax.data.datasets import Record
from dsmath_jax.data.tokenizer import Tokenizer
from dsmath_jax.models.llama import Params
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sharding import barrier
from dsmath_jax.training.metrics import StepLog
from dsmath_jax.workdir import UserError, atomic_write, remove


class Prompts(NamedTuple):
    """What is asked.

    Attributes:
      sets: the records of each data set whose prompts are short enough.
      records: all of these.
      ids: the token ids of their prompts.
      longest: the most tokens of a prompt with its completion.
    """

    sets: list[list[Record]]
    records: list[Record]
    ids: list[list[int]]
    longest: int


def load_prompts(settings: RLSettings, data_dir: Path, chat: Chat, context: int) -> Prompts:
    """The records of `rl.data` whose prompts are short enough; says how many are not.

    Raises:
      UserError: none is, or a prompt with its completion may outgrow the model's context.
    """
    sets = [datasets.load(name, data_dir) for name in settings.data]
    prompts = short_prompts(settings, sets, chat, context)
    count = sum(map(len, sets))
    if left_out := count - len(prompts.ids):
        limit = settings.max_prompt_tokens
        logging.warning("rl: %d of %d prompts exceed %d tokens and are left out.", left_out, count, limit)
    return prompts


def short_prompts(settings: RLSettings, sets: Sequence[Sequence[Record]], chat: Chat, context: int) -> Prompts:
    """Those of the data sets' records whose prompts are short enough; errors as `load_prompts`."""
    asked = [[(record, chat.prompt_ids(record)) for record in records] for records in sets]
    short = [[one for one in each if len(one[1]) <= settings.max_prompt_tokens] for each in asked]
    kept = [one for each in short for one in each]
    if not kept:
        raise UserError(
            f"rl: no prompt of rl.data has at most {settings.max_prompt_tokens} tokens; raise rl.max_prompt_tokens."
        )
    longest = max(len(prompt) for _, prompt in kept) + settings.max_new_tokens
    check_context(longest, context)
    by_set = [[record for record, _ in each] for each in short]
    return Prompts(by_set, [record for record, _ in kept], [prompt for _, prompt in kept], longest)


def check_context(longest: int, context: int) -> None:
    """Raises a `UserError` where a prompt with its completion may outgrow the model's context."""
    if longest > context:
        raise UserError(
            f"rl: a prompt and its completion may have {longest} tokens, more than the model's context of {context}; "
            "lower rl.max_prompt_tokens or rl.max_new_tokens."
        )


def indices_of_step(seed: int, step: int, per_step: int, count: int) -> list[int]:
    """The `per_step` indices below `count` of a step: every epoch goes through all in an order of its own."""
    places = range(step * per_step, (step + 1) * per_step)
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(count) for epoch in {p // count for p in places}}
    return [int(orders[place // count][place % count]) for place in places]


def keys_of_prompts(chosen: Sequence[int], count: int) -> list[int]:
    """The number in the random keys of each chosen prompt: its index, and another where a rollout asks it again.

    A rollout does so where it has more than the `count` prompts, or where an epoch ends in it.
    """
    seen: Counter[int] = Counter()
    keys = []
    for index in chosen:
        keys.append(index + count * seen[index])
        seen[index] += 1
    return keys


class Rollout(NamedTuple):
    """P prompts with G completions each, prompt-major; `records_PG` and `texts_PG` are those of the completions."""

    prompts_P: list[list[int]]
    completions_PG: list[Completion]
    records_PG: list[Record]
    texts_PG: list[str]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each completion, with EOS."""
        return [len(completion.tokens) for completion in self.completions_PG]


def draw(
    sampler: Sampler,
    params: Params,
    prompts: Prompts,
    tokenizer: Tokenizer,
    settings: RLSettings,
    seed: int,
    number: int,
) -> Rollout:
    """Draws the completions of rollout `number`: `group_size` of each of its `prompts_per_step` prompts.

    Every completion's random key is made of the seed, the number, the prompt's index (`keys_of_prompts`) and the
    sample's.
    """
    chosen = indices_of_step(seed, number, settings.prompts_per_step, len(prompts.ids))
    prompts_P = [prompts.ids[i] for i in chosen]
    sampling = SamplingParams(
        samples=settings.group_size, temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p,
        seed=seed,
    )  # fmt: skip
    groups = sampler.generate(
        params, prompts_P, sampling, step=number, prompt_ids=keys_of_prompts(chosen, len(prompts.ids))
    )
    completions = [completion for group in groups for completion in group]
    return Rollout(
        prompts_P, completions, [prompts.records[chosen[c.prompt]] for c in completions],
        [tokenizer.decode(c.tokens) for c in completions],
    )  # fmt: skip


class RolloutFiles:
    """The rollouts of a run on disk, scored, as batches: written before they are used.

    So a resumed run grades nothing again, and what cannot be replayed (rewards with their time limits) is replayed from
    the file. Files that no checkpoint can need any more are removed. Process 0 writes, all read.
    """

    def __init__(self, folder: Path, settings: RLSettings, first_step: int):
        """`folder` is the stage's: it gets `rollouts/` and, from `first_step` on, `samples.jsonl`."""
        self._folder, self._settings = folder / "rollouts", settings
        self._samples = StepLog(folder / "samples.jsonl", first_step)
        self._number = -1
        self._batch: dict[str, np.ndarray] = {}
        self._facts: dict[str, Any] = {}

    def missing(self, step: int) -> bool:
        """Whether the rollout of this step has yet to be drawn.

        Every process looks before any can have written it: drawing one takes all of them.

        Raises:
          UserError: its file is gone after the policy has moved on.
        """
        number, update = divmod(step, self._settings.num_updates)
        if number == self._number or self._path(number).is_file():
            return False
        if update:
            raise UserError(
                f"{self._path(number)} is gone, and the policy that drew it is too; remove {self._folder.parent} to "
                "redo the stage."
            )
        return True

    def write(
        self, step: int, batch: Mapping[str, np.ndarray], metrics: Mapping[str, float], samples: list[dict[str, Any]]
    ) -> None:
        """Writes the rollout of this step; called by all processes."""
        number = step // self._settings.num_updates
        if jax.process_index() == 0:
            write_rollout(self._path(number), batch, {"metrics": metrics, "samples": samples})
        barrier(f"rollout {number}")

    def read(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """The batch `[PG,T]` and the metrics of this step's rollout, the same on every process."""
        number, update = divmod(step, self._settings.num_updates)
        if number != self._number:
            self._batch, self._facts = read_rollout(self._path(number))
            self._number = number
            self._forget(step)
        for row in self._facts["samples"] if update == 0 else ():
            self._samples.write({"step": step} | row)
        return self._batch, self._facts["metrics"]

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.npz"

    def _forget(self, step: int) -> None:
        """Removes what is before the oldest checkpoint from which the run may resume."""
        settings = self._settings
        oldest = (step - (settings.keep_checkpoints + 1) * settings.checkpoint_every) // settings.num_updates
        if jax.process_index() == 0:
            for path in self._folder.glob("*.npz"):
                if int(path.stem) < oldest:
                    remove(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._samples.close()


def write_rollout(path: Path, batch: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    """Writes a batch and what is logged of it, atomically."""
    with atomic_write(path, "wb") as file:
        arrays: dict[str, Any] = {"facts": np.array(json.dumps(facts)), **batch}
        np.savez_compressed(file, **arrays)


def read_rollout(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The batch and the facts of `write_rollout`.

    Raises:
      UserError: the file is damaged.
    """
    try:
        with np.load(path) as stored:
            batch = {name: stored[name] for name in stored.files}
        return batch, json.loads(str(batch.pop("facts")))
    except (EOFError, KeyError, OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"The rollout {path} cannot be read ({error}); remove it, and it is drawn again.") from None
