"""Data for reward models: completions that the policy samples, labelled by the rule.

An outcome row's label says whether its answer is correct. A process row has a label at the end of every step, as in
Math-Shepherd (Wang et al. 2023, arXiv 2312.08935, §3.2 and 3.3): from the prompt and the steps so far the policy is
sampled several times, and the label is whether any of these completions is correct (hard estimation) or the share that
is (soft estimation). After the last step nothing is left to sample: its label is the completion's own.

Completions are sampled at temperature 1, as in the rollouts of RL.
"""

import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dsmath_jax.data.chat import Chat
from dsmath_jax.data.datasets import Record, check_answers
from dsmath_jax.data.tokenizer import Tokenizer
from dsmath_jax.progress import track
from dsmath_jax.rl.reward_model.rows import digest
from dsmath_jax.rl.reward_model.settings import SamplesSettings
from dsmath_jax.rl.rewards import RewardFunctions
from dsmath_jax.rl.steps import step_ends
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sharding import barrier
from dsmath_jax.training.model_files import LanguageModel
from dsmath_jax.workdir import UserError, atomic_write, remove, write_jsonl

CHUNK = 4  # completions that are labelled and written together, times those in the making at once: what a kill can cost
SECONDS = 10.0  # that the grading of a completion may take
STREAM = 0x6C6162  # of the seed: rollouts with the same seed draw other completions of the same problems

# A step's label from whether its completions are correct, by `SamplesSettings.estimation`.
ESTIMATES: dict[str, Callable[[Sequence[bool]], float]] = {
    "hard": lambda rights: float(any(rights)),
    "soft": lambda rights: sum(rights) / len(rights),
}

# (prompts, samples of each, their stable numbers) -> each prompt's completions
Generate = Callable[[Sequence[Sequence[int]], int, Sequence[int]], Iterable[list[Completion]]]
# (number of the record, tokens of a completion) of many -> whether each is correct
Right = Callable[[Sequence[tuple[int, Sequence[int]]]], list[bool]]


def write_rows(
    path: Path, settings: SamplesSettings, policy: LanguageModel, records: Sequence[Record], seed: int, step: int = 0
) -> None:
    """Writes the rows of `reward_model.rows` for all records, `settings.samples` of each, to the JSONL file `path`.

    The file appears when it is complete. Until then its chunks are in `path.parts/`, and a run that was killed resumes
    after the last of them, with the same rows: a completion depends on the seed, the step, what it continues and its
    number.

    Args:
      path: nothing is done if it is there.
      settings: what is sampled, and how it is labelled.
      policy: what is sampled from.
      records: problems with answers; those that do not fit the model's context are left out, with a warning.
      seed, step: another step (of iterative training: the round) samples other completions of the same problems.

    Raises:
      UserError: a record has no answer, or none fits.
    """
    tokenizer, context = policy.tokenizer, policy.model.config.max_position_embeddings
    prompts = short_prompts(settings, policy.chat, context, records)
    if left_out := len(records) - len(prompts):
        room = context - longest_sampled(settings)
        logging.warning("%d of %d prompts exceed %d tokens and are left out.", left_out, len(records), room)
    chunk = -(-CHUNK * settings.decode_slots // settings.samples)  # problems
    starts, parts = range(0, len(prompts), chunk), path.with_name(f"{path.name}.parts")
    barrier(f"look at {path}")
    complete = path.is_file()
    left = [] if complete else [start for start in starts if not _part(parts, start).is_file()]
    barrier(f"write {path}")
    with RewardFunctions((("correct", 1.0),), SECONDS, 0) as correct:

        def right(said: Sequence[tuple[int, Sequence[int]]]) -> list[bool]:
            texts = [tokenizer.decode(tokens) for _, tokens in said]
            rewards, _ = correct.score(texts, [records[problem] for problem, _ in said], [True] * len(said))
            return (rewards == 1).tolist()

        own_seed = int(np.random.SeedSequence([seed, STREAM]).generate_state(1)[0] >> 1)
        sampler = Sampler(
            policy.model, policy.layout, tokenizer.stop_ids, settings.max_new_tokens, settings.decode_slots
        )  # fmt: skip

        def generate(asked: Sequence[Sequence[int]], samples: int, ids: Sequence[int]) -> Iterable[list[Completion]]:
            sampling = SamplingParams(samples=samples, seed=own_seed)
            groups = sampler.generate(policy.params, asked, sampling, step=step, prompt_ids=ids)
            return track(groups, f"samples for {path.parent.name}, part {start // chunk + 1}/{len(starts)}", len(asked))

        for start in left:
            rows = labelled(prompts[start : start + chunk], tokenizer, settings, generate, right)
            if jax.process_index() == 0:
                write_jsonl(_part(parts, start), rows)
    if jax.process_index() == 0:
        if not complete:
            with atomic_write(path, "wb") as whole:
                for start in starts:
                    with open(_part(parts, start), "rb") as part:
                        shutil.copyfileobj(part, whole)
        remove(parts)
    barrier(f"wrote {path}")


def _part(parts: Path, start: int) -> Path:
    return parts / f"{start:08d}.jsonl"


def longest_sampled(settings: SamplesSettings) -> int:
    """Tokens that may follow a prompt.

    A prefix may be all but the last token of a completion, and is continued for as many tokens as a prompt.
    """
    return settings.max_new_tokens * 2 - 1 if settings.kind == "process" else settings.max_new_tokens


def short_prompts(
    settings: SamplesSettings, chat: Chat, context: int, records: Sequence[Record]
) -> list[tuple[int, list[int]]]:
    """The number and the prompt of every record that fits.

    Raises:
      UserError: a record has no answer, or none fits.
    """
    check_answers(records)
    longest = longest_sampled(settings)
    asked = [(number, chat.prompt_ids(record)) for number, record in enumerate(records)]
    kept = [(number, prompt) for number, prompt in asked if len(prompt) <= context - longest]
    if not kept:
        raise UserError(
            f"None of {len(records)} prompts fits the model's context of {context} with {longest} "
            "sampled tokens; lower the reward model's max_new_tokens, or name other data."
        )
    return kept


def labelled(
    prompts: Sequence[tuple[int, list[int]]],
    tokenizer: Tokenizer,
    settings: SamplesSettings,
    generate: Generate,
    right: Right,
) -> list[dict]:
    """Samples from the prompts (each with the number of its record) and labels what comes; one row a completion."""
    rows: list[dict[str, Any]] = []
    groups = generate([prompt for _, prompt in prompts], settings.samples, [problem for problem, _ in prompts])
    for (problem, prompt), group in zip(prompts, groups, strict=True):
        for tokens in (completion.tokens for completion in group):
            ends = (
                step_ends(tokens, tokenizer, settings.step_delimiter).tolist()
                if settings.kind == "process"
                else [len(tokens) - 1]
            )
            rows.append({"problem": problem, "prompt": prompt, "completion": tokens, "ends": ends})
    for row, label in zip(rows, right([(row["problem"], row["completion"]) for row in rows]), strict=True):
        row["labels"] = [float(label)]
    if settings.kind == "process":
        values = _values(rows, settings, generate, right)
        for row in rows:
            row["labels"] = [*(values[prefix] for prefix in _prefixes(row)), *row["labels"]]
    return rows


def _prefixes(row: dict[str, Any]) -> list[tuple[int, tuple[int, ...]]]:
    """A row's problem with its steps so far, for every step but the last."""
    return [(row["problem"], tuple(row["completion"][: end + 1])) for end in row["ends"][:-1]]


def _values(
    rows: Sequence[dict[str, Any]],
    settings: SamplesSettings,
    generate: Generate,
    right: Right,
) -> dict[tuple[int, tuple[int, ...]], float]:
    """The label of every prefix, each of which is gone on from once, however many rows share it."""
    prompts = {prefix: row["prompt"] for row in rows for prefix in _prefixes(row)}
    asked = [[*prompt, *tokens] for (_, tokens), prompt in prompts.items()]
    # A digest as the number: the completions of a prefix do not depend on what else is asked with it.
    groups = generate(asked, settings.completions, [digest(prefix) >> 32 for prefix in asked])
    estimate, limit = ESTIMATES[settings.estimation], settings.max_new_tokens
    whole = {
        (problem, tokens): [(problem, [*tokens, *c.tokens][:limit]) for c in group]
        for (problem, tokens), group in zip(prompts, groups, strict=True)
    }
    graded = iter(right([one for group in whole.values() for one in group]))
    return {prefix: estimate([next(graded) for _ in group]) for prefix, group in whole.items()}
