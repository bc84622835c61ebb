"""The rows of `rl/samples.jsonl`: completions with their rewards and, on request, the advantage of every token."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from dsmath_jax.data.tokenizer import Tokenizer
from dsmath_jax.rl.batches import TokenFields, split
from dsmath_jax.rl.rollout_batch import ScoredCompletions
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.sampling.completions import Completion

DIGITS = 6  # significant digits of a number in a row; rewards and advantages are float32 or coarser
INCOMPLETE = "\ufffd"  # the decoded text of tokens that end within a character


def samples_to_log(
    scored: ScoredCompletions, fields: TokenFields, settings: RLSettings, tokenizer: Tokenizer
) -> list[dict[str, Any]]:
    """Returns the rows of a rollout that `rl.log_samples` selects, described in docs/rl.md; none except on process 0.

    Args:
      scored: P x G completions with their rewards.
      fields: of the rollout, with `advantages` and the final `loss_weights`.
      settings: of the stage.
      tokenizer: decodes the tokens.
    """
    if jax.process_index():
        return []
    rollout, rule_rewards, scores, _ = scored
    rewards_PG = [float(np.mean(r)) for r in scores.rewards]
    if settings.log_samples == "extremes":
        chosen = extremes(rewards_PG[: settings.group_size])
    else:
        chosen = list(range(settings.group_size if settings.log_samples == "group" else len(rewards_PG)))
    per_token = [split(fields[name], rollout.lengths) for name in ("advantages", "loss_weights")]
    rows = []
    for i in chosen:
        completion, record = rollout.completions_PG[i], rollout.records_PG[i]
        row = {
            "prompt": completion.prompt, "sample": completion.sample, "id": record.id, "question": record.question,
            "answer": record.answer, "completion": rollout.texts_PG[i], "reward": _number(rewards_PG[i]),
            "rule_reward": _number(rule_rewards.total[i]),
            "rewards": {name: _number(values[i]) for name, values in rule_rewards.by_function.items()},
            "finish": completion.finish_reason, "num_tokens": len(completion.tokens),
        }  # fmt: skip
        if settings.environment:
            row["turns"] = rollout.dialogues_PG[i].turns
        if settings.reward_source == "process":
            row["step_rewards"] = [_number(reward) for reward in scores.rewards[i]]
        if settings.log_samples != "extremes":
            pairs = zip(*(values[i] for values in per_token), strict=True)
            row["advantages"] = runs(_number(value) if weight else None for value, weight in pairs)
            row["token_lengths"] = _token_lengths_of(completion, tokenizer)
        rows.append(row)
    return rows


def extremes(rewards_G: Sequence[float]) -> list[int]:
    """Returns the indices of the best and the worst completion of a group; the first one if none has a reward."""
    order = sorted((i for i, reward in enumerate(rewards_G) if math.isfinite(reward)), key=rewards_G.__getitem__)
    return list(dict.fromkeys([*order[-1:], *order[:1]] or [0]))


def runs(values: Iterable[float | None]) -> list[tuple[int, float | None]]:
    """Returns the run-length encoding of a sequence: (number of equal values, value) pairs."""
    return [(len(list(equal)), value) for value, equal in itertools.groupby(values)]


def token_lengths(tokens: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """Returns how many characters each token adds to the decoded text; their sum is the length of the text.

    A character that spans tokens counts for the last of them. The time is linear in the number of tokens: instead of
    whole prefixes, each step decodes the tokens of the last characters, without and with the next token.

    Returns:
      [] where the texts of the tokens do not add up to the decoded text.
    """
    lengths: list[int] = []
    start = end = 0  # the last tokens that ended with a whole character
    for number in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[start:number])
        added = 0
        if number == len(tokens) or not text.endswith(INCOMPLETE):
            added = len(text) - len(tokenizer.decode(tokens[start:end]))
            start, end = end, number
        lengths.append(added)
    whole = len(tokenizer.decode(tokens))
    return lengths if min(lengths, default=0) >= 0 and sum(lengths) == whole else []


def _token_lengths_of(completion: Completion, tokenizer: Tokenizer) -> list[int]:
    """Returns the lengths in the text of a completion, which has nothing of its EOS (`Chat.completion`)."""
    if completion.finish_reason != "eos":
        return token_lengths(completion.tokens, tokenizer)
    lengths = token_lengths(completion.tokens[:-1], tokenizer)
    return [*lengths, 0] if lengths or len(completion.tokens) == 1 else []


def _number(value: float) -> float | None:
    """Returns a number with few digits, None for NaN, which JSON lacks."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
