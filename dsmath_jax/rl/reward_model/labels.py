"""Training data of reward models: completions of the policy, labeled by the rule reward.

The label of an outcome row is whether its answer is correct. A process row has a label at the end of every step, as in
Math-Shepherd (Wang et al. 2023, arXiv 2312.08935, §3.2 and 3.3): the policy samples several continuations of the prompt
and the steps so far, and the label is whether any of these is correct (hard estimation) or the share that is (soft
estimation). The label of the last step is the completion's own.

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
from dsmath_jax.rl.rewards import RewardFunctions, RewardInput
from dsmath_jax.rl.steps import step_ends
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sampling.thinking import thinking_budget
from dsmath_jax.sharding import barrier
from dsmath_jax.training.model_files import LanguageModel
from dsmath_jax.workdir import UserError, atomic_write, remove, write_jsonl

CHUNK = 4  # completions that are written together, in units of `decode_slots`; a kill loses at most as many
SECONDS = 10.0  # time limit of grading a completion
STREAM = 0x6C6162  # of the seed, so that rollouts with the same seed sample other completions of the same problems

# A step's label from whether its continuations are correct, by `SamplesSettings.estimation`.
Estimate = Callable[[Sequence[bool]], float]
ESTIMATES: dict[str, Estimate] = {
    "hard": lambda outcomes: float(any(outcomes)),
    "soft": lambda outcomes: sum(outcomes) / len(outcomes),
}

# (prompts, samples of each, their stable ids, how many tokens at the end of each begin its completion) -> each prompt's
# completions
Generate = Callable[[Sequence[Sequence[int]], int, Sequence[int], Sequence[int]], Iterable[list[Completion]]]
# [(index of the record, tokens of a completion), ...] -> whether each is correct
IsCorrect = Callable[[Sequence[tuple[int, Sequence[int]]]], list[bool]]


def write_rows(
    path: Path, settings: SamplesSettings, policy: LanguageModel, records: Sequence[Record], seed: int, step: int = 0
) -> None:
    """Writes labeled rows (see `reward_model.rows`) of all records, `settings.samples` of each, to a JSONL file.

    The file appears when it is complete. Until then its chunks are in `path.parts/`, and a killed run resumes after the
    last of them with the same rows: a completion depends on the seed, the step, its prefix and its number.

    Args:
      path: of the file; nothing is done if it exists.
      settings: of the samples and labels.
      policy: the model that samples.
      records: problems with answers; those that do not fit the model's context are left out, with a warning.
      seed, step: seed the samples; `step` is the round of iterative training.

    Raises:
      UserError: a record has no answer, or none fits.
    """
    tokenizer, context = policy.tokenizer, policy.model.config.max_position_embeddings
    prompts = fitting_prompts(settings, policy.chat, context, records)
    if left_out := len(records) - len(prompts):
        room = context - max_sampled_tokens(settings)
        logging.warning("%d of %d prompts exceed %d tokens and are left out.", left_out, len(records), room)
    chunk = -(-CHUNK * settings.decode_slots // settings.samples)  # problems
    starts, parts = range(0, len(prompts), chunk), path.with_name(f"{path.name}.parts")
    barrier(f"look at {path}")
    complete = path.is_file()
    missing = [] if complete else [start for start in starts if not _part(parts, start).is_file()]
    barrier(f"write {path}")
    with RewardFunctions((("correct", 1.0),), SECONDS, 0) as correct:

        def is_correct(completions: Sequence[tuple[int, Sequence[int]]]) -> list[bool]:
            inputs = [RewardInput(policy.chat.completion(tokens), records[n]) for n, tokens in completions]
            return (correct.score(inputs).total == 1).tolist()

        thinking = thinking_budget(policy.chat, settings.max_thinking_tokens)
        sampling_seed = int(np.random.SeedSequence([seed, STREAM]).generate_state(1)[0] >> 1)
        sampler = Sampler(
            policy.model, policy.layout, policy.chat.stop_ids, settings.max_new_tokens, settings.decode_slots,
            settings.decode_dtypes,
        )  # fmt: skip

        def generate(
            prefixes: Sequence[Sequence[int]], samples: int, ids: Sequence[int], begun: Sequence[int]
        ) -> Iterable[list[Completion]]:
            sampling = SamplingParams(samples=samples, seed=sampling_seed, thinking=thinking)
            groups = sampler.generate(policy.params, prefixes, sampling, step=step, prompt_ids=ids, begun=begun)
            part = f"part {start // chunk + 1}/{len(starts)}"
            return track(groups, f"samples for {path.parent.name}, {part}", len(prefixes))

        for start in missing:
            rows = label_completions(prompts[start : start + chunk], tokenizer, settings, generate, is_correct)
            if jax.process_index() == 0:
                write_jsonl(_part(parts, start), rows)
    if jax.process_index() == 0:
        if not complete:
            with atomic_write(path, "wb") as file:
                for start in starts:
                    with open(_part(parts, start), "rb") as part:
                        shutil.copyfileobj(part, file)
        remove(parts)
    barrier(f"wrote {path}")


def _part(parts: Path, start: int) -> Path:
    return parts / f"{start:08d}.jsonl"


def max_sampled_tokens(settings: SamplesSettings) -> int:
    """Returns the maximum number of tokens after a prompt.

    A prefix may be all but the last token of a completion, and has continuations as long as a prompt's.
    """
    return settings.max_new_tokens * 2 - 1 if settings.kind == "process" else settings.max_new_tokens


def fitting_prompts(
    settings: SamplesSettings, chat: Chat, context: int, records: Sequence[Record]
) -> list[tuple[int, list[int]]]:
    """Returns the index and the prompt of every record that fits the context.

    Raises:
      UserError: a record has no answer, or none fits.
    """
    check_answers(records)
    longest = max_sampled_tokens(settings)
    prefixes = [(number, chat.prompt_ids(record)) for number, record in enumerate(records)]
    fitting = [(number, prompt) for number, prompt in prefixes if len(prompt) <= context - longest]
    if not fitting:
        raise UserError(
            f"None of {len(records)} prompts fits the model's context of {context} with {longest} "
            "sampled tokens; lower the reward model's max_new_tokens, or name other data."
        )
    return fitting


def label_completions(
    prompts: Sequence[tuple[int, list[int]]],
    tokenizer: Tokenizer,
    settings: SamplesSettings,
    generate: Generate,
    is_correct: IsCorrect,
) -> list[dict]:
    """Samples completions of the prompts (with the index of their record) and labels them; one row per completion."""
    rows: list[dict[str, Any]] = []
    problems, texts = [problem for problem, _ in prompts], [prompt for _, prompt in prompts]
    groups = generate(texts, settings.samples, problems, [0] * len(prompts))
    for (problem, prompt), group in zip(prompts, groups, strict=True):
        for tokens in (completion.tokens for completion in group):
            ends = (
                step_ends(tokens, tokenizer, settings.step_delimiter).tolist()
                if settings.kind == "process"
                else [len(tokens) - 1]
            )
            rows.append({"problem": problem, "prompt": prompt, "completion": tokens, "ends": ends})
    for row, label in zip(rows, is_correct([(row["problem"], row["completion"]) for row in rows]), strict=True):
        row["labels"] = [float(label)]
    if settings.kind == "process":
        estimate = ESTIMATES[settings.estimation]
        before = estimate_steps(rows, settings.completions, estimate, settings.max_new_tokens, generate, is_correct)
        for row, labels in zip(rows, before, strict=True):
            row["labels"] = [*labels, *row["labels"]]
    return rows


def _prefixes(row: dict[str, Any]) -> list[tuple[int, tuple[int, ...]]]:
    """Returns a row's problem and its tokens up to the end of each step but the last."""
    return [(row["problem"], tuple(row["completion"][: end + 1])) for end in row["ends"][:-1]]


def estimate_steps(
    rows: Sequence[dict[str, Any]], completions: int, estimate: Estimate, limit: int, generate: Generate,
    is_correct: IsCorrect,
) -> list[list[float]]:  # fmt: skip
    """Returns an estimate for each step but the last, by continuing from its end; equal prefixes are continued once.

    Args:
      rows: with `problem`, `prompt`, `completion` and `ends`, as `reward_model.rows` describes them.
      completions: continuations of each prefix.
      estimate: of the outcomes of a prefix.
      limit: maximum number of tokens of a prefix with its continuation; more are cut off before grading.
      generate: samples the continuations.
      is_correct: grades them.
    """
    prompts = {prefix: row["prompt"] for row in rows for prefix in _prefixes(row)}
    prefixes = [[*prompt, *tokens] for (_, tokens), prompt in prompts.items()]
    # A digest as the id: the continuations of a prefix do not depend on the other prefixes.
    ids, begun = [digest(prefix) >> 32 for prefix in prefixes], [len(tokens) for _, tokens in prompts]
    groups = generate(prefixes, completions, ids, begun)
    completed = {
        (problem, tokens): [(problem, [*tokens, *c.tokens][:limit]) for c in group]
        for (problem, tokens), group in zip(prompts, groups, strict=True)
    }
    outcomes = iter(is_correct([completion for group in completed.values() for completion in group]))
    values = {prefix: estimate([next(outcomes) for _ in group]) for prefix, group in completed.items()}
    return [[values[prefix] for prefix in _prefixes(row)] for row in rows]
