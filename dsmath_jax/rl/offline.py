"""The methods that learn from completions drawn once: SFT, RFT and DPO (paper Table 10)."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from dsmath_jax.data import chat
from dsmath_jax.data.benchmarks import Record
from dsmath_jax.data.tokenizer import Tokenizer
from dsmath_jax.rl import rollouts
from dsmath_jax.rl.scoring import Reference, TokenScorer
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sharding import Layout
from dsmath_jax.training.prefetch import Ahead, HostBatch
from dsmath_jax.workdir import UserError, read_jsonl

Row = tuple[list[int], list[int]]  # token ids of a prompt and of its completion


def fixed_rows(records: Sequence[Record], prompts: Sequence[list[int]], tokenizer: Tokenizer, limit: int) -> list[Row]:
    """SFT: the solutions that come with the questions, those of at most `limit` tokens.

    Raises:
      UserError: none is short enough.
    """
    rows = [(prompt, chat.completion_ids(tokenizer, r.solution)) for r, prompt in zip(records, prompts, strict=True)]
    rows = [row for row in rows if len(row[1]) <= limit]
    if not rows:
        raise UserError(f"rl: no solution of rl.data has at most {limit} tokens; raise rl.max_new_tokens.")
    return rows


def right_rows(path: Path) -> tuple[list[Row], float]:
    """RFT: the right ones of the stored samples, each once, and which share of all samples they are (Eq. 8's mean).

    Raises:
      UserError: none is right.
    """
    right: dict[tuple, Row] = {}
    count = 0
    for row in read_jsonl(path):
        count += 1
        if row["labels"][-1] == 1:
            right.setdefault((row["problem"], *row["completion"]), (row["prompt"], row["completion"]))
    if not right:
        raise UserError(
            f"rl: none of the {count} samples in {path} is right; train sft further, or ask simpler things."
        )
    return list(right.values()), len(right) / count


def pair_rows(path: Path) -> list[tuple[Row, Row]]:
    """DPO: for each question its right samples, each with a wrong one of it; none is in two pairs.

    Raises:
      UserError: no question has both.
    """
    sides: dict[int, tuple[dict, dict]] = defaultdict(lambda: ({}, {}))
    for row in read_jsonl(path):
        side = sides[row["problem"]][0 if row["labels"][-1] == 1 else 1]
        side.setdefault(tuple(row["completion"]), (row["prompt"], row["completion"]))
    pairs = [pair for right, wrong in sides.values() for pair in zip(right.values(), wrong.values(), strict=False)]
    if not pairs:
        raise UserError(f"rl: no question in {path} has both right and wrong samples; raise rl.group_size.")
    return pairs


def _batch(rows: Sequence[Row], length: int) -> dict[str, np.ndarray]:
    completions = [Completion(i, 0, tokens, [0.0] * len(tokens), [], "eos") for i, (_, tokens) in enumerate(rows)]
    batch = rollouts.batch_of([prompt for prompt, _ in rows], completions, length)
    del batch["sampler_logprobs"]  # nobody's
    return batch


def _width(rows: Sequence[Row], layout: Layout) -> int:
    return rollouts.padded_length(max(len(prompt) + len(tokens) for prompt, tokens in rows) - 1, layout)


def likelihood_batches(ours: ConfigDict, rows: Sequence[Row], weight: float, seed: int, layout: Layout) -> Ahead:
    """Batches of prompts x group_size rows for `objectives.Likelihood`, each of the given weight."""
    size, length = ours.prompts * ours.group_size, _width(rows, layout)

    def make(step: int) -> HostBatch:
        batch = _batch([rows[i] for i in rollouts.prompts_of_step(seed, step, size, len(rows))], length)
        return layout.share(batch | {"advantages": weight * batch["loss_weights"]})

    return Ahead(make, ours.steps)


def pair_batches(
    ours: ConfigDict,
    pairs: Sequence[tuple[Row, Row]],
    seed: int,
    layout: Layout,
    reference: Reference,
    logprobs: TokenScorer,
) -> Callable[[int, Any], tuple[HostBatch, dict[str, float]]]:
    """Batches of prompts x group_size completions in pairs for `objectives.DPO`."""
    size = ours.prompts * ours.group_size // 2
    length = _width([row for pair in pairs for row in pair], layout)

    def make(step: int, params: Any) -> tuple[HostBatch, dict[str, float]]:
        del params
        chosen = [pairs[i] for i in rollouts.prompts_of_step(seed, step, size, len(pairs))]
        batch: HostBatch = {}
        for number, side in enumerate(("chosen", "rejected")):
            fields = _batch([pair[number] for pair in chosen], length)
            fields["ref_logprobs"] = logprobs(reference.params, fields) * fields["loss_weights"]
            batch |= {f"{side}_{name}": values for name, values in fields.items()}
        return layout.share(batch), {}

    return make
